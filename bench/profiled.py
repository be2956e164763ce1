"""`python bench/profiled.py OUT serve -c CONFIG`: the pelton command, profiled from SIGUSR1 on.

Only its main thread is, which runs the loop, the engine and the transport; what the others use the kernel
tells (`--profile` shows both). The clock is the thread's CPU time: waiting costs nothing. Being traced
makes Python's part look larger than it is, and what Cython compiled (grpc, uvloop) counts to its caller.
"""

from __future__ import annotations

import cProfile
import signal
import sys
import time
from types import FrameType

from pelton.cli.main import main


def run() -> int:
    out, arguments = sys.argv[1], sys.argv[2:]
    profile = cProfile.Profile(time.thread_time)

    def begin(_: int, __: FrameType | None) -> None:
        profile.enable()

    signal.signal(signal.SIGUSR1, begin)
    try:
        return main(arguments)
    finally:
        profile.disable()
        profile.dump_stats(out)


if __name__ == "__main__":
    sys.exit(run())
