"""A lock between processes, as a file: two starts at once must not download or format over each other.

The kernel releases it when its holder dies, however it dies, so there is no stale lock to clean up.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from pelton.errors import LocalKafkaError

__all__ = ["held"]

#: How often a waiting process tries again; the holder works for seconds, so finer would only burn CPU.
POLL_S = 0.1


@contextlib.contextmanager
def held(path: Path, *, wait_s: float, doing: str) -> Iterator[None]:
    """Hold the lock `path` for the block; `LocalKafkaError` if another process keeps it for `wait_s`.

    The file stays behind on purpose: unlinking it would let a third process lock a new file of the same name
    while a second one still waits on the old.
    """
    deadline = time.monotonic() + wait_s
    try:
        file = path.open("a")
    except OSError as error:
        raise LocalKafkaError(
            f"cannot write to {path.parent}: {error.strerror}; choose another directory"
        ) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LocalKafkaError(
                        f"another process has been {doing} for more than {wait_s:.0f} s and holds {path};"
                        f" wait for it, or end it (`fuser {path}` names it)"
                    ) from None
            time.sleep(POLL_S)
        yield
