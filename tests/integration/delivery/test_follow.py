"""Followed keys: what comes behind an event that was moved or dead-lettered is called after it or not at all.

The target is this process's own, so that it outlives a kill -9 of Pelton. Each event's header `plan` says how
many of its attempts fail.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pelton.local.broker import LocalKafka
from tests.integration.delivery.planned import FOR_EVER, PARTITIONS, Attempt, PlannedWorld
from tests.integration.delivery.processes import until
from tests.integration.delivery.world import Draft
from tests.kafka_fixtures import CreateTopic

#: In memory; one more in each tier.
ATTEMPTS = 2
TIERS = "[1s, 2s, 3s]"
RETRY = f"{{ attempts: {ATTEMPTS}, backoff: 5ms..20ms, tiers: {TIERS}, then_key: follow }}"
KEYS = 18
#: More than it takes until a release is read.
TRIES = 200


class Followers(PlannedWorld):
    """A world whose subscription follows keys."""

    RETRY = RETRY

    def overtaken(self) -> list[str]:
        """Attempts of a key that were made while an earlier event of it had not ended: it was taken later, or
        never, and is no dead letter either."""
        ended_ms: dict[str, float] = {}
        for one in self.target.attempts:
            if one.taken:
                ended_ms.setdefault(one.delivery_id, one.at_ms)
        dead = {letter.header("pelton-delivery-id") for letter in self.dead_letters()}
        by_id: dict[str, list[Attempt]] = defaultdict(list)
        for one in self.target.attempts:
            by_id[one.delivery_id].append(one)
        wrong: list[str] = []
        for lane in self.lanes().values():
            for at, later in enumerate(lane):
                for earlier in lane[:at]:
                    if earlier in dead:
                        continue
                    wrong += [
                        f"{later} was called before {earlier} had ended"
                        for one in by_id[later]
                        if one.at_ms < ended_ms.get(earlier, float("inf"))
                    ]
        return wrong


@pytest.fixture
def world(kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path) -> Iterator[Followers]:
    topic = create_topic(partitions=PARTITIONS, config={"retention.ms": "-1"})
    world = Followers(kafka.bootstrap, topic, tmp_path)
    yield world
    world.end()


def draft(key: bytes | None, plan: int) -> Draft:
    return Draft(key, b"x", (("plan", b"%d" % plan),), timestamp_ms=1_600_000_000_000)


def drafts() -> Iterator[Draft]:
    """Ten rounds of all keys. In the first, every third key fails until the second tier; once each fails
    until it is moved on from where it is called first; and some have no key."""
    for number in range(10 * KEYS):
        turn, at = divmod(number, KEYS)
        plan = ATTEMPTS + 1 if turn == 0 and at % 3 == 0 else ATTEMPTS if turn == 2 + at % 5 else turn % 2
        yield draft(b"key-%d" % at, plan)
        if at == 0:
            yield draft(None, plan)


def test_two_kills_overtake_nobody_and_lose_nothing(world: Followers, note: Callable[[str], None]) -> None:
    world.publish(drafts())
    first, second, _ = world.topics()
    # Two processes: what leaves a place is called in the other one, as often as not.
    pelton, other = world.start(), world.start(name="other")
    until(lambda: len(world.log.read(first)) >= KEYS, "keys to be followed into the first tier")
    pelton.kill()
    pelton = world.start()
    until(lambda: len(world.log.read(second)) >= KEYS // 3, "some to be followed into the second tier")
    other.kill()
    other = world.start(name="other")
    until(lambda: world.unended() == set() and world.settled(), "everything to end")
    pelton.stop()
    other.stop()

    assert world.overtaken() == []
    assert world.dead_letters() == []
    followers = 0
    for topic in world.topics():
        records = world.log.read(topic)
        ids = [record.header("pelton-delivery-id") for record in records]
        assert len(ids) == len(set(ids)), "moved twice"
        followers += sum(record.header("pelton-reason").startswith("follows ") for record in records)
    assert followers > KEYS
    note(
        f"follow: two kills, {len(world.published)} events in order of their key, {followers} followed others"
    )


def test_a_dead_letter_takes_its_key_along_until_that_is_released(world: Followers) -> None:
    retry = "{ attempts: 2, backoff: 5ms..20ms, then_key: follow }"
    world.publish([draft(b"poisoned", FOR_EVER if at == 2 else 0) for at in range(6)])
    world.publish([draft(key, 0) for key in (b"well", None) for _ in range(5)])
    pelton = world.start(retry)
    until(world.all_committed, "everything to settle")
    pelton.kill()
    world.publish([draft(b"poisoned", 0)])
    pelton = world.start(retry)
    until(world.all_committed, "it to follow after the restart")
    ids = [world.delivery_id(event) for event in world.published if event.key == b"poisoned"]
    letters = [letter for letter in world.dead_letters() if letter.key == b"poisoned"]
    assert [letter.header("pelton-delivery-id") for letter in letters] == ids[2:]
    reasons = [letter.header("pelton-reason") for letter in letters]
    assert reasons == ["not at attempt 2", *[f"follows {ids[2]}"] * 4]
    called = {one.delivery_id for one in world.target.attempts}
    others = {world.delivery_id(event) for event in world.published if event.key != b"poisoned"}
    assert called == others | {*ids[:3]}

    where = ["--bootstrap", world.log.bootstrap]
    shown = command("release", world.name, *where)
    assert shown == (
        0,
        f"{shown[1].split('  ')[0]}  {shown[1].split('  ')[1]}  key poisoned  after {ids[2]}\n",
    )
    assert command("release", world.name, "--key", "well", *where) == (1, "")
    code, said = command("release", world.name, "--key", b"poisoned".hex(), "--hex", *where)
    assert (code, said.split("  ")[0]) == (0, f"released {world.topic}/{world.published[0].partition}")
    assert command("release", world.name, *where) == (0, "")
    # It is read a moment later: the first of these to be called shows that.
    for _ in range(TRIES):
        world.publish([draft(b"poisoned", 0)])
        until(world.all_committed, "one more to settle")
        last = world.delivery_id(world.published[-1])
        if last in {one.delivery_id for one in world.target.attempts}:
            break
    else:
        pytest.fail("its key is not called again")
    pelton.stop()


def command(*words: str) -> tuple[int, str]:
    """Its exit code, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pelton", *words], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("partitions", "config", "wrong"),
    [
        (PARTITIONS, {"cleanup.policy": "delete"}, "has cleanup.policy=delete, and would forget"),
        (PARTITIONS, {"cleanup.policy": "compact,delete"}, "has cleanup.policy=compact,delete"),
        (1, {"cleanup.policy": "compact"}, "has 1 partitions, and a source has 2"),
        (PARTITIONS, {"cleanup.policy": "compact"}, ""),
    ],
)
def test_a_topic_that_could_not_keep_it_is_refused(
    world: Followers, partitions: int, config: dict[str, str], wrong: str
) -> None:
    name = f"follow.{world.name}"
    admin = AdminClient({"bootstrap.servers": world.log.bootstrap})
    (made,) = admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values()
    made.result(30)
    path = world.configure(world.target, retry=RETRY)
    done = subprocess.run(
        [sys.executable, "-m", "pelton", "serve", "--check", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 2) is bool(wrong), done.stderr
    if wrong:
        assert f"{world.name}.retry.then_key: is follow, and the topic {name} {wrong}" in done.stderr
