"""Only pinned files are handed out, a download is whole or not there, every refusal says what to do."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pelton.errors import LocalKafkaError
from pelton.local import download
from pelton.local.download import KAFKA_VERSION, Pin, cache_directory, extra, fetch_jars, read_pins

CONTENTS = {
    "org/pelton/a/1/a-1.jar": os.urandom(300_000),
    "org/pelton/b/1/b-1.jar": os.urandom(10),
}
PINS = tuple(
    Pin(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in CONTENTS.items()
)
JAR_A, JAR_B = (pin.name for pin in PINS)

Answer = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


def whole(handler: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


class Repository:
    """A repository on this computer; `answers` scripts what the next requests for a file get."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.answers: dict[str, list[Answer]] = {}
        repository = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.removeprefix("/maven/")
                repository.requests[path] += 1
                scripted = repository.answers.get(path)
                answer = scripted.pop(0) if scripted else whole
                answer(self, CONTENTS[path])

            def log_message(self, format: str, *args: object) -> None:
                """Tests print nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/maven/"


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    monkeypatch.setattr(download, "RETRY_WAIT_S", 0.001)
    repository = Repository()
    thread = threading.Thread(target=repository.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield repository
    repository.server.shutdown()
    repository.server.server_close()
    thread.join()


def left_over(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"}


def test_the_first_time_downloads_and_the_second_does_not(repository: Repository, tmp_path: Path) -> None:
    jars = fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert [jar.read_bytes() for jar in jars] == list(CONTENTS.values())
    assert left_over(tmp_path) == {JAR_A, JAR_B}
    assert fetch_jars(tmp_path, pins=PINS, repository="http://127.0.0.1:1/never-asked") == jars
    assert set(repository.requests.values()) == {1}


def test_only_what_is_missing_is_downloaded(repository: Repository, tmp_path: Path) -> None:
    jars = fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    jars[0].unlink()
    fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert repository.requests == {PINS[0].path: 2, PINS[1].path: 1}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "sha256"),
        (lambda content: content + b"x", "more than 300000 bytes"),
    ],
    ids=["other content", "longer"],
)
def test_what_is_not_pinned_is_refused_and_not_kept(
    repository: Repository, tmp_path: Path, wrong: Callable[[bytes], bytes], says: str
) -> None:
    repository.answers[PINS[0].path] = [lambda handler, content: whole(handler, wrong(content))]
    with pytest.raises(LocalKafkaError, match=rf"(?s){JAR_A}.*{says}.*proxy or mirror"):
        fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert JAR_A not in left_over(tmp_path)
    assert not list(tmp_path.glob("*.part"))
    assert repository.requests[PINS[0].path] == 1, "a wrong file does not get right by asking again"


def test_a_file_changed_after_the_download_is_refused_and_left_alone(
    repository: Repository, tmp_path: Path
) -> None:
    jars = fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    changed = bytes(len(CONTENTS[PINS[0].path]))
    jars[0].write_bytes(changed)
    with pytest.raises(LocalKafkaError, match=rf"(?s){JAR_A} is not the file that was pinned.*Remove it"):
        fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert jars[0].read_bytes() == changed


def cut_short(handler: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])


def short_but_polite(handler: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    whole(handler, content[:-1])


def fails(status: int) -> Answer:
    return lambda handler, _content: handler.send_error(status)


@pytest.mark.parametrize("trouble", [cut_short, short_but_polite, fails(503), fails(429)])
def test_trouble_that_passes_is_tried_again(repository: Repository, tmp_path: Path, trouble: Answer) -> None:
    repository.answers[PINS[0].path] = [trouble] * (download.ATTEMPTS_MAX - 1)
    jars = fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert jars[0].read_bytes() == CONTENTS[PINS[0].path]
    assert repository.requests[PINS[0].path] == download.ATTEMPTS_MAX


@pytest.mark.parametrize(("trouble", "tries"), [(fails(503), download.ATTEMPTS_MAX), (fails(404), 1)])
def test_trouble_that_stays_ends(repository: Repository, tmp_path: Path, trouble: Answer, tries: int) -> None:
    repository.answers[PINS[0].path] = [trouble] * 9
    with pytest.raises(LocalKafkaError, match=rf"(?s)cannot download .*{JAR_A}.*network"):
        fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert repository.requests[PINS[0].path] == tries
    assert not list(tmp_path.glob("*.part"))


def test_no_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RETRY_WAIT_S", 0.001)
    with pytest.raises(LocalKafkaError, match=r"(?s)cannot download .*The first start needs the network"):
        fetch_jars(tmp_path, pins=PINS, repository="http://127.0.0.1:1/maven")


def test_a_killed_download_leaves_nothing_that_counts(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / f"{JAR_A}.part").write_bytes(b"half")
    jars = fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert jars[0].read_bytes() == CONTENTS[PINS[0].path]
    assert not list(tmp_path.glob("*.part"))


def test_two_processes_at_once_download_once(repository: Repository, tmp_path: Path) -> None:
    both_wait = threading.Event()

    def slow(handler: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
        assert both_wait.wait(30)
        whole(handler, content)

    repository.answers[PINS[0].path] = [slow]
    program = f"""
import sys
from pathlib import Path
from pelton.local.download import Pin, fetch_jars
pins = {[(pin.path, pin.size_bytes, pin.sha256) for pin in PINS]}
print("begins", flush=True)
fetch_jars(Path({str(tmp_path)!r}), pins=[Pin(*pin) for pin in pins], repository={repository.url!r})
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
    both_wait.set()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert set(repository.requests.values()) == {1}


def test_a_full_disk_is_told_before(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    says = r"no space .*34 MB are needed, 1 MB are free.*PELTON_CACHE_DIR"
    with pytest.raises(LocalKafkaError, match=says):
        fetch_jars(tmp_path, pins=PINS, repository=repository.url)
    assert not repository.requests


def test_a_disk_that_fills_up_is_told(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(LocalKafkaError, match=r"no space .*filled up"):
        fetch_jars(tmp_path, pins=PINS, repository=repository.url)


def test_a_place_that_is_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", Path("/proc/nowhere"), tmp_path / ("x" * 300)):
        with pytest.raises(LocalKafkaError, match=r"cannot write to .*PELTON_CACHE_DIR"):
            fetch_jars(place, pins=PINS)


def test_a_missing_extra_names_the_command() -> None:
    with pytest.raises(LocalKafkaError, match=r"pip install 'pelton\[local\]'"):
        extra("no_such_module_of_pelton")


def test_the_committed_pins_are_whole() -> None:
    pins = read_pins()
    names = {pin.name for pin in pins}
    assert len(names) == len(pins) > 40
    assert f"kafka_2.13-{KAFKA_VERSION}.jar" in names
    assert any(name.startswith("log4j-slf4j-impl") for name in names), "Kafka would log nothing"
    for pin in pins:
        assert pin.size_bytes > 0
        assert len(bytes.fromhex(pin.sha256)) == 32
        assert not {"", "..", "."}.intersection(pin.path.split("/"))


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PELTON_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "pelton"
    monkeypatch.setenv("PELTON_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    monkeypatch.delenv("PELTON_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "pelton"
