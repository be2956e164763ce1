"""What every test may use: tools that a machine may lack, and lines for the end of the run.

Skips are loud: a test that needs a program the machine lacks (`@pytest.mark.needs_tool("go")`, or the fixture
`tool`) is skipped, and the run ends with how many tests each missing program cost. Nothing of one room
belongs here; a room's fixtures live in its own folder.

`make test-compiled` runs tests on what `scripts/compiled.py` has built. One that changes what a compiler has
fixed (a method, a `Final`) is marked `interpreted`, and skipped there as loudly.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import settings

from pelton.cli.version import is_compiled

# Here and nowhere else: a fixture that two conftest files import is two fixtures, and two brokers.
from tests.kafka_fixtures import create_topic, kafka, topic_name

__all__ = ["create_topic", "kafka", "topic_name"]

MISSING = "missing tool: "
COMPILED = "what it changes is compiled"
#: A note rides on its test's report: the only way out of a process that runs a share of the tests.
NOTE = "note"

# Two shared cores make single examples slow now and then; that is no finding. In CI Hypothesis chooses its
# own profile: no deadline either, and the same examples every time.
settings.register_profile("pelton", deadline=None, print_blob=True)
if "CI" not in os.environ:
    settings.load_profile("pelton")


# A shell that starts a run in the background has it ignore SIGINT, and so would every program that a test
# starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def find(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(MISSING + name)
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs_tool"):
        for name in mark.args:
            find(name)
    if is_compiled() and item.get_closest_marker("interpreted"):
        pytest.skip(COMPILED)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Gives the path of a program by its name, or skips the test, aloud."""
    return find


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line to the end of the run: for what is reported and not judged."""

    def add(line: str) -> None:
        request.node.user_properties.append((NOTE, line))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing: Counter[str] = Counter()
    fixed = 0
    for report in terminalreporter.stats.get("skipped", []):
        # A skip's report carries (file, line, reason); pytest puts "Skipped: " before the reason.
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, found, name = reason.partition(MISSING)
        if found:
            missing[name] += 1
        fixed += COMPILED in reason
    for name, count in sorted(missing.items()):
        plural = "test" if count == 1 else "tests"
        terminalreporter.write_line(f"skipped for a missing tool: {name}: {count} {plural}", yellow=True)
    if fixed:
        terminalreporter.write_line(f"skipped where Pelton is compiled: {fixed} tests", yellow=True)
    for ended in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(ended, []):
            for name, line in report.user_properties:
                if name == NOTE:
                    terminalreporter.write_line(str(line))
