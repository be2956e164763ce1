"""Retry tiers: what fails longer than memory should hold it waits in Kafka, is never called early or lost.

The target is this process's own, so that it outlives a kill -9 of Pelton. Each event's header `plan` says how
many of its attempts fail.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pelton.local.broker import LocalKafka
from tests.integration.delivery.planned import DELAYS_S, FOR_EVER, PARTITIONS, Attempt, PlannedWorld
from tests.integration.delivery.processes import until
from tests.integration.delivery.world import Draft, Published
from tests.kafka_fixtures import CreateTopic

TIERS = "[1s, 2s, 3s]"
#: In memory; one more in each tier.
ATTEMPTS = 2
RETRY = f"{{ attempts: {ATTEMPTS}, backoff: 5ms..20ms, tiers: {TIERS}, then_key: continue }}"
#: Of the events that never fail; each other one has a key of its own, so that it is no suspect.
KEYS = 20


class Tiers(PlannedWorld):
    """A world whose subscription has tiers."""

    RETRY = RETRY

    def plan(self, event: Published) -> int:
        return int(event.header("plan"))

    def moved(self, topic: str) -> int:
        return len(self.log.read(topic))

    def expected_moves(self) -> list[int]:
        """Into each tier: those whose attempts before it all fail."""
        plans = [self.plan(event) for event in self.published]
        return [sum(plan >= ATTEMPTS + tier for plan in plans) for tier in range(len(DELAYS_S))]

    def early(self) -> list[str]:
        """Attempts from a tier that came before any copy of the event was due there."""
        due_ms: dict[tuple[str, int], float] = {}
        for topic in self.topics():
            for record in self.log.read(topic):
                place = record.header("pelton-delivery-id"), int(record.header("pelton-attempts")) + 1
                due = datetime.fromisoformat(record.header("pelton-due-at")).timestamp() * 1000
                due_ms[place] = min(due, due_ms.get(place, due))
        asked = [one for one in self.target.attempts if one.attempt > ATTEMPTS]
        assert asked, "no attempt came from a tier"
        return [
            f"{one.delivery_id} at {one.attempt}"
            for one in asked
            if one.at_ms < due_ms[one.delivery_id, one.attempt]
        ]


@pytest.fixture
def world(kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path) -> Iterator[Tiers]:
    # The events are years old: a tier with a retention by time would lose them, as this topic would.
    topic = create_topic(partitions=PARTITIONS, config={"retention.ms": "-1"})
    world = Tiers(kafka.bootstrap, topic, tmp_path)
    yield world
    world.end()


def drafts(plans: list[int]) -> Iterator[Draft]:
    """Events of some keys, each with what must survive every hop."""
    for number, plan in enumerate(plans):
        shared = b"" if number % KEYS == 0 else b"key-%d" % (number % KEYS)
        key = b"failing-%d" % number if plan else shared
        value = (None, b"", b"\x00\xff", b"x" * 300)[number % 4]
        headers = (("plan", b"%d" % plan), ("twice", b"1"), ("twice", None), ("pelton-status", b"forged"))
        yield Draft(key, value, headers, timestamp_ms=1_600_000_000_000 + number)


def test_each_tier_is_one_attempt_more_and_the_last_one_sets_aside(
    world: Tiers, note: Callable[[str], None]
) -> None:
    plans = [0, 1, 3, FOR_EVER, 0, 0, 4, 0, 2, FOR_EVER] * 6
    world.publish(drafts(plans))
    pelton = world.start()
    until(lambda: len(world.target.attempts) >= len(plans) and world.settled(), "everything to settle")
    metrics = pelton.metrics()
    pelton.stop()

    # Without a fault every attempt is made once, in its turn, under the origin's own id and position.
    for event in world.published:
        made = world.target.of(world.delivery_id(event))
        last = min(world.plan(event) + 1, ATTEMPTS + len(DELAYS_S))
        assert [one.attempt for one in made] == list(range(1, last + 1))
        for one in made:
            assert one.metadata["pelton-topic"] == world.topic
            assert one.metadata["pelton-partition"] == str(event.partition)
            assert one.metadata["pelton-offset"] == str(event.offset)
            assert one.metadata.get("pelton-key-bin") == event.key
    assert world.early() == []

    # One copy each, in the same partition, with the record's own bytes and the whole history.
    letters = {letter.header("pelton-delivery-id"): letter for letter in world.dead_letters()}
    doomed = [event for event in world.published if world.plan(event) == FOR_EVER]
    assert sorted(letters) == sorted(map(world.delivery_id, doomed))
    assert len(world.dead_letters()) == len(doomed)
    for event in doomed:
        letter = letters[world.delivery_id(event)]
        assert (letter.partition, letter.key, letter.value) == (event.partition, event.key, event.value)
        assert letter.timestamp_ms == event.timestamp_ms
        own = tuple(header for header in letter.headers if not header[0].startswith("pelton-"))
        assert own == event.headers[:3]
        assert letter.header("pelton-origin-topic") == world.topic
        assert letter.header("pelton-origin-offset") == str(event.offset)
        assert letter.header("pelton-attempts") == str(ATTEMPTS + len(DELAYS_S))
        assert letter.header("pelton-status") == "UNKNOWN"
        assert letter.header("pelton-reason") == "not at attempt 5"
        began, ended = (
            datetime.fromisoformat(letter.header(f"pelton-{name}-failed-at")) for name in ("first", "last")
        )
        assert (ended - began).total_seconds() >= sum(DELAYS_S)
    # Moved to the first tier: all that failed twice; and so on.
    moves = world.expected_moves()
    assert [world.moved(topic) for topic in world.topics()] == moves
    assert metrics.sum("pelton_events_settled_total", end="moved") == sum(moves)
    late_s = lateness(world)
    note(f"tiers: {sum(moves)} moves, none early, at most {late_s:.2f} s late")


def lateness(world: Tiers) -> float:
    """The longest that an attempt from a tier came after the delay that its last failure began."""
    by_id: dict[str, list[Attempt]] = defaultdict(list)
    for one in world.target.attempts:
        by_id[one.delivery_id].append(one)
    late = 0.0
    for made in by_id.values():
        for before, after in itertools.pairwise(made):
            if after.attempt > ATTEMPTS:
                delay_s = DELAYS_S[after.attempt - ATTEMPTS - 1]
                late = max(late, (after.at_ms - before.at_ms) / 1000 - delay_s)
    return late


def test_a_kill_loses_nothing_that_is_on_its_way_through_the_tiers(
    world: Tiers, note: Callable[[str], None]
) -> None:
    plans = [0, 0, 3, 0, 0, FOR_EVER, 0, 4, 0, 0] * 30
    world.publish(drafts(plans))
    failing = sum(plan > 0 for plan in plans)
    first, second, _ = world.topics()
    pelton = world.start()
    until(lambda: world.moved(first) >= failing // 2, "some to wait in the first tier")
    pelton.kill()
    pelton = world.start()
    until(lambda: world.moved(second) >= failing // 3, "some to wait in the second tier")
    pelton.kill()
    pelton = world.start()
    until(lambda: world.unended() == set() and world.settled(), "everything to end")
    pelton.stop()

    ids = {world.delivery_id(event) for event in world.published}
    assert {one.delivery_id for one in world.target.attempts} == ids
    assert world.early() == []
    # Those that never fail keep their order: each is first called after the one before it.
    first_call: dict[str, float] = {}
    for one in world.target.attempts:
        first_call.setdefault(one.delivery_id, one.at_ms)
    lanes: dict[bytes | None, list[str]] = defaultdict(list)
    for event in world.published:
        if world.plan(event) == 0:
            lanes[event.key].append(world.delivery_id(event))
    for lane in lanes.values():
        assert [first_call[one] for one in lane] == sorted(first_call[one] for one in lane)
    letters = world.dead_letters()
    doomed = {world.delivery_id(event) for event in world.published if world.plan(event) == FOR_EVER}
    assert sorted(letter.header("pelton-delivery-id") for letter in letters) == sorted(doomed)
    # Each move and the offset that it passes are one transaction: no kill made a second copy.
    moves = world.expected_moves()
    assert [world.moved(topic) for topic in world.topics()] == moves
    note(f"tiers: two kills, none lost of {len(ids)}; {sum(moves)} moves, {len(letters)} letters, once each")


def test_what_others_write_into_a_tier_is_set_aside_and_delays_nobody(world: Tiers) -> None:
    world.publish(drafts([3, 0]))
    pelton = world.start()
    first = world.topics()[0]
    until(lambda: world.moved(first) == 1, "one to wait in the first tier")
    forged = (("plan", b"0"), ("pelton-due-at", b"9999-01-01T00:00:00Z"))
    world.log.publish(first, [Draft(b"k", b"v", forged, timestamp_ms=1)])
    until(lambda: world.unended() == set() and world.settled(), "both to be taken")
    pelton.stop()
    (letter,) = world.dead_letters()
    assert (letter.key, letter.value, letter.header("plan")) == (b"k", b"v", "0")
    assert letter.header("pelton-origin-topic") == first
    assert letter.header("pelton-reason").startswith("not moved here by Pelton: ")
    assert {one.delivery_id for one in world.target.attempts} == {
        world.delivery_id(e) for e in world.published
    }


def test_a_former_tier_that_still_holds_events_is_named_at_the_start(world: Tiers) -> None:
    world.publish(drafts([FOR_EVER, 0, FOR_EVER]))
    long = f"retry.{world.name}.1h"
    pelton = world.start(retry="{ attempts: 1, tiers: [1s, 1h], then_key: continue }")
    until(lambda: world.moved(long) == 2, "both to wait for an hour")
    pelton.stop()
    pelton = world.start(retry="{ attempts: 1, tiers: [1s], then_key: continue }")
    said = [line for line in map(json.loads, pelton.log().splitlines()) if line.get("topic") == long]
    pelton.stop()
    (warning,) = said
    assert warning["level"] == "warning"
    assert 2 <= warning["events_max"] <= 2 + 2 * PARTITIONS, "marks of transactions count with them"
    assert "nobody reads" in warning["event"]
