"""How far a download is, on standard error: a bar at a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["Progress", "report"]

#: Called from any thread with the bytes that came; negative for those that must be fetched again.
Progress = Callable[[int], None]

#: A log gets one line for each of these shares of the whole.
LINE_EVERY = 0.25


@contextlib.contextmanager
def report(title: str, total_bytes: int) -> Iterator[Progress]:
    """Say `title`, then show the progress until the block ends."""
    sys.stderr.write(f"{title}\n")
    if sys.stderr.isatty():
        with bar(total_bytes) as progress:
            yield progress
    else:
        yield lines(total_bytes)


@contextlib.contextmanager
def bar(total_bytes: int) -> Iterator[Progress]:
    """A bar with speed and time left."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=total_bytes)
        yield lambda size: shown.advance(task, size)


def lines(total_bytes: int) -> Progress:
    """One line at each share reached, none twice."""
    lock = threading.Lock()
    done = 0
    next_share = LINE_EVERY

    def progress(size: int) -> None:
        nonlocal done, next_share
        with lock:
            done += size
            while done >= next_share * total_bytes and next_share <= 1:
                sys.stderr.write(f"  {next_share:.0%} of {total_bytes / 1_000_000:.0f} MB\n")
                next_share += LINE_EVERY

    return progress
