"""Who this process is within its consumer group: a name that outlives it, and the generation it is in.

A static member that is killed and started again gets its partitions back at once, without waiting for the
old one's session to end. That needs a name that is the same after the restart and that no two live
processes share: the host's name and a slot, held by a file lock that dies with the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
import stat
from pathlib import Path
from typing import Final

from pelton.errors import BrokerError

__all__ = ["SLOTS_MAX", "Slot", "generation_of"]

#: More processes of one group on one host than any host has use for; the search for a free slot ends.
SLOTS_MAX: Final = 256
_GROUP_METADATA_MAGIC: Final = b"CGMDv2:"


class Slot:
    """One of the host's places in a group, held until `release` or the end of the process."""

    def __init__(self, instance_id: str, descriptor: int) -> None:
        self.instance_id = instance_id
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, group: str, directory: Path | None = None) -> Slot:
        """The lowest slot of `group` that no live process on this host holds."""
        directory = _lock_directory() if directory is None else directory
        _own(directory)
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", group)[:64]
        stem = f"{readable}-{hashlib.sha256(group.encode()).hexdigest()[:16]}"
        for slot in range(SLOTS_MAX):
            path = directory / f"{stem}-{slot}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                # The file stays when the lock goes: removing it would let two processes lock two files
                # of the same name.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            return cls(f"{socket.gethostname()}-{slot}", descriptor)
        raise BrokerError(
            f"all {SLOTS_MAX} slots of the group {group} on this host are taken (locks in {directory}). "
            "Run fewer processes, or give each one its own group.instance.id in its Kafka settings."
        )

    def release(self) -> None:
        """Give the slot up. Twice is safe."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock_directory() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "pelton"
    return Path("/tmp") / f"pelton-{os.geteuid()}"


def _own(directory: Path) -> None:
    """Make sure that nobody else can hold or remove our locks."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(directory)
    except OSError as error:
        raise BrokerError(
            f"the directory {directory} for this process's group membership cannot be made: {error}. "
            "Set XDG_RUNTIME_DIR to a directory of your own, or group.instance.id in the Kafka settings."
        ) from error
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    if not ours:
        raise BrokerError(
            f"{directory} must be a directory that belongs to this user alone (mode 0700), and is not. "
            "Remove it, or set XDG_RUNTIME_DIR to a directory of your own."
        )


def generation_of(group_metadata: object) -> int:
    """The group's generation (or, by the newer protocol, the member's epoch); 0 where it cannot be read.

    The client hands its metadata out as opaque bytes for its own transactions. The generation is the
    32-bit number behind the format's name; a format of another name is not guessed at.
    """
    start = len(_GROUP_METADATA_MAGIC)
    if not isinstance(group_metadata, bytes) or not group_metadata.startswith(_GROUP_METADATA_MAGIC):
        return 0
    if len(group_metadata) < start + 4:
        return 0
    return max(0, int.from_bytes(group_metadata[start : start + 4], "little", signed=True))
