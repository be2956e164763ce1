"""References to secrets: what they say, when they say nothing, and that nobody shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelton.config.problems import Flaw
from pelton.config.secrets import (
    SECRET_BYTES_MAX,
    anchor,
    check,
    has_reference,
    parse,
    read,
    references,
    resolve,
)
from pelton.errors import ConfigError
from pelton.subscription import Secret


def test_a_variable() -> None:
    assert read(parse("${env:TOKEN}"), {"TOKEN": "opensesame\n"}) == "opensesame"


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    secret = parse(f"${{file:{file}}}")
    file.write_text("first\n", encoding="utf-8")
    assert read(secret, {}) == "first"
    file.write_text("second\r\n", encoding="utf-8")
    assert read(secret, {}) == "second"


def test_only_the_line_break_at_the_end_is_not_the_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" open\nsesame ", encoding="utf-8")
    assert read(Secret("file", str(tmp_path / "token")), {}) == " open\nsesame "


def test_settings_are_resolved_in_a_copy(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("sesame", encoding="utf-8")
    settings: dict[str, str | int | float | bool] = {
        "sasl.oauthbearer.config": f"u=${{env:U}} p=${{file:{tmp_path / 'p'}}}",
        "retries": 3,
        "on": True,
    }
    before = dict(settings)
    assert resolve(settings, {"U": "open"}) == {
        "sasl.oauthbearer.config": "u=open p=sesame",
        "retries": 3,
        "on": True,
    }
    assert settings == before


def test_a_secret_that_looks_like_a_reference_is_not_read_again() -> None:
    assert resolve({"sasl.password": "${env:A}"}, {"A": "${env:B}", "B": "x"}) == {
        "sasl.password": "${env:B}"
    }


def test_relative_files_are_taken_from_the_folder() -> None:
    text = "a ${file:token} b ${file:/abs} c ${env:X}"
    assert anchor(text, Path("/etc/pelton")) == "a ${file:/etc/pelton/token} b ${file:/abs} c ${env:X}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("opensesame", "in plain sight"),
        ("Bearer ${env:TOKEN}", "one reference and nothing else"),
        ("${env:A}${env:B}", "one reference and nothing else"),
        ("${vault:opensesame}", "neither an environment variable nor a file"),
        ("${opensesame}", "neither an environment variable nor a file"),
        ("${env:}", "without the name of a variable"),
        ("${env:A B}", "without the name of a variable"),
        ("${file:}", "without a path"),
        ("${file:a\0b}", "without a path"),
        ("${env:TOKEN", "not closed"),
        ("", "must refer to a secret"),
        (None, "must refer to a secret"),
        (12345, "must refer to a secret"),
        (["opensesame"], "must refer to a secret"),
    ],
)
def test_what_is_no_reference(value: object, message: str) -> None:
    with pytest.raises(Flaw, match=message) as caught:
        parse(value)
    assert "opensesame" not in caught.value.message + caught.value.mend
    assert "12345" not in caught.value.message + caught.value.mend


def test_what_says_nothing(tmp_path: Path) -> None:
    empty, large, binary = tmp_path / "empty", tmp_path / "large", tmp_path / "binary"
    empty.write_text("\n", encoding="utf-8")
    large.write_bytes(b"x" * (SECRET_BYTES_MAX + 1))
    binary.write_bytes(b"\xff\xfe")
    for reference, message in [
        ("${env:NO_SUCH}", "which is not set"),
        ("${env:EMPTY}", "which is empty"),
        (f"${{file:{tmp_path / 'absent'}}}", "No such file"),
        (f"${{file:{tmp_path}}}", "Is a directory"),
        (f"${{file:{empty}}}", "which is empty"),
        (f"${{file:{large}}}", "larger than 64 KiB"),
        (f"${{file:{binary}}}", "not text"),
    ]:
        with pytest.raises(Flaw, match=message):
            check(reference, {"EMPTY": ""})
        with pytest.raises(ConfigError) as caught:
            read(parse(reference), {"EMPTY": ""})
        assert caught.value.problems[0].path == reference


def test_references_in_a_text() -> None:
    assert references("a ${env:A} ${file:b}") == (Secret("env", "A"), Secret("file", "b"))
    assert references("price: $5 {x}") == ()
    assert has_reference("x ${env:A")
    assert not has_reference("${event}")


def test_a_secret_shows_where_it_is_and_not_what_it_says() -> None:
    secret = parse("${env:TOKEN}")
    assert str(secret) == "${env:TOKEN}"
    assert "TOKEN" in repr(secret)
