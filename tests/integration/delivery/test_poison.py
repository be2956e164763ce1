"""Five of five hundred keys fail for ever: the others are delivered in order, the five set aside."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest

from tests.integration.delivery.processes import Target, serving, until
from tests.integration.delivery.world import OUT_TOGETHER_MIN, Draft, Published, World, out_together_max, pace

KEYS = 500
POISON = [b"key-%d" % number for number in (7, 77, 177, 277, 477)]
EVENTS_A_KEY = 10
ATTEMPTS = 3
DELAY_MS = 10
PUBLISHED_MS = 1_700_000_000_000


def drafts() -> list[Draft]:
    """Everything an event can have; the values of one key differ, and some are empty or none at all."""
    return [
        Draft(
            b"key-%d" % key,
            (None, b"", b"\x00\xff%d" % turn)[min(turn, 2)],
            (("trace", b"%d" % turn), ("trace", b""), ("null", None), ("bytes", b"\x00\xfe")),
            PUBLISHED_MS + turn,
        )
        for turn in range(EVENTS_A_KEY)
        for key in range(KEYS)
    ]


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "UNKNOWN"])
def test_poison_keys_stop_nobody(status: str, world: World, note: Callable[[str], None]) -> None:
    world.publish(drafts())
    options = ("--poison-status", status, "--poison-keys", ",".join(key.decode() for key in POISON))
    with serving(Target(world.directory, *options, "--delay-ms", str(DELAY_MS))) as target:
        pelton = world.serve(world.configure(target, retry=f"{{ attempts: {ATTEMPTS}, backoff: 5ms..40ms }}"))
        until(world.all_committed, "every partition to be committed to its end")
        pelton.stop()
    calls = target.journal()

    poison = [event for event in world.published if event.key in POISON]
    others = {world.delivery_id(event) for event in world.published if event.key not in POISON}
    assert len(poison) == len(POISON) * EVENTS_A_KEY
    assert {call.delivery_id for call in calls if call.status == "OK"} == others
    assert world.out_of_order(calls) == []
    assert sum(call.delivery_id in others for call in calls) == len(others), "a good event was called twice"

    # One attempt where the event is wrong; all of them for the first of a key where it may fail, and one for
    # each that follows, since the key is suspect.
    made = {
        delivery_id: len(list(group))
        for delivery_id, group in groupby(sorted(call.delivery_id for call in calls))
    }
    for lane in world.lanes().values():
        if lane[0] not in others:
            first = ATTEMPTS if status == "UNKNOWN" else 1
            assert [made[delivery_id] for delivery_id in lane] == [first] + [1] * (EVENTS_A_KEY - 1)

    letters = world.dead_letters()
    by_id = {letter.header("pelton-delivery-id"): letter for letter in letters}
    assert len(letters) == len(by_id) == len(poison)
    for event in poison:
        check_letter(world, event, by_id[world.delivery_id(event)], status, made)
    note(
        f"poison: {status}: {len(world.published)} events at {pace(calls):.0f}/s, {len(letters)} dead letters"
    )
    assert out_together_max(calls) >= OUT_TOGETHER_MIN


def check_letter(
    world: World, event: Published, letter: Published, status: str, made: dict[str, int]
) -> None:
    """The event, byte for byte, in the partition of the same number, and why it is there."""
    assert (letter.partition, letter.key, letter.value) == (event.partition, event.key, event.value)
    assert letter.timestamp_ms == event.timestamp_ms
    own = len(event.headers)
    assert letter.headers[:own] == event.headers
    added = dict(letter.headers[own:])
    assert len(added) == len(letter.headers) - own
    delivery_id = world.delivery_id(event)
    expected = {
        "pelton-origin-topic": world.topic,
        "pelton-origin-partition": str(event.partition),
        "pelton-origin-offset": str(event.offset),
        "pelton-origin-timestamp": str(event.timestamp_ms),
        "pelton-subscription": world.name,
        "pelton-delivery-id": delivery_id,
        "pelton-attempts": str(made[delivery_id]),
        "pelton-status": status,
        "pelton-reason": "as the oracle says",
    }
    times = {"pelton-first-failed-at", "pelton-last-failed-at"}
    assert added.keys() == expected.keys() | times
    for name, text in expected.items():
        assert letter.header(name) == text
    assert letter.header("pelton-first-failed-at") <= letter.header("pelton-last-failed-at")
