"""`pelton publish` and `pelton tail` against a real Kafka, in processes of their own."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pelton.cli.kafka import DIRECTORY
from pelton.local.broker import LocalKafka
from tests.cli.conftest import PATIENCE_S, Pelton, environment
from tests.kafka_fixtures import CreateTopic


def read(
    pelton: Pelton, kafka: LocalKafka, topic: str, *more: str, start: str = "beginning"
) -> list[dict[str, Any]]:
    ended = pelton(
        *("tail", topic, "--from", start, "--no-follow", "--output", "json"),
        *more,
        PELTON_BOOTSTRAP=kafka.bootstrap,
    )
    assert (ended.code, ended.err) == (0, "")
    return [json.loads(line) for line in ended.out.splitlines()]


def test_what_is_published_is_what_is_tailed(
    pelton: Pelton, kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()

    def publish(*arguments: str, stdin: bytes = b"") -> str:
        ended = pelton("publish", topic, *arguments, "--bootstrap", kafka.bootstrap, stdin=stdin)
        assert (ended.code, ended.err) == (0, "")
        return ended.out

    assert publish("hello", "--key", "k", "-H", "a=1", "-H", "a=2=3", "-H", "empty=") == f"{topic}/0/0\n"
    assert publish('{"id": 1}', "--json", "--type", "order.created", "--id", "e1") == f"{topic}/0/1\n"
    assert publish(stdin=b"\xff\x00") == f"{topic}/0/2\n"
    assert publish("--tombstone", "--key", "k") == f"{topic}/0/3\n"
    assert publish("", "--count", "2") == f"{topic}/0/4\n{topic}/0/5\n"
    assert publish("-5") == f"{topic}/0/6\n"
    events = read(pelton, kafka, topic)
    assert [event["offset"] for event in events] == list(range(7))
    assert [event["value"] for event in events] == [
        "hello",
        '{"id": 1}',
        {"base64": "/wA="},
        None,
        "",
        "",
        "-5",
    ]
    assert [event["key"] for event in events] == ["k", None, None, "k", None, None, None]
    assert events[0]["headers"] == [["a", "1"], ["a", "2=3"], ["empty", ""]]
    headers = dict(events[1]["headers"])
    assert headers["ce_type"] == "order.created"
    assert headers["ce_id"] == "e1"
    assert headers["content-type"] == "application/json"
    assert [event["offset"] for event in read(pelton, kafka, topic, "--max", "2")] == [0, 1]
    assert [event["offset"] for event in read(pelton, kafka, topic, start="-2")] == [5, 6]
    assert [event["offset"] for event in read(pelton, kafka, topic, start="5")] == [5, 6]


def test_a_file_is_published_byte_for_byte(
    pelton: Pelton, kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path
) -> None:
    topic, body = create_topic(), bytes(range(256))
    (tmp_path / "body").write_bytes(body)
    assert pelton("publish", topic, "@body", PELTON_BOOTSTRAP=kafka.bootstrap).code == 0
    [event] = read(pelton, kafka, topic)
    assert base64.b64decode(event["value"]["base64"]) == body


def test_text_is_for_people_and_safe_for_their_terminal(
    pelton: Pelton, kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    pelton(
        *("publish", topic, "two\nlines\x1b[31m", "--key", "k\x07", "-H", "h=\x1b]0;title\x07"),
        PELTON_BOOTSTRAP=kafka.bootstrap,
    )
    ended = pelton("tail", topic, "--from", "0", "--max", "1", PELTON_BOOTSTRAP=kafka.bootstrap)
    assert ended.code == 0
    head, *lines = ended.out.splitlines()
    assert head.startswith(f"{topic}/0/0  20")
    assert head.endswith("Z  key k\\x07")
    assert lines == ["    h: \\x1b]0;title\\x07", "  two", "  lines\\x1b[31m"]


@pytest.mark.parametrize("command", [("tail",), ("publish", "--count", "3")], ids=lambda words: words[0])
def test_an_unknown_topic_is_an_error(
    command: tuple[str, ...], pelton: Pelton, kafka: LocalKafka, topic_name: str
) -> None:
    ended = pelton(command[0], topic_name, *command[1:], PELTON_BOOTSTRAP=kafka.bootstrap)
    assert (ended.code, ended.out) == (1, "")
    assert f"the topic {topic_name} is not there at {kafka.bootstrap}" in ended.err


def test_kafka_as_a_config_file_and_the_command_line_say(
    pelton: Pelton, kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path
) -> None:
    """The section `kafka` alone is read: what is wrong elsewhere in the file is not this command's."""
    topic = create_topic()
    config = tmp_path / "pelton.yaml"
    (tmp_path / "where").write_text(f"{kafka.bootstrap}\n")
    config.write_text("kafka: {bootstrap.servers: '${file:where}', client.id: mine}\ntargets: {shop: {}}\n")
    assert pelton("publish", topic, "x", "-c", "pelton.yaml").out == f"{topic}/0/0\n"
    # The file's place does not matter, the command line wins, and an environment variable stands between.
    wrong = {"PELTON_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    for more, variables in (
        (["--set", "bootstrap.servers=${env:WHERE}"], {**wrong, "WHERE": kafka.bootstrap}),
        (["--bootstrap", kafka.bootstrap], wrong),
    ):
        ended = pelton(
            *("tail", topic, "--from", "0", "--no-follow", "--config", str(config)), *more, **variables
        )
        assert (ended.code, ended.err) == (0, "")
        assert "x" in ended.out
    ended = pelton("tail", topic, "-c", "pelton.yaml", **wrong)
    assert ended.code == 1
    assert "127.0.0.1:1" in ended.err
    # What is set reaches the client: this broker speaks no TLS.
    ended = pelton("publish", topic, "x", "-c", "pelton.yaml", "--set", "security.protocol=SSL")
    assert ended.code == 1
    assert "security.protocol" in ended.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sasl.password=hunter2", "--set sasl.password: is a secret in plain sight."),
        ("sasl.password=${env:NO_SUCH}", "refers to ${env:NO_SUCH}, which is not set"),
        ("ssl.key.password=${hunter2}", "--set ssl.key.password: "),
        ("acks=1", "--set acks: is set by Pelton."),
        ("hunter2", "--set: one of them is no setting. Write it as NAME=VALUE."),
        ("Sasl Mechanism=PLAIN", "is no Kafka client setting"),
    ],
)
def test_a_setting_that_cannot_be(text: str, said: str, pelton: Pelton) -> None:
    ended = pelton("publish", "t", "x", "--bootstrap", "127.0.0.1:1", "--set", text)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "hunter2" not in ended.err


