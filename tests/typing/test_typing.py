"""The public types, as two type checkers see them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MARK = re.compile(r"  # type: ignore\[([a-z, -]+)\]$", re.MULTILINE)
FOUND = re.compile(r"^[^:]+:(\d+): error: .*\[([a-z-]+)\]$", re.MULTILINE)

Found = set[tuple[int, str]]


def marked(text: str) -> Found:
    return {
        (number, code)
        for number, line in enumerate(text.splitlines(), start=1)
        if (mark := MARK.search(line))
        for code in mark.group(1).split(", ")
    }


def mypy(file: Path) -> Found:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {(int(number), code) for number, code in FOUND.findall(done.stdout)}


def pyright(file: Path) -> set[int]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        told = json.loads(done.stdout)
    except (OSError, ValueError):
        pytest.skip("missing tool: pyright")
    assert told["summary"]["filesAnalyzed"] == 1
    found = told["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


def test_what_the_readme_shows_type_checks() -> None:
    file = HERE / "handlers.py"
    assert mypy(file) == set()
    assert pyright(file) == set()


def test_mistakes_are_found_where_they_are(tmp_path: Path) -> None:
    text = (HERE / "mistakes.py").read_text()
    wanted = marked(text)
    assert len(wanted) >= 11
    file = tmp_path / "unmarked.py"
    file.write_text(MARK.sub("", text))
    assert mypy(file) == wanted
    assert pyright(file) == {line for line, _ in wanted}
