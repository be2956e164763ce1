"""A small process between Pelton and the broker, so that no broker outlives the one who started it.

It holds one end of a pipe from its parent. When the parent ends, by whatever signal, the kernel closes the
other end and this process ends the broker. Should this process itself be killed, Linux kills the broker.

The file is run by its path in an isolated interpreter, so it may import the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["KILL", "command", "main"]

#: Once the parent is gone: how long the broker may take to close its files before it is killed.
ORPHAN_GRACE_S = 10.0
#: How often the parent is looked for besides the pipe: a forked child of it may hold the pipe open.
PARENT_POLL_S = 1.0
#: `prctl` option: the signal this process gets when its parent ends.
PR_SET_PDEATHSIG = 1
#: To a supervisor: kill the command and wait until it is gone. SIGKILL itself could not wait.
KILL = signal.SIGUSR1


def command(words: Sequence[str], *, orphans: Path | None) -> list[str]:
    """The command that runs `words` under supervision of the calling process.

    Its standard input must be a pipe from the caller. SIGTERM is passed on, `KILL` kills, the exit code is
    that of `words`. `orphans` is a directory to remove if the caller dies.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(orphans or ""), *words]


def main(arguments: Sequence[str]) -> int:
    """Run the command until it ends, SIGTERM comes, or the parent is gone."""
    parent, orphans, *words = arguments
    asked: list[int] = []
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    for asking in (signal.SIGTERM, KILL):
        signal.signal(asking, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    while (code := child.poll()) is None:
        readable, _, _ = select.select([0, wake_reader], [], [], PARENT_POLL_S)
        if wake_reader in readable:
            os.read(wake_reader, 4096)
        while asked:
            child.send_signal(signal.SIGKILL if asked.pop() == KILL else signal.SIGTERM)
        if 0 in readable or os.getppid() != int(parent):
            # A directory that nobody will look at again needs no orderly end.
            end(child, grace_s=0.0 if orphans else ORPHAN_GRACE_S)
            if orphans:
                shutil.rmtree(orphans, ignore_errors=True)
            return 1
    return code if code >= 0 else 128 - code


def end(child: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """Ask, wait, then kill."""
    if grace_s:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    child.kill()
    child.wait()


def die_with_parent() -> None:
    """Runs in the new process before the command does. Elsewhere than on Linux only the pipe serves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
