"""Between a gRPC client and its server: a given share of the calls is broken off, and the others are not.

It understands frames, so one call of a connection can be cut while the rest of it lives: the stream is reset,
before the server has the message or in place of the answer's end. Or whole connections end, after as many
answers as make the share of what is out on them. What is left out must not put the two peers' header tables
out of step, so headers on the way down are coded anew.

It counts what it does: `calls` that came, those it cut `before` the server had them, and `after`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final

from hpack import Decoder, Encoder, HeaderTuple
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, WindowUpdateFrame

from tests.faults.h2_server import CANCEL, INTERNAL_ERROR, NO_ERROR
from tests.faults.proxy import Connection

__all__ = ["Cuts", "How"]

_PREFACE_BYTES: Final = 24
_HEAD_BYTES: Final = 9
DECK: Final = 10
#: What gRPC asks beside the calls that count.
_NO_CALLS = (b"/grpc.reflection.", b"/grpc.health.")
_STREAM_METHOD = b"/HandleStream"
#: What a proxy says of a stream whose other half broke: nothing, that it broke, that it was given up.
_CODES = (NO_ERROR, INTERNAL_ERROR, CANCEL)


class How(Enum):
    """What is cut."""

    #: Single calls, half of them before the server has them and half of them after its work.
    CALLS = "calls"
    #: Connections: the calls that are out on one of them when it ends.
    CONNECTIONS = "calls, with their connections,"
    #: HandleStreams, in place of a batch of settlements.
    BATCHES = "batches"


class Cuts:
    """Of one proxy; see `Proxy.edit`. It is there from a connection's first byte, and stays."""

    def __init__(self, how: How = How.CALLS, *, seed: int = 0) -> None:
        self.how = how
        #: Of the calls that begin from now on; 0: none.
        self.share = 0.0
        self.calls = 0
        self.before = 0
        self.after = 0
        self.random = random.Random(seed)
        self._deck: list[bool] = []
        self._lines: dict[Connection, _Line] = {}

    @property
    def cut(self) -> int:
        return self.before + self.after

    def __call__(self, connection: Connection, up: bool, data: bytes) -> bytes:
        line = self._lines.get(connection)
        if line is None:
            line = self._lines[connection] = _Line(self, connection)
        return b"".join(line.up(data) if up else line.down(data))

    @property
    def out(self) -> int:
        """Calls that are out now."""
        return sum(len(line.open) for line in self._lines.values())

    def draws(self) -> bool:
        """Whether the next one is cut: of each ten as many as the share says, so that a few show it, too."""
        if not self.share:
            self._deck.clear()
            return False
        if not self._deck:
            self._deck = [at < round(DECK * self.share) for at in range(DECK)]
            self.random.shuffle(self._deck)
        return self._deck.pop()


