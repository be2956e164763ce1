"""One fault run on the real thing: a publisher, a log, bridges, a handler, and the four journals of them.

A row of the matrix, or the soak, does things to a scene; `finish` lets everything come to rest, ends it in
order, and collects the journals. What a fault may repeat is noted where it is done.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException

from tests.conformance.authority import Authority, Pair
from tests.faults import journals
from tests.faults.checker import Expected
from tests.faults.cluster import Cluster
from tests.faults.history import Blast, Fault, History, Owned
from tests.faults.proxy import Proxy
from tests.integration.delivery.processes import ROOT, Pelton, until
from tests.integration.delivery.world import Log

__all__ = ["Handler", "Publisher", "Scene"]

#: Of whatever is waited for. Ten times what the slowest takes, frozen brokers and dead sessions included.
DEADLINE_S = 300.0
#: What a hard kill may find settled and not committed: the design's 200 ms and a commit's round trip, of
#: which the sampler's longest is the only measure that is not Pelton's. A starved computer adds to both.
UNCOMMITTED_NS = 200_000_000
STARVED_NS = 500_000_000
PARTITIONS = 8
#: Of an attempt, where no row says otherwise: on a starved computer a shorter one would pass by itself, and
#: what was taken would come again without a fault that explains it.
TIMEOUT = "20s"
#: No dead letters, no copies, no zombies.
FAITHFUL = Expected()


class _Process:
    """A process of the run, ended with it."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.process.args!r} ended with {self.process.wait()}"
        return line.strip()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> None:
        self.process.wait(DEADLINE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def end(self) -> None:
        """Whatever state it is in. Twice is safe."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


class Publisher:
    """`publisher.py`."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        journal: Path,
        rate: float,
        *,
        first: int = 0,
        value_bytes: int = 200,
    ) -> None:
        self._process = _Process(
            *("tests.faults.publisher", "--bootstrap", bootstrap, "--topic", topic),
            *("--journal", str(journal), "--rate", str(rate), "--seed", topic, "--first", str(first)),
            *("--value-bytes", str(value_bytes)),
        )
        self._process.line()

    def stop(self) -> None:
        """What is on its way is waited for."""
        self._process.signal(signal.SIGTERM)
        self._process.wait()

    def end(self) -> None:
        self._process.end()


