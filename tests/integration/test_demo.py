"""`make demo` as a user runs it: a process in a terminal that may be interrupted or killed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from examples.demo.publisher import orders

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc"),
]

ROOT = Path(__file__).parents[2]
#: Ten times what a run takes on a computer with other things to do.
DEADLINE_S = 240.0
POLL_S = 0.05


def environment(folder: Path, **more: str) -> dict[str, str]:
    """All that is temporary comes into `folder`, by which the processes are known, too."""
    return {**os.environ, "TMPDIR": str(folder), "COLUMNS": "120", **more}


class Demo:
    """One run, its output in a file."""

    def __init__(self, folder: Path, *arguments: str, environ: Mapping[str, str]) -> None:
        self._output = folder / "output.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "examples/demo/run.py", *arguments],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def wait_for(self, pattern: str) -> None:
        def found() -> bool:
            assert self.process.poll() is None, self.output
            return re.search(pattern, self.output) is not None

        until(found, pattern)

    def count(self, name: str) -> int:
        """A number of the summary."""
        found = re.search(rf"^{name} +([\d,]+)", self.output, re.MULTILINE)
        assert found is not None, self.output
        return int(found[1].replace(",", ""))


@contextmanager
def running(folder: Path, *arguments: str, **environ: str) -> Iterator[Demo]:
    demo = Demo(folder, *arguments, environ=environment(folder, **environ))
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.wait()
        until(lambda: not processes_of(folder), "the processes to end")


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(POLL_S)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that were started in this folder's name."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                mine = f"TMPDIR={folder}".encode() in (process / "environ").read_bytes().split(b"\0")
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended meanwhile, or is another user's
            if mine and words != [b""]:
                found.append(b" ".join(words).decode())
    return found


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(("pelton-demo-", "pelton-kafka-"))]


def test_every_event_ends_as_it_should_and_what_is_kept_can_be_looked_at(tmp_path: Path) -> None:
    kinds = Counter(event.type for event in islice(orders(40), 2_000))
    with running(tmp_path, "--events", "2000", "--rate", "1000", "--keep") as demo:
        try:
            assert demo.wait() == 0, demo.output
            assert "Every event ended as it should, and in order." in demo.output
            assert demo.count("published") == 2_000
            assert demo.count("dead-lettered") == kinds["order.refunded"] > 0
            assert demo.count("delivered") == 2_000 - kinds["order.refunded"]
            assert demo.count("retried") == 2 * kinds["order.paid"] > 0
            assert demo.count("order violations") == 0
            assert demo.count("repeats") == 0
            assert re.search(r"published \d+, called \d+, retried \d+", demo.output)  # and live, before

            # Only Kafka is left, and the commands do what they say, as they are printed.
            assert all("kafka.Kafka" in line for line in processes_of(tmp_path)), processes_of(tmp_path)
            export, tail = (command(demo, word) for word in ("export ", " tail dlq."))
            letters = shell(f"{export} && {tail}")
            assert letters.count("pelton-reason: ") == kinds["order.refunded"]
        finally:
            shell(command(demo, " kafka reset "))
    assert left_over(tmp_path) == []


def command(demo: Demo, words: str) -> str:
    """A line that is there to be pasted."""
    (line,) = (line for line in demo.output.splitlines() if line.startswith("  ") and words in line)
    return line


def shell(line: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"{shlex.quote(line)}\n{done.stderr}"
    return done.stdout


def test_an_interrupt_summarises(tmp_path: Path) -> None:
    """What was published until then is settled; the code says that not all was that was asked for."""
    with running(tmp_path, "--events", "20000") as demo:
        demo.wait_for(r"dead-lettered [1-9]")
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait() == 130, demo.output
        assert "Every event ended as it should, and in order." in demo.output
        assert demo.count("published") == demo.count("delivered") + demo.count("dead-lettered") > 0
        assert processes_of(tmp_path) == []
    assert left_over(tmp_path) == []


def test_without_order_in_pelton_it_fails(tmp_path: Path) -> None:
    order = {"PELTON_SUBSCRIPTIONS__FULFILMENT__ORDERING": "none"}
    with running(tmp_path, "--events", "600", "--rate", "1000", **order) as demo:
        assert demo.wait() == 1, demo.output
        assert demo.count("order violations") > 0
        assert "out of order: customer-" in demo.output
        assert "Every event ended as it should" not in demo.output


def test_nothing_outlives_a_kill(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        demo.wait_for(r"delivered [1-9]")
        running_now = " ".join(processes_of(tmp_path))
        for program in ("kafka.Kafka", "examples.demo.service", "examples.demo.publisher", "pelton serve"):
            assert program in running_now
        demo.process.kill()
        demo.wait()
        until(lambda: not processes_of(tmp_path) and not left_over(tmp_path), "everything to be gone")


def test_what_does_not_start_is_shown_with_its_log(tmp_path: Path) -> None:
    variable = "PELTON_SUBSCRIPTIONS__FULFILMENT__CONCURRENCY"
    with running(tmp_path, "--events", "10", **{variable: "none"}) as demo:
        assert demo.wait() == 1, demo.output
        assert "pelton ended when it should have started, with exit code 2" in demo.output
        assert variable in demo.output
        assert "Traceback" not in demo.output
    (kept,) = left_over(tmp_path)
    assert f"logs and journals are in {tmp_path / kept}" in demo.output
