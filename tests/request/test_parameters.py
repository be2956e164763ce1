"""Parameters: constants shared, computed ones written one way, mistakes with their lines."""

from __future__ import annotations

import pytest

from pelton.errors import ConfigError, RequestError
from pelton.request.parameters import Parameters
from pelton.subscription import Parameter
from tests.request.making import delivery_of, event_of, subscription_of


def test_constants_are_made_once() -> None:
    parameters = Parameters(
        subscription_of(parameters=(Parameter("a", constant="1"), Parameter("b", constant="")))
    )
    first = parameters.of(delivery_of(event_of()))
    assert first == {"a": "1", "b": ""}
    assert parameters.of(delivery_of(event_of())) is first
    assert parameters.names == ("a", "b")
    assert parameters.computed == ()


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("event.text", '{"n": 1.50, "on": false}'),
        ("event.json.on", "false"),
        ("event.json.n", "1.5"),
        ("event.json.n == 1.5", "true"),
        ("delivery.attempt", "3"),
        ("2.0", "2.0"),
        ("1e100", "1e+100"),
        ("18446744073709551615u", "18446744073709551615"),
        ("event.key", "kéy"),
        ("event.published", "2023-11-14T22:13:20.123000Z"),
        ("timestamp('2024-01-01T02:00:00+02:00')", "2024-01-01T00:00:00Z"),
        ("duration('90.25s')", "90.25s"),
        ("duration('-1.5s')", "-1.5s"),
        ("duration('60s')", "60s"),
        ("params.region + '/' + event.topic", "eu/events"),
        ("event.time", None),
        ("dyn(null)", None),
    ],
)
def test_values_are_written_one_way_and_null_is_absent(expression: str, text: str | None) -> None:
    declared = (Parameter("region", constant="eu"), Parameter("x", expression=expression))
    parameters = Parameters(subscription_of(parameters=declared))
    event = event_of(b'{"n": 1.50, "on": false}', key="kéy".encode())
    expected = {"region": "eu"} | ({"x": text} if text is not None else {})
    assert parameters.of(delivery_of(event, attempt=3)) == expected
    assert parameters.constants == {"region": "eu"}
    assert parameters.computed == ("x",)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("event.json", "parameter x: a map is not a text"),
        ("event.key", "parameter x: the bytes are not UTF-8 text"),
        ("event.json.nope", "parameter x: event.json.nope: no such field"),
        ("1.0 / double(event.partition)", "parameter x: the number is not finite"),
    ],
)
def test_what_cannot_be_written_is_the_events_fault(expression: str, says: str) -> None:
    parameters = Parameters(subscription_of(parameters=(Parameter("x", expression=expression),)))
    with pytest.raises(RequestError) as error:
        parameters.of(delivery_of(event_of(b"{}", key=b"\xff")))
    assert str(error.value) == f"{says} (event events/0/0)"


def test_mistakes_come_all_at_once_with_their_lines() -> None:
    declared = (
        Parameter("a", expression="evnt.text", line=5),
        Parameter("b", expression="[event.text]", line=6),
        Parameter("c", expression="params.a", line=7),
        Parameter("d", constant="x", line=8),
    )
    with pytest.raises(ConfigError) as error:
        Parameters(subscription_of(parameters=declared))
    assert [(p.path.rpartition(".")[2], p.line) for p in error.value.problems] == [
        ("a", 5),
        ("b", 6),
        ("c", 7),
    ]
    assert "Did you mean event.text?" in str(error.value)
    # A computed parameter is made of event, delivery and constants, never of another computed one.
    assert "no such parameter: a" in str(error.value)
