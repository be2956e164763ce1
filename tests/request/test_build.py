"""Requests from mappings: every mistake at start, with its line; every value into every sort of field."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.errors import ConfigError, RequestError
from pelton.request.build import RequestBuilder
from pelton.request.descriptors import method_types, pool_of_files
from pelton.request.fields import STRUCT_DEPTH_MAX
from pelton.subscription import Parameter
from tests.request.making import REQUEST, delivery_of, event_of, parsed, subscription_of

PARAMETERS = (
    Parameter("priority", constant="HIGH"),
    Parameter("number", constant="42"),
    Parameter("on", constant="true"),
    Parameter("ratio", constant="2.5"),
    Parameter("word", constant="hello"),
    Parameter("surrogate", constant="\ud800"),
    Parameter("computed", expression="event.text"),
)
CONSTANTS = {p.name: p.constant for p in PARAMETERS if p.constant is not None}


AT = "1960-01-01T00:00:00.500Z"


def build(fields: dict[str, str], event: Any = None, computed: str | None = None) -> Any:
    builder = RequestBuilder(subscription_of(fields, PARAMETERS), REQUEST)
    parameters = CONSTANTS | ({"computed": computed} if computed is not None else {})
    return parsed(builder.build(delivery_of(event or event_of()), parameters))


def test_raw_is_the_records_own_bytes() -> None:
    builder = RequestBuilder(subscription_of())
    event = dataclasses.replace(event_of(b"data"), record_value=b"the whole record")
    assert builder.build(delivery_of(event), {}) == b"the whole record"
    assert builder.build(delivery_of(event_of(None)), {}) == b""
    assert builder.build(delivery_of(event_of(b"")), {}) == b""


def test_the_classic_mapping() -> None:
    request = build({"text": "event.text", "item.sku": "params.word"})
    assert (request.text, request.item.sku) == ("hello", "hello")


def test_the_message_is_used_again_and_nothing_of_the_last_event_stays() -> None:
    builder = RequestBuilder(
        subscription_of({"text": "event.json.a", "labels": "event.json.l", "maybe": "event.key_text"}),
        REQUEST,
    )
    first = delivery_of(event_of(b'{"a": "x", "l": {"k": "v"}}'))
    expected = builder.build(first, {})
    with pytest.raises(RequestError):
        builder.build(delivery_of(event_of(b'{"a": "y", "l": 5}')), {})
    empty = parsed(builder.build(delivery_of(event_of(None, key=None)), {}))
    assert empty.ListFields() == []
    assert builder.build(first, {}) == expected


@pytest.mark.parametrize(
    ("fields", "value", "expected"),
    [
        ({"text": "event.json"}, '"é"', {"text": "é"}),
        ({"raw": "event.value"}, "\x00\x01", {"raw": "AAE="}),
        ({"flag": "event.json"}, "true", {"flag": True}),
        ({"count": "event.json"}, "-2147483648", {"count": -2147483648}),
        ({"count": "event.json"}, "5.0", {"count": 5}),
        ({"ucount": "event.json"}, "4294967295", {"ucount": 4294967295}),
        ({"big": "event.json"}, "-9223372036854775808", {"big": "-9223372036854775808"}),
        ({"ubig": "event.json"}, "18446744073709551615", {"ubig": "18446744073709551615"}),
        ({"ubig": "(event.json)"}, "18446744073709551615", {"ubig": "18446744073709551615"}),
        ({"ratio": "event.json"}, "3", {"ratio": 3.0}),
        ({"small": "event.json"}, "0.5", {"small": 0.5}),
        ({"priority": "event.json"}, '"HIGH"', {"priority": "HIGH"}),
        ({"priority": "event.json"}, "1", {"priority": "LOW"}),
        ({"priority": "event.json"}, "77", {"priority": 77}),
        ({"text_list": "event.json"}, '["a", ""]', {"textList": ["a", ""]}),
        ({"count_list": "event.json.map(x, x * 2)"}, "[1, 2]", {"countList": [2, 4]}),
        ({"raw_list": "[event.value, b'x']"}, "\x00", {"rawList": ["AA==", "eA=="]}),
        ({"labels": "event.json"}, '{"a": "b"}', {"labels": {"a": "b"}}),
        ({"labels": "event.headers"}, "", {"labels": {"h": "v"}}),
        ({"counts": "event.json"}, '{"1": 2}', {"counts": {"1": "2"}}),
        ({"counts": "{7: 8}"}, "", {"counts": {"7": "8"}}),
        ({"by_sku": "event.json"}, '{"a": {"sku": "s"}}', {"bySku": {"a": {"sku": "s"}}}),
        ({"item": "event.json"}, '{"sku": "s", "unitCount": 3}', {"item": {"sku": "s", "unitCount": 3}}),
        ({"item": "event.json"}, '{"unit_count": 3, "sku": null}', {"item": {"unitCount": 3}}),
        ({"item": "event.json"}, "{}", {"item": {}}),
        ({"items": "event.json"}, '[{"parts": [{"sku": "p"}]}]', {"items": [{"parts": [{"sku": "p"}]}]}),
        ({"item.sku": "event.text", "item.unit_count": "5"}, "s", {"item": {"sku": "s", "unitCount": 5}}),
        ({"timestamp": "event.published"}, "", {"timestamp": "2023-11-14T22:13:20.123Z"}),
        ({"timestamp": "timestamp(event.text)"}, "1960-01-01T00:00:00.5Z", {"timestamp": AT}),
        ({"timestamp.seconds": "5"}, "", {"timestamp": "1970-01-01T00:00:05Z"}),
        ({"duration": "duration('-1.5s')"}, "", {"duration": "-1.500s"}),
        ({"stringvalue": "event.text"}, "", {"stringvalue": ""}),
        ({"int64value": "params.number"}, "", {"int64value": "42"}),
        ({"boolvalue": "params.on"}, "", {"boolvalue": True}),
        ({"struct": "event.json"}, '{"a": [1, null, {}]}', {"struct": {"a": [1.0, None, {}]}}),
        ({"value": "event.json"}, '"x"', {"value": "x"}),
        ({"value": "event.json"}, "[]", {"value": []}),
        ({"listvalue": "event.json"}, "[1]", {"listvalue": [1.0]}),
        ({"maybe": "event.text"}, "", {"maybe": ""}),
        ({"count": "params.number", "ratio": "params.ratio"}, "", {"count": 42, "ratio": 2.5}),
        ({"flag": "params.on"}, "", {"flag": True}),
        ({"priority": "params.priority"}, "", {"priority": "HIGH"}),
        ({"priority": "'LOW'"}, "", {"priority": "LOW"}),
        ({"priority": "params.computed"}, "HIGH", {"priority": "HIGH"}),
        ({"count": "params.computed"}, "-7", {"count": -7}),
        ({"priority": "params.computed"}, "2", {"priority": "HIGH"}),
        ({"text": "event.json.nope == null ? 'a' : 'b'"}, None, {}),
        ({"text": "null == null ? dyn(null) : 'x'"}, "", {}),
    ],
)  # fmt: skip
def test_values_into_fields(fields: dict[str, str], value: str | None, expected: dict[str, object]) -> None:
    event = event_of(None if value is None else value.encode(), headers=(("h", b"v"),))
    assert json_format.MessageToDict(build(fields, event, computed=value)) == expected


@pytest.mark.parametrize(
    "expression",
    ["event.value", "event.text", "event.json", "event.json.a.b", "event.text + '!'", "params.computed"],
)
def test_a_tombstone_leaves_its_fields_unset(expression: str) -> None:
    field = "raw" if expression == "event.value" else "text"
    request = build({field: expression, "maybe": "event.id"}, event_of(None))
    assert [field.name for field, _ in request.ListFields()] == ["maybe"]


@pytest.mark.parametrize(
    ("fields", "value", "says"),
    [
        ({"text": "event.json"}, "5", "takes a string, not int"),
        ({"text": "event.json"}, "[]", "takes a string, not list"),
        ({"text": "event.text"}, b"\xff", "the value is not UTF-8"),
        ({"raw": "event.json"}, '"x"', "takes bytes, not string"),
        ({"flag": "event.json"}, "1", "takes a bool, not int"),
        ({"flag": "event.json"}, '"true"', "takes a bool, not string"),
        ({"count": "event.json"}, "true", "takes an integer, not bool"),
        ({"count": "event.json"}, "1.5", "takes an integer, not double"),
        ({"count": "event.json"}, "1e300", "takes an integer, not double"),
        ({"count": "event.json"}, '"secret"', "takes an integer, not string"),
        ({"count": "event.json"}, "2147483648", "the number is out of the range of int32"),
        ({"ucount": "event.json"}, "-1", "the number is out of the range of uint32"),
        ({"big": "event.json"}, "9223372036854775808", "the number is out of the range of int64"),
        ({"big": "event.json.n"}, '{"n": 99999999999999999999}', "more than 64 bits"),
        ({"big_list": "event.json.n"}, '{"n": [99999999999999999999]}', "out of the range of int64"),
        ({"ratio": "event.json"}, "true", "takes a number, not bool"),
        ({"small": "event.json"}, "1e300", "the number is out of the range of a float"),
        ({"priority": "event.json"}, '"secret"', "the text is no value of shop.v1.Priority"),
        ({"priority": "event.json"}, "4294967296", "out of the range of an enum"),
        ({"text_list": "event.json"}, '"x"', "takes a list, not string"),
        ({"text_list": "event.json"}, '["x", null]', "takes a string, not null"),
        ({"labels": "event.json"}, "[]", "takes a map, not list"),
        ({"labels": "event.json"}, '{"a": 1}', "takes a string, not int"),
        ({"counts": "event.json"}, '{"secret": 1}', "the text is no integer"),
        ({"item": "event.json"}, '{"secret": 1}', "the map has a name that shop.v1.Item has no field for"),
        ({"item": "event.json"}, '"x"', "takes a map, not string"),
        ({"items": "event.json"}, "[1]", "takes a map, not int"),
        ({"timestamp": "event.json"}, '"2024-01-01T00:00:00Z"', "takes a timestamp, not string"),
        ({"duration": "event.json"}, "1", "takes a duration, not int"),
        ({"struct": "event.json"}, "1", "takes a map, not int"),
        ({"value": "dyn(event.value)"}, "x", "takes what JSON can say, not bytes"),
        ({"count": "params.computed"}, "secret", "the text is no integer"),
        ({"count": "params.computed"}, "9" * 5000, "the text is no integer"),
        ({"flag": "params.computed"}, "True", "the text is no bool"),
        ({"ratio": "params.computed"}, "secret", "the text is no number"),
        ({"text": "params.computed"}, "\ud800", "half a surrogate pair"),
        ({"struct": "event.json"}, '{"a":' * 90 + "1" + "}" * 90, "the value is nested deeper than 30"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_the_events_fault(
    fields: dict[str, str], value: str | bytes, says: str
) -> None:
    text = value if isinstance(value, str) else "x"
    event = event_of(value if isinstance(value, bytes) else value.encode("utf-8", "replace"))
    with pytest.raises(RequestError) as error:
        build(fields, event, computed=text)
    message = str(error.value)
    assert says in message
    assert "(event events/0/0)" in message
    assert message.startswith(f"request field {next(iter(fields))}: ")
    assert "secret" not in message


MISTAKES = {
    "txet": ("event.text", "shop.v1.EventRequest has no field txet.", "Did you mean text?"),
    "textList": ("event.json", "has no field textList.", "Did you mean text_list?"),
    "zzzz": ("event.text", "has no field zzzz.", "Its fields: text, text_list, "),
    "item.skus": ("event.text", "shop.v1.Item has no field skus.", "Did you mean sku?"),
    "text.x": ("event.text", "text is string: it has no field x.", ""),
    "items.sku": ("event.text", "items is repeated shop.v1.Item: it has no field sku.", ""),
    "labels.a": ("event.text", "labels is map<string, string>: it has no field a.", ""),
    "text": ("event.offset", "the field is string, the expression gives int.", "Write string(…)"),
    "raw": ("event.text", "the field is bytes, the expression gives string.", "Write bytes(…)."),
    "count": ("event.text", "the field is int32, the expression gives string.", "Write int(…)."),
    "big": ("'5'", "the field is int64, the expression gives string.", "Write int(…)."),
    "ratio": ("event.text", "the field is double, the expression gives string.", "Write double(…)."),
    "flag": ("event.text", "the field is bool, the expression gives string.", "Write a comparison"),
    "ucount": ("-1", "the field is uint32: the number is out of the range of uint32.", ""),
    "ubig": ("params.word", "the field is uint64: the text is no integer.", ""),
    "small": ("params.word", "the field is float: the text is no number.", ""),
    "priority": ("'HIHG'", "the text is no value of shop.v1.Priority.", "Did you mean HIGH?"),
    "text_list": ("event.text", "the field is repeated string, the expression gives string.", "Write a list"),
    "flag_list": ("params.on", "the field is repeated bool: takes a list, not string.", ""),
    "labels": ("event.text", "the field is map<string, string>, the expression gives string.", "Map its"),
    "item": ("event.text", "the field is shop.v1.Item, the expression gives string.", "Map its fields"),
    "items": (
        "event.headers",
        "the field is repeated shop.v1.Item, the expression gives map.",
        "Write a list",
    ),
    "timestamp": (
        "event.text",
        "google.protobuf.Timestamp, the expression gives string.",
        "Write timestamp(…).",
    ),
    "duration": ("params.word", "takes a duration, not string.", "Write duration(…)."),
    "boolvalue": ("params.word", "the text is no bool.", "Write true or false."),
    "stringvalue": ("params.surrogate", "protobuf refuses the value.", ""),
    "maybe": ("null", "is always null.", "Leave the field out."),
    "raw_list": ("evnt.text", "nothing is called evnt.text at column 1.", "Did you mean event.text?"),
    "count_list": ("params.nunber", "no such parameter: nunber", "Did you mean number?"),
    "ratio_list": ("event.text +", "it ends too early", ""),
    "item.sku": ("event.text", "item is mapped as a whole, too.", "Map one of them."),
    "big_list": ("1 / 0", "fails, whatever the event", ""),
}


def test_every_mistake_of_a_mapping_at_once_with_its_line() -> None:
    fields = {path: expression for path, (expression, _, _) in MISTAKES.items()}
    with pytest.raises(ConfigError) as error:
        RequestBuilder(subscription_of(fields, PARAMETERS), REQUEST)
    problems = {
        problem.path.removeprefix("subscriptions.notify.request."): problem
        for problem in error.value.problems
    }
    assert list(problems) == list(MISTAKES)
    for line, (path, (_, message, mend)) in enumerate(MISTAKES.items(), start=10):
        assert message in problems[path].message, path
        assert problems[path].mend.startswith(mend), path
        assert bool(mend) or not problems[path].mend or path in ("raw_list", "ratio_list"), path
        assert problems[path].line == line
    assert str(error.value).startswith(
        "subscriptions.notify: 32 problems\n  line 10: subscriptions.notify.request.txet"
    )


def test_the_deepest_struct_can_be_read_by_the_target() -> None:
    deepest = '{"a":' * STRUCT_DEPTH_MAX + "1" + "}" * STRUCT_DEPTH_MAX
    value: Any = build({"struct": "event.json"}, event_of(deepest.encode())).struct
    for _ in range(STRUCT_DEPTH_MAX - 1):
        value = value["a"]
    assert value["a"] == 1.0
    with pytest.raises(RequestError, match="deeper than 30"):
        build({"listvalue": "event.json"}, event_of(b"[" * 31 + b"]" * 31))


def test_a_required_field_that_stays_unset_is_the_events_fault() -> None:
    file = FileDescriptorProto(name="old.proto", package="old", syntax="proto2")
    message = file.message_type.add(name="Request")
    message.field.add(name="must", number=1, type=9, label=2)
    closed = file.enum_type.add(name="Color")
    closed.value.add(name="RED", number=1)
    message.field.add(name="color", number=2, type=14, label=1, type_name=".old.Color")
    file.service.add(name="S").method.add(name="M", input_type=".old.Request", output_type=".old.Request")
    request = method_types(pool_of_files([file], source="old"), "/old.S/M").input
    builder = RequestBuilder(subscription_of({"must": "event.text", "color": "event.json"}), request)
    with pytest.raises(RequestError, match=r"lacks a required field of old\.Request.*\(event events/0/0\)"):
        builder.build(delivery_of(event_of(None)), {})
    with pytest.raises(RequestError, match=r"request field color: the number is no value of old\.Color"):
        builder.build(delivery_of(event_of(b"2")), {})
    assert builder.build(delivery_of(event_of(b"1")), {}) == b"\n\x011\x10\x01"


def test_params_need_no_conversion_where_they_fit_and_constants_are_tried_at_start() -> None:
    with pytest.raises(ConfigError, match="the text is no value of shop"):
        RequestBuilder(subscription_of({"priority": "params.word"}, PARAMETERS), REQUEST)
    # A computed one is only known when the event is.
    RequestBuilder(subscription_of({"priority": "params.computed"}, PARAMETERS), REQUEST)


_NAMES = st.sampled_from(["sku", "parts", "unit_count", "1"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner),
    max_leaves=6,
)  # fmt: skip
_BUILDERS = {
    field.name: RequestBuilder(subscription_of({field.name: "event.json"}), REQUEST)
    for field in REQUEST.fields
}


@settings(max_examples=400, deadline=None)
@given(document=_JSON, name=st.sampled_from(sorted(_BUILDERS)))
def test_any_document_fits_or_is_the_events_fault(document: object, name: str) -> None:
    delivery = delivery_of(event_of(json.dumps(document).encode()))
    try:
        body = _BUILDERS[name].build(delivery, {})
    except RequestError as error:
        said = str(error)
        assert re.search(rf"^request field {name}: .*\(event events/0/0\)$", said)
        return
    request = parsed(body)
    assert document is None or document in (0, "", [], {}, False) or request.ListFields()
