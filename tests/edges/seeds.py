"""The corpus (`corpus/*/*`), and bytes that are nearly what stands there.

Wrong bytes that come close find more than random ones, which fail at their first byte.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

__all__ = ["PROTOBUF", "STRUCTURED", "nearly"]

_CORPUS = Path(__file__).parent / "corpus"

#: Whole CloudEvents, right and wrong, by name.
STRUCTURED = {path.stem: path.read_bytes() for path in sorted((_CORPUS / "structured").iterdir())}
#: Messages of ours and of `google.rpc`, right and wrong, by name.
PROTOBUF = {path.stem: path.read_bytes() for path in sorted((_CORPUS / "protobuf").iterdir())}


@st.composite
def nearly(draw: st.DrawFn, *seeds: bytes) -> bytes:
    """One of `seeds` with up to three pieces cut, repeated or replaced; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=64))
    text = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        piece = draw(st.one_of(st.just(b""), st.just(text[start:end] * 40), st.binary(max_size=12)))
        text = text[:start] + piece + text[end:]
    return text
