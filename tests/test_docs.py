"""The documentation is true: its commands run, its samples load and type-check, its maps match the tree.

Every command line in it stands in one of the tables below: run here, or named with what runs it. One that
is in neither is a failure, and so is an entry that the documentation no longer has. The reference of options
has a file of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pelton.config.load import load
from pelton.config.schema import json_schema
from pelton.config.settings import Config
from pelton.core.breaker import Health
from pelton.core.delivery import State
from pelton.local.broker import LocalKafka
from pelton.local.ports import free_ports
from pelton.subscription import Disposition
from scripts.draw_states import draw
from tests.docs_service import serving
from tests.docs_text import DOCS, README, ROOT, Block, blocks, ids, of_language, sample

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
LANGUAGES = {"sh", "yaml", "python", "mermaid", "text"}

#: A command that takes longer than this hangs; ten times what one takes on a busy computer.
PATIENCE_S = 120.0
#: What `--check` says of a sound config, by what is installed.
OK = ("notify-shop: ok (calls by native)\n", "notify-shop: ok (calls by aio)\n")
NO_VARIABLES: Mapping[str, str] = {}


def test_every_block_says_what_it_is() -> None:
    assert not [ids(block) for block in blocks() if block.language not in LANGUAGES]


# --- commands -----------------------------------------------------------------------------------------

#: Run below, word for word but for addresses.
RUN_HERE = {
    "pelton kafka start",
    "pelton kafka stop",
    "pelton kafka topic orders --partitions 8",
    "python shop.py",
    "pelton serve",
    "pelton serve --check",
    'pelton publish orders \'{"id": 1, "total": 9.5}\' --key ann',
    'pelton publish orders \'{"id": 2, "total": -1}\' --key bob',
    "pelton tail orders --from beginning --no-follow",
    "pelton tail dlq.take-orders --from beginning --max 1",
    "pelton serve --config pelton.yaml --check",
    'python -c "import json; from pelton.config.schema import json_schema; print(json.dumps(json_schema()))"',
    "PELTON_SUBSCRIPTIONS__NOTIFY_SHOP__CONCURRENCY=64 pelton serve --config pelton.yaml --check",
}
#: Run by another test, which is named.
RUN_ELSEWHERE = {
    ".venv/bin/pelton kafka start": "tests/cli/test_kafka.py",
    "cd examples/go && go run ./writer": "tests/integration/test_go_example.py",
    "cd examples/go && go run ./server": "tests/integration/test_go_example.py",
    ".venv/bin/pelton serve -c examples/go/pelton.yaml": "tests/integration/test_go_example.py",
}
#: CI is itself made of these: `.ci/run`, and `make demo` by the test of the demo.
MAKE = re.compile(r"make ([a-z-]+)(?: 'ARGS=[^']*'| ARGS=\S+)?")


def commands() -> list[tuple[Block, str]]:
    """Every line of every shell block, without its comment."""
    return [
        (block, command)
        for block in of_language("sh")
        for line in block.text.splitlines()
        if (command := re.sub(r"\s+# .*$", "", line).strip())
    ]


def test_every_command_is_run_somewhere() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    unknown = []
    for block, command in commands():
        target = MAKE.fullmatch(command)
        listed = command in RUN_HERE or command in RUN_ELSEWHERE
        known = target[1] in targets if target else listed
        if not known:
            unknown.append(f"{ids(block)}: {command}")
    assert not unknown
    assert {command for _, command in commands()} >= RUN_HERE | RUN_ELSEWHERE.keys()
    assert all((ROOT / test).is_file() for test in RUN_ELSEWHERE.values())


def test_the_two_commands_stand_at_the_top() -> None:
    first = next(block for block in of_language("sh") if block.file == README)
    assert [command for block, command in commands() if block == first] == ["make demo", "make test"]
    assert first.line < 10


class Tour:
    """The README's tour: its files in a folder of their own, its addresses this test's."""

    def __init__(self, folder: Path, kafka: LocalKafka) -> None:
        self.folder = folder
        self.target, http, grpc = free_ports(3)
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PELTON_")},
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *(entry for entry in sys.path if entry)]),
            "PELTON_SERVER__HTTP": f"127.0.0.1:{http}",
            "PELTON_SERVER__GRPC": f"127.0.0.1:{grpc}",
            "COLUMNS": "100",
        }
        self._kafka = kafka
        self._staying: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        # `pelton kafka` finds the session's broker as it would find one that was started here.
        self.home = folder / ".pelton" / "kafka"
        self.home.parent.mkdir()
        self.home.symlink_to(kafka.directory)

    def here(self, text: str) -> str:
        port = self._kafka.bootstrap.rpartition(":")[2]
        text = text.replace("127.0.0.1:9092", self._kafka.bootstrap).replace("50051", str(self.target))
        return re.sub(r"^pelton kafka start$", f"pelton kafka start --port {port}", text)

    def write(self, name: str) -> None:
        (self.folder / name).write_text(self.here(sample(name)))

    def run(self, command: str, variables: Mapping[str, str] = NO_VARIABLES, *, code: int = 0) -> str:
        """Run it to its end; what it said."""
        done = subprocess.run(
            self._arguments(command),
            cwd=self.folder,
            env={**self._environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}{self.told()}"
        return done.stdout or done.stderr

    def stay(self, command: str, until: str) -> None:
        """Start it, and return when it has said `until`."""
        log = self.folder / f"{len(self._staying)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._arguments(command), cwd=self.folder, env=self._environ, stdout=out, stderr=out
            )
        self._staying.append((command, process, log))
        self.wait_for(until)

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.told()):
            assert all(process.poll() is None for _, process, _ in self._staying), self.told()
            assert time.monotonic() < deadline, f"waited for {pattern}\n{self.told()}"
            time.sleep(0.02)

    def told(self) -> str:
        return "".join(f"--- {command}\n{log.read_text()}" for command, _, log in self._staying)

    def interrupt(self) -> list[int]:
        """Ctrl-C, the last one started first; the exit codes."""
        for _, process, _ in reversed(self._staying):
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)
        return [process.returncode for _, process, _ in self._staying]

    def end(self) -> None:
        for _, process, _ in self._staying:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)

    def _arguments(self, command: str) -> list[str]:
        program, *arguments = shlex.split(self.here(command))
        start = {"pelton": [sys.executable, "-m", "pelton"], "python": [sys.executable]}[program]
        return [*start, *arguments]


@pytest.fixture
def tour(tmp_path: Path, kafka: LocalKafka) -> Iterator[Tour]:
    tour = Tour(tmp_path, kafka)
    yield tour
    tour.end()


@pytest.mark.timeout(300)
def test_the_tour_is_as_the_readme_says(tour: Tour) -> None:
    """In its order, with its files, word for word but for addresses."""
    before, terminals, then = [
        [command for block, command in commands() if block == one]
        for one in of_language("sh")
        if one.file == README and "make" not in one.text
    ]
    tour.write("shop.py")
    tour.write("pelton.yaml")

    start, create = before
    assert "already serves" in tour.run(start)
    assert "8 partitions" in tour.run(create)

    shop, serve = terminals
    tour.stay(shop, "")
    tour.stay(serve, r"assigned")

    check, first, second, tail, dead, stop = then
    assert "take-orders: ok" in tour.run(check)
    assert tour.run(first).startswith("orders/")
    assert tour.run(second).startswith("orders/")
    assert '"total": 9.5' in tour.run(tail)
    tour.wait_for(r"order 1 paid, attempt \d+ of take-orders/orders/\d/0")
    assert "a negative total" in tour.run(dead)
    assert tour.interrupt() == [0, 0]
    assert "order 2" not in tour.told()
    # The session's broker is for others, too.
    tour.home.unlink()
    assert "no Kafka runs" in tour.run(stop)


@pytest.mark.timeout(300)
def test_the_existing_service_is_called_as_the_readme_says(tour: Tour, kafka: LocalKafka) -> None:
    """`serve --check` of the first sample, with the service's types from its own reflection."""
    tour.write("existing.yaml")
    (tour.folder / "pelton.yaml").write_text(tour.here(sample("existing.yaml")))
    tour.run(
        "python -c 'from pelton.kafka.topics import ensure_topic;"
        f' ensure_topic({{"bootstrap.servers": "{kafka.bootstrap}"}}, "events", 2)\''
    )
    with serving(tour.target):
        assert tour.run("pelton serve --config existing.yaml --check") in OK
        assert tour.run("pelton serve --config pelton.yaml --check") in OK
        [overridden] = [command for _, command in commands() if command.startswith("PELTON_")]
        override, command = overridden.split(" ", maxsplit=1)
        variable, value = override.split("=")
        assert tour.run(command, {variable: value}) in OK
        # The variable is read, and a mistake in it is told.
        assert variable in tour.run(command, {variable: "many"}, code=2)


