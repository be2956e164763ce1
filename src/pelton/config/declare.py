"""Sound shapes to declarations, and every check of values against each other.

Each value by itself has been checked by the shape; nothing here reads a file or asks a network.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from pelton.config.address import is_loopback
from pelton.config.passthrough import CLASSIC_ONLY, MAX_POLL_INTERVAL_MS, is_secret
from pelton.config.problems import Path, Problems, nearest
from pelton.config.schema import ServerShape, SubscriptionShape, TargetShape
from pelton.config.settings import Server
from pelton.config.values import format_duration
from pelton.subscription import (
    Adapt,
    Atomic,
    DeliveryMode,
    Descriptors,
    Disposition,
    Intake,
    MetadataPolicy,
    Ordering,
    Parameter,
    RequestMapping,
    RetryPolicy,
    Subscription,
    Target,
    ThenKey,
    Tier,
    Tls,
    TransportChoice,
)

__all__ = [
    "check_groups",
    "check_kafka",
    "check_method",
    "declare_server",
    "declare_subscription",
    "declare_target",
]

Settings = Mapping[str, str | int | float | bool]

#: The method of the modes that have one of their own.
_FIXED_METHOD = {
    DeliveryMode.HANDLER: "/pelton.v1.EventHandler/Handle",
    DeliveryMode.STREAM: "/pelton.v1.EventHandler/HandleStream",
}


def check_kafka(
    settings: Mapping[str, object], inherited: Mapping[str, object], path: Path, problems: Problems
) -> None:
    """Secrets by reference only, and no settings that exclude each other; `inherited` are the file's."""
    for name, value in settings.items():
        if is_secret(name) and value not in (None, "") and not (isinstance(value, str) and "${" in value):
            problems.add(
                (*path, name),
                "is a secret in plain sight.",
                "Keep it out of the file: write ${env:NAME} or ${file:path}.",
            )
    if path == ("kafka",) and settings and "bootstrap.servers" not in settings:
        problems.add(
            (*path, "bootstrap.servers"), "is missing.", 'Add `bootstrap.servers: "localhost:9092"`.'
        )
    if path != ("kafka",) and "bootstrap.servers" in settings:
        problems.add(
            (*path, "bootstrap.servers"),
            "cannot differ by subscription: dead letters go to the cluster they came from.",
            "Run another server for the other cluster.",
        )
    merged = {**inherited, **settings}
    if merged.get("group.protocol") == "consumer":
        for name in CLASSIC_ONLY:
            if name in merged:
                at = path if name in settings else ("kafka",)
                problems.add((*at, name), "cannot be set with group.protocol=consumer.", "Remove it.")


def check_method(raw: Mapping[str, object], path: Path, problems: Problems) -> None:
    """A method where one is needed; asked of the file, since it is the key that people forget."""
    if raw.get("delivery", "unary") == "unary" and "method" not in raw:
        problems.add((*path, "method"), "is missing.", "Add `method: /package.Service/Method`.")


def declare_target(name: str, shape: TargetShape, problems: Problems) -> Target:
    path: Path = ("targets", name)
    tls = shape.tls
    if tls is not None and shape.plaintext:
        problems.add((*path, "plaintext"), "contradicts `tls`.", "Keep one of them.")
    if tls is None and not shape.plaintext and not is_loopback(shape.address):
        problems.add(
            (*path, "address"),
            "is on another computer, and the calls to it would not be encrypted.",
            "Add `tls: {}`, or say `plaintext: true` if the network may be trusted.",
        )
    if tls is not None and (tls.cert is None) != (tls.key is None):
        there, absent = ("cert", "key") if tls.key is None else ("key", "cert")
        problems.add((*path, "tls", there), f"is there without `{absent}`.", f"Add `{absent}: <file>`.")
    return Target(
        name=name,
        address=shape.address,
        tls=None if tls is None else Tls(tls.ca, tls.cert, tls.key, tls.server_name),
        plaintext=shape.plaintext,
        bearer=None if shape.auth is None else shape.auth.bearer,
        max_message_bytes=shape.max_message_bytes,
        keepalive_time_ms=round(shape.keepalive.time),
        keepalive_timeout_ms=round(shape.keepalive.timeout),
    )


