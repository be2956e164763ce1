"""What a target is sent: fields by reflection, parameters in all three places, and every odd event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from tests.integration.delivery.processes import Metrics, Pelton, Target, serving, until
from tests.integration.delivery.shop import Shop
from tests.integration.delivery.world import Draft, Log, World, some_keys
from tests.kafka_fixtures import CreateTopic
from tests.request.making import METHOD


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.stop()


def cloud_event(**more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order.placed", **more}


BINARY = (
    *((f"ce_{name}", value.encode()) for name, value in cloud_event(subject="ö/1", region="north").items()),
    ("content-type", b"application/json"),
)
STRUCTURED = json.dumps(
    cloud_event(id="e-2", datacontenttype="application/json", data={"order": {"id": "o-7"}})
)
PUBLISHED_MS = 1_700_000_000_123

#: One partition, so that the place here is the offset.
DRAFTS = [
    Draft(b"key-0", b'{"order": {"id": "o-1"}, "total": 12}', (), PUBLISHED_MS),
    # The filter lets this one go.
    Draft(b"key-1", b'{"order": {"id": "skip"}}', (), PUBLISHED_MS),
    # No field can be made of this one, nor of a text that is no JSON.
    Draft(b"key-2", b"\xff\xfe", (), PUBLISHED_MS),
    Draft(b"key-3", None, (), PUBLISHED_MS),
    Draft(None, b'{"order": {"id": "o-4"}}', (), PUBLISHED_MS),
    Draft(b"", b'{"order": {"id": "o-5"}}', (), PUBLISHED_MS),
    Draft(b"key-6", b'{"order": {"id": "o-6"}}', (("tag", b"a"), ("tag", b"b"), ("tag", None)), PUBLISHED_MS),
    Draft(b"key-7", b'{"order": {"id": "o-1"}}', BINARY, PUBLISHED_MS),
    Draft(b"key-8", STRUCTURED.encode(), (("content-type", b"application/cloudevents+json"),), PUBLISHED_MS),
    # It claims to be what it is not.
    Draft(b"key-9", b"{}", (("ce_specversion", b"1.0"),), PUBLISHED_MS),
    # Empty is not null: a value, and no JSON.
    Draft(b"key-10", b"", (), PUBLISHED_MS),
]


def test_whatever_the_source_takes_can_be_set_aside(
    log: Log, create_topic: CreateTopic, tmp_path: Path, shop: Shop
) -> None:
    """Larger than the client's own limit, and larger than the broker's: neither may stop its partition."""
    topic = create_topic(config={"max.message.bytes": "5000000"})
    sizes = [1_040_000, 4_000_000]
    log.publish(topic, [Draft(b"k", bytes(size)) for size in sizes])
    name = topic[:60].strip("-")
    config = tmp_path / "pelton.yaml"
    config.write_text(
        f"""
