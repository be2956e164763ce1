"""What only streams can do wrong: settlements that lie, late ones, streams that end, and batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status
from pelton.rpc import stream as stream_module
from pelton.rpc.session import BATCH_BYTES_MAX, BATCH_EVENTS_MAX
from pelton.subscription import DeliveryMode, Disposition, Target
from tests.conformance.driver import Driver
from tests.conformance.target import Script, ScriptedTarget

Drive = Callable[..., Driver]

HANG = Script(hang=True)

pytestmark = pytest.mark.parametrize("mode", [DeliveryMode.STREAM], ids=["stream"])


async def finish(*futures: asyncio.Future[Outcome]) -> list[Outcome]:
    async with asyncio.timeout(20):
        return [await future for future in futures]


@pytest.mark.parametrize(
    ("lie", "says"),
    [("lie", "never given out"), ("zero", "never given out"), ("nonsense", "no SettlementBatch")],
)
async def test_a_lie_ends_the_stream_and_settles_nothing(
    lie: str, says: str, target: ScriptedTarget, drive: Drive
) -> None:
    target.scripts["honest"] = HANG
    target.scripts["lie"] = Script(stream=lie)
    driver = drive(await target.start())
    calls = driver.submit("honest", "lie")
    for outcome in await finish(*(future for _, future in calls)):
        assert (outcome.status, outcome.cancelled) == (Status.UNAVAILABLE, True)
        assert says in outcome.message
    assert await driver.call("next") is ACKED
    assert target.streams == 2


@pytest.mark.parametrize("lie", ["lie", "zero", "nonsense"])
async def test_only_the_liar_pays_for_its_lies(lie: str, target: ScriptedTarget, drive: Drive) -> None:
    """Who was open at a lie is called next on a stream of its own, and so the liar is found."""
    target.scripts |= {"slow": HANG, "lie": Script(stream=lie)}
    driver = drive(await target.start())
    slow, liar, other = driver.submit("slow", "lie", "slow")
    assert [outcome.cancelled for outcome in await finish(slow[1], liar[1], other[1])] == [True] * 3
    assert target.streams == 1
    target.scripts["slow"] = Script()
    for _ in range(3):
        again = driver.submit_again(liar[0], "lie")
        # Meanwhile the others go on, on a stream that no lie ends.
        assert await driver.call("next") is ACKED
        (outcome,) = await finish(again)
        assert (outcome.status, outcome.cancelled) == (Status.UNAVAILABLE, False)
    before = target.streams
    innocent = [driver.submit_again(delivery, "slow") for delivery in (slow[0], other[0])]
    assert await finish(*innocent) == [ACKED, ACKED]
    assert target.streams == before + 2
    # Settled, they are suspected no more.
    assert await finish(driver.submit_again(slow[0], "slow")) == [ACKED]
    assert target.streams == before + 2


async def test_a_stream_of_one_is_given_up_when_it_hangs_or_is_cancelled(
    target: ScriptedTarget, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "GRACE_MS", 20.0)
    target.scripts |= {"slow": HANG, "lie": Script(stream="zero")}
    driver = drive(await target.start())
    calls = driver.submit("slow", "slow", "slow", "lie")
    await finish(*(future for _, future in calls))
    cut, unsent, hangs = (delivery for delivery, _ in calls[:3])
    hung = driver.submit_again(hangs, "slow", timeout_ms=50.0)
    (outcome,) = await finish(hung)
    assert outcome.status is Status.DEADLINE_EXCEEDED
    out = driver.submit_again(cut, "slow")
    await target.until(lambda: len([seen for seen in target.seen if seen.name == "slow"]) == 5)
    never = driver.submit_again(unsent, "slow")
    driver.cancel(cut, unsent)
    assert await finish(out, never) == [CANCELLED_BY_US, CANCELLED_BY_US]
    assert await driver.call("next") is ACKED


async def test_the_suspected_are_bounded(
    target: ScriptedTarget, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SUSPECTED_MAX", 1)
    target.scripts |= {"slow": HANG, "lie": Script(stream="zero")}
    driver = drive(await target.start())
    slow, liar = driver.submit("slow", "lie")
    await finish(slow[1], liar[1])
    target.scripts["slow"] = Script()
    # The older one is forgotten and shares a stream again; the younger one has its own.
    assert await finish(driver.submit_again(slow[0], "slow")) == [ACKED]
    assert await driver.call("next") is ACKED
    assert target.streams == 2
    (outcome,) = await finish(driver.submit_again(liar[0], "lie"))
    assert not outcome.cancelled
    assert target.streams == 3


async def test_a_token_settled_both_ways_is_not_acked(target: ScriptedTarget, drive: Drive) -> None:
    target.scripts["it"] = Script(stream="both ways", code=13)
    assert (await drive(await target.start()).call("it")).status is Status.INTERNAL


async def test_the_second_settlement_of_a_token_is_ignored(target: ScriptedTarget, drive: Drive) -> None:
    target.scripts["it"] = Script(stream="twice")
    driver = drive(await target.start())
    assert await driver.call("it") is ACKED
    assert await driver.call("next") is ACKED
    assert target.streams == 1


async def test_a_stream_that_ends_well_burns_nothing(target: ScriptedTarget, drive: Drive) -> None:
    target.scripts |= {"open": HANG, "end": Script(stream="end")}
    driver = drive(await target.start())
    assert await driver.call("warm") is ACKED
    (left, ended) = driver.submit("open", "end")
    for outcome in await finish(left[1], ended[1]):
        assert (outcome.status, outcome.cancelled) == (Status.UNAVAILABLE, True)
    assert await driver.call("next") is ACKED
    assert target.streams == 2


async def test_a_stream_that_never_settles_is_unwell(target: ScriptedTarget, drive: Drive) -> None:
    """Else a handler that opens and closes would be called for ever without the breaker hearing of it."""
    target.scripts["end"] = Script(stream="end")
    outcome = await drive(await target.start()).call("end")
    assert (outcome.status, outcome.cancelled) == (Status.UNAVAILABLE, False)


@pytest.mark.parametrize(
    ("code", "disposition"),
    [
        (Status.UNAVAILABLE, None),
        (Status.UNAUTHENTICATED, None),
        (Status.UNKNOWN, None),
        (Status.INVALID_ARGUMENT, Disposition.RETRY),
        (Status.ALREADY_EXISTS, Disposition.RETRY),
    ],
)
async def test_the_status_of_a_stream_is_that_of_all_open_on_it(
    code: Status, disposition: Disposition | None, target: ScriptedTarget, drive: Drive
) -> None:
    target.scripts |= {"open": HANG, "abort": Script(stream="abort", code=code, message="broken")}
    driver = drive(await target.start())
    calls = driver.submit("open", "abort")
    for outcome in await finish(*(future for _, future in calls)):
        assert (outcome.status, outcome.disposition, outcome.cancelled) == (code, disposition, False)
        assert "broken" in outcome.message


async def test_a_late_settlement_lets_go_but_does_not_ack(
    target: ScriptedTarget, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "GRACE_MS", 60_000.0)
    target.scripts["late"] = Script(stream="settle late")
    driver = drive(await target.start())
    outcome = await driver.call("late", timeout_ms=100)
    assert outcome.status is Status.DEADLINE_EXCEEDED
    assert target.cancelled == [target.seen[0].token]
    assert await driver.call("next") is ACKED
    assert target.streams == 1, "a handler that lets go keeps its stream"


@pytest.mark.parametrize(("timeout_ms", "told_ms"), [(1_000.0, 950.0), (100.0, 90.0)])
async def test_the_handler_is_told_a_little_less_time(
    timeout_ms: float, told_ms: float, target: ScriptedTarget, drive: Drive
) -> None:
    """So that a handler which settles what is late itself is heard before we give it up."""
    driver = drive(await target.start())
    await driver.call("warm")
    await driver.call("it", timeout_ms=timeout_ms)
    assert target.seen[-1].timeout_ms <= told_ms


async def test_one_that_hangs_costs_the_others_nothing(
    target: ScriptedTarget, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream is given up, but only when the others on it are done."""
    monkeypatch.setattr(stream_module, "GRACE_MS", 50.0)
    target.scripts |= {"hangs": HANG, "slow": HANG}
    driver = drive(await target.start())
    (hangs, slow) = driver.submit("hangs", "slow", timeouts_ms={"hangs": 100.0, "slow": 1_500.0})
    await target.until(lambda: len(target.cancelled) == 1)
    # New ones go to a new stream once the grace is over, while the old one still waits for the slow one.
    async with asyncio.timeout(10):
        while target.streams < 2:
            assert await driver.call("quick") is ACKED
    assert not hangs[1].done(), "the handler may still be at work on it"
    assert not slow[1].done()
    assert [outcome.status for outcome in await finish(hangs[1], slow[1])] == [Status.DEADLINE_EXCEEDED] * 2
    assert [seen.name for seen in target.seen].count("slow") == 1


