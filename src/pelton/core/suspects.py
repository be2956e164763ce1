"""Suspect keys: whose event ran out of attempts, and none has been acked since.

Their events get one attempt each, so that a key that is poisoned for good costs little.
"""

from __future__ import annotations

__all__ = ["SUSPECT_KEYS_MAX", "Suspects"]

#: Keys remembered; beyond it the oldest is forgotten and gets its full attempts again.
SUSPECT_KEYS_MAX = 10_000


class Suspects:
    """The suspect keys of one partition. An event without a key makes nobody suspect."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        #: To be read only: whether there are any is asked for every event.
        self.keys: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: bytes | None) -> bool:
        return key in self.keys

    def add(self, key: bytes | None) -> None:
        if key is None:
            return
        self.keys[key] = None
        if len(self.keys) > SUSPECT_KEYS_MAX:
            del self.keys[next(iter(self.keys))]

    def clear(self, key: bytes | None) -> None:
        """An event of the key was acked."""
        if key is not None and key in self.keys:
            del self.keys[key]