def declare_subscription(
    name: str, shape: SubscriptionShape, targets: Mapping[str, Target], kafka: Settings, problems: Problems
) -> Subscription | None:
    """The subscription, or None if its target is not sound."""
    path: Path = ("subscriptions", name)
    _check_transport(shape, path, problems)
    _check_times(shape, path, {**kafka, **shape.kafka}, problems)
    method = _method(shape, path, problems)
    parameters = _parameters(shape, path, problems)
    named = None if shape.dead_letters is None else shape.dead_letters.topic
    dead_letter_topic = named or f"dlq.{name}"
    if dead_letter_topic in shape.topics:
        at = (*path, "topics") if named is None else (*path, "dead_letters", "topic")
        problems.add(
            at,
            f"{dead_letter_topic} is a source topic and the dead-letter topic at once.",
            "Name another topic.",
        )
    tiers = _tiers(name, shape, dead_letter_topic, problems)
    _check_following(name, shape, dead_letter_topic, problems)
    if shape.idempotent and shape.on_status.get("ALREADY_EXISTS", Disposition.ACK) is not Disposition.ACK:
        problems.add(
            (*path, "on_status", "ALREADY_EXISTS"),
            "contradicts `idempotent: true`, which acks it.",
            "Keep one of them.",
        )
    request = _request(shape, path, problems)
    descriptors = _descriptors(shape, path, problems)
    target = targets.get(shape.target)
    if target is None:
        return None
    retry, intake = shape.retry, shape.intake
    return Subscription(
        name=name,
        topics=tuple(shape.topics),
        target=target,
        method=method,
        group=shape.group or f"pelton.{name}",
        mode=shape.delivery,
        transport=shape.transport,
        request=request,
        descriptors=descriptors,
        parameters=parameters,
        metadata=MetadataPolicy(tuple(shape.metadata.headers), tuple(shape.metadata.parameters)),
        filter=shape.filter,
        ordering=shape.ordering,
        concurrency=shape.concurrency if isinstance(shape.concurrency, int) else shape.concurrency.max,
        adapt=Adapt.OFF if isinstance(shape.concurrency, int) else shape.concurrency.adapt,
        rate_per_second=shape.rate,
        timeout_ms=shape.timeout,
        retry=RetryPolicy(
            attempts=retry.attempts,
            backoff_min_ms=retry.backoff[0],
            backoff_max_ms=retry.backoff[1],
            give_up_after_ms=retry.give_up_after,
            on_exhausted=retry.on_exhausted,
            tiers=tiers,
            then_key=retry.then_key,
            follow_for_ms=retry.follow_for,
            follow_keys_max=retry.follow_keys,
        ),
        idempotent=shape.idempotent,
        statuses=shape.on_status,
        intake=Intake(
            intake.partition.events,
            intake.partition.bytes,
            intake.subscription.events,
            intake.subscription.bytes,
            intake.parked.events,
            intake.parked.bytes,
        ),
        start=shape.start,
        drain_timeout_ms=shape.drain_timeout,
        dead_letter_topic=dead_letter_topic,
        atomic=Atomic.AUTO if shape.dead_letters is None else shape.dead_letters.atomic,
        kafka=shape.kafka,
        line=problems.places.mark(path)[0],
        lines={option: problems.places.line((*path, *steps)) for option, steps in _judged_later(shape)},
    )


def _judged_later(shape: SubscriptionShape) -> Iterator[tuple[str, Path]]:
    """Options that only the brokers and the target can judge, and where they stand."""
    for number, topic in enumerate(shape.topics):
        yield f"topics.{topic}", ("topics", number)
    for option in ("method", "filter"):
        if option in shape.model_fields_set:
            yield option, (option,)


def check_groups(groups: Mapping[str, str], problems: Problems) -> None:
    """Subscription -> group: two in one group would each get half of the events."""
    first: dict[str, str] = {}
    for name, group in groups.items():
        other = first.setdefault(group, name)
        if other != name:
            problems.add(
                ("subscriptions", name, "group"),
                f"is {group}, which {other} uses too; each would get a part of the events.",
                "Give one of them another `group`.",
            )