@pytest.mark.parametrize("end", ["interrupt", "pipe"])
def test_tail_follows_until_it_is_told_or_nobody_reads(
    pelton: Pelton, kafka: LocalKafka, create_topic: CreateTopic, end: str
) -> None:
    topic = create_topic(partitions=3)
    process = subprocess.Popen(
        [sys.executable, "-m", "pelton", "tail", topic, "--from", "beginning", "--output", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PELTON_BOOTSTRAP=kafka.bootstrap),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        for number in range(2):  # each is shown while tail goes on
            pelton("publish", topic, str(number), PELTON_BOOTSTRAP=kafka.bootstrap)
            assert json.loads(process.stdout.readline())["value"] == str(number)
        if end == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()
            pelton("publish", topic, "nobody reads this", PELTON_BOOTSTRAP=kafka.bootstrap)
        code = process.wait(PATIENCE_S)
        told = process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert code == (130 if end == "interrupt" else 141)
    assert told == b""


def test_the_broker_of_this_directory_is_found(
    pelton: Pelton, kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path
) -> None:
    """Without any address, as in the first two minutes with Pelton."""
    topic, folder = create_topic(), tmp_path / DIRECTORY
    folder.parent.mkdir(parents=True)
    folder.symlink_to(kafka.directory)
    assert pelton("publish", topic, "x").out == f"{topic}/0/0\n"
