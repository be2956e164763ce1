"""Between a Kafka client and its broker: commits are refused, with codes of our choice.

The request is spoilt so that the broker itself refuses it (it names a generation that never was), and the
code in its answer is replaced. So what the client is told is true: nothing of it has been committed.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Hashable, Sequence

__all__ = ["Refusals"]

OFFSET_COMMIT = 8
#: From this version on strings and arrays are compact, and headers have tags.
FLEXIBLE = 8
#: Here topics have ids instead of names.
NAMELESS = 10
NO_GENERATION = 1 << 30


class Refusals:
    """Of one proxy; see `Proxy.edit`."""

    def __init__(self, codes: Sequence[int]) -> None:
        self._codes = itertools.cycle(codes)
        #: By connection and way: what is not a whole frame yet.
        self._halves: dict[tuple[Hashable, bool], bytes] = {}
        #: By connection and correlation id: the version of a commit that is not answered yet.
        self._asked: dict[tuple[Hashable, int], int] = {}
        #: Codes that were told, one an answer.
        self.told: list[int] = []

    def __call__(self, connection: Hashable, up: bool, data: bytes) -> bytes:
        data = self._halves.pop((connection, up), b"") + data
        whole = bytearray()
        while len(data) >= 4 and len(data) >= (size := 4 + int.from_bytes(data[:4], "big")):
            frame = bytearray(data[:size])
            data = data[size:]
            if up:
                self._request(connection, frame)
            else:
                self._answer(connection, frame)
            whole += frame
        self._halves[connection, up] = data
        return bytes(whole)

    def _request(self, connection: Hashable, frame: bytearray) -> None:
        key, version, correlation, client = struct.unpack_from(">hhih", frame, 4)
        if key != OFFSET_COMMIT:
            return
        self._asked[connection, correlation] = version
        at = 14 + max(0, client)
        if version >= FLEXIBLE:
            at += 1  # no tags
            length, at = _varint(frame, at)
            at += length - 1
        else:
            at += 2 + int.from_bytes(frame[at : at + 2], "big")
        struct.pack_into(">i", frame, at, NO_GENERATION)

    def _answer(self, connection: Hashable, frame: bytearray) -> None:
        version = self._asked.pop((connection, int.from_bytes(frame[4:8], "big")), None)
        if version is None:
            return
        code = next(self._codes)
        self.told.append(code)
        flexible = version >= FLEXIBLE
        at = 8 + flexible + 4 * (version >= 3)
        topics, at = _count(frame, at, flexible)
        for _ in range(topics):
            if version >= NAMELESS:
                at += 16
            elif flexible:
                length, at = _varint(frame, at)
                at += length - 1
            else:
                at += 2 + int.from_bytes(frame[at : at + 2], "big")
            partitions, at = _count(frame, at, flexible)
            for _ in range(partitions):
                assert int.from_bytes(frame[at + 4 : at + 6], "big"), "the broker has taken it"
                struct.pack_into(">h", frame, at + 4, code)
                at += 6 + flexible
            at += flexible


def _count(frame: bytearray, at: int, flexible: bool) -> tuple[int, int]:
    if flexible:
        count, at = _varint(frame, at)
        return count - 1, at
    return int.from_bytes(frame[at : at + 4], "big"), at + 4


def _varint(frame: bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = frame[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
