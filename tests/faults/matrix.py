"""The fault matrix: what a row declares, how it is run, and the table that comes of it.

One file a family (`rows_*.py`) has the rows; this one knows none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.checker import Expected, Report, check
from tests.faults.cluster import Cluster
from tests.faults.history import History
from tests.faults.scene import Scene

__all__ = ["Bite", "Result", "Row", "SkippedError", "cells_in", "markdown", "run", "table"]

#: Whether a fault has bitten, by the journals: a row that would also pass without it proves nothing.
Bite = Callable[[History, Report], bool]


def _always(history: History, report: Report) -> bool:
    return True


class SkippedError(Exception):
    """This computer cannot make the fault; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a value, but for the function that does it."""

    #: As in the list of faults; a letter tells those of one number apart.
    number: str
    fault: str
    #: How it was made.
    injected: str
    #: What must come of it, beside: none lost, order kept, no commit past an open event.
    expected: str
    #: What may come again.
    bound: str
    act: Callable[[Scene], None]
    #: Keyword arguments of the scene.
    scene: dict[str, object] = field(default_factory=dict)
    nodes: int = 1
    #: A cluster of its own, since what is done to it cannot be undone.
    own_cluster: dict[str, str] | None = None
    bites: Bite = _always
    #: Whether repeats are forbidden whatever the journals explain.
    repeats_none: bool = False
    #: It runs with every test run.
    quick: bool = False
    judge: Callable[[History], Expected] | None = None


@dataclass(slots=True)
class Result:
    """What came of a row."""

    row: Row
    report: Report | None = None
    recovered_s: float | None = None
    figure: str = ""
    took_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    #: Why it was not run.
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return not self.problems and not self.skipped

    def cells(self) -> list[str]:
        """Seen: events, lost, repeated (of what could), disorder, dead letters, recovery, verdict."""
        report = self.report
        if report is None:
            return ["–"] * 6 + [f"skipped: {self.skipped}" if self.skipped else "FAILED"]
        recovery = "–" if self.recovered_s is None else f"{self.recovered_s:.1f} s"
        return [
            f"{report.ended} of {report.sent}",
            str(report.lost),
            f"{report.repeats} of {report.repeats_max}",
            str(report.disorder),
            str(report.letters),
            recovery,
            "pass" if self.passed else "FAILED",
        ]


def run(row: Row, cluster: Cluster, directory: Path) -> Result:
    """Run one row on a cluster that is well, and leave it well."""
    result = Result(row)
    started = time.monotonic()
    name = f"row-{row.number}-{int(time.time() * 1000) % 1_000_000}"
    try:
        with Scene(cluster, directory / name, name, **row.scene) as scene:  # type: ignore[arg-type]
            row.act(scene)
            scene.finish()
            expected = row.judge(scene.history) if row.judge is not None else scene.expected
            report = result.report = check(scene.history, expected)
            result.figure = scene.figure
            result.recovered_s = scene.recovered_s
            result.problems += [str(finding) for finding in report.findings]
            if not row.bites(scene.history, report):
                result.problems.append("the fault has not bitten: it was too mild to show anything")
            if row.repeats_none and report.repeats:
                result.problems.append(f"{report.repeats} repeats, where none may be")
    except SkippedError as skipped:
        result.skipped = str(skipped)
    except AssertionError as error:
        result.problems.append(str(error))
    finally:
        cluster.heal()
    result.took_s = time.monotonic() - started
    return result


HEADS = ("row", "fault", "injected", "expected", "may repeat")
SEEN = ("settled", "lost", "repeated", "disorder", "dead letters", "recovery", "verdict")


def table(results: Iterable[Result]) -> str:
    """For a terminal."""
    lines: list[tuple[str, ...]] = [("row", "fault", *SEEN)]
    lines += [(result.row.number, result.row.fault, *result.cells()) for result in results]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


ABOUT = """\
Written by `make faults`, on real Kafka, real sockets and real processes. Judged by four journals that know
nothing of each other (publisher, log, bridge's log of what it owned, handler), never by Pelton's own metrics;
`tests/faults/checker.py` says how. *Repeated* is: calls after an OK of the same delivery, of those that the
fault allows to come again. *Recovery* is from the fault's end to the first call that was taken. A row fails,
too, when its fault has not bitten. Single rows can be renewed (`--rows 16 --write`), so they may have been
seen at different times, and on a computer that had other work."""


NOT_RUN = [*["–"] * 6, "not run"]


def markdown(
    rows: Sequence[Row],
    cells: Mapping[str, Sequence[str]],
    note: str,
    elsewhere: Sequence[tuple[str, str, str]] = (),
) -> str:
    """`docs/faults.md`: every row, with what was seen of it (`cells`, by number), and what no row shows."""
    heads = [*HEADS, *SEEN]
    lines = [
        " | ".join(
            (row.number, row.fault, row.injected, row.expected, row.bound, *cells.get(row.number, NOT_RUN))
        )
        for row in rows
    ]
    return "\n".join(
        [
            "# The fault matrix",
            "",
            ABOUT,
            "",
            note,
            "",
            f"| {' | '.join(heads)} |",
            f"|{'---|' * len(heads)}",
            *(f"| {line} |" for line in lines),
            "",
            *_elsewhere(elsewhere),
        ]
    )


def _elsewhere(elsewhere: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    if elsewhere:
        yield "## Shown by a test"
        yield "Faults that need no load and no journals, by the numbers of the same list:"
        yield ""
        yield "| fault | | shown by |"
        yield "|---|---|---|"
        for number, fault, test in elsewhere:
            yield f"| {number} | {fault} | `{test}` |"
        yield ""


def cells_in(text: str) -> dict[str, list[str]]:
    """What a document says was seen of each row, by number."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.strip().strip("|").split(" | ")]
        if len(parts) == len(HEADS) + len(SEEN) and parts[0] != HEADS[0]:
            found[parts[0]] = parts[len(HEADS) :]
    return found
