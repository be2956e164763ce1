"""How many arenas the threads of a process have, by glibc's own account."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from pelton.bridge.heap import ARENAS_MAX

THREADS = 8
PROGRAM = """
import ctypes, threading
from pelton.bridge.heap import share_arenas

share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier({threads})


def fill():
    assert libc.malloc(1_000)
    together.wait()


threads = [threading.Thread(target=fill) for _ in range({threads})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="no glibc")
@pytest.mark.parametrize(("said", "arenas"), [(None, range(1, ARENAS_MAX + 1)), ("5", range(3, 6))])
def test_threads_share_so_many_or_what_the_environment_says(said: str | None, arenas: range) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    if said is not None:
        environ["MALLOC_ARENA_MAX"] = said
    program = PROGRAM.format(threads=THREADS)
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert sum(line.startswith("Arena ") for line in ended.stderr.splitlines()) in arenas
