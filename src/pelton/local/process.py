"""The broker as a process: the command line of its JVM, what it inherits, and how it is ended.

Nothing here knows what a broker is for, nor where its files are.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pelton.errors import LocalKafkaError
from pelton.local import supervise

__all__ = ["STOP_TIMEOUT_S", "end", "java_command", "java_environment"]

#: A stop flushes and closes every log in 1–2 s; after this it is killed, and recovers at the next start.
STOP_TIMEOUT_S = 20.0
#: A killed process is gone as soon as the kernel gets to it.
KILL_TIMEOUT_S = 10.0
#: Fine enough that waiting adds nothing one would notice.
POLL_S = 0.02

JAVA_OPTIONS = (
    # Start fast and stay small: one collector thread, and no second compiler for a process of minutes.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # A broker that ran out of memory answers some requests and not others; better none.
    "-XX:+ExitOnOutOfMemoryError",
    # No file in the shared temporary directory.
    "-XX:-UsePerfData",
    # Without it the compression libraries' native code prints a warning.
    "--enable-native-access=ALL-UNNAMED",
    "-Djava.awt.headless=true",
)
#: Settings for other Java programs that would change ours, or make the JVM print about them.
FOREIGN_VARIABLES = ("CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")


def java_command(
    java: Path, jars: Sequence[Path], logging: Path, *, heap_mb: int, program: Sequence[str]
) -> list[str]:
    """Run a class of these jars with its arguments (`program`), logging as the file `logging` says."""
    return [
        str(java),
        f"-Xmx{heap_mb}m",
        *JAVA_OPTIONS,
        f"-Dlog4j2.configurationFile={logging.as_uri()}",
        "-cp",
        os.pathsep.join(map(str, jars)),
        *program,
    ]


def java_environment() -> dict[str, str]:
    """What the JVM inherits."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    # In the plain C locale Java cannot name a file outside ASCII, not even one it was given.
    return {**kept, "LC_ALL": "C.UTF-8"}


def end(pid: int, alive: Callable[[], bool], *, supervised: bool, graceful: bool) -> None:
    """End a broker, or the supervisor of one, and return when it is gone."""
    kill = supervise.KILL if supervised else signal.SIGKILL
    steps = [(signal.SIGTERM, STOP_TIMEOUT_S)] if graceful else []
    for step, timeout_s in [*steps, (kill, KILL_TIMEOUT_S), (signal.SIGKILL, KILL_TIMEOUT_S)]:
        try:
            # The last one is for the whole group: a supervisor that hangs must not leave its broker.
            (os.killpg if step == signal.SIGKILL else os.kill)(pid, step)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise LocalKafkaError(f"process {pid} belongs to another user, who must end it") from error
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not alive():
                return
            time.sleep(POLL_S)
    raise LocalKafkaError(f"process {pid} does not end, not even killed; its disk may not answer")
