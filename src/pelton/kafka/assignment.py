"""Which partitions are held, and what each one is waiting for: bookkeeping, no client and no clock.

One thread uses it, the consumer's. A partition goes starting -> announced, and leaves by revoke or loss;
from then on nothing of it is taken, whatever the client still has in its queues.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from pelton.event import Event, Partition

__all__ = ["Assignment", "Held"]


class Held:
    """One partition of the assignment."""

    __slots__ = (
        "anew",
        "announced",
        "committed",
        "events",
        "flowing",
        "heard",
        "lost_at",
        "lost_wanted",
        "next_offset",
        "partition",
        "paused",
        "released",
        "retry_at",
        "retry_wait_s",
        "since",
        "topic_id",
    )

    def __init__(self, partition: Partition, since: float = 0.0) -> None:
        self.partition = partition
        #: Its topic was deleted and made again: the log is another one.
        self.anew = False
        #: When it came, by the caller's clock.
        self.since = since
        #: Of the log that is read; empty where it is not known.
        self.topic_id = ""
        #: The listener has been told of it.
        self.announced = False
        #: And has heard it: what it asks for from then on is meant for this assignment. What it asked for
        #: before was meant for an earlier one of the same partition, and is not done.
        self.heard = False
        #: The listener asked for a pause.
        self.paused = False
        #: The client has been told to read from `next_offset`: only then are its events taken.
        self.flowing = False
        #: The listener has drained it after a revoke.
        self.released = False
        #: The offset that the log no longer had, until it is known where to go on; -1 otherwise.
        self.lost_wanted = -1
        #: When the client said so, by the caller's clock.
        self.lost_at = 0.0
        self.next_offset = -1
        #: The broker's; a commit below it can only come from an assignment that is gone.
        self.committed = -1
        #: When what failed last may be tried again, and the wait after that, by the caller's clock.
        self.retry_at = 0.0
        self.retry_wait_s = 0.0
        #: Where `Assignment.take` gathers; empty between its calls.
        self.events: list[Event] = []

    def backoff(self, now: float, first_s: float, max_s: float) -> None:
        """What was tried failed: wait, each time twice as long."""
        self.retry_wait_s = min(max_s, max(first_s, 2 * self.retry_wait_s))
        self.retry_at = now + self.retry_wait_s

    def starts_at(self, offset: int) -> None:
        """It is known where to read: the client still has to be told."""
        self.next_offset = offset
        self.flowing = False
        self.lost_wanted = -1
        self.retry_at = self.retry_wait_s = 0.0


class Assignment:
    """The partitions held, by name."""

    def __init__(self, patient: Collection[str] = ()) -> None:
        """`patient` are topics that stand still for long: resuming them need not be immediate."""
        self._patient = patient
        self._held: dict[tuple[str, int], Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def get(self, partition: tuple[str, int]) -> Held | None:
        return self._held.get(partition)

    def add(self, partitions: Iterable[Partition], since: float = 0.0) -> None:
        """They came: nothing is known of them yet, and nothing from an earlier time with us counts."""
        for partition in partitions:
            self._held[partition] = Held(partition, since)

    def remove(self, partitions: Iterable[Partition]) -> list[Partition]:
        """They went; returns those that the listener knows of."""
        gone = [self._held.pop(partition, None) for partition in partitions]
        return [held.partition for held in gone if held is not None and held.announced]

    def starting(self, now: float) -> list[Held]:
        """Those whose start is to be looked up now."""
        return [held for held in self if not held.announced and held.retry_at <= now]

    def to_seek(self, now: float) -> list[Held]:
        """Those that should flow and do not, and of which it is known where to read."""
        return [
            held
            for held in self
            if held.announced
            and not held.flowing
            and not held.paused
            and held.lost_wanted < 0
            and held.retry_at <= now
        ]

    def to_find(self, now: float) -> list[Held]:
        """Those whose next offset the log has lost, and that are due to be placed anew."""
        return [held for held in self if held.lost_wanted >= 0 and held.retry_at <= now]

    @property
    def waiting(self) -> bool:
        """Whether something is to be done soon, by a command or by a retry, for one of the partitions."""
        return any(
            not held.flowing and not (held.paused and held.partition.topic in self._patient) for held in self
        )

    def all_released(self, partitions: Collection[Partition]) -> bool:
        return all(held is None or held.released for held in map(self._held.get, partitions))

    def take(self, events: Sequence[Event]) -> list[tuple[Partition, list[Event]]]:
        """Those of `events` that count, by partition; each partition goes on behind its last one."""
        filled: list[Held] = []
        topic, partition, held = "", -1, None
        for event in events:
            # Events come in runs of a partition: look up only where a run begins.
            if event.partition != partition or event.topic != topic:
                topic, partition = event.topic, event.partition
                held = self._held.get((topic, partition))
            # Paused, not placed yet, or read twice by the client: it is read again after the next seek.
            if held is None or not held.flowing or event.offset < held.next_offset:
                continue
            if not held.events:
                filled.append(held)
            held.events.append(event)
            held.next_offset = event.offset + 1
        batch = []
        for held in filled:
            batch.append((held.partition, held.events))
            held.events = []
        return batch
