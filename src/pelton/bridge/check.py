"""Whether a configuration can work: topics, methods, requests. For `--check`, and before every start.

What is wrong with the file's shape is `pelton.config`'s to say; this asks the brokers and the targets. All
problems are found before one is raised. A target that does not answer is no problem of the configuration:
its subscription starts when it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor

from pelton.bridge.logs import logger
from pelton.bridge.requests import SubscriptionRequests, prepare
from pelton.errors import BrokerError, ConfigError, Problem, TargetError
from pelton.kafka.leftovers import unread_tiers
from pelton.kafka.topics import COMPACTED, KEPT_FOR_EVER, Wanted, cleanup_of, ensure_topics, partitions_of
from pelton.request import descriptors
from pelton.rpc.channels import Channels
from pelton.rpc.choose import check_transport
from pelton.rpc.reflection import TargetSilent, fetch
from pelton.subscription import DeliveryMode, Subscription

__all__ = ["Checked", "Described", "check_subscriptions", "describe"]


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a subscription's method."""

    #: None where nobody needs it, or where it is not known yet.
    input_type: Descriptor | None
    #: Why the types are not known yet; empty when they are, or need not be.
    waiting_for: str = ""
    #: Why nobody has seen the method, where that keeps nothing from starting.
    unseen: str = ""
    #: That is because the target did not answer.
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """A subscription that may start: now, or when what it waits for has come."""

    subscription: Subscription
    requests: SubscriptionRequests | None
    #: What makes its calls.
    transport: str
    waiting_for: str = ""
    unseen: str = ""
    silent: bool = False


async def describe(subscription: Subscription, channels: Channels) -> Described:
    """The method's request type, from where the subscription says.

    Raises TargetError where the method is not there, or cannot be called. A mapping must have the type; a
    raw request or a handler only profits from the look, so there a target without reflection is taken at
    its word.
    """
    needed = not subscription.request.raw
    # May run a compiler over .proto files.
    pool = await asyncio.to_thread(descriptors.load, subscription.descriptors)
    if pool is None:
        lease = channels.lease(subscription.target)
        try:
            files = await fetch(lease, subscription.method)
        except TargetSilent as error:
            if needed:
                return Described(None, waiting_for=str(error))
            return Described(None, unseen=str(error), silent=True)
        except TargetError as error:
            if needed:
                raise
            return Described(None, unseen=str(error))
        finally:
            await lease.release()
        pool = descriptors.pool_of_files(files, source=f"{subscription.target.address} (reflection)")
    if subscription.mode is DeliveryMode.STREAM:
        # The one method that is not unary; its type is ours.
        return Described(None)
    return Described(descriptors.method_types(pool, subscription.method).input)


async def check_subscriptions(
    subscriptions: Sequence[Subscription],
    kafka: Mapping[str, Any],
    channels: Channels,
    wall_ms_of: Callable[[float], float],
    *,
    source: str,
    create_topics: bool,
) -> list[Checked]:
    """Check all of them; ConfigError with every problem. Creates our own topics only if told to."""
    problems: list[Problem] = []
    partitions = await _check_topics(subscriptions, kafka, problems)
    await _check_following(subscriptions, kafka, partitions, problems)
    checked = await asyncio.gather(
        *(_check_requests(subscription, channels, wall_ms_of, problems) for subscription in subscriptions)
    )
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line), source=source)
    if create_topics:
        followed: list[Wanted] = []
        hops: list[Wanted] = []
        for subscription in subscriptions:
            count = _partitions_of(subscription, partitions)
            if subscription.follow_topic is not None:
                followed.append(Wanted(subscription.follow_topic, count, COMPACTED))
            tiers = [tier.topic for tier in subscription.retry.tiers]
            hops += [Wanted(name, count, KEPT_FOR_EVER) for name in (subscription.dead_letter_topic, *tiers)]
        # Before the tiers: nothing may be moved that is not remembered.
        for wanted in filter(None, (followed, hops)):
            await asyncio.to_thread(ensure_topics, kafka, wanted)
        await _warn_of_unread_tiers(subscriptions, kafka)
    return [one for one in checked if one is not None]


