"""The client's settings: the user's `kafka:` mapping, our defaults, and what no user may change.

Everything but the pinned ones passes through, so that any cluster can be reached. A pinned setting that
says otherwise is refused with its mend: silently winning over the user would be worse than either.
Nothing here connects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pelton.errors import ConfigError, Problem
from pelton.kafka.prefetch import FETCH_WAIT_MS_MAX, PREFETCH_BYTES_MAX, prefetch_settings
from pelton.kafka.silence import REPORT_EVERY_MS

__all__ = [
    "HOP_BYTES_MAX",
    "READ_SELDOM",
    "Settings",
    "admin_settings",
    "bootstrap_of",
    "consumer_settings",
    "is_incremental",
    "is_static",
    "producer_settings",
    "reader_settings",
    "setting_problems",
    "takes_slot",
    "transaction_settings",
]

Settings = Mapping[str, Any]

#: Whatever the source topic took must go out again, a little larger: the client's own limit of 1 MB is below
#: the broker's. Beyond this, which is below what the client's queue holds, a record could never be queued.
HOP_BYTES_MAX: Final = 32_000_000

_COMMON: Final[dict[str, Any]] = {
    "client.id": "pelton",
    # A broker that restarts is back within seconds; the client's own ceiling of 10 s would outlast it.
    "reconnect.backoff.max.ms": 1000,
    "socket.keepalive.enable": True,
    # Idle connections are closed by brokers as a matter of course.
    "log.connection.close": False,
    # New partitions of a topic are found within this.
    "topic.metadata.refresh.interval.ms": 60_000,
}

_READING: Final[dict[str, Any]] = {
    "isolation.level": "read_committed",
    # Prefetch: 1 000 events or the client's own 1 s pause between fetches would be the throughput, and
    # 64 MiB, its own bound, would be the memory.
    "queued.min.messages": 5000,
    **prefetch_settings(PREFETCH_BYTES_MAX),
    "fetch.queue.backoff.ms": 10,
}

_CONSUMING: Final[dict[str, Any]] = {
    **_READING,
    "max.poll.interval.ms": 300_000,
}

#: These have no meaning under `group.protocol=consumer`, where the broker decides: setting one there
#: makes the client refuse to be made.
_CLASSIC_ONLY: Final[dict[str, Any]] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,
    # 3 s, the client's own, makes every rebalance round that slow.
    "heartbeat.interval.ms": 500,
}

_PRODUCING: Final[dict[str, Any]] = {
    # The key's partition is the one that Java's clients choose.
    "partitioner": "murmur2_random",
    "linger.ms": 2,
    "compression.type": "lz4",
    # Bounds of the client's own queue; beyond them `producer.py` keeps a backlog of its own.
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 32_768,
    # Until then the client tries again by itself; afterwards the caller learns that it is not known.
    "delivery.timeout.ms": 30_000,
    # A topic that nobody has made is said to be missing, well before the record that waits for it times out.
    "topic.metadata.propagation.max.ms": 10_000,
}

_TRANSACTING: Final[dict[str, Any]] = {
    # Until the broker ends a transaction by itself. Its partitions have no committed offset to read
    # meanwhile: whoever owns them next waits.
    "transaction.timeout.ms": 10_000,
    # All that is waited for within one: shorter, so that the end is ours to say.
    "message.timeout.ms": 6_000,
    "socket.timeout.ms": 6_000,
    # Until all of it has been handed over, so that a partition's records are one request, not one each; the
    # flush that follows waits for no linger.
    "linger.ms": 5,
}

#: Name -> the values that keep the guarantee, the first one being what we set, and why.
_PINNED_CONSUMING: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "enable.auto.commit": (("false",), "Pelton passes an offset only when its event is settled"),
    "enable.auto.offset.store": (("false",), "Pelton passes an offset only when its event is settled"),
    "auto.offset.reset": (("error",), "a lost offset is reported, never jumped over; see `start`"),
    "enable.partition.eof": (("false",), "Pelton does not read to an end"),
    "statistics.interval.ms": ((str(REPORT_EVERY_MS),), "readiness is told from these reports"),
}
_PINNED_PRODUCING: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "enable.idempotence": (("true",), "a retry could reorder or repeat the records of a key"),
    "acks": (("all", "-1"), "an event counts as written only when every in-sync replica has it"),
}
#: Other names of the client for a pinned setting.
_ALIASES: Final = {"request.required.acks": "acks"}
#: Settings that belong to something else of Pelton's.
_FOREIGN: Final = {
    "group.id": "Write it as the subscription's `group`.",
    "transactional.id": "Leave it out: Pelton names its own.",
}
_ASSIGNORS: Final = frozenset({"cooperative-sticky", "range", "roundrobin"})

#: A client warns of each setting that is not for its kind; one `kafka:` mapping serves all kinds.
_CONSUMER_ONLY: Final = (
    "auto.offset.",
    "enable.auto.",
    "enable.partition.eof",
    "fetch.",
    "group.",
    "heartbeat.",
    "isolation.",
    "max.partition.fetch.",
    "max.poll.",
    "partition.assignment.",
    "queued.",
    "session.",
    "statistics.",
)
_PRODUCER_ONLY: Final = (
    "acks",
    "batch.",
    "compression.",
    "delivery.timeout.",
    "enable.idempotence",
    "linger.",
    "message.max.bytes",
    "message.timeout.",
    "partitioner",
    "queue.buffering.",
    "request.required.acks",
    "sticky.partitioning.",
    "topic.metadata.propagation.",
    "transaction",
)


def setting_problems(settings: Settings, *, path: str = "kafka") -> list[Problem]:
    """Every setting that Pelton cannot work with. Whether the client knows a name is the client's to say."""
    problems = []
    pinned = {**_PINNED_CONSUMING, **_PINNED_PRODUCING}
    for name, value in settings.items():
        where = f"{path}.{name}"
        known_as = _ALIASES.get(name, name)
        if known_as in pinned:
            allowed, why = pinned[known_as]
            if _text(value) not in allowed:
                problems.append(Problem(where, f"it must be {allowed[0]}: {why}.", "Leave it out."))
        elif name in _FOREIGN:
            problems.append(Problem(where, "it is not set here.", _FOREIGN[name]))
    problems += _membership_problems(settings, path)
    return problems


