"""YAML text to values with lines; whatever the text, a `ConfigError` at the worst."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pelton.config.document import DEPTH_MAX, Value, parse_document, parse_value
from pelton.config.load import load
from pelton.config.problems import Problems
from pelton.errors import ConfigError

SMALLEST = (Path(__file__).parent / "samples" / "smallest.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("50_000", 50_000),
        ("1.5", 1.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("on", "on"),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("1_0", "1_0"),
        ("1e5", "1e5"),
        (".inf", ".inf"),
        ("9" * 30, "9" * 30),
        ("2026-01-31", "2026-01-31"),
        ("'10'", "10"),
        ("!!str 10", "10"),
        ("${env:A}", "${env:A}"),
        ("100ms..1m", "100ms..1m"),
        ("[a, 1]", ["a", 1]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("{yes: 1, 2: 3}", {"yes": 1, "2": 3}),
    ],
)
def test_what_a_scalar_is(text: str, value: Value) -> None:
    problems = Problems()
    read = parse_value(text, problems)
    assert (read, type(read)) == (value, type(value))
    assert not problems


def test_marks() -> None:
    problems = Problems()
    parse_document("a:\n  b: 1\n\n  c: [x,\n     y]\n", problems)
    places = problems.places
    assert [places.line(path) for path in [("a",), ("a", "b"), ("a", "c"), ("a", "c", 0), ("a", "c", 1)]] == [
        1,
        2,
        4,
        4,
        5,
    ]
    assert places.line(("a", "b", "absent")) == 2
    assert places.line(("absent",)) == 0


def test_depth_is_bounded() -> None:
    for depth, is_problem in [(DEPTH_MAX, False), (DEPTH_MAX + 1, True), (10_000, True)]:
        problems = Problems()
        parse_document("a: " + "[" * depth + "]" * depth, problems)
        assert bool(problems) is is_problem


def _load(text: bytes) -> None:
    caught: ConfigError | None = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pelton.yaml"
        path.write_bytes(text)
        try:
            load(path, {})
        except ConfigError as error:
            caught = error
    if caught is not None:
        assert caught.problems
        str(caught).encode()  # No half characters that a terminal cannot show.


@given(st.text())
@example('"\\UFFFFFFFF"')
@example('"\\ud800"')
@example("%YAML 99999999999999999999.1\n--- a")
@example("a: \x00")
@example("[" * 2_000)
@example("&a [*a]")
@example("? ? ? a")
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_config_error_at_the_worst(text: str) -> None:
    _load(text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_config_error_at_the_worst(data: bytes) -> None:
    _load(data)


KEYS = st.sampled_from(
    [
        "kafka",
        "targets",
        "subscriptions",
        "notify",
        "shop",
        "topics",
        "target",
        "address",
        "tls",
        "retry",
        "request",
        "parameters",
        "from",
        "intake",
        "metadata",
        "headers",
        "descriptors",
        "files",
        "start",
        "on_status",
        "bootstrap.servers",
        "auth",
        "bearer",
        "server",
        "http",
        "delivery",
        "max.poll.interval.ms",
    ]
) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["shop", "raw", "handler", "10s", "1m..1s", "${env:A}", "${file:a\0b}", "dns:///x:1", "[::1]:1"]
    )
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@given(st.dictionaries(KEYS, TREES, max_size=6))
@example({"[key]": None})
@example({"<mapping>": 1})
@settings(max_examples=300, deadline=None)
def test_any_tree_is_a_config_error_at_the_worst(tree: object) -> None:
    _load(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@given(st.sampled_from(["topics", "target", "method", "retry", "start", "kafka", "parameters", "tls"]), TREES)
@settings(max_examples=200, deadline=None)
def test_any_value_of_a_known_key_is_a_config_error_at_the_worst(key: str, value: object) -> None:
    tree = yaml.safe_load(SMALLEST)
    tree["subscriptions"]["notify-shop"][key] = value
    tree["targets"]["shop"][key] = value
    _load(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@given(
    st.integers(0, 400),
    st.sampled_from(["", "\t", ":", "[", "{", '"', "\n", "- ", "#", "*a", "&a ", "!x ", "|", "%"]),
)
@settings(max_examples=200, deadline=None)
def test_one_slip_in_a_sound_file_is_a_config_error_at_the_worst(at: int, slip: str) -> None:
    at = min(at, len(SMALLEST))
    _load((SMALLEST[:at] + slip + SMALLEST[at + 1 :]).encode())
