"""The demo: a real Kafka, a publisher, Pelton and a service, live in this terminal: `make demo`.

Each is a process of its own; this one starts them, shows what happens, and checks it by what the publisher,
the service and Kafka say (`check.py`). Exit code 0 only if every event ended as it should, and in order.

The files to learn from are `service.py`, `publisher.py` and `pelton.yaml`; the rest is the show.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, cast

from rich.console import Console

# Run by its path, so that only its own folder is known; it and its parts are `examples.demo`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.demo import guide
from examples.demo.check import Check
from examples.demo.journal import Reader
from examples.demo.processes import Failed, Process, Processes
from examples.demo.publisher import TOPIC
from examples.demo.screen import DeadLetter, Screen
from pelton import Event, PeltonError
from pelton.event import Position
from pelton.kafka.tail import tail
from pelton.kafka.topics import ensure_topic
from pelton.local.broker import LocalKafka

CONFIG: Final = Path(__file__).with_name("pelton.yaml")
DEAD_LETTERS: Final = "dlq.fulfilment"
PARTITIONS: Final = 8
#: The show, if nothing else is asked for.
SHOW_S: Final = 20
RATE: Final = 200
KEYS: Final = 40
#: Without one more event published or settled for so long, something is stuck. The longest wait of a retry is
#: half a second; the rest is for a computer that is busy with other things.
STALL_S: Final = 30.0
LOOK_EVERY_S: Final = 0.05
EXIT_OK: Final = 0
EXIT_FAULTS: Final = 1
EXIT_INTERRUPTED: Final = 130


class Interrupted(Exception):
    """Ctrl-C before anything was published, or a second one."""


class Demo:
    """One run."""

    def __init__(
        self, options: argparse.Namespace, bootstrap: str, directory: Path, console: Console
    ) -> None:
        self._options = options
        self._bootstrap = bootstrap
        self._directory = directory
        self._console = console
        self._events: int = options.events or math.ceil(options.rate * SHOW_S)
        self._check = Check()
        self._screen = Screen(self._check, self._events, console)
        self._publisher_journal = Reader(directory / "published.jsonl")
        self._service_journal = Reader(directory / "calls.jsonl")
        #: A first one ends the publishing, a second one everything.
        self._interrupts = 0
        self._publishing = False
        self._main: asyncio.Task[int] | None = None
        self._dead_letters_read: set[Position] = set()

    async def run(self) -> int:
        """Returns the exit code."""
        self._main = cast("asyncio.Task[int]", asyncio.current_task())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        try:
            with Processes(self._directory) as processes:
                return await self._show(processes)
        except asyncio.CancelledError:
            raise Interrupted from None

    def _on_signal(self) -> None:
        self._interrupts += 1
        if self._main is not None and (self._interrupts > 1 or not self._publishing):
            self._main.cancel()

    async def _show(self, processes: Processes) -> int:
        await asyncio.to_thread(ensure_topic, {"bootstrap.servers": self._bootstrap}, TOPIC, PARTITIONS)
        service, pelton = await self._start(processes)
        self._say(f"publishing {self._events:,} events, {self._options.rate:,.0f} a second; Ctrl-C ends it\n")
        reading = asyncio.create_task(self._read_dead_letters(follow=True))
        try:
            publisher = self._publish(processes)
            self._publishing = True
            with self._screen:
                seconds = await self._watch(publisher, (service, pelton), reading)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        # In this order, so that what Pelton does to the last is in the journal before that is judged.
        await pelton.stop()
        await service.stop()
        await self._read_dead_letters(follow=False)
        self._look()
        faults = self._check.faults()
        if not self._interrupts and self._check.published != self._events:
            faults.append(f"{self._check.published} events were published, not {self._events}")
        self._screen.summary(seconds, faults)
        if faults:
            return EXIT_FAULTS
        # Whoever asked for a number did not get it.
        return EXIT_INTERRUPTED if self._interrupts and self._options.events else EXIT_OK

    async def _start(self, processes: Processes) -> tuple[Process, Process]:
        """The service on a free port, then Pelton; returns when it has its partitions."""
        journal = str(self._directory / "calls.jsonl")
        service = processes.start(
            *("service", "examples.demo.service", "--address", "127.0.0.1:0", "--journal", journal)
        )
        address = await service.says(r"EventHandler on (\S+)$")
        self._say(f"service    {address}")
        pelton = processes.start(
            *("pelton", "pelton", "serve", "-c", str(CONFIG)), environ=overrides(self._bootstrap, address)
        )
        http = await pelton.says(r'"http": "([^"]+)"')
        await pelton.says(r'"event": "(assigned)"')
        self._say(f"Pelton     metrics at http://{http}/metrics")
        return service, pelton

    def _publish(self, processes: Processes) -> Process:
        options = {
            "bootstrap": self._bootstrap,
            "events": self._events,
            "rate": self._options.rate,
            "keys": self._options.keys,
            "journal": self._directory / "published.jsonl",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return processes.start("publisher", "examples.demo.publisher", *words)

    async def _watch(
        self, publisher: Process, others: tuple[Process, ...], reading: asyncio.Task[None]
    ) -> float:
        """Show what happens until all that was published is settled, or nothing happens any more.

        Returns the seconds from the first event to the last.
        """
        check = self._check
        asked = False
        moved, moved_at = 0, time.monotonic()
        began_at = moved_at
        while True:
            # Looked at before the journals: what it wrote until then is in them.
            code = publisher.code
            self._look()
            self._screen.update()
            if code and not asked:
                raise publisher.failed(f"failed with exit code {code}")
            for process in others:
                if process.code is not None:
                    raise process.failed(f"ended by itself, with exit code {process.code}")
            if reading.done():
                reading.result()
            if code is not None and check.open == 0:
                return time.monotonic() - began_at
            if self._interrupts and not asked:
                asked = True
                publisher.ask_to_stop()
            if check.published + check.settled != moved:
                moved_at = time.monotonic()
                began_at = began_at if moved else moved_at
                moved = check.published + check.settled
            elif time.monotonic() - moved_at > STALL_S:
                self._say(f"nothing has moved for {STALL_S:.0f} s")
                return moved_at - began_at
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self) -> None:
        """Take in what the journals have."""
        for published in self._publisher_journal.published():
            self._check.on_published(published)
        for step in self._service_journal.steps():
            self._check.on_step(step)

    async def _read_dead_letters(self, *, follow: bool) -> None:
        """As they come, or to the end of what is there; none is taken in twice."""
        settings = {"bootstrap.servers": self._bootstrap}
        events = tail(settings, DEAD_LETTERS, start="beginning", follow=follow)
        # It is declared as an iterator, and is a generator: one that must be closed for its client to be.
        async with aclosing(cast("AsyncGenerator[Event, None]", events)):
            async for event in events:
                if event.position in self._dead_letters_read:
                    continue
                self._dead_letters_read.add(event.position)
                order = json.loads(event.value or b"{}")
                customer, number = order["customer"], order["number"]
                reason = (dict(event.headers).get("pelton-reason") or b"").decode()
                self._check.on_dead_letter(customer, number)
                self._screen.on_dead_letter(DeadLetter(customer, number, event.type, reason))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def overrides(bootstrap: str, service: str) -> dict[str, str]:
    """What this run has instead of pelton.yaml's fixed ports."""
    return {
        "PELTON_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "PELTON_TARGETS__SHOP__ADDRESS": service,
        "PELTON_SERVER__HTTP": "127.0.0.1:0",
        "PELTON_SERVER__GRPC": "127.0.0.1:0",
        # Its lines are read here.
        "PELTON_LOGGING__FORMAT": "json",
    }


