"""One worker as its supervisor sees it: a `pelton serve` process of its own, and its answers.

The worker answers `/livez`, `/readyz` and `/metrics` on a Unix socket that only its supervisor knows, and it
ends, in order, when its standard input does: a supervisor that was killed leaves nobody behind. How many
workers there are, and what becomes of one that has died, is `workers.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import h11

__all__ = ["TRANSITIONS", "Answers", "Ended", "Phase", "Place", "Worker"]

#: How long a worker may take to answer a probe or a scrape; one that is busier than this says nothing now.
ASK_TIMEOUT_S = 2.0
#: Of one answer. The metrics of 256 subscriptions with 500 partitions each stay below it.
ANSWER_BYTES_MAX = 32 << 20


class Phase(Enum):
    """Where a worker's process stands."""

    #: No process yet, or the last one has ended and the next is due.
    ABSENT = "absent"
    #: It runs and has not been ready yet.
    STARTING = "starting"
    #: It has been ready since it started.
    SERVING = "serving"
    #: It was asked to end.
    STOPPING = "stopping"


TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.ABSENT: frozenset({Phase.STARTING}),
    Phase.STARTING: frozenset({Phase.SERVING, Phase.STOPPING, Phase.ABSENT}),
    Phase.SERVING: frozenset({Phase.STOPPING, Phase.ABSENT}),
    Phase.STOPPING: frozenset({Phase.ABSENT}),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is told of itself: its number, from 0, and where it answers its supervisor."""

    number: int
    socket: Path

    def __str__(self) -> str:
        return f"{self.number}:{self.socket}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """The inverse of `str`; ValueError for anything else."""
        number, _, socket = text.partition(":")
        if not socket:
            raise ValueError(f"{text!r} is not NUMBER:SOCKET")
        return cls(int(number), Path(socket))


@dataclass(frozen=True, slots=True)
class Answers:
    """What a worker last said to the two questions: the reasons against it."""

    not_alive: tuple[str, ...] = ()
    not_ready: tuple[str, ...] = ("not started",)

    @property
    def all(self) -> list[str]:
        return [*self.not_alive, *self.not_ready]

    def against(self, name: str) -> bool:
        """Whether a reason speaks against this subscription: its own, or one of the whole worker."""
        return any(reason.startswith(f"{name}: ") or ": " not in reason for reason in self.not_ready)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker's process ended: its exit code, negative for a signal, and the phase it was in."""

    code: int
    phase: Phase


class Worker:
    """One of the workers: its process now, and the next one when this has ended."""

    def __init__(self, place: Place, config: Path) -> None:
        self.place = place
        self.phase = Phase.ABSENT
        self.answers = Answers()
        #: How often it was started.
        self.starts = 0
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()
        #: When it last answered that it is alive, or was started.
        self._well_at = 0.0

    @property
    def number(self) -> int:
        return self.place.number

    @property
    def running(self) -> bool:
        return self.phase in (Phase.STARTING, Phase.SERVING)

    def unwell_s(self) -> float:
        """How long it has not said that it is alive."""
        return time.monotonic() - self._well_at

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that a change of phase brings about."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def start(self) -> None:
        self._to(Phase.STARTING)
        self.starts += 1
        self._well_at = time.monotonic()
        self.place.socket.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pelton", "serve", "--config", str(self._config)),
            *("--worker", str(self.place)),
            stdin=asyncio.subprocess.PIPE,
            # A Ctrl-C is the supervisor's to hear: a worker that heard it too would take the supervisor's
            # own signal for the second one, which cuts.
            start_new_session=True,
        )
        if not self.running:
            # It was stopped before there was a process to tell.
            self._send(signal.SIGTERM)

    async def wait(self) -> Ended:
        """How it ended, when it has."""
        assert self._process is not None
        ended = Ended(await self._process.wait(), self.phase)
        self._to(Phase.ABSENT)
        self.answers = Answers()
        return ended

    def stop(self) -> None:
        """Ask it to drain and end."""
        if self.running:
            self._to(Phase.STOPPING)
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    async def ask(self) -> None:
        """Ask how it is. One that does not answer is not ready; whether it is alive is not known then."""
        try:
            alive, ready = await asyncio.gather(self.get("/livez"), self.get("/readyz"))
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            self.answers = Answers((), ("does not answer",))
            return
        self.answers = Answers(_reasons(alive), _reasons(ready))
        if not self.answers.not_alive:
            self._well_at = time.monotonic()
        if self.phase is Phase.STARTING and not self.answers.not_ready:
            self._to(Phase.SERVING)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body. Raises OSError, TimeoutError or h11.RemoteProtocolError where there is none."""
        async with asyncio.timeout(ASK_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(self.place.socket))
            try:
                return await _get(path, reader, writer)
            finally:
                writer.close()

    def _to(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"worker {self.number}: {self.phase} -> {phase}"
        self.phase = phase
        self._changed.set()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


async def _get(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, str]:
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target=path, headers=[("Host", "worker"), ("Connection", "close")])
    for part in (request, h11.EndOfMessage()):
        writer.write(connection.send(part) or b"")
    await writer.drain()
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > ANSWER_BYTES_MAX:
                raise OSError(f"{path}: the answer is larger than {ANSWER_BYTES_MAX} bytes")
        else:
            return status, body.decode()


def _reasons(answer: tuple[int, str]) -> tuple[str, ...]:
    status, body = answer
    return () if status == 200 else tuple(body.splitlines()) or (f"answers {status}",)
