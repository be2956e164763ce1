"""From an event's bytes to what the annotation asks for, and what is refused when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import BaseModel

from pelton.event import Event
from pelton.sdk.decode import Json, Undecodable, UnsupportedType, decoder
from tests.sdk.conftest import event


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Order:
    id: int
    lines: list[Line]
    price: float = 0.0
    paid: bool = False
    colour: Colour | None = None
    kind: Literal["web", "shop"] = "web"
    at: datetime | None = None
    tags: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    parent: Order | None = None
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError("id is negative")


class Model(BaseModel):
    id: int


WHOLE = b"""{"id": 1, "lines": [{"sku": "a"}, {"sku": "b", "count": 2}], "price": 3, "paid": true,
    "colour": "blue", "kind": "shop", "at": "2026-11-23T09:00:00Z", "tags": ["x"], "notes": {"n": null},
    "parent": {"id": 0, "lines": []}, "unknown": 1, "total": 9}"""


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (bytes, b"\xff", b"\xff"),
        (bytes, b"", b""),
        (str, "ü".encode(), "ü"),
        (str, b"", ""),
        (dict, b'{"a": [1]}', {"a": [1]}),
        (dict[str, Any], b"{}", {}),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (list, b"[1, null]", [1, None]),
        (list[Line], b'[{"sku": "a"}]', [Line("a")]),
        (Json, b"null", None),
        (Json, b"1.5", 1.5),
        (int, b"7", 7),
        (Json | None, b'"x"', "x"),
        (Line | None, b'{"sku": "a"}', Line("a")),
        (Model, b'{"id": 3}', Model(id=3)),
        (StringValue, StringValue(value="x").SerializeToString(), StringValue(value="x")),
        (StringValue, b"", StringValue()),
        (Line | Order, b'{"id": 1, "lines": []}', Order(id=1, lines=[])),
        (
            Order,
            WHOLE,
            Order(
                id=1,
                lines=[Line("a"), Line("b", 2)],
                price=3.0,
                paid=True,
                colour=Colour.BLUE,
                kind="shop",
                at=datetime(2026, 11, 23, 9, tzinfo=UTC),
                tags=("x",),
                notes={"n": None},
                parent=Order(id=0, lines=[]),
            ),
        ),
    ],
)
def test_decodes(hint: Any, value: bytes, expected: object) -> None:
    decoded = decoder(hint)(event(value))
    assert decoded == expected
    assert type(decoded) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "why"),
    [
        (str, b"\xff", "not UTF-8 text: byte 0"),
        (Json, b"{", "not JSON"),
        (Json, b"", "not JSON"),
        (Json, b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (Json, b"NaN", "NaN is not JSON"),
        (Json, b"[" * 100_000, "nested too deeply"),
        (Json, b"9" * 5_000, "not JSON"),
        (dict, b"[]", "the value must be an object, not an array"),
        (dict, b"null", "the value must be an object, not null"),
        (int, b"true", "must be a whole number, not true or false"),
        (int, b"1.0", "must be a whole number, not a number"),
        (float, b'"1"', "must be a number, not text"),
        (float, b"1" + b"0" * 400, "must be a number that a float can hold"),
        (Order, b"{}", "id must be given, not missing"),
        (
            Order,
            b'{"id": 1, "lines": [{"sku": "a"}, {"sku": 1}]}',
            r"lines\[1\].sku must be text, not a whole",
        ),
        (Order, b'{"id": 1, "lines": [], "colour": "green"}', "colour must be one of 'red', 'blue' or null"),
        (
            Order,
            b'{"id": 1, "lines": [], "kind": ["web"]}',
            "kind must be one of 'web', 'shop', not an array",
        ),
        (Order, b'{"id": 1, "lines": [], "at": "noon"}', "at must be a time such as"),
        (Order, b'{"id": 1, "lines": [], "parent": {"id": "x"}}', "parent.id must be a whole number"),
        (Order, b'{"id": -1, "lines": []}', "not a Order: id is negative"),
        (Model, b'{"id": "x"}', "not a Model: id: Input should be a valid integer"),
        (StringValue, b"\xff", "not a google.protobuf.StringValue"),
    ],
)
def test_refuses(hint: Any, value: bytes, why: str) -> None:
    with pytest.raises(Undecodable, match=why):
        decoder(hint)(event(value))


@pytest.mark.parametrize(
    "hint", [bytes | None, str | None, Json, Line | None, Model | None, StringValue | None]
)
def test_a_tombstone_is_none_where_none_is_taken(hint: Any) -> None:
    assert decoder(hint)(event(None)) is None


@pytest.mark.parametrize("hint", [bytes, str, dict, Line, Model, StringValue, list[int]])
def test_a_tombstone_is_no_empty_value(hint: Any) -> None:
    with pytest.raises(Undecodable, match="tombstone"):
        decoder(hint)(event(None))


def test_the_whole_event_is_handed_over_as_it_is() -> None:
    for whole in (event(b"x"), event(None)):
        assert decoder(Event)(whole) is whole


class Plain:
    """No dataclass."""


@dataclass
class Holds:
    plain: list[Plain]


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (Plain, "Plain cannot be made from JSON"),
        (Holds, "Holds.plain: Plain cannot be made from JSON"),
        (bytes | str, "bytes cannot be made from JSON"),
        (dict[int, str], "names in an object are text"),
        (tuple[int, str], r"tuple\[X, ...\] can"),
        (Any, "does not say how to decode"),
        (object, "does not say how to decode"),
        (set[int], "cannot be made from JSON"),
    ],
)
def test_what_no_event_can_become_is_refused_at_once(hint: Any, why: str) -> None:
    with pytest.raises(UnsupportedType, match=why):
        decoder(hint)
