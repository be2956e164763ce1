"""`pelton kafka …`: a real Apache Kafka on this computer, for a first try and for tests.

Only words to and from the person stand here; what they do is in `pelton.local`, imported when a command runs
so that `--help` stays fast.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import cyclopts
from cyclopts import Parameter

from pelton.cli.bootstrap import Bootstrap, bootstrap_of
from pelton.errors import LocalKafkaError

if TYPE_CHECKING:
    from types import FrameType
    from typing import BinaryIO

    from pelton.local.broker import LocalKafka

__all__ = ["app"]

#: Where Kafka's own examples and most configurations look for a broker.
PORT = 9092
#: As in `pelton.local.broker`, which `--help` does not import; a test holds the two together.
HEAP_MB = 512
#: Below the working directory, so that every project has a broker of its own.
DIRECTORY = Path(".pelton/kafka")
#: `status` of what does not run, as init scripts answer.
EXIT_NOT_RUNNING = 3
#: `status` of what runs and does not answer.
EXIT_NOT_SERVING = 1
#: What a JVM answers that was asked to end: orderly, by SIGTERM, by SIGKILL.
ENDED_ON_REQUEST = frozenset({0, 143, 137})
#: `logs` shows this much unless told otherwise: a screen or two.
LOG_LINES = 50
#: A person does not see a line come sooner.
FOLLOW_POLL_S = 0.2
CHUNK_BYTES = 64 * 1024

Directory = Annotated[Path, Parameter(name=["--directory", "-d"])]

app = cyclopts.App(
    name="kafka",
    help="A real Apache Kafka on this computer, for a first try and for tests: never for production.",
)


@app.command
def start(
    *,
    port: int = PORT,
    directory: Directory = DIRECTORY,
    foreground: bool = False,
    heap_mb: int = HEAP_MB,
) -> None:
    """Start Kafka and return when it serves; the first start downloads it (45 MB).

    Parameters
    ----------
    port
        Port on the loopback interface; 0 takes a free one.
    directory
        Where its data, settings and logs are kept.
    foreground
        Stay until Ctrl-C, and end Kafka then; otherwise it goes on in the background.
    heap_mb
        Memory of its heap.
    """
    kafka = broker(directory, port=port, foreground=foreground, heap_mb=heap_mb)
    status = kafka.status()
    if status.running:
        if foreground or (port and not status.bootstrap.endswith(f":{port}")):
            raise LocalKafkaError(
                f"Kafka already runs from {kafka.directory} at {status.bootstrap} (process {status.pid});"
                f" use it, or end it with `{_command('stop', directory)}`"
            )
        say(f"Kafka {status.version} already serves at {status.bootstrap} (process {status.pid})")
        return
    if foreground:
        run_in_foreground(kafka)
        return
    kafka.start()
    announce(kafka)
    say(f"  end it:         {_command('stop', directory)}")


@app.command
def topic(name: str, *, partitions: int = 8, bootstrap: Bootstrap = "") -> None:
    """Make a topic, unless it is there already: Kafka here makes none by itself, so that a slip shows.

    Parameters
    ----------
    name
        The topic's name.
    partitions
        How many partitions it gets: that many members of a consumer group can share it.
    """
    from pelton.kafka.topics import ensure_topic

    ensure_topic({"bootstrap.servers": bootstrap_of(bootstrap)}, name, partitions)
    print(f"{name}: {partitions} partitions")


@app.command
def stop(*, directory: Directory = DIRECTORY) -> None:
    """Stop Kafka; its data stays.

    Parameters
    ----------
    directory
        Where its data, settings and logs are kept.
    """
    kafka = broker(directory)
    status = kafka.status()
    kafka.stop()
    say(f"Kafka at {status.bootstrap} stopped" if status.running else f"no Kafka runs from {kafka.directory}")


@app.command
def status(*, directory: Directory = DIRECTORY) -> int:
    """Say whether Kafka runs, and where. Exit code 0 if it serves, 3 if it does not run, 1 if it hangs.

    Parameters
    ----------
    directory
        Where its data, settings and logs are kept.
    """
    found = broker(directory).status()
    if not found.running:
        say(f"no Kafka runs from {found.directory}")
        return EXIT_NOT_RUNNING
    answers = "serves" if found.serving else "runs but does not answer"
    who = f"process {found.pid}, for {age(found.uptime_s)}"
    say(f"Kafka {found.version} {answers} at {found.bootstrap} ({who})")
    say(f"  directory:      {found.directory}")
    say(f"  log:            {found.log}")
    return 0 if found.serving else EXIT_NOT_SERVING


@app.command
def logs(*, follow: bool = False, lines: int = LOG_LINES, directory: Directory = DIRECTORY) -> None:
    """Show the end of Kafka's log.

    Parameters
    ----------
    follow
        Go on with new lines until Ctrl-C.
    lines
        How many lines from the end.
    directory
        Where its data, settings and logs are kept.
    """
    path = broker(directory).log
    try:
        with path.open("rb") as file:
            for line in deque(file, maxlen=max(0, lines)):
                sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if follow:
                follow_on(path, file)
    except FileNotFoundError:
        makes = _command("start", directory)
        raise LocalKafkaError(f"there is no log at {path}; `{makes}` makes one") from None
    except KeyboardInterrupt:
        pass


@app.command
def reset(*, directory: Directory = DIRECTORY) -> None:
    """Stop Kafka and forget its topics, groups, events and logs.

    Parameters
    ----------
    directory
        Where its data, settings and logs are kept.
    """
    kafka = broker(directory)
    kafka.reset()
    say(f"Kafka's data in {kafka.directory} is gone; `{_command('start', directory)}` begins anew")


def broker(directory: Path, *, port: int = 0, foreground: bool = False, heap_mb: int = HEAP_MB) -> LocalKafka:
    from pelton.local.broker import LocalKafka

    return LocalKafka(directory, port=port, supervised=foreground, heap_mb=heap_mb)


def _command(name: str, directory: Path) -> str:
    """What to type here for the broker of this directory."""
    where = "" if directory == DIRECTORY else f" --directory {shlex.quote(str(directory))}"
    return f"pelton kafka {name}{where}"


def run_in_foreground(kafka: LocalKafka) -> None:
    """Until Ctrl-C, SIGTERM, `pelton kafka stop` elsewhere, or the broker's own end, which is an error."""
    import signal

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        kafka.start()
        announce(kafka)
        say("  end it:         Ctrl-C")
        code = kafka.wait()
    except KeyboardInterrupt:
        kafka.stop()
        say("Kafka stopped")
        return
    finally:
        signal.signal(signal.SIGTERM, before)
    kafka.stop()
    if code not in ENDED_ON_REQUEST:
        raise LocalKafkaError(f"Kafka ended by itself (exit code {code}); its log is {kafka.log}")
    say("Kafka was stopped")


def announce(kafka: LocalKafka) -> None:
    status = kafka.status()
    say(f"Kafka {status.version} serves at {status.bootstrap} (process {status.pid})")
    say(f'  in pelton.yaml: kafka: {{ bootstrap.servers: "{status.bootstrap}" }}')
    say(f"  directory:      {status.directory}")


def follow_on(path: Path, file: BinaryIO) -> NoReturn:
    """Show what is written from here on; the log may roll, or be forgotten and begin anew, at any time."""
    with contextlib.ExitStack() as opened:
        while True:
            while chunk := file.read(CHUNK_BYTES):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    # Nobody writes to the old one any more; what it had left was shown above or is now.
                    sys.stdout.buffer.write(file.read())
                    opened.close()
                    file = opened.enter_context(path.open("rb"))
                    continue
            time.sleep(FOLLOW_POLL_S)


def age(seconds: float) -> str:
    """A duration for a person, to two units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