def main() -> int:
    options = parse()
    console = Console()
    # Until the event loop takes the signals over, both are the same.
    signal.signal(signal.SIGTERM, interrupt)
    directory = Path(tempfile.mkdtemp(prefix="pelton-demo-"))
    code = EXIT_FAULTS
    try:
        console.print("Kafka      starting; the first time it is downloaded")
        with running_kafka(options.keep, console) as kafka:
            console.print(f"           {kafka.bootstrap}", highlight=False)
            code = asyncio.run(Demo(options, kafka.bootstrap, directory, console).run())
            console.print(guide.of_files(), highlight=False)
        if not options.keep:
            console.print(guide.of_keeping(), highlight=False)
    except (Interrupted, KeyboardInterrupt):
        console.print("interrupted")
        code = EXIT_INTERRUPTED
    except (Failed, PeltonError) as error:
        console.print(f"\ndemo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    finally:
        if code == EXIT_FAULTS:
            console.print(f"\nlogs and journals are in {directory}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return code


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="A real Kafka, a publisher, Pelton and a service, live in this terminal.",
    )
    add = parser.add_argument
    add("--events", type=count, help=f"publish so many (default: {SHOW_S} seconds of the rate)")
    add("--rate", type=count, default=RATE, help="events a second (default: %(default)s)")
    add("--keys", type=count, default=KEYS, help="how many customers (default: %(default)s)")
    add("--keep", action="store_true", help="leave Kafka running afterwards, and say how to look into it")
    return parser.parse_args()


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def running_kafka(keep: bool, console: Console) -> Iterator[LocalKafka]:
    """A broker that ends with the demo, or with `keep` one that stays."""
    if not keep:
        with LocalKafka.temporary() as kafka:
            yield kafka
        return
    kafka = LocalKafka(tempfile.mkdtemp(prefix="pelton-kafka-"))
    kafka.start()
    try:
        yield kafka
    finally:
        console.print(guide.of_kept_kafka(kafka.bootstrap, kafka.directory), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
