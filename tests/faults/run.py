"""`make faults`: runs the rows of the fault matrix and prints it; a full run is written to `docs/faults.md`.

`--rows 11,15b` runs these only (a number stands for all of its letters). Then the document keeps what it says
of all others, and it is written only with `--write`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pelton.local.download import KAFKA_VERSION
from tests.faults import (
    rows_bridge,
    rows_broker,
    rows_cuts,
    rows_group,
    rows_http2,
    rows_log,
    rows_machine,
    rows_network,
    rows_target,
)
from tests.faults.cluster import Cluster, cluster
from tests.faults.elsewhere import ELSEWHERE
from tests.faults.matrix import Result, Row, SkippedError, cells_in, markdown, run, table
from tests.faults.rows_broker import mounted

__all__ = ["DOCUMENT", "ROWS", "chosen", "main", "run_all"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"


def _order(row: Row) -> tuple[int, str]:
    number = row.number.rstrip("abcdefghij")
    return int(number), row.number


#: In the order of the table.
ROWS: Sequence[Row] = sorted(
    [
        *rows_bridge.ROWS,
        *rows_broker.ROWS,
        *rows_cuts.ROWS,
        *rows_group.ROWS,
        *rows_http2.ROWS,
        *rows_log.ROWS,
        *rows_machine.ROWS,
        *rows_network.ROWS,
        *rows_target.ROWS,
    ],
    key=_order,
)


def chosen(numbers: str) -> list[Row]:
    """The rows that `--rows` names; all of them if it names none."""
    if not numbers:
        return list(ROWS)
    wanted = [number.strip() for number in numbers.split(",")]
    unknown = [one for one in wanted if not any(one in _names(row) for row in ROWS)]
    if unknown:
        known = ", ".join(row.number for row in ROWS)
        raise SystemExit(f"no such row: {', '.join(unknown)}; there are: {known}")
    return [row for row in ROWS if not _names(row).isdisjoint(wanted)]


def _names(row: Row) -> set[str]:
    return {row.number, row.number.rstrip("abcdefghij")}


def run_all(rows: Sequence[Row], directory: Path) -> list[Result]:
    """Rows that want the same cluster share one."""
    results: dict[str, Result] = {}
    groups: dict[object, list[Row]] = {}
    for row in rows:
        own = row.number if row.own_cluster is not None else ""
        groups.setdefault((row.nodes, own), []).append(row)
    for at, group in enumerate(groups.values()):
        try:
            with _cluster(directory / f"cluster-{at}", group[0]) as shared:
                for row in group:
                    results[row.number] = _tell(run(row, shared, directory))
        except SkippedError as skipped:
            for row in group:
                results[row.number] = _tell(Result(row, skipped=str(skipped)))
    return [results[row.number] for row in rows]


@contextmanager
def _cluster(directory: Path, row: Row) -> Iterator[Cluster]:
    directory.mkdir(parents=True)
    if row.own_cluster is None:
        with cluster(directory, row.nodes) as shared:
            yield shared
        return
    disk = directory / "disk"
    disk.mkdir()
    mounted(str(disk), row.own_cluster["size"])
    try:
        with cluster(directory, row.nodes, data=disk) as own:
            yield own
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _tell(result: Result) -> Result:
    row = result.row
    verdict = f"skipped: {result.skipped}" if result.skipped else "pass" if result.passed else "FAILED"
    figure = f" ({result.figure})" if result.figure else ""
    print(f"row {row.number:4} {row.fault}: {verdict}, {result.took_s:.0f} s{figure}", flush=True)
    for problem in result.problems[:10]:
        print(f"    {problem}")
    return result


def _write(results: Sequence[Result]) -> None:
    cells: dict[str, list[str]] = {}
    if len(results) < len(ROWS) and DOCUMENT.exists():
        cells |= cells_in(DOCUMENT.read_text(encoding="utf-8"))
    cells |= {result.row.number: result.cells() for result in results}
    verdicts = [cells[row.number][-1] if row.number in cells else "not run" for row in ROWS]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).most_common())
    grpc, client = (importlib.metadata.version(name) for name in ("grpcio", "confluent-kafka"))
    versions = f"Kafka {KAFKA_VERSION}, confluent-kafka {client}, grpcio {grpc}"
    note = f"{len(ROWS)} rows: {counts}. {versions}, Python {platform.python_version()}."
    DOCUMENT.write_text(markdown(ROWS, cells, note, ELSEWHERE), encoding="utf-8")
    print(f"written to {DOCUMENT.name}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--rows", default="", help="11,15b: only these")
    parser.add_argument("--write", action="store_true", help="what these have seen goes into the document")
    parser.add_argument("--keep", default="", help="a directory for the journals and logs, to look at")
    options = parser.parse_args(arguments)
    rows = chosen(options.rows)
    with tempfile.TemporaryDirectory(prefix="pelton-faults-") as directory:
        results = run_all(rows, Path(options.keep or directory))
    failed = sum(bool(result.problems) for result in results)
    skipped = sum(bool(result.skipped) for result in results)
    summary = f"{len(results)} rows, {failed} failed, {skipped} skipped"
    print(f"\n{table(results)}\n\n{summary}")
    if not options.rows or options.write:
        _write(results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
