"""What is remembered of followed keys, as records of the topic `follow.<subscription>`, and back.

The topic is compacted, by keys that name what a note is about; it has the source's partitions, and a note
keeps the partition number of its event. Both halves are JSON, for whoever looks into the topic. A record that
is none of ours is left alone.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from pelton.core.followed import Kind, Note
from pelton.kafka.records import Outgoing

__all__ = ["note_of", "remembered"]


def remembered(note: Note, topic: str, partition: int) -> Outgoing:
    """The record for `topic`."""
    about = {
        "kind": note.kind.value,
        "topic": note.topic,
        "key": base64.b64encode(note.key).decode(),
        **({"place": note.place} if note.kind is Kind.LEFT else {}),
    }
    said = {"through": note.through, "at_ms": note.at_ms, "leader": note.leader}
    return Outgoing(
        topic, _json(about), None if note.struck else _json(said), timestamp_ms=None, partition=partition
    )


def note_of(key: bytes | None, value: bytes | None) -> Note | None:
    """The note that a record holds; None for one that Pelton has not written."""
    try:
        about: Any = json.loads(key or b"")
        said: Any = {} if value is None else json.loads(value)
        return Note(
            Kind(about["kind"]),
            str(about["topic"]),
            base64.b64decode(about["key"], validate=True),
            str(about.get("place", "")),
            int(said.get("through", -1)),
            int(said.get("at_ms", -1)),
            str(said.get("leader", "")),
            struck=value is None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _json(what: dict[str, Any]) -> bytes:
    return json.dumps(what, separators=(",", ":"), sort_keys=True).encode()