async def _warn_of_unread_tiers(subscriptions: Sequence[Subscription], kafka: Mapping[str, Any]) -> None:
    try:
        unread = await asyncio.to_thread(unread_tiers, kafka, subscriptions)
    except BrokerError as error:
        logger().warning("not known whether former retry tiers still hold events", error=str(error))
        return
    for name, topics in unread.items():
        for topic, events in topics.items():
            logger().warning(
                "a former retry tier holds events that nobody reads",
                subscription=name,
                topic=topic,
                events_max=events,
                mend="put its delay back under retry.tiers until it is empty",
            )


async def _check_topics(
    subscriptions: Sequence[Subscription], kafka: Mapping[str, Any], problems: list[Problem]
) -> dict[str, int]:
    topics = sorted({topic for subscription in subscriptions for topic in subscription.topics})
    found = await asyncio.to_thread(partitions_of, kafka, topics)
    problems.extend(
        Problem(
            f"subscriptions.{subscription.name}.topics",
            f"topic {topic!r} does not exist.",
            "Source topics are never created by Pelton: create it, or mend the name.",
            subscription.line_of(f"topics.{topic}"),
        )
        for subscription in subscriptions
        for topic in subscription.topics
        if found.get(topic) is None
    )
    return {topic: count for topic, count in found.items() if count is not None}


def _partitions_of(subscription: Subscription, partitions: Mapping[str, int]) -> int:
    """How many a topic of our own needs: records keep the number that they have in the source."""
    return max(partitions.get(topic, 0) for topic in subscription.topics)


async def _check_following(
    subscriptions: Sequence[Subscription],
    kafka: Mapping[str, Any],
    partitions: Mapping[str, int],
    problems: list[Problem],
) -> None:
    """A topic that is to remember which keys are followed must keep what is written to it; one that is not
    there yet is made at the start."""
    topics = {topic: one for one in subscriptions if (topic := one.follow_topic) is not None}
    if not topics:
        return
    found = await asyncio.to_thread(partitions_of, kafka, sorted(topics))
    for topic, subscription in topics.items():
        have = found[topic]
        if have is None:
            continue
        needed = _partitions_of(subscription, partitions)
        cleanup = await asyncio.to_thread(cleanup_of, kafka, topic)
        wrong = mend = ""
        if have < needed:
            wrong = f"has {have} partitions, and a source has {needed}"
            mend = f"Add partitions to {topic}."
        elif cleanup != "compact":
            wrong = f"has cleanup.policy={cleanup}, and would forget which keys are followed"
            mend = f"Set cleanup.policy=compact on {topic}."
        if wrong:
            path = f"subscriptions.{subscription.name}.retry.then_key"
            problems.append(
                Problem(path, f"is follow, and the topic {topic} {wrong}.", mend, subscription.line)
            )


async def _check_requests(
    subscription: Subscription,
    channels: Channels,
    wall_ms_of: Callable[[float], float],
    problems: list[Problem],
) -> Checked | None:
    path = f"subscriptions.{subscription.name}"
    try:
        choice = await check_transport(subscription, channels)
    except TargetError as error:
        problems.append(Problem(f"{path}.transport", str(error), line=subscription.line))
        return None
    try:
        described = await describe(subscription, channels)
        if described.waiting_for:
            return Checked(subscription, None, choice.value, described.waiting_for)
        requests = prepare(subscription, described.input_type, wall_ms_of)
        return Checked(subscription, requests, choice.value, unseen=described.unseen, silent=described.silent)
    except ConfigError as error:
        problems += error.problems
    except TargetError as error:
        problems.append(Problem(f"{path}.method", str(error), line=subscription.line_of("method")))
    return None
