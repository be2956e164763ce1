"""What is shown: a live picture on a terminal, a line now and then elsewhere, and the end.

It reads the check's counts and changes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Final, NamedTuple, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from examples.demo.check import Check, Lane
from examples.demo.journal import What

__all__ = ["DeadLetter", "Screen"]

#: Rates are taken over so long.
WINDOW_S: Final = 2.0
#: Between two lines where there is no terminal.
LINE_EVERY_S: Final = 2.0
PICTURES_PER_SECOND: Final = 8
DEAD_LETTERS_SHOWN: Final = 4
#: As many as fit a terminal of 80 by 24 together with the rest.
CUSTOMERS_SHOWN: Final = 40
CUSTOMERS_IN_A_ROW: Final = 8
FAULTS_SHOWN: Final = 10
#: Enough for all of it, and lines that are not too long to read.
WIDTH_MAX: Final = 80

#: How a customer's last event stands: sign and colour.
SIGNS: Final = {
    What.BEGAN: ("▸", "cyan"),
    What.TAKEN: ("✓", "green"),
    What.RETRY: ("↻", "yellow"),
    What.DEAD_LETTER: ("✗", "red"),
    What.CUT: ("!", "magenta"),
}


class DeadLetter(NamedTuple):
    """As it stands in the dead-letter topic."""

    customer: str
    number: int
    type: str
    reason: str


class Screen:
    """Shows one run. `events` is how many are to be published."""

    def __init__(self, check: Check, events: int, console: Console) -> None:
        self._check = check
        self._events = events
        self._console = console
        self._dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_SHOWN)
        #: Time, and the counts that have a rate.
        self._past: deque[tuple[float, tuple[int, ...]]] = deque()
        self._started = self._next_line = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._next_line = self._started + LINE_EVERY_S
        # Asked of the file: in many a CI the console believes in a terminal for the sake of colours.
        if self._console.file.isatty() and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            # What stays on the terminal is the end, not the moment before it.
            self._live.update(self._picture(time.monotonic()), refresh=True)
            self._live.stop()
        self._console.print()

    def on_dead_letter(self, dead_letter: DeadLetter) -> None:
        self._dead_letters.append(dead_letter)

    def update(self) -> None:
        """Show how things are now; call it several times a second."""
        now = time.monotonic()
        if self._live is not None:
            if not self._past or now - self._past[-1][0] >= 1 / PICTURES_PER_SECOND:
                self._live.update(self._picture(now), refresh=True)
        elif now >= self._next_line:
            self._next_line += LINE_EVERY_S
            self._console.print(self._line(now), soft_wrap=True, highlight=False)

    def _line(self, now: float) -> str:
        check = self._check
        return (
            f"{now - self._started:4.0f} s  published {check.published}, called {check.called},"
            f" retried {check.retried}, delivered {check.delivered}, dead-lettered {check.dead_lettered},"
            f" open {check.open}, order violations {len(check.violations)}"
        )

    def _picture(self, now: float) -> RenderableType:
        check = self._check
        order = Text(style="bold red" if check.violations else "green")
        order.append(f"order violations: {len(check.violations)}   ")
        order.append(f"repeats: {check.repeats}", "default")
        title = f"[bold]Pelton[/bold]: publisher → Kafka → Pelton → service   {now - self._started:.0f} s"
        return Group(
            self._panel(title, self._counts(now)),
            self._panel(
                "each customer's last event, by the service's own journal",
                Group(self._customers(), order),
                "▸ called  ✓ taken  ↻ to be retried  ✗ dead-lettered",
            ),
            self._panel("last dead letters, from the topic dlq.fulfilment", self._last_dead_letters()),
        )

    def _panel(self, title: str, content: RenderableType, subtitle: str | None = None) -> Panel:
        return Panel(
            content,
            title=title,
            title_align="left",
            subtitle=subtitle,
            subtitle_align="left",
            box=box.ROUNDED,
            width=min(WIDTH_MAX, self._console.width),
        )

    def _counts(self, now: float) -> RenderableType:
        check = self._check
        counts = (check.published, check.called, check.retried, check.delivered, check.dead_lettered)
        self._past.append((now, counts))
        while self._past[0][0] < now - WINDOW_S:
            self._past.popleft()
        then, before = self._past[0]
        seconds = max(now - then, 1 / PICTURES_PER_SECOND)
        rows: tuple[tuple[str, str, RenderableType], ...] = (
            ("published", "bold", ProgressBar(self._events, check.published, width=34)),
            ("called", "cyan", "calls of the service's handlers"),
            ("retried", "yellow", "those after an event's first"),
            ("delivered", "green", "events taken by the service"),
            ("dead-lettered", "red", "events that never will be"),
        )
        table = Table.grid(padding=(0, 2))
        table.add_column(width=14)
        table.add_column(width=9, justify="right")
        table.add_column(width=9, justify="right", style="dim")
        table.add_column(width=34, style="dim")
        for (name, style, about), count, earlier in zip(rows, counts, before, strict=True):
            table.add_row(Text(name, style), f"{count:,}", f"{(count - earlier) / seconds:,.0f}/s", about)
        table.add_row("open", f"{check.open:,}", "", "neither of the two yet")
        return table

    def _customers(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for _ in range(CUSTOMERS_IN_A_ROW):
            table.add_column(width=8)
        lanes = sorted(self._check.lanes.items())[:CUSTOMERS_SHOWN]
        cells = [self._cell(customer, lane) for customer, lane in lanes] or [Text("none yet", "dim")]
        for row in range(0, len(cells), CUSTOMERS_IN_A_ROW):
            table.add_row(*cells[row : row + CUSTOMERS_IN_A_ROW])
        return table

    def _cell(self, customer: str, lane: Lane) -> Text:
        sign, colour = SIGNS[lane.what]
        return Text.assemble(
            (customer.rpartition("-")[2], "dim"), " ", (sign, colour), f"{lane.number:>4}", no_wrap=True
        )

    def _last_dead_letters(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, style="red")
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        for letter in self._dead_letters:
            # A reason is a service's own text: never read as markup.
            table.add_row(f"{letter.customer} #{letter.number}", letter.type, Text(letter.reason))
        for _ in range(DEAD_LETTERS_SHOWN - len(self._dead_letters)):
            table.add_row("", "", "")
        return table

    def summary(self, seconds: float, faults: list[str]) -> None:
        """The end of it: what there was, and what was wrong."""
        check = self._check
        pace = check.settled / seconds if seconds else 0.0
        rows = (
            ("published", f"{check.published:,}", f"for {len(check.lanes)} customers"),
            ("delivered", f"{check.delivered:,}", "taken by the service"),
            ("retried", f"{check.retried:,}", "calls after an event's first"),
            ("dead-lettered", f"{check.dead_lettered:,}", "with their reasons, in dlq.fulfilment"),
            ("order violations", f"{len(check.violations):,}", "by the service's own journal"),
            ("repeats", f"{check.repeats:,}", "calls for what was done already"),
            ("time", f"{seconds:.1f} s", f"{pace:,.0f} events/s from first to last"),
        )
        table = Table.grid(padding=(0, 2))
        table.add_column(width=16)
        table.add_column(justify="right", style="bold", min_width=9)
        table.add_column(style="dim")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
        for fault in faults[:FAULTS_SHOWN]:
            self._console.print(Text(f"  {fault}", "red"))
        if len(faults) > FAULTS_SHOWN:
            self._console.print(f"  and {len(faults) - FAULTS_SHOWN:,} more", style="red")
        if faults:
            self._console.print(Text(f"\n{len(faults):,} faults", "bold red"))
        else:
            self._console.print(Text("\nEvery event ended as it should, and in order.", "bold green"))
