"""Every status, and every way not to get one: what becomes of the event, in all three modes.

One Pelton, and one subscription for each case, all of them to the same few events. Each status is tried
twice: as the answer to one event among others that the target takes, and, where it says another thing then,
as the answer to every call.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import grpc
import pytest

from pelton.core.outcome import Status
from tests.conformance.authority import Authority
from tests.integration.delivery.processes import Metrics, Pelton, until
from tests.integration.delivery.scripted import UNARY, Script, Scripted
from tests.integration.delivery.world import Draft, Log, Published
from tests.kafka_fixtures import CreateTopic

#: `retry.attempts` where one event of many fails; where every call does, the first that burned would show.
ATTEMPTS = 2
VICTIM = b"victim"
LARGE_BYTES = 8_192
ILLEGAL = b"\x00caf\xc3\xa9\r\n\xff"


class End(Enum):
    """What becomes of the event."""

    ACKED = "acked at the first attempt"
    AT_ONCE = "dead-lettered after one attempt"
    TRIED = "dead-lettered after its attempts"
    #: The first failure of a target that may be unwell or miswired burns nothing until others show that it
    #: was well, and each weighs by how the others fared beside it.
    TRIED_MORE = "dead-lettered after its attempts or a few more"
    BACKED_OFF = "kept while the target is unwell, delivered after"
    PAUSED = "kept while the target is miswired, delivered after"


A, D, T, M = End.ACKED, End.AT_ONCE, End.TRIED, End.TRIED_MORE
UNWELL, MISWIRED = End.BACKED_OFF, End.PAUSED

#: Answer -> what becomes of one event that gets it among others, and what if every call gets it.
TABLE: dict[str, tuple[End, End | None]] = {
    "OK": (A, None),
    "CANCELLED": (M, UNWELL),
    "UNKNOWN": (T, None),
    "INVALID_ARGUMENT": (D, None),
    "DEADLINE_EXCEEDED": (M, UNWELL),
    "NOT_FOUND": (D, None),
    "ALREADY_EXISTS": (D, None),
    "PERMISSION_DENIED": (M, MISWIRED),
    "RESOURCE_EXHAUSTED": (M, UNWELL),
    "FAILED_PRECONDITION": (D, None),
    "ABORTED": (T, None),
    "OUT_OF_RANGE": (D, None),
    "UNIMPLEMENTED": (M, MISWIRED),
    "INTERNAL": (T, None),
    "UNAVAILABLE": (M, UNWELL),
    "DATA_LOSS": (D, None),
    "UNAUTHENTICATED": (M, MISWIRED),
    "hang": (M, UNWELL),
}
#: What is no answer at all; each has a topic or a target of its own. The last two are never mended here.
OTHERS: dict[str, End] = {
    "too-large": D,
    "illegal-metadata": A,
    "refused": UNWELL,
    "unresolvable": UNWELL,
    "wrong-certificate": MISWIRED,
}
NEVER_MENDED = {"unresolvable", "wrong-certificate"}


@dataclass(frozen=True, slots=True)
class Case:
    """One subscription."""

    name: str
    answer: str
    end: End
    every_call: bool = False
    target: str = "scripted"
    topic: str = "events"
    more: str = ""

    def config(self, mode: str, topics: dict[str, str], dead_letters: str) -> str:
        delivery = f"delivery: unary\n    method: {UNARY}" if mode == "unary" else f"delivery: {mode}"
        attempts = 1 if self.every_call else ATTEMPTS
        return f"""
  {self.name}:
    topics: [{topics[self.topic]}]
    target: {self.target}
    {delivery}
    retry: {{ attempts: {attempts}, backoff: 100ms..200ms }}
    dead_letters: {{ topic: {dead_letters} }}
    {self.more}"""

    @property
    def status(self) -> str:
        """What the dead letter says."""
        return {"hang": "DEADLINE_EXCEEDED", "too-large": "RESOURCE_EXHAUSTED"}.get(self.answer, self.answer)


def cases(prefix: str) -> Iterator[Case]:
    for answer, (one, every) in TABLE.items():
        name = f"{prefix}-{answer.lower().replace('_', '-')}"
        more = "timeout: 500ms" if answer == "hang" else ""
        yield Case(f"{name}-one", answer, one, more=more)
        if every is not None:
            yield Case(f"{name}-every", answer, every, every_call=True, more=more)
    yield Case(f"{prefix}-too-large", "too-large", OTHERS["too-large"], target="small", topic="large")
    more = "metadata: { headers: [x-illegal] }"
    yield Case(
        f"{prefix}-illegal", "illegal-metadata", OTHERS["illegal-metadata"], topic="illegal", more=more
    )
    for answer in ("refused", "unresolvable", "wrong-certificate"):
        more = "timeout: 2s"
        yield Case(f"{prefix}-{answer}", answer, OTHERS[answer], every_call=True, target=answer, more=more)


@pytest.mark.parametrize("mode", ["unary", "handler", "stream"])
@pytest.mark.timeout(300)
def test_what_becomes_of_it(
    mode: str, log: Log, create_topic: CreateTopic, tmp_path: Path, note: Callable[[str], None]
) -> None:
    assert {status.name for status in Status} == TABLE.keys() - {"hang"}
    all_cases = {case.name: case for case in cases(mode)}
    topics = {name: create_topic() for name in ("events", "large", "illegal")}
    dead_letters = create_topic()
    log.publish(
        topics["large"], [Draft(b"s", b"small"), Draft(b"v", b"v" * LARGE_BYTES), Draft(b"l", b"last")]
    )
    log.publish(topics["events"], [Draft(b"first", b"first")])
    log.publish(topics["illegal"], [Draft(b"i", b"illegal", (("x-illegal", ILLEGAL),))])

    mended = False

    def script(subscription: str, value: bytes) -> Script:
        case = all_cases[subscription]
        if case.answer not in TABLE or (mended if case.every_call else value != VICTIM):
            return Script()
        return Script(hang=True) if case.answer == "hang" else Script(Status[case.answer])

    with ExitStack() as stack:
        scripted, secured = Scripted(script), Scripted(script)
        for one in (scripted, secured):
            stack.callback(one.stop)
        port = scripted.start()
        # Theirs is signed by an authority that we were not told of.
        pair = Authority(tmp_path, "theirs").issue("127.0.0.1")
        secured_port = secured.start(credentials=grpc.ssl_server_credentials([pair.contents()]))
        # Bound, so that it is nobody else's, and not listened on.
        refusing = stack.enter_context(socket.socket())
        refusing.bind(("127.0.0.1", 0))
        refused_port = refusing.getsockname()[1]

        ours = Authority(tmp_path, "ours")
        config = tmp_path / "pelton.yaml"
        config.write_text(
            f"""
