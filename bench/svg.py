"""Charts as SVG, drawn by hand: bars in groups, and lines over a scale. Pure: figures in, text out.

A chart brings its own ground and its own two palettes, and follows the reader's light or dark setting, also
as an image in a page. It says in words what it shows, for those who hear it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bars", "lines"]

WIDTH = 860
LABEL_WIDTH = 250
FIGURE_WIDTH = 120
BAR_HEIGHT = 16
BAR_GAP = 4
GROUP_GAP = 22
HEAD_HEIGHT = 64
FOOT_HEIGHT = 18
PLOT_HEIGHT = 300
#: Told apart by those who see no difference of red and green; the dark ones are lighter.
LIGHT = ("#0b62a4", "#c75a00", "#2f7d5b", "#8a3d8f", "#8a6d00", "#a32a3f", "#4f6272", "#1f8a9e")
DARK = ("#6cb4ee", "#ffa657", "#7fd1ab", "#d6a2dd", "#e3c85b", "#ff8fa3", "#a9bac8", "#74d3e3")


def bars(title: str, unit: str, groups: Mapping[str, Mapping[str, float]], *, digits: int = 0) -> str:
    """A group of bars a name, a bar for each of its series; longer is more, all from zero."""
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max((value for group in groups.values() for value in group.values()), default=0.0) or 1.0
    room = WIDTH - LABEL_WIDTH - FIGURE_WIDTH
    drawn: list[str] = []
    y = HEAD_HEIGHT
    for group, values in groups.items():
        drawn.append(_text(16, y + BAR_HEIGHT - 4, group, "strong"))
        y += BAR_HEIGHT + BAR_GAP
        for name, value in values.items():
            length = max(value / most * room, 1.0)
            colour = f"c{series.index(name) % len(LIGHT)}"
            drawn.append(_text(LABEL_WIDTH - 10, y + BAR_HEIGHT - 4, name, "end"))
            drawn.append(
                f'<rect class="{colour}" x="{LABEL_WIDTH}" y="{y}" width="{length:.1f}"'
                f' height="{BAR_HEIGHT}" rx="2"/>'
            )
            drawn.append(_text(LABEL_WIDTH + length + 8, y + BAR_HEIGHT - 4, f"{value:,.{digits}f}", ""))
            y += BAR_HEIGHT + BAR_GAP
        y += GROUP_GAP - BAR_GAP
    told = "; ".join(
        f"{group}: " + ", ".join(f"{name} {value:,.{digits}f}" for name, value in values.items())
        for group, values in groups.items()
    )
    return _chart(title, unit, told, y - GROUP_GAP + FOOT_HEIGHT, drawn)


def lines(title: str, unit: str, places: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Lines over named places, from zero up; None leaves a gap."""
    known = [value for values in series.values() for value in values if value is not None]
    most = _round_up(max(known, default=0.0))
    left, right, top = 90, WIDTH - 20, HEAD_HEIGHT + 26
    bottom = top + PLOT_HEIGHT

    def x(number: int) -> float:
        return left + 20 + (right - left - 40) * (number / max(len(places) - 1, 1))

    def y(value: float) -> float:
        return bottom - value / most * PLOT_HEIGHT

    drawn: list[str] = []
    for step in range(5):
        value = most * step / 4
        drawn.append(f'<path class="grid" d="M{left} {y(value):.1f}H{right}"/>')
        drawn.append(_text(left - 8, y(value) + 4, f"{value:,.0f}" if most >= 8 else f"{value:,.2f}", "end"))
    for number, place in enumerate(places):
        drawn.append(_text(x(number), bottom + 20, place, "middle"))
    at = float(left)
    for number, (name, values) in enumerate(series.items()):
        colour = f"c{number % len(LIGHT)}"
        points = [(x(n), y(value)) for n, value in enumerate(values) if value is not None]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        drawn.append(f'<path class="line {colour}" d="M{path}"/>' if points else "")
        drawn += [f'<circle class="{colour}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>' for px, py in points]
        drawn.append(
            f'<rect class="{colour}" x="{at:.0f}" y="{HEAD_HEIGHT - 6}" width="12" height="12" rx="2"/>'
        )
        drawn.append(_text(at + 18, HEAD_HEIGHT + 5, name, ""))
        at += 34 + 7.2 * len(name)
    told = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{place} {value:,.4g}" for place, value in zip(places, values, strict=True) if value is not None
        )
        for name, values in series.items()
    )
    return _chart(title, unit, told, bottom + 20 + FOOT_HEIGHT, drawn)


def _chart(title: str, unit: str, told: str, height: float, drawn: Sequence[str]) -> str:
    body = "\n".join(one for one in drawn if one)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
        f' aria-labelledby="title told">\n'
        f'<title id="title">{escape(title)}, {escape(unit)}</title>\n<desc id="told">{escape(told)}</desc>\n'
        f"<style>\n{_style()}</style>\n"
        f'<rect class="ground" width="{WIDTH}" height="{height:.0f}" rx="6"/>\n'
        f"{_text(16, 26, title, 'title')}\n{_text(16, 46, unit, 'faint')}\n{body}\n</svg>\n"
    )


def _style() -> str:
    def palette(ground: str, ink: str, faint: str, grid: str, colours: Sequence[str]) -> str:
        rules = [f".ground{{fill:{ground}}}text{{fill:{ink}}}.faint{{fill:{faint}}}.grid{{stroke:{grid}}}"]
        rules += [f".c{n}{{fill:{colour};stroke:{colour}}}" for n, colour in enumerate(colours)]
        return "".join(rules)

    return (
        "text{font:13px system-ui,sans-serif}.strong{font-weight:600}.title{font-size:16px;font-weight:600}\n"
        ".end{text-anchor:end}.middle{text-anchor:middle}\n"
        f"{palette('#ffffff', '#1f2328', '#59636e', '#d8dee4', LIGHT)}\n"
        f"@media (prefers-color-scheme:dark){{{palette('#0d1117', '#e6edf3', '#9198a1', '#30363d', DARK)}}}\n"
        # After the colours, which fill.
        "path.line{fill:none;stroke-width:2.5}path.grid{fill:none}rect{stroke:none}\n"
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 and 10 times a power of ten: quarters of it are round as well."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)