class _Line:
    """One connection: what is on its way, by stream."""

    def __init__(self, cuts: Cuts, connection: Connection) -> None:
        self._cuts = cuts
        self._connection = connection
        #: Not a whole frame yet.
        self._half = {True: b"", False: b""}
        self._greeted = False
        self._heard = Decoder()
        self._taken, self._given = Decoder(), Encoder()
        #: Calls that are out, and whether their end will be cut.
        self.open: dict[int, bool] = {}
        #: HandleStreams: their batches of settlements are what is cut.
        self._batches: set[int] = set()
        #: Streams that were cut: what still comes of them is kept.
        self._dead: set[int] = set()
        self._answers = 0
        self._ended = False

    # -- What the client sends -------------------------------------------------------------------------------

    def up(self, data: bytes) -> Iterator[bytes]:
        if not self._greeted:
            data = self._half[True] + data
            self._half[True] = b""
            if len(data) < _PREFACE_BYTES:
                self._half[True] = data
                return
            self._greeted = True
            yield data[:_PREFACE_BYTES]
            data = data[_PREFACE_BYTES:]
        for frame, raw in self._frames(True, data):
            stream = frame.stream_id
            if isinstance(frame, HeadersFrame):
                yield raw
                yield from self._begun(stream, bytes(frame.data))
            elif stream not in self._dead:
                if isinstance(frame, RstStreamFrame):
                    self.open.pop(stream, None)
                yield raw
            elif isinstance(frame, DataFrame) and frame.flow_controlled_length:
                # Nobody else will give the client its window back.
                window = WindowUpdateFrame(0, window_increment=frame.flow_controlled_length)
                self._connection.add(False, window.serialize())

    def _begun(self, stream: int, block: bytes) -> Iterator[bytes]:
        path = dict(self._heard.decode(block, raw=True)).get(b":path", b"")
        if path.startswith(_NO_CALLS):
            return
        cuts = self._cuts
        if path.endswith(_STREAM_METHOD):
            if cuts.how is How.BATCHES:
                self._batches.add(stream)
            return
        cuts.calls += 1
        cut = cuts.how is How.CALLS and cuts.draws()
        if cut and cuts.random.random() < 0.5:
            cuts.before += 1
            self._dead.add(stream)
            yield RstStreamFrame(stream, error_code=CANCEL).serialize()
            self._connection.add(False, self._reset(stream))
        elif self._ended:
            # The client has not heard of the end yet.
            cuts.after += 1
        else:
            cuts.after += cut
            self.open[stream] = cut

    def _reset(self, stream: int) -> bytes:
        return RstStreamFrame(stream, error_code=self._cuts.random.choice(_CODES)).serialize()

    # -- What it is sent -------------------------------------------------------------------------------------

    def down(self, data: bytes) -> Iterator[bytes]:
        for frame, raw in self._frames(False, data):
            headers: Iterable[HeaderTuple] = ()
            if isinstance(frame, HeadersFrame):
                # Also of what does not go on: later ones refer to it.
                headers = self._taken.decode(bytes(frame.data), raw=True)
            if frame.stream_id in self._dead or self._ended:
                continue
            if self._is_cut(frame):
                yield self._reset(frame.stream_id)
                continue
            if isinstance(frame, HeadersFrame):
                frame.data = self._given.encode(headers)
                # It is what was decoded, and no more.
                frame.flags.discard("PADDED")
                frame.flags.discard("PRIORITY")
                raw = frame.serialize()
            yield raw
            if self._is_due():
                self._cuts.after += len(self.open)
                self.open.clear()
                self._ended = True
                self._connection.end_here()

    def _is_cut(self, frame: Frame) -> bool:
        """It would tell the client of an end that it is not to hear of."""
        cuts, stream = self._cuts, frame.stream_id
        ends = "END_STREAM" in frame.flags or isinstance(frame, RstStreamFrame)
        if stream in self._batches:
            if ends or not isinstance(frame, DataFrame):
                return False
            cuts.calls += 1
            if not cuts.draws():
                return False
            cuts.after += 1
            self._connection.add(True, RstStreamFrame(stream, error_code=CANCEL).serialize())
        elif not ends or stream not in self.open:
            return False
        else:
            # Of what is cut only: the calls before it have nothing to do with its share.
            self._answers += cuts.share > 0.0
            if not self.open.pop(stream):
                return False
        self._dead.add(stream)
        return True

    def _is_due(self) -> bool:
        """As many answers have come as leave the share of all calls of the connection to be cut."""
        out = len(self.open)
        return self._cuts.how is How.CONNECTIONS and 0 < out <= self._cuts.share * (out + self._answers)

    # -- Both ------------------------------------------------------------------------------------------------

    def _frames(self, up: bool, data: bytes) -> Iterator[tuple[Frame, bytes]]:
        data = self._half[up] + data
        while len(data) >= _HEAD_BYTES:
            frame, length = Frame.parse_frame_header(memoryview(data[:_HEAD_BYTES]))
            size = _HEAD_BYTES + length
            if len(data) < size:
                break
            raw, data = data[:size], data[size:]
            if isinstance(frame, HeadersFrame):
                assert "END_HEADERS" in frame.flags, "no call of a run has so many headers"
            frame.parse_body(memoryview(raw[_HEAD_BYTES:]))
            yield frame, raw
        self._half[up] = data