kafka: {{ bootstrap.servers: "{log.bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
targets:
  scripted: {{ address: "127.0.0.1:{port}" }}
  small: {{ address: "127.0.0.1:{port}", max_message_bytes: {LARGE_BYTES // 2} }}
  refused: {{ address: "127.0.0.1:{refused_port}" }}
  unresolvable: {{ address: "dns:///no-such-host.invalid:1", plaintext: true }}
  wrong-certificate: {{ address: "127.0.0.1:{secured_port}", tls: {{ ca: {ours.ca} }} }}
subscriptions:"""
            + "".join(case.config(mode, topics, dead_letters) for case in all_cases.values()),
            encoding="utf-8",
        )
        pelton = Pelton(config, tmp_path / "pelton.log")
        stack.callback(pelton.end)

        trickled = 0

        def trickle() -> None:
            """Others go on: that is what tells an event that is at fault from a target that is."""
            nonlocal trickled
            trickled += 1
            value = b"more-%d" % trickled
            log.publish(topics["events"], [Draft(value, value)])

        def some_taken() -> bool:
            trickle()
            metrics = pelton.metrics()
            return all(
                case.every_call
                or metrics.sum("pelton_outcomes_total", subscription=case.name, status="OK") >= 1
                for case in all_cases.values()
            )

        def decided() -> bool:
            trickle()
            metrics = pelton.metrics()
            return all(is_decided(case, metrics) for case in all_cases.values())

        # What a status says of an event depends on how the target has done lately: well, to begin with.
        until(some_taken, "every target that takes events to have taken one")
        log.publish(topics["events"], [Draft(VICTIM, VICTIM)])
        until(decided, "every case to be decided")
        # Nothing was set aside, and nothing passed, where it is the target that is at fault.
        for case in all_cases.values():
            if case.every_call:
                assert sum(log.committed(f"pelton.{case.name}", topics["events"]).values()) == 0, case

        mended = True
        refusing.close()
        mending = Scripted(script)
        stack.callback(mending.stop)
        mending.start(refused_port)
        mendable = [case for case in all_cases.values() if case.answer not in NEVER_MENDED]
        until(
            lambda: all(
                log.committed(f"pelton.{case.name}", topics[case.topic]) == log.ends(topics[case.topic])
                for case in mendable
            ),
            "everything that can be delivered to be",
        )
        pelton.stop()

    letters = log.read(dead_letters)
    seen = [*scripted.seen, *secured.seen, *mending.seen]
    events = {event.value for event in log.read(topics["events"])}
    wrong = []
    for case in all_cases.values():
        mine = [letter for letter in letters if letter.header("pelton-subscription") == case.name]
        tried = [one for one in seen if one.subscription == case.name]
        taken = {one.value for one in tried if one.answer == Script()}
        expected = {"large": {b"small", b"last"}, "illegal": {b"illegal"}}.get(case.topic, events)
        if case.end in (D, T, M):
            expected = expected - {VICTIM}
            wrong += wrongs_of_letter(case, mine, [one.attempt for one in tried if one.value == VICTIM])
        elif mine:
            wrong.append(f"{case.name}: {len(mine)} dead letters")
        if case.answer in NEVER_MENDED:
            expected = set()
        if taken != expected:
            wrong.append(f"{case.name}: taken {taken - expected}, not taken {expected - taken}")
    assert wrong == []
    illegal = [one for one in seen if one.subscription == f"{mode}-illegal"]
    assert len(illegal) == 1
    if mode != "stream":  # where metadata does not travel
        assert illegal[0].metadata["x-illegal"] == "%00caf%C3%A9%0D%0A%FF"
    note(f"statuses: {mode}: {len(all_cases)} cases, {len(seen)} calls, {len(letters)} dead letters")


def is_decided(case: Case, metrics: Metrics) -> bool:
    """By Pelton's own account; what it comes to is judged by others'."""
    if case.every_call:
        health = "unwell" if case.end is End.BACKED_OFF else "miswired"
        return metrics.sum("pelton_target_health", subscription=case.name, health=health) == 1
    end = "acked" if case.end is End.ACKED else "dead_lettered"
    return metrics.sum("pelton_events_settled_total", subscription=case.name, end=end) >= 1


def wrongs_of_letter(case: Case, letters: list[Published], attempts: list[int]) -> list[str]:
    """What is not as it should be with the one dead letter of a case."""
    if len(letters) != 1:
        return [f"{case.name}: {len(letters)} dead letters"]
    (letter,) = letters
    wrong = []
    if letter.header("pelton-status") != case.status:
        wrong.append(f"{case.name}: status {letter.header('pelton-status')}")
    said = int(letter.header("pelton-attempts"))
    # What is too large has never been sent.
    made = said if case.answer == "too-large" and not attempts else len(attempts)
    allowed = {D: said == 1, T: said == ATTEMPTS, M: said >= ATTEMPTS}[case.end]
    if not allowed or made != said or attempts != list(range(1, len(attempts) + 1)):
        wrong.append(f"{case.name}: {said} attempts, the target saw {attempts}")
    return wrong
