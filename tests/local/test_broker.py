"""What the local Kafka refuses, the files it writes, how it finds a broker again: none is started here."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelton.cli import kafka as command
from pelton.errors import LocalKafkaError
from pelton.local import broker, probe
from pelton.local.broker import LocalKafka
from pelton.local.lock import held
from pelton.local.ports import check_free, free_ports
from pelton.local.process import java_environment
from pelton.local.properties import HOST, logging_properties, render, server_properties
from pelton.local.state import State, process_mark

OURS = State(
    pid=os.getpid(),
    mark=str(process_mark(os.getpid())),
    port=9092,
    version="4.2.2",
    started_at=1_700_000_000.5,
    supervised=True,
)


# --- the note -----------------------------------------------------------------------------------------


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    OURS.write(tmp_path / "state.json")
    assert State.read(tmp_path / "state.json") == OURS
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": "x"}', "\udcff"])
def test_a_note_of_another_form_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert State.read(tmp_path / "state.json") is None
    assert State.read(tmp_path / "absent") is None


def test_a_number_used_again_is_not_our_broker(tmp_path: Path) -> None:
    assert OURS.alive()
    stale = dataclasses.replace(OURS, mark=OURS.mark + "1")
    assert not stale.alive()
    kafka = LocalKafka(tmp_path)
    stale.write(tmp_path / "state.json")
    assert not kafka.status().running
    # It would end this very test, were it taken for the broker.
    kafka.stop()
    kafka.kill()
    assert not (tmp_path / "state.json").exists()


def test_a_process_that_ended_has_no_mark() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process_mark(process.pid) is not None
        assert process.stdin is not None
        process.stdin.close()
        deadline = time.monotonic() + 30
        # Not yet asked for its end, so still in the table of processes.
        while process_mark(process.pid) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert process_mark(process.pid) is None
    assert process_mark(0) is None


# --- settings -----------------------------------------------------------------------------------------


def settings(**extra: str) -> dict[str, str]:
    named = {name.replace("_", "."): value for name, value in extra.items()}
    return server_properties(port=1234, controller_port=5678, data=Path("/d"), extra=named)


def test_the_broker_listens_on_loopback_only() -> None:
    listeners = settings()["listeners"].split(",")
    assert listeners == [f"PLAINTEXT://{HOST}:1234", f"CONTROLLER://{HOST}:5678"]
    assert settings()["advertised.listeners"].split(",") == listeners
    assert HOST == "127.0.0.1"


def test_properties_are_added_and_override() -> None:
    assert settings(message_max_bytes="1")["message.max.bytes"] == "1"
    assert settings(auto_create_topics_enable="true")["auto.create.topics.enable"] == "true"


@pytest.mark.parametrize("name", ["listeners", "log.dirs", "node.id", "process.roles"])
def test_what_start_and_stop_depend_on_cannot_be_set(name: str) -> None:
    with pytest.raises(LocalKafkaError, match=f"`{name}` is set by Pelton"):
        server_properties(port=1, controller_port=2, data=Path("/d"), extra={name: "x"})


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("a", "plain", "a=plain\n"),
        ("a", "C:\\x", "a=C:\\\\x\n"),
        ("a", "two\nlines", "a=two\\nlines\n"),
        ("a", " led by a blank", "a=\\ led by a blank\n"),
        ("a", "ü", "a=\\u00fc\n"),
        ("a", "🌊", "a=\\ud83c\\udf0a\n"),
        ("a=b", "c=d", "a\\=b=c=d\n"),
    ],
)
def test_values_keep_their_meaning_in_a_properties_file(name: str, value: str, line: str) -> None:
    assert render({name: value}) == line


def test_the_log_is_bounded() -> None:
    logging = logging_properties(Path("/l/kafka.log"))
    assert (
        int(logging["appender.file.policies.size.size"]) * (1 + int(logging["appender.file.strategy.max"]))
        <= 64 * 1024 * 1024
    )


def test_other_java_settings_do_not_reach_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1m")
    monkeypatch.setenv("LC_ALL", "C")
    assert "JAVA_TOOL_OPTIONS" not in java_environment()
    assert java_environment()["LC_ALL"] == "C.UTF-8"
    assert java_environment()["PATH"] == os.environ["PATH"]


# --- refusals -----------------------------------------------------------------------------------------


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "fetch_jars", list)


@pytest.mark.usefixtures("no_download")
def test_a_taken_port_is_named_with_who_can_be_asked(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        kafka = LocalKafka(tmp_path / "kafka", port=port)
        with pytest.raises(LocalKafkaError, match=rf"port {port} on {HOST} is taken .*lsof -i :{port}"):
            kafka.start()
    assert not kafka.status().running
    check_free(port)


@pytest.mark.usefixtures("no_download")
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalKafkaError, match=r"cannot write to .*file/kafka.*choose another"):
        LocalKafka(tmp_path / "file" / "kafka").start()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"port": 65536}, "65536 is no port"),
        ({"port": -1}, "-1 is no port"),
        ({"heap_mb": 100}, "256 MB or more, not 100"),
    ],
)
def test_values_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, int], says: str) -> None:
    with pytest.raises(LocalKafkaError, match=says):
        LocalKafka(tmp_path, port=options.get("port", 0), heap_mb=options.get("heap_mb", 512))


@pytest.mark.parametrize("name", ["a,b", "a%b", "a$b"])
def test_a_path_that_kafka_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LocalKafkaError, match="cannot live in"):
        LocalKafka(tmp_path / name)


def test_the_two_free_ports_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        check_free(port)


def test_what_never_started_can_be_stopped_and_asked(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path / "never")
    kafka.stop()
    kafka.kill()
    kafka.reset()
    assert not kafka.status().running
    assert not kafka.directory.exists(), "asking leaves no trace"


def test_a_lock_is_waited_for_and_its_holder_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        held(path, wait_s=0, doing="testing"),
        pytest.raises(LocalKafkaError, match=r"another process has been testing .*fuser"),
        held(path, wait_s=0.01, doing="testing"),
    ):
        pytest.fail("held twice")
    with held(path, wait_s=0, doing="testing"):
        pass


# --- the probe ----------------------------------------------------------------------------------------


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port on which something takes one request and answers with the given bytes."""
    with socket.create_server((HOST, 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(request.param)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def reply(error: int, correlation: int = 1) -> bytes:
    body = correlation.to_bytes(4, "big") + bytes(4) + error.to_bytes(2, "big") + bytes(10)
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("answering", "serves"),
    [
        (reply(0), True),
        (reply(15), False),
        (reply(0, correlation=2), False),
        (b"", False),
        (b"\0\0", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"\0\0\0\2ab", False),
    ],
    indirect=["answering"],
    ids=["serves", "no coordinator yet", "another's answer", "closed", "cut short", "no Kafka", "too short"],
)
def test_only_a_whole_answer_without_error_counts(answering: int, serves: bool) -> None:
    assert probe.serves(HOST, answering, timeout_s=10) is serves


def test_a_closed_port_does_not_serve() -> None:
    (port,) = free_ports(1)
    assert not probe.serves(HOST, port, timeout_s=10)


# --- the command line ---------------------------------------------------------------------------------


def test_the_command_line_has_the_same_heap() -> None:
    assert command.HEAP_MB == broker.HEAP_MB


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")]
)
def test_an_age_is_told_in_two_units(seconds: float, text: str) -> None:
    assert command.age(seconds) == text