class Handler:
    """`handler.py`; started again it keeps its port."""

    def __init__(self, journal: Path, *, wire: bool = False, pair: Pair | None = None) -> None:
        self._journal = journal
        #: Certificate and key, from the next start on.
        self.pair = pair
        self._wire = wire
        self._process: _Process | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        assert self._process is None
        words = ["tests.faults.handler", "--journal", str(self._journal), "--port", str(self.port)]
        if self._wire:
            words.append("--wire")
        if self.pair is not None:
            words += ["--cert", self.pair.cert, "--key", self.pair.key]
        self._process = _Process(*words)
        self.port = int(self._process.line())

    def tell(self, **orders: object) -> None:
        """Behave so from now on; returns when it does."""
        assert self._process is not None
        pipe = self._process.process.stdin
        assert pipe is not None
        pipe.write(json.dumps(orders) + "\n")
        pipe.flush()
        assert self._process.line() == "done"

    def freeze(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.end()
        self._process = None

    def stop(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGTERM)
        self._process.wait()
        self._process = None

    def end(self) -> None:
        if self._process is not None:
            self.thaw()
            self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None


class Scene:
    """See the module. Use it as a context."""

    def __init__(
        self,
        cluster: Cluster,
        directory: Path,
        name: str,
        *,
        rate: float = 300.0,
        wire: bool = False,
        stream: bool = False,
        tls: bool = False,
        through: bool = False,
        timeout: str = TIMEOUT,
        drain_timeout: str = "30s",
        retry: str = "{ attempts: 4, backoff: 10ms..200ms }",
        subscription: str = "",
        expected: Expected = FAITHFUL,
        value_bytes: int = 200,
        fences: bool = False,
        topic_config: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`fences` has calls say their generation."""
        self.cluster = cluster
        self.directory = directory
        self.name = name
        self.topic = f"{name}-events"
        self.expected = expected
        self.history = History(name, self.topic)
        self.recovered_s: float | None = None
        #: What a row measured beside.
        self.figure = ""
        #: Whether the bridges' own lines bear the time of everybody else.
        self.owned_is_dated = True
        self._stack = ExitStack()
        self._log = Log(cluster.bootstrap)
        self._peltons: list[tuple[str, Pelton]] = []
        self._read_at = 0
        self._taken = 0
        self._recovering_ns = 0
        self._bootstrap = cluster.through if through else cluster.bootstrap
        self._handled = directory / "handler.jsonl"
        self._sent = directory / "publisher.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        cluster.create(self.topic, PARTITIONS, **topic_config)
        self.authority = Authority(directory, "ours") if tls else None
        pair = self.authority.issue("127.0.0.1") if self.authority is not None else None
        #: The bearer token's file, where there is TLS.
        self.token = directory / "token"
        self.token.write_text("first")
        self.handler = Handler(self._handled, wire=wire, pair=pair)
        self._stack.callback(self.handler.end)
        #: Between the bridges and the handler.
        self.proxy = self._stack.enter_context(Proxy(self.handler.port))
        security = ""
        if self.authority is not None:
            security = f', tls: {{ ca: {self.authority.ca} }}, auth: {{ bearer: "${{file:{self.token}}}" }}'
        parameters, sent = 'instance: "none"', "instance"
        if fences:
            parameters, sent = parameters + ', fence: { from: "delivery.fence" }', "instance, fence"
        self._config = directory / "pelton.yaml"
        self._config.write_text(
            f"""
kafka: {{ bootstrap.servers: "{self._bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
logging: {{ format: json }}
targets:
  oracle: {{ address: "127.0.0.1:{self.proxy.port}"{security} }}
subscriptions:
  {name}:
    topics: [{self.topic}]
    target: oracle
    {"delivery: stream" if stream else "method: /any.Service/Method"}
    parameters: {{ {parameters} }}
    {"" if stream else f"metadata: {{ parameters: [{sent}] }}"}
    timeout: {timeout}
    drain_timeout: {drain_timeout}
    retry: {retry}
{subscription}
""",
            encoding="utf-8",
        )
        self._sampler = self._stack.enter_context(
            journals.Sampler(cluster.bootstrap, f"pelton.{name}", self.topic, PARTITIONS)
        )
        self.publisher = Publisher(cluster.bootstrap, self.topic, self._sent, rate, value_bytes=value_bytes)
        self._stack.callback(self.publisher.end)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *error: object) -> None:
        for _, pelton in self._peltons:
            if pelton.process.poll() is None:
                pelton.process.send_signal(signal.SIGCONT)
            pelton.end()
        self._stack.close()
        self._log.close()

    # -- Doing things --------------------------------------------------------------------------------------

    def serve(
        self, *, failpoint: str = "", wrapper: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> Pelton:
        """A life of a bridge, with a name of its own that goes with every call."""
        instance = f"life-{len(self._peltons) + 1}"
        name = self.name.upper().replace("-", "_")
        variables = {
            f"PELTON_SUBSCRIPTIONS__{name}__PARAMETERS__INSTANCE": instance,
            **(environ or {}),
        }
        pelton = Pelton(
            self._config,
            self.directory / f"{instance}.log",
            failpoint=failpoint,
            wrapper=wrapper,
            environ=variables,
        )
        self._peltons.append((instance, pelton))
        return pelton

    def crashed(self, from_ns: int, what: str, pelton: Pelton | None = None) -> None:
        """A bridge died, or lost what it owned, at `from_ns`; whoever comes after it comes now or later.

        Without `pelton` it happened to all of them.
        """
        instance = next((name for name, one in self._peltons if one is pelton), "")
        from_ns -= UNCOMMITTED_NS + STARVED_NS + self._sampler.longest_ns
        self.history.faults.append(Fault(Blast.CRASH, from_ns, time.monotonic_ns(), what, instance))

    def kill(self, pelton: Pelton) -> Pelton:
        """kill -9, and another one in its place."""
        at_ns = pelton.kill()
        after = self.serve()
        self.crashed(at_ns, "kill", pelton)
        return after

    def dies(self, pelton: Pelton) -> Pelton:
        """It kills itself at its failpoint; another one takes its place."""
        looked_ns = time.monotonic_ns()

        def dead() -> bool:
            nonlocal looked_ns
            now_ns = time.monotonic_ns()
            if pelton.process.poll() is not None:
                return True
            looked_ns = now_ns
            return False

        until(dead, "the failpoint to be reached", DEADLINE_S)
        assert pelton.wait() == -signal.SIGKILL, pelton.log()[-2_000:]
        after = self.serve()
        self.crashed(looked_ns, "failpoint", pelton)
        return after

    @contextmanager
    def cut(self, what: str) -> Iterator[None]:
        """Answers may be lost on their way while this lasts."""
        # An answer leaves a while after the handler's journal says so: the disk comes in between.
        from_ns = time.monotonic_ns() - STARVED_NS
        yield
        self.history.faults.append(Fault(Blast.CUT, from_ns, time.monotonic_ns(), what))

    @contextmanager
    def outage(self, what: str) -> Iterator[None]:
        """Nothing can be committed while this lasts, and partitions may be lost: until calls flow again."""
        from_ns = time.monotonic_ns()
        yield
        self.commits_go_on()
        self.crashed(from_ns, what)

    # -- Seeing what comes of it ---------------------------------------------------------------------------

    def taken(self) -> int:
        """How many calls the handler has taken, by its own journal."""
        with self._handled.open("rb") as file:
            file.seek(self._read_at)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._read_at += whole
        self._taken += data[:whole].count(b'"OK"]')
        return self._taken

    def sent(self) -> int:
        """How many events the publisher was asked to write."""
        return self._sent.read_bytes().count(b'["p"')

    def called(self) -> int:
        """How many calls have begun."""
        return self._handled.read_bytes().count(b'["s"')

    def flow(self, count: int = 300) -> None:
        """Until the handler has taken so many more."""
        wanted = self.taken() + count
        until(lambda: self.taken() >= wanted, f"{count} more events to be taken", DEADLINE_S)

    def commits_go_on(self) -> None:
        """Until every partition has committed something new: what was settled before does not come again."""
        before = self._committed()
        until(
            lambda: all(offset > before.get(number, -1) for number, offset in self._committed().items()),
            "every partition to commit again",
            DEADLINE_S,
        )

    def _committed(self) -> dict[int, int]:
        """By the sampler; all partitions, once there is a sample of each."""
        newest = dict.fromkeys(range(PARTITIONS), -1)
        for sample in self._sampler.samples[-20 * PARTITIONS :]:
            newest[sample.partition] = sample.committed
        return newest

    def recovering(self) -> None:
        """The fault has just ended: how long until a call is taken?"""
        self._recovering_ns = time.monotonic_ns()

    def wait(self, seconds: float) -> None:
        """A fault lasts as long as it lasts: there is no event to wait for."""
        time.sleep(max(0.0, seconds))

    def settled(self) -> bool:
        """Every event in the log is below the committed offset."""
        try:
            committed = self._log.committed(f"pelton.{self.name}", self.topic)
            ends = self._log.ends(self.topic)
        except KafkaException:
            return False
        return all(committed.get(number, 0) == end for number, end in ends.items())

    def published_over(self) -> None:
        """The publisher ends; everything that it has written will be delivered."""
        self.publisher.stop()

    def finish(self) -> None:
        """Until everything has come to rest; then everything ends, and `history` has all journals."""
        self.published_over()
        try:
            until(self.settled, "every event to be settled", DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.state()}") from error
        for _, pelton in self._peltons:
            if pelton.process.poll() is None:
                pelton.stop()
        if self.handler.running:
            self.handler.stop()
        history = self.history
        history.sent = journals.sent_in(self._sent)
        history.stored = journals.as_stored(self._log.read(self.topic))
        history.letters = journals.as_letters(self._log.read(f"dlq.{self.name}"), self.topic)
        history.samples = self._sampler.samples
        history.calls = journals.calls_in(self._handled)
        history.owned = self.owned() if self.owned_is_dated else ()
        assert history.sent, "nothing was published"
        assert history.samples, "no commit was seen"
        if self._recovering_ns:
            ends = [
                call.end_ns for call in history.calls if call.taken and call.start_ns > self._recovering_ns
            ]
            self.recovered_s = (min(ends) - self._recovering_ns) / 1e9 if ends else None

    @property
    def group(self) -> str:
        return f"pelton.{self.name}"

    def committed(self) -> dict[int, int]:
        """What Kafka says now."""
        return self._log.committed(self.group, self.topic)

    def read(self) -> int:
        """How many events the log has now."""
        return len(self._log.read(self.topic))

    def ends(self) -> dict[int, int]:
        return self._log.ends(self.topic)

    def owned(self) -> list[Owned]:
        return [
            line
            for instance, pelton in self._peltons
            for line in journals.owned_in(pelton.log(), instance, self.topic)
        ]

    def state(self) -> str:
        """For a run that does not come to rest."""
        committed = self._log.committed(f"pelton.{self.name}", self.topic)
        logs = "\n".join(f"--- {name}\n{pelton.log()[-3_000:]}" for name, pelton in self._peltons[-2:])
        return f"committed {committed}, ends {self._log.ends(self.topic)}\n{logs}"
