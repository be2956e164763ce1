"""What the consumer tells: the Protocol between its thread and whoever runs the subscription.

Every method is called on the event loop, in the order in which things happened on the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVarTuple

from pelton.errors import BrokerError
from pelton.event import Event, Partition

__all__ = ["Assigned", "Batch", "ConsumerStatistics", "Listener", "Post"]

_Arguments = TypeVarTuple("_Arguments")

#: The events of one poll by partition, in offset order within each.
Batch = Sequence[tuple[Partition, list[Event]]]


@dataclass(frozen=True, slots=True)
class Assigned:
    """A partition that is ours now."""

    partition: Partition
    #: Of the group when the partition came; 0 where it is not known.
    generation: int
    #: Where delivery starts: what was committed, or what the start policy says.
    offset: int
    #: What the last owner left with its commit; None where nothing was committed or it cannot be read.
    metadata: str | None
    #: One past the last offset in the log when the partition came; -1 where it is not known.
    log_end: int = -1


class Listener(Protocol):
    """Told in this order for each partition: assigned, events, then revoked or lost; then nothing more."""

    def on_assigned(self, assigned: Sequence[Assigned]) -> None:
        """Before any event of these partitions."""

    def on_events(self, batch: Batch) -> None: ...

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Another member gets these partitions: drain, commit, then `release` each.

        The group waits for it, up to the drain timeout; no events come meanwhile. What is committed
        before `release` is durable before the next owner reads it. What is not released in time is lost:
        `on_lost` follows.
        """

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        """These partitions are gone already: nothing can be committed for them any more."""

    def on_read_again(
        self, partition: Partition, asked: Sequence[int], events: Sequence[Event], through: int
    ) -> None:
        """The answer to `Consumer.read_again`: up to `through` all of it that the log still has."""

    def on_committed(self, offsets: Mapping[Partition, int], error: str | None) -> None:
        """The broker's answer to a commit. After an error the consumer tries again by itself."""

    def on_offsets_lost(self, partition: Partition, wanted: int, got: int) -> None:
        """The log no longer has `wanted`; reading goes on at `got`, the earliest there is.

        `got < wanted` means that the topic was made anew or cut: nothing that is known of the partition
        holds any more. If it was announced already, `on_lost` and `on_assigned` follow.
        """

    def on_failed(self, error: BrokerError) -> None:
        """The consumer has ended for good; nothing else is told after this."""


class Post(Protocol):
    """Has a callback run on the event loop, behind all those posted before it."""

    def __call__(self, callback: Callable[[*_Arguments], object], /, *arguments: *_Arguments) -> None: ...


@dataclass(slots=True)
class ConsumerStatistics:
    """Counted by the consumer's thread; a copy of it is handed out."""

    polls: int = 0
    events: int = 0
    batches: int = 0
    commits: int = 0
    commit_errors: int = 0
    #: Commits for partitions, or from before offsets, that are not ours any more.
    commits_refused: int = 0
    #: From sending the last commit to its answer.
    last_commit_ms: float = 0.0
    #: Times that the log no longer had the offset to read next.
    offsets_lost: int = 0
    #: Commit metadata that is not text.
    metadata_unreadable: int = 0
    #: Revokes whose drain did not end in time.
    drains_cut: int = 0
    #: Times that the client was made anew since the broker had fenced it; see `rebuilds.py`.
    rebuilds: int = 0
    #: How long no broker had been heard when the client last looked; see `silence.py`.
    brokers_silent_ms: float = 0.0
    #: Errors of the client that were survived.
    client_errors: int = 0
    times_ignored: int = 0
    flawed: int = 0
    #: Partition -> log end less the committed offset, about a second old; only where both are known.
    lag: Mapping[Partition, int] = field(default_factory=dict)
