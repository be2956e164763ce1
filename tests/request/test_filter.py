"""Filters: what is wanted, what is a mistake, and what is the event's fault."""

from __future__ import annotations

import pytest

from pelton.errors import ConfigError, RequestError
from pelton.request.filter import Filter
from tests.request.making import event_of


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("event.topic == 'events'", True),
        ("event.topic == 'other'", False),
        ("event.json.total > 10 && event.json.tenant == params.tenant", True),
        ("event.json.on", True),
        ("!event.json.on", False),
        ("has(event.headers.h) && event.headers.h.startsWith('v')", True),
        ("event.key_text in ['a', 'k']", True),
        ("true", True),
        ("false && event.json.nope == 1", False),
    ],
)
def test_what_is_wanted(text: str, wanted: bool) -> None:
    event = event_of(b'{"total": 11, "tenant": "acme", "on": true}', headers=(("h", b"v1"),))
    assert Filter(text, {"tenant": "acme"}).accepts(event) is wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("event.text", "gives a string, not true or false. Compare"),
        ("1", "gives a int, not true or false"),
        ("delivery.attempt > 1", "delivery.attempt does not exist yet"),
        ("params.computed == 'x'", "no such parameter: computed"),
        ("event.tpye == 'a'", "Did you mean event.type?"),
        ("event.type = 'a'", "at column 12"),
    ],
)
def test_mistakes_name_their_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Filter(text, {"tenant": "acme"}, path="subscriptions.notify.filter", line=17)
    assert says in str(error.value)
    assert "line 17: subscriptions.notify.filter: " in str(error.value)


@pytest.mark.parametrize(
    ("text", "value", "says"),
    [
        ("event.json.total > 10", b"{}", "no such field"),
        ("event.json.total > 10", b"not json", "event.json: the value is not JSON"),
        ("event.json.on", b'{"on": "secret"}', "gives str, not true or false"),
        ("event.json.on", b'{"on": 1}', "gives int, not true or false"),
        ("event.json.total > 10", None, "gives NoneType, not true or false"),
        ("event.json.on", None, "gives NoneType, not true or false"),
    ],
)
def test_what_cannot_be_told_is_the_events_fault(text: str, value: bytes | None, says: str) -> None:
    with pytest.raises(RequestError) as error:
        Filter(text).accepts(event_of(value))
    assert says in str(error.value)
    assert str(error.value).startswith("filter: ")
    assert "(event events/0/0)" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_tombstone_is_asked_about_with_null() -> None:
    wanted = Filter("event.value != null && event.json.total > 10")
    assert wanted.accepts(event_of(None)) is False
    assert wanted.accepts(event_of(b'{"total": 11}')) is True
    assert Filter("event.value == null").accepts(event_of(None)) is True
