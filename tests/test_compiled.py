"""What `scripts/compiled.py` compiles, and that it is what runs where it is asked for."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from scripts import compiled


def test_every_pattern_finds_modules() -> None:
    for pattern in compiled.MODULES:
        assert list(compiled.SOURCES.glob(pattern)), f"{pattern} finds nothing"


def test_what_the_path_asks_for_is_what_runs() -> None:
    asked = str(compiled.OUT) in os.environ.get("PYTHONPATH", "")
    for path in compiled.modules():
        name = ".".join(Path(path).relative_to("src").with_suffix("").parts)
        file = str(importlib.import_module(name).__file__)
        assert file.endswith(".so") == asked, file


def test_without_a_compiler_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(SystemExit) as ended:
        compiled.main()
    assert ended.value.code == compiled.EXIT_MISSING
    told = capsys.readouterr()
    assert told.err == "NOT COMPILED: there is no C compiler (no-such-compiler)\n"
    assert told.out == ""


def test_a_wheel_is_python_alone_unless_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(compiled.ASKED, raising=False)
    hook = compiled.CompiledHook(str(tmp_path), {}, None, None, str(tmp_path), "wheel")  # type: ignore[arg-type]
    data: dict[str, object] = {}
    hook.initialize("standard", data)
    assert data == {}