# --- samples ------------------------------------------------------------------------------------------


def stubbed(text: str, folder: Path) -> Config:
    """The config as it loads where its files and variables are there."""
    for path in re.findall(r"\$\{file:([^}]+)\}|\b((?:certs|protos)/[\w.]+)", text):
        file = folder / next(filter(None, path)).lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("stub")
    text = text.replace("${file:/", "${file:")
    (folder / "pelton.yaml").write_text(text)
    environ = dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", text), "stub")
    return load(folder / "pelton.yaml", environ)


@pytest.mark.parametrize("block", of_language("yaml"), ids=ids)
def test_every_yaml_sample_loads(block: Block, tmp_path: Path) -> None:
    """A part of a file is completed with what it leaves out."""
    text = block.text
    if not re.search(r"^kafka:", text, re.MULTILINE):
        text += 'kafka: { bootstrap.servers: "localhost:9092" }\n'
    if not re.search(r"^targets:", text, re.MULTILINE):
        text += 'targets: { shop: { address: "localhost:50051" } }\n'
    if not re.search(r"^subscriptions:", text, re.MULTILINE):
        text += "subscriptions: { any: { topics: [any], target: shop, delivery: handler } }\n"
    assert stubbed(text, tmp_path).subscriptions


@pytest.mark.parametrize("block", of_language("python"), ids=ids)
def test_every_python_sample_type_checks(block: Block, tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(block.text)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"),
            str(tmp_path / "sample.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["existing.yaml", "shop.py", "pelton.yaml"])
def test_the_samples_are_short(name: str) -> None:
    lines = [line for line in sample(name).splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_extras_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"`pelton\[(\w+)\]`", README.read_text()))
    assert named == set(project["optional-dependencies"])


# --- links and maps -----------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("file", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_is_there(file: Path) -> None:
    """`core/engine.py`, `tests/core`, `docs/…` in running text, from the root, the package or the file."""
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*\.(?:py|md|proto|yaml|txt)|tests/[\w/]+)`", text)
    bases = (ROOT, ROOT / "src" / "pelton", file.parent)
    assert not [path for path in paths if not any((base / path).exists() for base in bases)]


def test_the_file_map_is_the_tree() -> None:
    """Every file that git tracks is in it; a file that is about to be may be."""
    package = ROOT / "src" / "pelton"
    git = ["git", "ls-files", "src/pelton/*.py"]
    tracked = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    there = {
        str((ROOT / name).relative_to(package))
        for name in tracked
        if (ROOT / name).exists() and not name.startswith("src/pelton/v1/")
    }
    rooms = {name for name in there if name.endswith("/__init__.py")}
    listed = re.findall(r"^\| `([\w/]+\.py)` \| .+ \|$", ARCHITECTURE.read_text(), re.MULTILINE)
    assert not there - rooms - set(listed)
    assert not [name for name in listed if not (package / name).is_file()]
    assert len(listed) == len(set(listed))


def test_the_diagram_is_the_table() -> None:
    diagrams = [block.text for block in of_language("mermaid") if block.file == ARCHITECTURE]
    assert [text for text in diagrams if "stateDiagram" in text] == [draw() + "\n"]


def test_the_glossary_has_the_states_and_dispositions() -> None:
    text = (ROOT / "GLOSSARY.md").read_text()
    stems = {re.sub(r"p?ed$", "", word.value).replace("_", ".") for word in (*State, *Disposition, *Health)}
    assert not [stem for stem in stems if not re.search(rf"^\| {stem}", text, re.MULTILINE)]


def test_decisions_are_numbered_and_short() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = file.read_text()
        assert text.startswith(f"# {file.name[:4]}: ")
        assert [f"## {part}" in text for part in ("Context", "Decision", "Consequences")] == [True] * 3
        assert len(text.splitlines()) <= 40


def test_the_schema_is_published_as_the_reference_says() -> None:
    [command] = [command for _, command in commands() if "json_schema" in command]
    _, *arguments = shlex.split(command)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json_schema()