async def test_a_retired_stream_ends_with_the_last_that_waits_for_nothing(
    target: ScriptedTarget, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is what tells the handler to stop what hangs: it comes with the last ack, not at a deadline."""
    monkeypatch.setattr(stream_module, "GRACE_MS", 10.0)
    target.scripts |= {"hangs": HANG, "slow": Script(stream="held"), "other": HANG}
    driver = drive(await target.start())
    hour_ms = 3_600_000.0
    (hangs, slow, other) = driver.submit(
        "hangs", "slow", "other", timeout_ms=hour_ms, timeouts_ms={"hangs": 50.0}
    )
    async with asyncio.timeout(10):
        while target.streams < 2:
            await driver.call("quick", timeout_ms=hour_ms)
    assert not hangs[1].done()
    driver.cancel(other[0])
    (acked, hung) = await finish(slow[1], hangs[1])
    assert acked is ACKED
    assert hung.status is Status.DEADLINE_EXCEEDED


async def test_a_drain_ends_with_the_last_ack(target: ScriptedTarget, drive: Drive) -> None:
    """Although the handler does not end the stream."""
    target.scripts["late"] = Script(stream="held")
    driver = drive(await target.start())
    ((_, late),) = driver.submit("late")
    await target.until(lambda: len(target.seen) == 1)
    async with asyncio.timeout(20):
        await driver.transport.close(3_600_000)
    assert late.result() is ACKED


async def test_a_retired_stream_is_sent_nothing_new(
    target: ScriptedTarget, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "GRACE_MS", 10.0)
    target.scripts |= {"hangs": HANG, "slow": HANG}
    driver = drive(await target.start())
    (_, slow, _) = driver.submit("hangs", "slow", "slow", timeouts_ms={"hangs": 50.0, "slow": 60_000.0})
    async with asyncio.timeout(10):
        while target.streams < 2:
            await driver.call("quick")
    # The old stream's writer wakes first, to say that the slow one is cancelled, and finds the queue filled.
    driver.cancel(slow[0])
    assert await driver.call("new") is ACKED
    assert target.seen[-1].stream == 2


async def test_retired_streams_are_bounded(
    target: ScriptedTarget, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "GRACE_MS", 10.0)
    monkeypatch.setattr(stream_module, "RETIRED_MAX", 1)
    target.scripts |= {"hangs": HANG, "slow": HANG}
    driver = drive(await target.start())
    first = driver.submit("hangs", "slow", timeouts_ms={"hangs": 50.0, "slow": 60_000.0})
    async with asyncio.timeout(10):
        while target.streams < 2:
            await driver.call("quick")
    driver.submit("hangs", "slow", timeouts_ms={"hangs": 50.0, "slow": 60_000.0})
    (hung, cut) = await finish(*(future for _, future in first))
    assert hung.status is Status.DEADLINE_EXCEEDED
    assert (cut.status, cut.cancelled) == (Status.UNAVAILABLE, True)


async def test_cancelled_tokens_are_said(target: ScriptedTarget, drive: Drive) -> None:
    target.scripts["it"] = HANG
    driver = drive(await target.start())
    ((delivery, future),) = driver.submit("it")
    await target.until(lambda: len(target.seen) == 1)
    driver.cancel(delivery)
    assert await finish(future) == [CANCELLED_BY_US]
    await target.until(lambda: target.cancelled == [target.seen[0].token])


async def test_batches(target: ScriptedTarget, drive: Drive) -> None:
    driver = drive(await target.start())
    count = BATCH_EVENTS_MAX * 3 + 1
    calls = driver.submit(*(f"event {at}" for at in range(count)))
    assert await finish(*(future for _, future in calls)) == [ACKED] * count
    assert [seen.name for seen in target.seen] == [f"event {at}" for at in range(count)]
    tokens = [seen.token for seen in target.seen]
    assert sorted(set(tokens)) == tokens
    assert max(len(batch.deliveries) for batch in target.batches) == BATCH_EVENTS_MAX
    for batch in target.batches:
        assert batch.subscription == "notify-shop"
        assert dict(batch.parameters) == {"priority": "high"}


async def test_batches_stay_below_the_target_s_limit(target: ScriptedTarget, drive: Drive) -> None:
    limit = 50_000
    address = await target.start(options=[("grpc.max_receive_message_length", limit)])
    driver = drive(Target("shop", address, max_message_bytes=limit))
    # Of these three fit into a batch; and one, to the byte, into a batch of its own.
    calls = driver.submit(*("it" for _ in range(20)), padding=16_000)
    target.scripts["it" + "\0" * 16_000] = Script()
    assert await finish(*(future for _, future in calls)) == [ACKED] * 20
    assert max(len(batch.deliveries) for batch in target.batches) == 3
    largest = next(size for size in range(limit, 0, -1) if len(driver.body("it", size)) <= _room(driver))
    assert await driver.call("it", padding=largest) is ACKED
    assert (await driver.call("it", padding=largest + 1)).local


def _room(driver: Driver) -> int:
    return driver.transport._body_bytes_max  # type: ignore[attr-defined,no-any-return]


async def test_batches_are_bounded_in_bytes(target: ScriptedTarget, drive: Drive) -> None:
    driver = drive(await target.start())
    calls = driver.submit(*("it" for _ in range(6)), padding=BATCH_BYTES_MAX // 2 - 1_000)
    assert await finish(*(future for _, future in calls)) == [ACKED] * 6
    assert max(len(batch.deliveries) for batch in target.batches) == 2


async def test_calls_wait_for_a_stream_no_longer_than_their_time(drive: Drive) -> None:
    driver = drive("127.0.0.1:1")
    # The first failure comes at once; those after it wait for the next try, which backs off.
    assert (await driver.call("a")).status is Status.UNAVAILABLE
    for _ in range(4):
        await driver.call("b")
    outcome = await driver.call("c", timeout_ms=50)
    assert outcome.status is Status.DEADLINE_EXCEEDED
    assert "UNAVAILABLE" in outcome.message, "it says why there is no stream"


async def test_the_server_s_own_status_is_not_hidden_by_our_writes(
    target: ScriptedTarget, drive: Drive
) -> None:
    """grpc.aio reports INTERNAL for a write to a stream that has ended, whatever ended it."""
    target.scripts |= {"open": HANG, "refuse": Script(stream="abort", code=16, message="who are you")}
    driver = drive(await target.start())
    calls = driver.submit("refuse", *("open" for _ in range(3 * BATCH_EVENTS_MAX)))
    first = await finish(*(future for _, future in calls[:BATCH_EVENTS_MAX]))
    assert {outcome.status for outcome in first} == {Status.UNAUTHENTICATED}
    await target.until(lambda: len(target.seen) == len(calls))
    # In the middle of writing, with the handler gone: an outage, and never the event's fault.
    target.scripts["refuse late"] = Script(stream="abort", code=14)
    late = driver.submit(
        *("open" for _ in range(BATCH_EVENTS_MAX)), "refuse late", *("open" for _ in range(2_000))
    )
    rest = await finish(*(future for _, future in (*calls[BATCH_EVENTS_MAX:], late[BATCH_EVENTS_MAX])))
    assert {outcome.status for outcome in rest} == {Status.UNAVAILABLE}
    assert {outcome.disposition for outcome in rest} == {None}
