"""The test run's own promises: a missing tool is loud, a note is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__: list[str] = []

SAMPLE = """
import pytest

@pytest.mark.needs_tool("no-such-program")
def test_marked(): raise AssertionError("ran without its tool")

def test_asked(tool): tool("no-such-program"); raise AssertionError("ran without its tool")

@pytest.mark.needs_tool("sh")
def test_runs(note): note("a line for the end")
"""


def test_missing_tools_are_counted_aloud_and_notes_printed(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = needs_tool(name)\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", str(tmp_path)]
    environ = {**os.environ, "CI": "true", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped for a missing tool: no-such-program: 2 tests" in done.stdout
    assert "a line for the end" in done.stdout
    assert "1 passed, 2 skipped" in done.stdout
