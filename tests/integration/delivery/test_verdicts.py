"""An App of the SDK, called by a Pelton of its own: what a handler says is what becomes of the event."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pelton import App, Context, DeadLetter, Drop, Event, Retry
from pelton.sdk.serve import Server
from tests.integration.delivery.processes import Metrics, Pelton, until
from tests.integration.delivery.world import Draft, Log, Published
from tests.kafka_fixtures import CreateTopic

ATTEMPTS = 3
#: Event -> attempts it takes, and what its dead letter says; "" where it has none.
EXPECTED = {
    b"take": (1, ""),
    b"retry once": (2, ""),
    b"retry always": (ATTEMPTS, "OK: not yet"),
    b"drop": (1, ""),
    b"set aside": (1, "OK: no such order"),
    b"fail": (ATTEMPTS, "UNKNOWN: ZeroDivisionError: division by zero"),
    b"take too": (1, ""),
}


@pytest.mark.parametrize("mode", ["handler", "stream"])
async def test_a_verdict_decides(mode: str, log: Log, create_topic: CreateTopic, tmp_path: Path) -> None:
    app = App("verdicts")
    attempts: dict[bytes, list[int]] = {value: [] for value in EXPECTED}

    @app.handler
    async def handle(event: Event, context: Context) -> Retry | Drop | None:
        assert event.value is not None
        attempts[event.value].append(context.attempt)
        match event.value:
            case b"retry once":
                return Retry(after=0.05) if context.attempt == 1 else None
            case b"retry always":
                raise Retry(reason="not yet")
            case b"drop":
                return Drop("old")
            case b"set aside":
                raise DeadLetter("no such order")
            case b"fail":
                1 / 0  # noqa: B018 - a handler's bug
        return None

    server = Server(app, "127.0.0.1:0")
    await server.start()
    try:
        letters, metrics = await asyncio.to_thread(deliver, mode, log, create_topic(), server.port, tmp_path)
    finally:
        await server.stop()
    assert attempts == {value: list(range(1, made + 1)) for value, (made, _) in EXPECTED.items()}
    said = {
        letter.value: f"{letter.header('pelton-status')}: {letter.header('pelton-reason')}"
        for letter in letters
    }
    assert said == {value: reason for value, (_, reason) in EXPECTED.items() if reason}
    assert metrics.sum("pelton_events_settled_total", end="dropped") == 1


def deliver(mode: str, log: Log, topic: str, port: int, directory: Path) -> tuple[list[Published], Metrics]:
    """Everything that waits; returns the dead letters."""
    log.publish(topic, [Draft(value, value) for value in EXPECTED])
    name = topic[:60].strip("-")
    config = directory / "pelton.yaml"
    config.write_text(
        f"""
kafka: {{ bootstrap.servers: "{log.bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
targets: {{ app: {{ address: "127.0.0.1:{port}" }} }}
subscriptions:
  {name}:
    topics: [{topic}]
    target: app
    delivery: {mode}
    retry: {{ attempts: {ATTEMPTS}, backoff: 5ms..40ms }}
""",
        encoding="utf-8",
    )
    pelton = Pelton(config, directory / "pelton.log")
    try:
        until(lambda: log.committed(f"pelton.{name}", topic) == log.ends(topic), "everything to be settled")
        metrics = pelton.metrics()
        pelton.stop()
    finally:
        pelton.end()
    return log.read(f"dlq.{name}"), metrics
