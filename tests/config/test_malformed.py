"""Each config in `malformed/` and the message it gets, word for word.

`REWRITE=1 pytest tests/config/test_malformed.py` writes the messages anew; read each one as the user who
made the mistake before committing it: what is wrong, in which line, how to mend it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pelton.config.load import load
from pelton.errors import ConfigError

FOLDER = Path(__file__).parent / "malformed"
FILES = sorted(FOLDER.glob("*.yaml"))

#: Problems of what is not in the file, which no line can name.
NOT_IN_THE_FILE = {"the file", "kafka", "targets", "subscriptions"}


def _error(file: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    return caught.value


def _message(error: ConfigError) -> str:
    return str(error).replace(str(FOLDER), "<folder>") + "\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_message(file: Path) -> None:
    message = _message(_error(file))
    expected = file.with_suffix(".txt")
    if os.environ.get("REWRITE"):
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_problem_says_where_and_how_to_mend_it_in_file_order(file: Path) -> None:
    problems = _error(file).problems
    for problem in problems:
        assert problem.line > 0 or problem.path in NOT_IN_THE_FILE, problem
        assert problem.message.endswith("."), problem
        assert re.search(r"[.?]$", problem.mend), problem
    lines = [problem.line for problem in problems]
    assert lines == sorted(lines)


def test_no_secret_is_shown() -> None:
    files = [file for file in FILES if "opensesame" in file.read_text(encoding="utf-8")]
    assert len(files) >= 2
    for file in files:
        assert "opensesame" not in str(_error(file))


def test_there_are_enough_of_them() -> None:
    kinds = {file.read_text(encoding="utf-8").splitlines()[0] for file in FILES}
    assert all(kind.startswith("# Kind: ") for kind in kinds)
    assert len(FILES) >= 40
    assert len(kinds) >= 12


def test_no_message_outlives_its_config() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == {file.stem for file in FILES}


def test_several_mistakes_are_all_reported() -> None:
    problems = _error(FOLDER / "several-in-file-order.yaml").problems
    assert [problem.path for problem in problems] == [
        "logging.level",
        "kafka.group.id",
        "targets.shop.address",
        "subscriptions.notify.target",
        "subscriptions.notify.method",
        "subscriptions.notify.timeout",
        "subscriptions.audit.retry.backoff",
        "subscriptions.audit.request.message",
    ]
