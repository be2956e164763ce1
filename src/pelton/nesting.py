"""How deep a JSON text nests, found without decoding it: in one pass, whatever the bytes are.

JSON decoders recurse, and so does everything behind them; so whoever decodes a stranger's bytes asks here
first. Nothing is decoded here, and what the right depth is each caller says.
"""

from __future__ import annotations

from itertools import accumulate

__all__ = ["nests_deeper"]

#: Brackets become steps of depth (+1, -1 as signed bytes); everything else is deleted.
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{[}]")
#: A bomb is refused after as many brackets as this, not after all of them.
_CHUNK_BYTES = 64 << 10


def nests_deeper(text: bytes, depth_max: int) -> bool:
    """Whether brackets outside strings nest deeper than `depth_max`; never a false no for real JSON.

    Every step is linear in the text. A regular expression that skips strings is not: where none of the quotes
    is ever closed, it looks for the end of a string from each of them.
    """
    # Few opening brackets cannot nest deeply: that is every sane text, at the price of two counts.
    if text.count(b"{") + text.count(b"[") <= depth_max:
        return False
    outside = b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    steps = memoryview(outside.translate(_STEPS, _NOT_BRACKETS)).cast("b")
    depth = 0
    for start in range(0, len(steps), _CHUNK_BYTES):
        chunk = steps[start : start + _CHUNK_BYTES]
        if max(accumulate(chunk, initial=depth)) > depth_max:
            return True
        depth += sum(chunk)
    return False