def declare_server(shape: ServerShape, problems: Problems) -> Server:
    if shape.http == shape.grpc and shape.http[1] != 0:
        problems.add(("server", "grpc"), "is the address of `http` too.", "Give one of them another port.")
    return Server(*shape.http, *shape.grpc)


def _check_transport(shape: SubscriptionShape, path: Path, problems: Problems) -> None:
    if shape.transport is TransportChoice.NATIVE and shape.delivery is DeliveryMode.STREAM:
        problems.add(
            (*path, "transport"),
            "is native, which makes unary calls, and `delivery: stream` makes none.",
            "Write auto or aio, or use `delivery: unary` or `handler`.",
        )


def _check_times(shape: SubscriptionShape, path: Path, kafka: Settings, problems: Problems) -> None:
    if shape.drain_timeout <= shape.timeout:
        problems.add(
            (*path, "drain_timeout" if "drain_timeout" in shape.model_fields_set else "timeout"),
            f"leaves no time to drain: an attempt may take {format_duration(shape.timeout)}, "
            f"and drain_timeout is {format_duration(shape.drain_timeout)}.",
            f"Set `drain_timeout` above {format_duration(shape.timeout)}.",
        )
    poll_ms = _number(kafka.get("max.poll.interval.ms", MAX_POLL_INTERVAL_MS))
    if poll_ms is not None and shape.drain_timeout >= poll_ms / 2:
        problems.add(
            (*path, "drain_timeout"),
            f"is {format_duration(shape.drain_timeout)}, not under half of max.poll.interval.ms "
            f"({format_duration(poll_ms)}): Kafka would take the partitions away during the drain.",
            f"Set it under {format_duration(poll_ms / 2)}, or raise max.poll.interval.ms under `kafka`.",
        )
    if shape.retry.give_up_after < shape.timeout:
        problems.add(
            (*path, "retry", "give_up_after"),
            f"is shorter than one attempt may take ({format_duration(shape.timeout)}).",
            "Raise it, or lower `timeout`.",
        )


def _tiers(
    name: str, shape: SubscriptionShape, dead_letter_topic: str, problems: Problems
) -> tuple[Tier, ...]:
    """The retry tiers, each with its topic; what they do to the order must have been said."""
    retry, path = shape.retry, ("subscriptions", name, "retry")
    if not retry.tiers:
        return ()
    tiers = tuple(Tier(delay, f"retry.{name}.{format_duration(delay)}") for delay in retry.tiers)
    at = (*path, "tiers")
    if shape.ordering is Ordering.PARTITION:
        problems.add(
            at,
            "contradicts `ordering: partition`: an event in a tier would be overtaken by all behind it.",
            "Remove it, or use `ordering: key` or `none`.",
        )
    elif shape.ordering is Ordering.KEY and "then_key" not in retry.model_fields_set:
        problems.add(
            at,
            "gives up the order of an event that is moved, and nothing says what becomes of its key.",
            "Add `then_key: continue`: later events of the key go on meanwhile; or `then_key: follow`.",
        )
    for before, after in itertools.pairwise(tiers):
        if after.delay_ms <= before.delay_ms:
            wait, longer = format_duration(after.delay_ms), format_duration(before.delay_ms)
            problems.add(
                at, f"has {wait} behind {longer}.", "List the waits from the shortest to the longest."
            )
    total_ms = sum(retry.tiers)
    if total_ms >= retry.give_up_after:
        problems.add(
            (*path, "give_up_after"),
            f"is {format_duration(retry.give_up_after)}, and the waits of the tiers alone are "
            f"{format_duration(total_ms)}: an event would be given up before it has been through them.",
            f"Set `give_up_after` above {format_duration(total_ms)}, or take tiers away.",
        )
    for tier in tiers:
        for other, what, mend in (
            (shape.topics, "a source topic", "Take it off `topics`."),
            ([dead_letter_topic], "the dead-letter topic", "Give the dead letters another topic."),
        ):
            if tier.topic in other:
                problems.add(at, f"{tier.topic} is {what} and a retry tier at once.", mend)
    return tiers


