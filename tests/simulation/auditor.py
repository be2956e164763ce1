"""The auditor: keeps books of its own and believes nothing that an engine says of itself.

It sees what crosses the edges (events handed over, calls, results, dead letters, commits, releases) and
checks each of them when it happens. What an engine counts is compared with its own count, never used. It
knows what was published and what each outcome means; it does not know the workload, the faults, or how any
of the code under test works.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pelton.core.actions import Commit, Hop
from pelton.core.breaker import Health
from pelton.core.delivery import Delivery
from pelton.core.followed import Note
from pelton.core.outcome import Outcome
from pelton.event import Event, Partition, Position
from pelton.kafka.consumer_thread import BATCHES_UNHANDLED_MAX
from pelton.kafka.listener import Assigned
from pelton.rpc.transport import Result
from pelton.subscription import Disposition, OnExhausted
from tests.simulation.asides import Asides
from tests.simulation.books import UNCALLABLE, Account, Book, CallOut, Try, lane_of, place_of, same
from tests.simulation.followers import Followers
from tests.simulation.meanings import means_of
from tests.simulation.reading import read_map
from tests.simulation.violation import Violation, check

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["Auditor"]

#: Kafka refuses one character more.
MAP_CHARS_MAX = 4_095
#: The longest that a commit of what is settled is waited for before it is asked for, and the little that a
#: timer lands late.
COMMIT_WITHIN_S = 0.05 + 0.002

_SAYS_UNWELL = (Disposition.UNWELL, Disposition.MISWIRED)


class Auditor:
    """See the module. Its methods are called by the fakes, before the code under test hears of the same."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._subscription = world.schedule.subscription
        self._record = world.record
        self._asides = Asides(world)
        self.followers = Followers(world)
        self._accounts: dict[Process, Account] = {}

    # -- The end -------------------------------------------------------------------------------------------

    def unsettled(self) -> list[str]:
        """What would be left if the world ended now; empty when all is done, committed and quiet."""
        left = self._record.unsettled(self._world.broker.committed)
        for process, account in self._accounts.items():
            if account.calls or any(book.open for book in account.books.values()):
                left.append(f"{process} is not idle")
        return left

    def closing(self) -> None:
        """Everything is settled: what must be true of the whole."""
        for position, end in self._record.ends.items():
            if end == "acked" and not self._subscription.idempotent:
                taken = self._world.target.took.get(self._record.origin(position), 0)
                check(taken > 0, "acked, and the target has not taken it", position)
            elif end in ("dead_lettered", "moved"):
                check(self._record.written.get(position, 0) > 0, "set aside nowhere", position)

    # -- Processes -----------------------------------------------------------------------------------------

    def joined(self, process: Process) -> None:
        self._accounts[process] = Account()

    def died(self, process: Process) -> None:
        """Its memory is gone, and with it everything that was not committed."""
        account = self._accounts.pop(process)
        sometimes = self._world.sometimes
        if account.calls:
            sometimes("crash_with_calls_out")
        if process.stopping:
            sometimes("crash_while_stopping")
        for book in account.books.values():
            committed = self._world.broker.committed.get(book.partition)
            if committed is not None and any(offset >= committed.offset for offset in book.letters):
                sometimes("crash_between_dead_letter_and_commit")

    def ended(self, process: Process) -> None:
        """It has left by itself."""
        account = self._accounts.pop(process)
        if not process.consumer.drains_cut and not process.fenced:
            check(not account.books, "it left and still holds", *account.books)

    def stopping(self, process: Process) -> None:
        for book in self._accounts[process].books.values():
            book.draining_s = min(book.draining_s, self._world.now_s)

    # -- Assignments ---------------------------------------------------------------------------------------

    def assigned(self, process: Process, assigned: Sequence[Assigned]) -> None:
        account = self._accounts[process]
        for one in assigned:
            check(one.partition not in account.books, "assigned twice", process, one.partition)
            carried = read_map(one.offset, one.metadata or "", one.log_end)
            if carried:
                self._world.sometimes("map_carried")
            elif carried is None:
                self._world.sometimes("map_refused")
            book = account.books[one.partition] = Book(
                one.partition, one.generation, one.offset, carried or set(), one.offset
            )
            self.followers.began(book)
            if any(partition == one.partition for partition, _ in account.lanes_out):
                self._world.sometimes("key_blocked_across_assignments")

    def fed(self, process: Process, batch: Iterable[tuple[Partition, list[Event]]]) -> None:
        account = self._accounts[process]
        for partition, events in batch:
            book = account.books.get(partition)
            if book is None or book.draining:
                continue
            self._check_room(process, book)
            for event in events:
                self._feed(process, account, book, event)

    def _check_room(self, process: Process, book: Book) -> None:
        """More was read for it although it has as much as it may have, batches on the way included.

        What is shelved is not held.
        """
        engines = process.pump.engines
        held = len(book.open) - sum(one.shelved for one in engines if one.partition == book.partition)
        intake = self._subscription.intake
        batch = self._world.schedule.batch_events_max * (1 + BATCHES_UNHANDLED_MAX)
        bound = intake.partition_events_max + intake.parked_events_max + batch
        check(held < bound, "more is read than may be held", held, bound)

    def _feed(self, process: Process, account: Account, book: Book, event: Event) -> None:
        partition, offset = book.partition, event.offset
        check(offset >= book.next_offset, "an event came twice", event.position)
        for skipped in self._record.between(partition, book.next_offset, offset):
            excused = skipped < book.excused and self._record.is_cut(partition, skipped)
            check(excused, "an event was jumped over silently", Position(*partition, skipped))
        book.next_offset = offset + 1
        account.consumed += 1
        if book.knows(offset):
            account.already += 1
        elif event.value == b"unwanted":
            account.filtered += 1
            book.settled.add(offset)
        else:
            lane = lane_of(event, self._subscription.ordering)
            book.open[offset] = Try(event, lane, read_s=self._world.now_s, read_wall_ms=process.wall_ms)
            if lane is not None:
                insort(book.lanes.setdefault(lane, []), offset)

    def offsets_lost(self, process: Process, partition: Partition, wanted: int, got: int) -> None:
        self._world.sometimes("offsets_cut")
        book = self._accounts[process].books.get(partition)
        if book is not None and got > wanted:
            if not book.open:
                # A commit must say so, or the next owner finds the same loss again.
                book.unasked_s = min(book.unasked_s, self._world.now_s)
            book.excused = max(book.excused, got)
            book.next_offset = max(book.next_offset, got)

    def revoked(self, process: Process, partitions: Sequence[Partition]) -> None:
        account = self._accounts[process]
        sometimes = self._world.sometimes
        if process.stopping:
            sometimes("revoke_while_stopping")
        if not process.pump.breaker.closed:
            sometimes("revoke_with_breaker_open")
        for partition in partitions:
            book = account.books.get(partition)
            if book is None:
                continue
            book.draining_s = min(book.draining_s, self._world.now_s)
            if any(each.out for each in book.open.values()):
                sometimes("revoke_with_calls_out")
            if any(each.writing for each in book.open.values()):
                sometimes("revoke_with_dead_letter_out")

    def lost(self, process: Process, partitions: Sequence[Partition]) -> None:
        account = self._accounts[process]
        for partition in partitions:
            book = account.books.pop(partition, None)
            if book is None:
                continue
            book.gone = True
            if any(each.out for each in book.open.values()):
                self._world.sometimes("lost_with_calls_out")
            if any(each.writing for each in book.open.values()):
                self._world.sometimes("lost_with_dead_letter_out")

    def released(self, process: Process, partitions: Collection[Partition]) -> None:
        """The process lets go by itself: everything is finished, or its time was up."""
        account = self._accounts[process]
        for partition in partitions:
            book = account.books.pop(partition, None)
            if book is None:
                continue
            book.gone = True
            out = [call for call in account.calls.values() if call.book is book]
            check(all(call.over for call in out), "let go with calls out", partition, len(out))
            asked = book.unasked_s == float("inf") or any(each.writing for each in book.open.values())
            check(asked, "let go, and what was settled is not committed", partition)
            if any(each.out or each.writing for each in book.open.values()):
                self._world.sometimes("drain_cut")
                due_s = book.draining_s + self._subscription.drain_timeout_ms / 1000.0
                check(self._world.now_s >= due_s, "let go before the drain's time was up", partition)

    # -- Calls ---------------------------------------------------------------------------------------------

    def started(self, process: Process, delivery: Delivery, *, unbuildable: bool) -> None:
        """An attempt begins."""
        account, event = self._accounts[process], delivery.event
        position = place_of(delivery)
        book = account.books.get(delivery.engine.partition)
        if book is None:
            raise Violation(f"a call started in a partition that is not its: {process} {position}")
        check(not book.draining, "a call started after a revoke", process, position)
        attempted = book.open.get(delivery.offset)
        if attempted is None:
            raise Violation(f"a call started of an event that is settled or was never read: {position}")
        check(same(event, attempted.event), "not the event that was read", position)
        self._check_due(process, attempted)
        check(event.value not in UNCALLABLE, "an event was called that needs no call", position)
        check(not attempted.out, "called while a call of it is out", position)
        check(not attempted.writing, "called while its dead letter is on the way", position)
        check(not attempted.taken, "called although it was taken", position)
        waits = self.followers.may_wait_for_room
        check(not attempted.condemned or waits, "called although it is to be set aside", position)
        policy = self._subscription.retry
        if policy.on_exhausted is OnExhausted.DEAD_LETTER:
            check(attempted.burned_least < policy.attempts or waits, "called beyond its attempts", position)
        elif attempted.burned_least >= policy.attempts:
            self._world.sometimes("held")
        self._check_order(account, book, attempted)
        self.followers.called(book, attempted)
        now_s = self._world.now_s
        account.attempts += 1
        if attempted.first_s < 0:
            attempted.first_s = now_s
            if self._record.is_settled(book.partition, delivery.offset):
                self._world.sometimes("repeated")
        if unbuildable:
            attempted.condemned = True
            return
        attempted.out = True
        account.calls[delivery] = CallOut(delivery, book, now_s)
        if attempted.lane is not None:
            at = (book.partition, attempted.lane)
            account.lanes_out[at] = account.lanes_out.get(at, 0) + 1
        bound = self._subscription.concurrency
        check(len(account.calls) <= bound, "more calls out than may be", len(account.calls), bound)

    def _check_due(self, process: Process, attempted: Try) -> None:
        """What stands in a tier is due, or has waited in this process for as long as the tier says."""
        moved = attempted.event.moved
        if moved is None or attempted.first_s >= 0:
            return
        tier = next(each for each in self._subscription.retry.tiers if each.topic == attempted.event.topic)
        waited_ms = (self._world.now_s - attempted.read_s) * 1000.0
        due = process.wall_ms >= moved.due_ms or waited_ms >= tier.delay_ms
        due = due or attempted.read_wall_ms + waited_ms + 1.0 >= moved.due_ms
        check(due, "called before it is due", attempted.event.position)

    def _check_order(self, account: Account, book: Book, attempted: Try) -> None:
        lane, offset = attempted.lane, attempted.event.offset
        if lane is None:
            return
        partition, position = book.partition, attempted.event.position
        check(book.lanes[lane][0] == offset, "called before an earlier one of its key", position)
        out = account.lanes_out.get((partition, lane), 0)
        check(not out, "called while an earlier one of its key is out", position)
        # The same, whoever had the partition before: all earlier ones of the key have come to an end.
        first = self._record.first_open(partition, lane)
        ended = first is None or first >= offset
        check(ended, "called before an earlier one of its key was ever settled", position)

    def submitted(self, process: Process, delivery: Delivery) -> None:
        call = self._accounts[process].calls.get(delivery)
        if call is None or call.submitted:
            raise Violation(f"submitted without a start, or twice: {delivery}")
        call.submitted = True
        for other, account in self._accounts.items():
            if other is not process and any(
                out.book.partition == call.book.partition for out in account.calls.values()
            ):
                self._world.sometimes("two_owners_at_once")

    def over(self, process: Process, deliveries: Collection[Delivery]) -> None:
        """The calls of these are not out any more, though the process has not been told how they ended."""
        account = self._accounts.get(process)
        if account is not None:
            for delivery in deliveries:
                account.calls[delivery].over = True

    def answered(self, process: Process, results: Sequence[Result]) -> None:
        """The process is told how attempts ended."""
        account = self._accounts[process]
        told: list[tuple[CallOut, Outcome]] = []
        for delivery, outcome in results:
            call = account.calls.pop(delivery, None)
            if call is None:
                account.late += 1
                continue
            lane = lane_of(delivery.event, self._subscription.ordering)
            if lane is not None:
                at = (call.book.partition, lane)
                account.lanes_out[at] -= 1
                if not account.lanes_out[at]:
                    del account.lanes_out[at]
            if call.book.gone:
                account.late += 1
                self._world.sometimes("late_outcome_refused")
                continue
            told.append((call, outcome))
            if (
                not outcome.cancelled
                and not outcome.local
                and means_of(outcome, idempotent=self._subscription.idempotent) not in _SAYS_UNWELL
            ):
                account.newest_good_start_s = max(account.newest_good_start_s, call.started_s)
        # In two passes: in which order partitions hear of one batch is not laid down.
        for call, outcome in told:
            attempted = call.book.open[call.delivery.offset]
            attempted.out = False
            self._end(account, call.book, attempted, outcome)

    def _end(self, account: Account, book: Book, attempted: Try, outcome: Outcome) -> None:
        if outcome.cancelled:
            return
        means = means_of(outcome, idempotent=self._subscription.idempotent)
        if means in (Disposition.ACK, Disposition.DROP):
            end = "acked" if means is Disposition.ACK else "dropped"
            if means is Disposition.ACK and attempted.event.key is not None:
                book.suspects.discard(attempted.event.key)
            if self.followers.tells(book, attempted):
                attempted.taken = end
            else:
                self._settle(account, book, attempted, end)
        else:
            self._fail(account, book, attempted, means, outcome)

    def _fail(
        self, account: Account, book: Book, attempted: Try, means: Disposition, outcome: Outcome
    ) -> None:
        if means is Disposition.DEAD_LETTER:
            attempted.condemned = True
        elif means in _SAYS_UNWELL and not outcome.final:
            # An outage burns none: another event must have been called and taken since the last failure.
            if 0 <= attempted.failed_s < account.newest_good_start_s:
                attempted.burned_most += 1 + attempted.unburned
                attempted.unburned = 0
            else:
                attempted.unburned = 1
        else:
            attempted.burned_most += 1
            attempted.unburned = 0
            attempted.burned_least += means is Disposition.RETRY
        if outcome.final and self._subscription.retry.on_exhausted is OnExhausted.DEAD_LETTER:
            attempted.condemned = True
            if attempted.event.key is not None:
                book.suspects.add(attempted.event.key)
        attempted.failed_s = self._world.now_s

    def _settle(self, account: Account, book: Book, attempted: Try, end: str) -> None:
        event = attempted.event
        setattr(account, end, getattr(account, end) + 1)
        offset = event.offset
        check(offset in book.open, "settled twice", event.position)
        del book.open[offset]
        book.settled.add(offset)
        if attempted.lane is not None:
            lane = book.lanes[attempted.lane]
            check(lane[0] == offset, "settled before an earlier one of its key", event.position)
            del lane[0]
        book.unasked_s = min(book.unasked_s, self._world.now_s)
        self._record.settle(book.partition, offset, end)

    # -- Dead letters --------------------------------------------------------------------------------------

    def hop_asked(self, process: Process, hop: Hop) -> None:
        account, event = self._accounts[process], hop.delivery.event
        position = place_of(hop.delivery)
        book = account.books.get(hop.delivery.engine.partition)
        attempted = None if book is None else book.open.get(hop.delivery.offset)
        if book is None or attempted is None:
            raise Violation(f"set aside, and it is not its, or settled: {process} {position}")
        check(same(event, attempted.event), "another event is set aside than was read", position)
        check(not attempted.out, "set aside while a call is out", position)
        check(not attempted.writing, "set aside twice", position)
        self.followers.hop_asked(book, hop, attempted)
        if hop.tier is not None:
            tried_again = self.followers.may_wait_for_room
            self._asides.moves(attempted, hop.tier, tried_again=tried_again)
        if hop.told is None and not hop.follows:
            self._asides.deserved(book, attempted, moving=hop.tier is not None)
        attempted.writing, attempted.moving = True, hop.tier is not None
        account.letters[hop.delivery] = book

    def hop_written(self, hop: Hop) -> None:
        position = place_of(hop.delivery)
        self.followers.hop_written(hop)
        if self._record.write(position, "dead_lettered" if hop.tier is None else "moved") > 1:
            self._world.sometimes("dead_letter_written_twice")
            once = self._world.schedule.atomic and not self._world.damaged
            check(not once, "written twice, and in transactions", position)

    def hops_told(self, process: Process, results: Sequence[tuple[Hop, str | None]]) -> None:
        account = self._accounts[process]
        for hop, error in results:
            book = account.letters.pop(hop.delivery)
            if book.gone:
                account.late += 1
                self._world.sometimes("late_dead_letter_refused")
                continue
            attempted = book.open[hop.delivery.offset]
            attempted.writing = False
            if error is None:
                if hop.told is None:
                    book.letters.add(attempted.event.offset)
                self._settle(account, book, attempted, hop.end.value)

    # -- Commits -------------------------------------------------------------------------------------------

    def commit_asked(self, process: Process, partition: Partition, commit: Commit) -> None:
        book = self._accounts[process].books.get(partition)
        if book is None:
            raise Violation(f"a commit for a partition that is not its: {process} {partition}")
        check(book.in_transaction < 0, "a commit beside a transaction", process, partition)
        self._check_commit(book, commit, set())
        book.asked = commit.offset
        book.unasked_s = float("inf")

    def transaction_asked(
        self,
        process: Process,
        hops: Sequence[Hop],
        notes: Sequence[Note],
        commits: Mapping[Partition, Commit],
    ) -> list[tuple[Partition, int, str]]:
        """Hops, and what may be committed when they are written, go to the broker as one. Returns what was
        taken in a retry tier, and ends with it."""
        account = self._accounts[process]
        passed: dict[Partition, set[int]] = {partition: set() for partition in commits}
        for hop in hops:
            passed[hop.delivery.engine.partition].add(hop.delivery.offset)
        taken = [each for each in self.followers.passed(account, notes) if each[0] in passed]
        for partition, offset, _ in taken:
            passed[partition].add(offset)
        for partition, commit in commits.items():
            book = account.books.get(partition)
            if book is None:
                raise Violation(f"a transaction for a partition that is not its: {process} {partition}")
            on_the_way = process.consumer.client.is_committing(partition)
            check(not on_the_way, "a transaction beside a commit that is on its way", partition)
            for offset in passed[partition]:
                attempted = book.open.get(offset)
                check(attempted is not None and attempted.writing, "not to be written", partition, offset)
            self._check_commit(book, commit, passed[partition])
            book.in_transaction = commit.offset
        return taken

    def transaction_told(self, process: Process, partitions: Iterable[Partition], *, done: bool) -> None:
        """A transaction has ended, or what was to be one."""
        books = self._accounts[process].books
        for book in [books[partition] for partition in partitions if partition in books]:
            if done and book.in_transaction >= 0:
                book.asked = book.in_transaction
            book.in_transaction = -1
            book.held_until_s = self._world.now_s

    def _check_commit(self, book: Book, commit: Commit, passed: set[int]) -> None:
        """Whether everything that a commit passes is settled, or will be by what it goes with."""
        partition = book.partition
        check(commit.offset >= book.asked, "a commit goes back", partition, commit.offset, book.asked)
        check(commit.offset <= book.next_offset, "a commit of what was not read", partition, commit.offset)
        check(len(commit.metadata) <= MAP_CHARS_MAX, "a map that is too long", len(commit.metadata))
        mapped = read_map(commit.offset, commit.metadata, -1)
        if mapped is None:
            raise Violation(f"a map that cannot be read: {partition} {commit}")
        for offset in self._record.claimed(partition, book.start, commit.offset, mapped):
            done = offset in book.settled or book.knows(offset)
            excused = (
                offset < book.excused and self._record.is_cut(partition, offset) and offset not in book.open
            )
            allowed = done or excused or offset in passed
            check(allowed, "a commit passes an open event", Position(*partition, offset), commit)

    def stored(self, process: Process, partition: Partition, commit: Commit) -> None:
        """The broker takes it: from now on nobody will deliver again what it passes."""
        # Behind the map stands which making of the topic it speaks of.
        mapped = read_map(commit.offset, commit.metadata.partition("@")[0], -1)
        for offset in self._record.claimed(partition, 0, commit.offset, mapped or set()):
            done = self._record.is_settled(partition, offset) or self._record.is_cut(partition, offset)
            check(done, "lost: committed and never settled", Position(*partition, offset), process)

    # -- At every step -------------------------------------------------------------------------------------

    def looked(self, process: Process) -> None:
        """Between two batches: what the process says of itself against what was seen."""
        account = self._accounts.get(process)
        if account is None:
            return
        tally, pump = process.tally, process.pump
        check(tally.holds(pump.open_events), "the conservation law is broken", tally, pump.open_events)
        seen = (
            account.consumed,
            account.already,
            account.acked,
            account.dropped,
            account.dead_lettered,
            account.moved,
            account.attempts,
            account.late,
            len(account.calls),
        )
        said = (
            tally.consumed,
            tally.already_settled,
            tally.acked,
            tally.dropped,
            tally.dead_lettered,
            tally.moved,
            tally.attempts,
            tally.late_outcomes,
            process.limits.slots.taken,
        )
        check(seen == said, "it counts otherwise", process, seen, said)
        check(tally.filtered <= account.filtered, "it has filtered what it should not", tally.filtered)
        self._look_at_books(process, account)
        self._notice(process, account)

    def _notice(self, process: Process, account: Account) -> None:
        """What is not judged, only counted: situations that show nowhere else."""
        sometimes, health = self._world.sometimes, process.pump.breaker.health
        if health is not account.health:
            if health is Health.MISWIRED:
                sometimes("miswired_breaker")
            elif health is Health.WELL:
                sometimes("probe_closed_breaker")
            account.health = health
        if process.tally.ledger_stalled_ms > account.stalled_ms:
            account.stalled_ms = process.tally.ledger_stalled_ms
            sometimes("map_cut_the_pace")
        if not self._world.reached.counts["parked"] and any(engine.parked for engine in process.pump.engines):
            sometimes("parked")

    def _look_at_books(self, process: Process, account: Account) -> None:
        now_s = self._world.now_s
        idle = now_s >= process.busy_until_s
        for book in account.books.values():
            if idle and now_s > book.unasked_s + COMMIT_WITHIN_S and not self._world.schedule.map_budget:
                if any(each.writing for each in book.open.values()):
                    # A transaction may carry the commit.
                    continue
                since_s = max(book.unasked_s, book.held_until_s, process.busy_until_s)
                check(now_s <= since_s + COMMIT_WITHIN_S, "settled and no commit asked for", book.partition)