kafka: {{ bootstrap.servers: "{log.bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
targets: {{ shop: {{ address: "127.0.0.1:{shop.port}", max_message_bytes: 64KiB }} }}
subscriptions:
  {name}: {{ topics: [{topic}], target: shop, method: {METHOD} }}
""",
        encoding="utf-8",
    )
    pelton = Pelton(config, tmp_path / "pelton.log")
    try:
        until(lambda: log.committed(f"pelton.{name}", topic) == {0: len(sizes)}, "both to be set aside")
        pelton.stop()
    finally:
        pelton.end()
    assert [len(letter.value or b"") for letter in log.read(f"dlq.{name}")] == sizes


def test_what_a_target_is_sent(log: Log, create_topic: CreateTopic, tmp_path: Path, shop: Shop) -> None:
    topic = create_topic()
    log.publish(topic, DRAFTS)
    mapped, handled = f"mapped-{topic}"[:60].strip("-"), f"handled-{topic}"[:60].strip("-")
    common = f"""
    topics: [{topic}]
    target: shop
    metadata: {{ headers: [tag], parameters: [level, place] }}
    parameters:
      level: "high"
      place: {{ from: "event.topic + '/' + string(event.offset)" }}"""
    config = tmp_path / "pelton.yaml"
    config.write_text(
        f"""
kafka: {{ bootstrap.servers: "{log.bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
targets: {{ shop: {{ address: "127.0.0.1:{shop.port}" }} }}
subscriptions:
  {mapped}:{common}
    method: {METHOD}
    filter: "event.value == null || event.key_text != 'key-1'"
    request:
      text: event.json.order.id
      raw: event.key
      item.sku: params.place
      maybe: params.level
      count: delivery.attempt
      big: event.offset
      labels: "{{'type': event.type, 'subject': event.subject}}"
      timestamp: event.published
  {handled}:{common}
    delivery: handler
""",
        encoding="utf-8",
    )
    pelton = Pelton(config, tmp_path / "pelton.log")
    try:
        for name in (mapped, handled):
            until(partial(is_settled, log, name, topic), f"{name} to be settled")
        metrics = pelton.metrics()
        pelton.stop()
    finally:
        pelton.end()

    dead = {letter.header("pelton-origin-offset"): letter for letter in log.read(f"dlq.{mapped}")}
    assert dead.keys() == {"2", "9", "10"}
    assert "text" in dead["2"].header("pelton-reason")
    assert dead["2"].value == b"\xff\xfe"
    assert metrics.sum("pelton_events_settled_total", subscription=mapped, end="filtered") == 1
    assert shop.requests.keys() == {str(offset) for offset in range(len(DRAFTS))} - {"1", "2", "9", "10"}
    check_mapped(topic, shop)
    assert [letter.header("pelton-origin-offset") for letter in log.read(f"dlq.{handled}")] == ["9"]
    check_handled(topic, handled, shop)


def is_settled(log: Log, subscription: str, topic: str) -> bool:
    return log.committed(f"pelton.{subscription}", topic) == {0: len(DRAFTS)}


def check_mapped(topic: str, shop: Shop) -> None:
    plain = {"labels": {"type": "pelton.record", "subject": ""}, "maybe": "high", "count": 1}
    placed = {"labels": {"type": "order.placed", "subject": "ö/1"}, "maybe": "high", "count": 1}
    expected = {
        "0": {**plain, "text": "o-1", "raw": b"key-0"},
        # A tombstone has no text: the field stays unset.
        "3": {**plain, "raw": b"key-3"},
        # No key and an empty key look the same in a field without presence.
        "4": {**plain, "text": "o-4"},
        "5": {**plain, "text": "o-5"},
        "6": {**plain, "text": "o-6", "raw": b"key-6"},
        "7": {**placed, "text": "o-1", "raw": b"key-7"},
        "8": {**placed, "labels": {"type": "order.placed", "subject": ""}, "text": "o-7", "raw": b"key-8"},
    }
    for offset, fields in expected.items():
        request, metadata = shop.requests[offset]
        place = f"{topic}/{offset}"
        assert dict(request.labels) == fields["labels"]
        assert request.text == fields.get("text", "")
        assert request.raw == fields.get("raw", b"")
        assert (request.maybe, request.count) == ("high", 1)
        assert (request.big, request.item.sku) == (int(offset), place)
        assert request.timestamp.ToMilliseconds() == PUBLISHED_MS
        named = dict(metadata)
        assert named["pelton-param-level"] == "high"
        assert named["pelton-param-place"] == place
        # No key is no entry, an empty one is an empty entry.
        assert named.get("pelton-key-bin") == DRAFTS[int(offset)].key
        assert [value for name, value in metadata if name == "tag"] == (["a", "b"] if offset == "6" else [])
    cloud = dict(shop.requests["7"][1])
    assert (cloud["ce-id"], cloud["ce-type"], cloud["ce-subject"]) == ("e-1", "order.placed", "%C3%B6/1")
    assert cloud["ce-region"] == "north"
    assert dict(shop.requests["8"][1])["ce-id"] == "e-2"
    assert "ce-id" not in dict(shop.requests["0"][1])


def check_handled(topic: str, subscription: str, shop: Shop) -> None:
    assert shop.deliveries.keys() == set(range(len(DRAFTS))) - {9}
    for offset, delivery in shop.deliveries.items():
        draft, event = DRAFTS[offset], delivery.event
        assert delivery.delivery_id == f"{subscription}/{topic}/0/{offset}"
        assert dict(delivery.parameters) == {"level": "high", "place": f"{topic}/{offset}"}
        assert delivery.attempt == 1
        assert delivery.fence > 0
        # Absent and empty differ.
        assert (event.key if event.HasField("key") else None) == draft.key
        assert event.published.ToMilliseconds() == PUBLISHED_MS
        if offset != 8:
            assert (event.value if event.HasField("value") else None) == draft.value
    tags = shop.deliveries[6].event.headers
    assert [(one.name, one.value if one.HasField("value") else None) for one in tags] == list(
        DRAFTS[6].headers
    )
    structured = shop.deliveries[8].event
    assert json.loads(structured.value) == {"order": {"id": "o-7"}}
    assert (structured.id, structured.type) == ("e-2", "order.placed")
    binary = MessageToDict(shop.deliveries[7].event)
    assert (binary["id"], binary["subject"], binary["attributes"]) == ("e-1", "ö/1", {"region": "north"})


SEED = "books"
SCRAPES_MIN = 20


def test_the_books_balance_at_every_scrape(world: World, note: Callable[[str], None]) -> None:
    """Consumed is what was settled, in whichever way, and what is open: under load, and after a restart."""
    world.publish_keys(some_keys(SEED, 6_000))
    scrapes: list[Metrics] = []
    with serving(Target(world.directory, "--seed", SEED, "--delay-ms", "5")) as target:
        config = world.configure(target)

        def scraped(pelton: Pelton) -> Metrics:
            scrapes.append(pelton.metrics())
            return scrapes[-1]

        first = world.serve(config)
        until(lambda: scraped(first).sum("pelton_events_settled_total") >= 2_000, "a third to be settled")
        # A hard end leaves a map behind, and settled events that are not to be delivered again.
        first.kill()
        second = world.serve(config)
        until(lambda: scraped(second) and world.all_committed(), "every partition to be committed to its end")
        # The last one may have been taken before the last commit.
        scraped(second)
        second.stop()
    under_way = 0
    for scrape in scrapes:
        consumed = scrape.sum("pelton_events_consumed_total")
        settled = scrape.sum("pelton_events_settled_total")
        already = scrape.sum("pelton_events_already_settled_total")
        released = scrape.sum("pelton_events_released_total")
        opened = scrape.sum("pelton_events_open")
        assert consumed == settled + already + released + opened
        under_way += opened > 0 and settled > 0
    assert under_way >= SCRAPES_MIN
    assert scrapes[-1].sum("pelton_events_open") == 0
    assert scrapes[-1].sum("pelton_events_already_settled_total") > 0
    ends = {
        end: scrapes[-1].sum("pelton_events_settled_total", end=end)
        for end in ("acked", "dropped", "dead_lettered")
    }
    assert all(ends.values())
    note(f"books: balanced in {len(scrapes)} scrapes, {under_way} of them with events open")