def _check_following(name: str, shape: SubscriptionShape, dead_letter_topic: str, problems: Problems) -> None:
    """`then_key: follow` where the order that it keeps is there to be kept."""
    retry, path = shape.retry, ("subscriptions", name, "retry")
    if retry.then_key is not ThenKey.FOLLOW:
        for option in ("follow_for", "follow_keys"):
            if option in retry.model_fields_set:
                problems.add(
                    (*path, option),
                    "is there without `then_key: follow`.",
                    "Add `then_key: follow`, or remove it.",
                )
        return
    at = (*path, "then_key")
    if shape.ordering is not Ordering.KEY:
        problems.add(
            at,
            f"is follow, and `ordering: {shape.ordering.value}` has no keys whose order it could keep.",
            "Use `ordering: key`, or remove it.",
        )
    if shape.dead_letters is not None and shape.dead_letters.atomic is Atomic.NEVER:
        problems.add(
            (*path[:2], "dead_letters", "atomic"),
            "is never, and `then_key: follow` must write an event that leaves and its key's state as one.",
            "Remove it, or use `then_key: continue`.",
        )
    topic = f"follow.{name}"
    if topic in (*shape.topics, dead_letter_topic):
        problems.add(
            at,
            f"is follow, and keeps its notes in {topic}, which is another topic here.",
            "Name it otherwise.",
        )


def _number(value: object) -> float | None:
    """A Kafka setting that should be a number; where it is none, the client says so."""
    try:
        return float(str(value))
    except ValueError:
        return None


def _method(shape: SubscriptionShape, path: Path, problems: Problems) -> str:
    fixed = _FIXED_METHOD.get(shape.delivery)
    if fixed is None:
        return shape.method or ""
    if shape.method not in (None, fixed):
        problems.add(
            (*path, "method"),
            f"cannot be chosen with `delivery: {shape.delivery.value}`, which calls {fixed}.",
            "Remove it, or use `delivery: unary`.",
        )
    return fixed


def _request(shape: SubscriptionShape, path: Path, problems: Problems) -> RequestMapping:
    if shape.request is None:
        return RequestMapping()
    if shape.delivery is not DeliveryMode.UNARY:
        problems.add(
            (*path, "request"),
            f"cannot be chosen with `delivery: {shape.delivery.value}`, which sends the whole delivery.",
            "Remove it, or use `delivery: unary`.",
        )
    if shape.request == "raw":
        return RequestMapping()
    fields = shape.request
    for field in fields:
        parent = next((other for other in fields if field.startswith(other + ".")), None)
        if parent is not None:
            problems.add(
                (*path, "request", field), f"is a part of {parent}, which is set too.", "Keep one of them."
            )
    return RequestMapping(
        fields, {field: problems.places.mark((*path, "request", field))[0] for field in fields}
    )


def _descriptors(shape: SubscriptionShape, path: Path, problems: Problems) -> Descriptors:
    given = shape.descriptors
    if given is None:
        return Descriptors()
    at = (*path, "descriptors")
    if shape.delivery is not DeliveryMode.UNARY:
        problems.add(
            at,
            f"is not used with `delivery: {shape.delivery.value}`, whose contract is Pelton's.",
            "Remove it.",
        )
    if given.set is not None and given.files is not None:
        problems.add(at, "has both `set` and `files`.", "Keep one of them.")
    elif given.set is None and given.files is None:
        problems.add(
            at, "has neither `set` nor `files`.", "Add one of them, or remove it to use server reflection."
        )
    if given.paths is not None and given.files is None:
        problems.add((*at, "paths"), "is there without `files`.", "Add `files`, or remove it.")
    return Descriptors(given.set, tuple(given.files or ()), tuple(given.paths or ()))


def _parameters(shape: SubscriptionShape, path: Path, problems: Problems) -> tuple[Parameter, ...]:
    for index, listed in enumerate(shape.metadata.parameters):
        if listed not in shape.parameters:
            problems.add(
                (*path, "metadata", "parameters", index),
                f"names the parameter {listed}, which is not declared.",
                nearest(listed, shape.parameters) or "Add it under `parameters`.",
            )
    return tuple(
        Parameter(
            name,
            constant=value if isinstance(value, str) else None,
            expression=None if isinstance(value, str) else value.from_,
            line=problems.places.mark((*path, "parameters", name))[0],
        )
        for name, value in shape.parameters.items()
    )
