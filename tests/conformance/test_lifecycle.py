"""Deadlines, limits, cancels, drains and deaths: every call ends in exactly one result, in every mode."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status
from pelton.rpc.stream import GRACE_MS
from pelton.subscription import DeliveryMode, Disposition, Target
from tests.conformance.driver import Driver
from tests.conformance.target import Script, ScriptedTarget

Drive = Callable[..., Driver]

HANG = Script(hang=True)


async def finish(*futures: asyncio.Future[Outcome]) -> list[Outcome]:
    async with asyncio.timeout(20):
        return [await future for future in futures]


async def test_hang_ends_at_the_deadline(target: ScriptedTarget, drive: Drive, mode: DeliveryMode) -> None:
    target.scripts["it"] = HANG
    driver = drive(await target.start())
    assert await driver.call("warm") is ACKED
    started_s = asyncio.get_running_loop().time()
    outcome = await driver.call("it", timeout_ms=200)
    took_ms = (asyncio.get_running_loop().time() - started_s) * 1_000
    assert (outcome.status, outcome.disposition, outcome.final) == (Status.DEADLINE_EXCEEDED, None, False)
    # The stream waits for the handler to let go; what that costs is bounded.
    assert 190 <= took_ms <= 2_000 + (10 * GRACE_MS if mode is DeliveryMode.STREAM else 0)
    assert await driver.call("next") is ACKED


async def test_the_target_is_told_its_time(target: ScriptedTarget, drive: Drive) -> None:
    driver = drive(await target.start())
    await driver.call("it", timeout_ms=5_000)
    # gRPC rounds it up on its way.
    assert 2_500 <= target.seen[0].timeout_ms <= 6_000


async def test_deadline_holds_where_nobody_answers(drive: Drive) -> None:
    """A peer that takes the connection and never says a word: no handshake, no stream, no name for it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        outcome = await drive(f"127.0.0.1:{silent.getsockname()[1]}").call("it", timeout_ms=200)
    assert outcome.status is Status.DEADLINE_EXCEEDED
    assert not outcome.cancelled


async def test_larger_than_the_target_takes(target: ScriptedTarget, drive: Drive) -> None:
    driver = drive(Target("shop", await target.start(), max_message_bytes=10_000))
    outcome = await driver.call("it", padding=10_001)
    assert outcome.status is Status.RESOURCE_EXHAUSTED
    assert outcome.disposition is Disposition.DEAD_LETTER
    assert outcome.local
    assert not target.seen, "found before the call"
    assert await driver.call("small") is ACKED


async def test_larger_than_the_server_takes(target: ScriptedTarget, drive: Drive, mode: DeliveryMode) -> None:
    """The server's own limit, which the configuration does not know of."""
    driver = drive(await target.start(options=[("grpc.max_receive_message_length", 10_000)]))
    outcome = await driver.call("it", padding=20_000)
    assert outcome.status is Status.RESOURCE_EXHAUSTED
    assert not outcome.local
    # In a stream the status is that of the whole stream, so it sets no single event aside.
    single = Disposition.RETRY if mode is DeliveryMode.STREAM else Disposition.DEAD_LETTER
    assert outcome.disposition is single
    assert await driver.call("small") is ACKED


@pytest.mark.parametrize("mode", [DeliveryMode.UNARY])
async def test_answer_larger_than_we_take(target: ScriptedTarget, drive: Drive) -> None:
    """The target has done the work: again would be twice."""
    target.scripts["it"] = Script(answer_bytes=5 << 20)
    outcome = await drive(await target.start()).call("it")
    assert (outcome.status, outcome.disposition) == (Status.RESOURCE_EXHAUSTED, Disposition.DEAD_LETTER)


@pytest.mark.parametrize("mode", [DeliveryMode.UNARY, DeliveryMode.HANDLER])
@pytest.mark.parametrize(
    "entry",
    [
        ("bad key", "v"),
        ("k", "two\nlines"),
        ("k", "é"),
        ("Upper", "v"),
        (":path", "v"),
        ("", "v"),
        ("a-bin", "text"),
    ],
    ids=repr,
)
async def test_illegal_metadata(entry: tuple[str, str], target: ScriptedTarget, drive: Drive) -> None:
    """`CallMetadata` makes none; should it come all the same, it must not be tried for ever."""
    driver = drive(await target.start())
    outcome = await driver.call("it", metadata=(entry,))
    assert outcome.status is Status.INTERNAL
    assert outcome.disposition is Disposition.DEAD_LETTER
    assert outcome.local
    assert not target.seen
    assert await driver.call("next") is ACKED


