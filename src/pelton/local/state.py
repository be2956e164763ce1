"""The note a running broker leaves in its directory, so that another process can find it, ask and stop it.

The note outlives a crash, and process numbers are used again: it counts only if the process with that number
is the very one that was started.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["State", "process_mark"]

#: `ps` answers in milliseconds; this only keeps a broken one from hanging us.
PS_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class State:
    """One broker that was started."""

    #: The process to signal; it leads a process group of its own, so killing the group ends all of it.
    pid: int
    #: What tells this process from a later one with the same number.
    mark: str
    port: int
    version: str
    #: Seconds since the epoch.
    started_at: float
    #: True if it ends with the process that started it.
    supervised: bool

    def alive(self) -> bool:
        """True if the broker's process still runs."""
        return process_mark(self.pid) == self.mark

    def write(self, path: Path) -> None:
        """Replace the note as a whole: a reader sees the old one or the new one."""
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> State | None:
        """The note at `path`; None if there is none, or if it is of another form."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                pid=int(fields["pid"]),
                mark=str(fields["mark"]),
                port=int(fields["port"]),
                version=str(fields["version"]),
                started_at=float(fields["started_at"]),
                supervised=bool(fields["supervised"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def process_mark(pid: int) -> str | None:
    """When the process started, in a form that no other process with its number shares; None if it is gone.

    A dead process whose parent has not asked for its end is gone too: it holds no port and no file.
    """
    if pid <= 0:
        return None
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The name in parentheses may itself have blanks and parentheses.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        # The start is counted in ticks since boot, so the boot is part of the mark.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    environment = {**os.environ, "LC_ALL": "C"}
    answer = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=PS_TIMEOUT_S, check=False
    ).stdout.split()
    return None if not answer or answer[0].startswith("Z") else " ".join(answer[1:])