def _membership_problems(settings: Settings, path: str) -> list[Problem]:
    problems = []
    protocol = _text(settings.get("group.protocol", "classic"))
    if protocol not in ("classic", "consumer"):
        mend = "Use classic (the default) or consumer."
        problems.append(Problem(f"{path}.group.protocol", f"{protocol} is not known.", mend))
    if protocol == "consumer":
        problems += [
            Problem(f"{path}.{name}", "the broker decides it under group.protocol=consumer.", "Leave it out.")
            for name in (*_CLASSIC_ONLY, "group.instance.id")
            if name in settings
        ]
    strategy = settings.get("partition.assignment.strategy")
    if strategy is not None and _text(strategy) not in _ASSIGNORS:
        names = ", ".join(sorted(_ASSIGNORS))
        where = f"{path}.partition.assignment.strategy"
        problems.append(Problem(where, f"{strategy} cannot be used.", f"Use one of {names}."))
    return problems


def consumer_settings(
    settings: Settings, *, group: str, instance_id: str | None, read_ahead_bytes: int = PREFETCH_BYTES_MAX
) -> dict[str, Any]:
    """For the consumer of `group`; `instance_id` makes its membership static (classic protocol only)."""
    _check(settings)
    membership: dict[str, Any] = {}
    if _is_classic(settings):
        membership = dict(_CLASSIC_ONLY)
        if instance_id is not None:
            membership["group.instance.id"] = instance_id
    return {
        **_COMMON,
        **_CONSUMING,
        **prefetch_settings(read_ahead_bytes),
        **membership,
        **_without(settings, _PRODUCER_ONLY),
        **{name: allowed[0] for name, (allowed, _) in _PINNED_CONSUMING.items()},
        "group.id": group,
    }


#: For a reader beside a subscription's consumer: little is wanted, and seldom all in a row.
READ_SELDOM: Final = {
    "queued.min.messages": 1000,
    "queued.max.messages.kbytes": 8192,
    "fetch.wait.max.ms": FETCH_WAIT_MS_MAX,
}


def reader_settings(settings: Settings, *, group: str) -> dict[str, Any]:
    """For reading without a group: nothing is ever joined or committed, `group` is a mere name."""
    _check(settings)
    return {
        **_COMMON,
        **_READING,
        **_without(
            settings,
            (*_PRODUCER_ONLY, "group.", "session.", "heartbeat.", "partition.assignment.", "statistics."),
        ),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "group.id": group,
    }


def producer_settings(settings: Settings) -> dict[str, Any]:
    """For dead letters and publishing."""
    _check(settings)
    defaults = {**_COMMON, **_PRODUCING}
    if "message.timeout.ms" in settings:  # the same setting by its older name
        del defaults["delivery.timeout.ms"]
    return {
        **defaults,
        **_without(settings, (*_CONSUMER_ONLY, *_ALIASES)),
        **{name: allowed[0] for name, (allowed, _) in _PINNED_PRODUCING.items()},
    }


def transaction_settings(settings: Settings, *, transactional_id: str) -> dict[str, Any]:
    """For dead letters and moves that are written together with their offsets."""
    ours = {
        name: value
        for name, value in producer_settings(settings).items()
        if name not in ("delivery.timeout.ms", "message.timeout.ms", "socket.timeout.ms")
    }
    return {"message.max.bytes": HOP_BYTES_MAX, **ours, **_TRANSACTING, "transactional.id": transactional_id}


def admin_settings(settings: Settings) -> dict[str, Any]:
    """For looking topics up and creating them."""
    _check(settings)
    return {**_COMMON, **_without(settings, (*_CONSUMER_ONLY, *_PRODUCER_ONLY))}


def bootstrap_of(settings: Settings) -> str:
    """The brokers that errors name."""
    return str(settings.get("bootstrap.servers") or settings.get("metadata.broker.list") or "(none)")


def takes_slot(settings: Settings) -> bool:
    """Whether membership is static and the user has not named the instance."""
    return _is_classic(settings) and "group.instance.id" not in settings


def is_static(settings: Settings) -> bool:
    """Whether the broker knows each member by name, and lets one process alone bear it."""
    return _is_classic(settings)


def is_incremental(settings: Settings) -> bool:
    """Whether a rebalance moves single partitions, not all of them."""
    strategy = settings.get("partition.assignment.strategy", _CLASSIC_ONLY["partition.assignment.strategy"])
    return not _is_classic(settings) or _text(strategy) == "cooperative-sticky"


def _is_classic(settings: Settings) -> bool:
    return _text(settings.get("group.protocol", "classic")) == "classic"


def _check(settings: Settings) -> None:
    problems = setting_problems(settings)
    if bootstrap_of(settings) == "(none)":
        mend = 'Say where Kafka is, for example "localhost:9092".'
        problems.append(Problem("kafka.bootstrap.servers", "it is missing.", mend))
    if problems:
        raise ConfigError(problems, source="Kafka settings")


def _without(settings: Settings, prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith(prefixes)}


def _text(value: object) -> str:
    return str(value).strip().lower()