async def test_cancel_of_calls_that_are_out(target: ScriptedTarget, drive: Drive) -> None:
    target.scripts["it"] = HANG
    driver = drive(await target.start())
    (first, second, third) = driver.submit("it", "it", "it")
    await target.until(lambda: len(target.seen) == 3)
    assert driver.transport.in_flight == 3
    driver.cancel(first[0], third[0])
    assert not first[1].done(), "never from inside"
    assert await finish(first[1], third[1]) == [CANCELLED_BY_US, CANCELLED_BY_US]
    assert driver.transport.in_flight == 1
    # Again, and for what has ended or never was: nothing.
    driver.cancel(first[0], third[0])
    # The same delivery may be called again while the old call is still going away.
    driver.cancel(second[0])
    assert await finish(second[1]) == [CANCELLED_BY_US]
    assert await driver.call("next") is ACKED
    assert driver.transport.in_flight == 0


async def test_a_delivery_is_called_again_while_its_old_call_goes_away(
    target: ScriptedTarget, drive: Drive
) -> None:
    target.scripts["old"] = HANG
    driver = drive(await target.start())
    ((delivery, old),) = driver.submit("old")
    await target.until(lambda: len(target.seen) == 1)
    again: list[asyncio.Future[Outcome]] = []
    driver.then = lambda: again.append(driver.submit_again(delivery, "new"))
    driver.cancel(delivery)
    assert await finish(old) == [CANCELLED_BY_US]
    # Not ended by what is left of the old call: the target's own answer.
    target.scripts["new"] = Script(code=3)
    assert [outcome.status for outcome in await finish(*again)] == [Status.INVALID_ARGUMENT]


async def test_cancel_before_anything_was_sent(target: ScriptedTarget, drive: Drive) -> None:
    driver = drive(await target.start())
    assert await driver.call("warm") is ACKED
    (kept, dropped) = driver.submit("kept", "dropped")
    driver.cancel(dropped[0])
    assert await finish(kept[1], dropped[1]) == [ACKED, CANCELLED_BY_US]


async def test_results_that_are_ready_together_come_together(target: ScriptedTarget, drive: Drive) -> None:
    driver = drive(Target("shop", await target.start(), max_message_bytes=1_000))
    before = len(driver.batches)
    refused = driver.submit(*("it" for _ in range(100)), padding=1_000)
    outcomes = await finish(*(future for _, future in refused))
    assert all(outcome.local for outcome in outcomes)
    assert [len(batch) for batch in driver.batches[before:]] == [100]


async def test_close_waits_for_what_is_out(target: ScriptedTarget, drive: Drive, mode: DeliveryMode) -> None:
    target.scripts["late"] = HANG
    driver = drive(await target.start())
    (call,) = driver.submit("late")
    await target.until(lambda: len(target.seen) == 1)
    closing = asyncio.create_task(driver.transport.close(20_000))
    if mode is DeliveryMode.STREAM:
        await target.until(lambda: target.half_closed == 1)
        # The stream's handler of these tests settles nothing after the half-close: it ends in good order,
        # having settled nothing ever, so it is unwell.
        assert (await finish(call[1]))[0].status is Status.UNAVAILABLE
    else:
        await asyncio.sleep(0)
        assert not closing.done()
        target.release.set()
        assert await finish(call[1]) == [ACKED]
    async with asyncio.timeout(10):
        await closing
    # Twice is well, and after it there is an end for every call as well.
    await driver.transport.close(0)
    assert await driver.call("after") is CANCELLED_BY_US


async def test_close_cuts_what_does_not_end(target: ScriptedTarget, drive: Drive) -> None:
    target.scripts["it"] = HANG
    driver = drive(await target.start())
    calls = driver.submit("it", "it")
    await target.until(lambda: len(target.seen) == 2)
    if driver.mode is DeliveryMode.STREAM:
        await driver.transport.close(0)
    else:
        await driver.transport.close(50)
    assert [future.result() for _, future in calls] == [CANCELLED_BY_US] * 2


async def test_close_at_once_after_submit(target: ScriptedTarget, drive: Drive) -> None:
    driver = drive(await target.start())
    calls = driver.submit("a", "b")
    await driver.transport.close(0)
    assert [future.result() for _, future in calls] == [CANCELLED_BY_US] * 2


async def test_target_killed_with_calls_out(drive: Drive) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.conformance.target",
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            address = (await process.stdout.readline()).decode().strip()
        driver = drive(address)
        calls = driver.submit("a", "b", "c", timeout_ms=60_000)
        called: set[bytes] = set()
        async with asyncio.timeout(20):
            while len(called) < 3:
                called.add(await process.stdout.readline())
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    for outcome in await finish(*(future for _, future in calls)):
        assert outcome.status is Status.UNAVAILABLE
        assert not outcome.cancelled


async def test_target_comes_back(target: ScriptedTarget, drive: Drive) -> None:
    """An outage ends without anyone restarting us, within the bound on connecting anew."""
    driver = drive(await target.start())
    assert await driver.call("one") is ACKED
    port = target.port
    await target.stop()
    assert (await driver.call("two")).status is Status.UNAVAILABLE
    back = ScriptedTarget()
    await back.start(port=port)
    try:
        async with asyncio.timeout(20):
            while await driver.call("three", timeout_ms=2_000) is not ACKED:
                pass
    finally:
        await back.stop()
