"""Where to look next: the last words of the demo, as commands that can be pasted."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["of_files", "of_kept_kafka"]

HERE: Final = Path(__file__).resolve().parent


def of_files() -> str:
    """After any run."""
    return f"""
look next
  {_path(HERE / "service.py"):<28}the handlers; the file to copy for your own
  {_path(HERE / "publisher.py"):<28}publishing from Python
  {_path(HERE / "pelton.yaml"):<28}all that connects the two"""


def of_keeping() -> str:
    """After a run whose Kafka is gone."""
    return """\
  make demo ARGS="--keep"     leaves Kafka running, to look at the dead letters"""


def of_kept_kafka(bootstrap: str, directory: Path) -> str:
    """After a run with --keep."""
    # The command beside the interpreter is the one whose Kafka client and versions fit.
    python = _path(Path(sys.executable))
    pelton = _path(Path(sys.executable).with_name("pelton"))
    return f"""
Kafka still runs at {bootstrap}, with everything in it
  export PELTON_BOOTSTRAP={bootstrap}
  {pelton} tail dlq.fulfilment --from beginning --no-follow
  {pelton} tail orders --from -3 --no-follow
to deliver more, each in a terminal of its own, from the root of the repository
  {python} -m examples.demo.service
  PELTON_KAFKA__BOOTSTRAP_SERVERS={bootstrap} {pelton} serve -c {_path(HERE / "pelton.yaml")}
  {python} -m examples.demo.publisher --bootstrap {bootstrap}
to end it and forget all of it
  {pelton} kafka reset -d {directory} && rm -r {directory}"""


def _path(path: Path) -> str:
    """As short as it can be pasted here."""
    short = os.path.relpath(path)
    return str(path) if short.startswith("..") else short
