"""Kafka client settings: which ones pass through, which ones Pelton sets itself, and which hold secrets.

Every name here is librdkafka's. Whether a setting that passes is one, the client itself says at start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pelton.config.problems import Flaw, shown
from pelton.config.unbuilt import unbuilt
from pelton.config.values import text

__all__ = ["CLASSIC_ONLY", "MAX_POLL_INTERVAL_MS", "OWNED", "is_secret", "setting_name", "setting_value"]

#: librdkafka's own default of `max.poll.interval.ms`.
MAX_POLL_INTERVAL_MS = 300_000

_KEEPS_OFFSETS = "An offset passes only when its event is settled."
_KEEPS_DEAD_LETTERS = "A dead letter counts as written only when it cannot be lost or repeated."

#: Setting -> why it is not the user's, and what to do instead.
OWNED: Mapping[str, tuple[str, str]] = {
    "group.id": ("A subscription is a consumer group.", "Use `group` of the subscription."),
    "enable.auto.commit": (_KEEPS_OFFSETS, "Remove it."),
    "auto.commit.interval.ms": (_KEEPS_OFFSETS, "Remove it."),
    "auto.commit.enable": (_KEEPS_OFFSETS, "Remove it."),
    "enable.auto.offset.store": (_KEEPS_OFFSETS, "Remove it."),
    "auto.offset.reset": (
        "An offset lost to retention is an error, never a silent jump.",
        "Use `start` of the subscription to say where a new one begins.",
    ),
    "enable.partition.eof": ("The end of a partition is no event.", "Remove it."),
    "statistics.interval.ms": ("Readiness is told from these reports.", "Remove it."),
    "acks": (_KEEPS_DEAD_LETTERS, "Remove it."),
    "request.required.acks": (_KEEPS_DEAD_LETTERS, "Remove it."),
    "enable.idempotence": (_KEEPS_DEAD_LETTERS, "Remove it."),
    "plugin.library.paths": ("A config must not load code.", "Remove it."),
}

#: Of the classic group protocol only: with the other one the client refuses to start, or its members fence
#: each other.
CLASSIC_ONLY = (
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "partition.assignment.strategy",
    "group.instance.id",
)

_NAME = re.compile(r"[a-z][a-z0-9._-]{0,127}")
_SECRET = re.compile(r"(^|[._])(password|secret|token|pem)$")
_SECRETS = frozenset({"ssl_key", "ssl.key", "sasl.oauthbearer.config"})


def is_secret(name: str) -> bool:
    """Whether the setting's value must be a reference."""
    if name in ("ssl.certificate.pem", "ssl.ca.pem"):
        return False
    return name in _SECRETS or _SECRET.search(name) is not None


def setting_name(value: object) -> str:
    name = text(value)
    owned = OWNED.get(name)
    if owned is not None:
        raise Flaw(f"is set by Pelton. {owned[0]}", owned[1])
    instead = unbuilt(("kafka", name))
    if instead is not None:
        raise Flaw("is not built yet.", instead)
    if name.endswith("_cb"):
        raise Flaw("is a callback, which no file can hold.", "Remove it.")
    if _NAME.fullmatch(name) is None:
        raise Flaw(
            f"{shown(name)} is no Kafka client setting.", "Write its name as librdkafka does: sasl.username."
        )
    return name


def setting_value(value: object) -> str | int | float | bool:
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str) and value:
        return value
    raise Flaw(
        "is empty." if value is None or value == "" else f"is {shown(value)}, and one value is wanted.",
        "Write text, a number, true or false; lists as librdkafka takes them, joined by commas.",
    )
