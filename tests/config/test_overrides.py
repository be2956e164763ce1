"""Variables over the file, and every variable that means to be one and is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelton.config.load import load
from pelton.config.overrides import variable_of
from pelton.config.settings import Config
from pelton.errors import ConfigError, Problem
from pelton.subscription import Disposition

SAMPLES = Path(__file__).parent / "samples"
SUBSCRIPTION = "PELTON_SUBSCRIPTIONS__NOTIFY_SHOP__"


def _load(sample: str = "design", **variables: str) -> Config:
    return load(SAMPLES / f"{sample}.yaml", {"PATH": "/bin", **variables})


def _problems(sample: str = "design", **variables: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        _load(sample, **variables)
    return caught.value.problems


def test_an_override_wins_over_the_file() -> None:
    config = _load(
        **{
            SUBSCRIPTION + "CONCURRENCY": "64",
            SUBSCRIPTION + "TOPICS": "[a, b]",
            SUBSCRIPTION + "PARAMETERS__PRIORITY": "low",
            SUBSCRIPTION + "REQUEST__MESSAGE": "event.json.text",
            "PELTON_TARGETS__SHOP__ADDRESS": "dns:///shop.test:443",
        }
    )
    (subscription,) = config.subscriptions
    assert subscription.concurrency == 64
    assert subscription.topics == ("a", "b")
    assert subscription.parameters[0].constant == "low"
    assert subscription.request.fields["message"] == "event.json.text"
    assert subscription.target.address == "dns:///shop.test:443"


def test_an_override_may_set_what_the_file_leaves_out() -> None:
    config = _load(
        "smallest",
        **{
            SUBSCRIPTION + "RETRY__ON_EXHAUSTED": "hold",
            SUBSCRIPTION + "ON_STATUS__NOT_FOUND": "drop",
            SUBSCRIPTION + "KAFKA__FETCH_WAIT_MAX_MS": "20",
            "PELTON_SERVER__HTTP": "127.0.0.1:0",
            "PELTON_KAFKA__SASL_MECHANISM": "PLAIN",
            "PELTON_LOGGING__LEVEL": "debug",
        },
    )
    (subscription,) = config.subscriptions
    assert subscription.retry.on_exhausted.value == "hold"
    assert subscription.statuses == {"NOT_FOUND": Disposition.DROP}
    assert subscription.kafka == {"fetch.wait.max.ms": 20}
    assert config.kafka == {"bootstrap.servers": "localhost:9092", "sasl.mechanism": "PLAIN"}
    assert (config.server.http_port, config.logging.level) == (0, "debug")


def test_a_kafka_setting_of_the_file_is_found_by_its_name() -> None:
    assert _load(PELTON_KAFKA__BOOTSTRAP_SERVERS="kafka:9092").kafka == {"bootstrap.servers": "kafka:9092"}


def test_a_whole_section_may_be_one_value() -> None:
    config = _load(PELTON_SUBSCRIPTIONS__NOTIFY_SHOP__RETRY="{attempts: 2, backoff: 1s..2s}")
    assert config.subscriptions[0].retry.attempts == 2


def test_a_value_that_is_wrong_names_the_variable() -> None:
    variable = SUBSCRIPTION + "CONCURRENCY"
    assert _problems(**{variable: "many"}) == (
        Problem(variable, 'is "many", not a whole number.', "Write a number from 1 to 10000."),
    )


def test_a_mistake_inside_a_value_names_the_variable() -> None:
    variable = SUBSCRIPTION + "RETRY"
    (problem,) = _problems(**{variable: "{attempts: 0}"})
    assert problem.path == variable


def test_an_override_mends_what_is_wrong_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    text = (SAMPLES / "smallest.yaml").read_text(encoding="utf-8") + "    timeout: soon\n"
    path.write_text(text, encoding="utf-8")
    assert load(path, {SUBSCRIPTION + "TIMEOUT": "5s"}).subscriptions[0].timeout_ms == 5_000.0


@pytest.mark.parametrize(
    ("variable", "mend"),
    [
        (SUBSCRIPTION + "CONCURENCY", f"Did you mean {SUBSCRIPTION}CONCURRENCY?"),
        ("PELTON_SUBSCRIPTIONS__NOTIFY__TIMEOUT", "Did you mean PELTON_SUBSCRIPTIONS__NOTIFY_SHOP?"),
        (SUBSCRIPTION + "TIMEOUT__MS", f"Did you mean {SUBSCRIPTION}TIMEOUT?"),
        (SUBSCRIPTION + "PARAMETERS__REGION", "The names here are: priority."),
        ("PELTON_TARGET__SHOP__ADDRESS", "Did you mean PELTON_TARGETS?"),
        ("PELTON_KAFKA_BOOTSTRAP_SERVERS", "Did you mean PELTON_KAFKA__BOOTSTRAP_SERVERS?"),
        ("PELTON_LOGGING", "Did you mean PELTON_LOGGING__<KEY>?"),
    ],
)
def test_a_variable_that_names_nothing(variable: str, mend: str) -> None:
    (problem,) = _problems(**{variable: "1"})
    assert (problem.path, problem.mend) == (variable, mend)


@pytest.mark.parametrize(
    "variable",
    [
        "PELTON_CACHE_DIR",
        "PELTON_SERVER_SERVICE_HOST",
        "PELTON_SERVER_PORT_8360_TCP_ADDR",
        "PELTON_KAFKA_PORT",
    ],
)
def test_a_variable_that_is_no_override(variable: str) -> None:
    _load(**{variable: "tcp://192.0.2.1:8360"})


def test_a_variable_that_is_not_yaml_is_not_shown() -> None:
    (problem,) = _problems(PELTON_KAFKA__SASL_USERNAME="[opensesame")
    assert problem == Problem("PELTON_KAFKA__SASL_USERNAME", "is not YAML.", "Put the value in quotes.")


def test_a_secret_in_a_variable_is_refused_and_not_shown() -> None:
    (problem,) = _problems(PELTON_KAFKA__SASL_PASSWORD="opensesame")
    assert "in plain sight" in problem.message
    assert "opensesame" not in str(problem)


def test_an_override_below_what_is_no_mapping_is_left_to_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    text = (SAMPLES / "smallest.yaml").read_text(encoding="utf-8") + "    retry: often\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 10: subscriptions\.notify-shop\.retry: is \"often\""):
        load(path, {SUBSCRIPTION + "RETRY__ATTEMPTS": "3"})


def test_names_that_are_spelt_alike_are_told_apart_in_the_file_only(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    text = (SAMPLES / "smallest.yaml").read_text(
        encoding="utf-8"
    ) + '    parameters: { a-b: "1", a_b: "2" }\n'
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="could mean a-b or a_b"):
        load(path, {SUBSCRIPTION + "PARAMETERS__A_B": "3"})


def test_the_variable_of_a_path() -> None:
    assert variable_of(("subscriptions", "notify-shop", "timeout")) == SUBSCRIPTION + "TIMEOUT"
    assert variable_of(("kafka", "bootstrap.servers")) == "PELTON_KAFKA__BOOTSTRAP_SERVERS"
