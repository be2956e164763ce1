"""What a run must have reached to have proved anything: each situation with a sentence, counted.

A simulation that never revokes with calls out says nothing of revokes. A situation that was not reached in
a whole run fails it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["SITUATIONS", "Reached", "table"]

SITUATIONS: Mapping[str, str] = {
    "revoke_with_calls_out": "partitions were revoked while calls were out",
    "revoke_with_dead_letter_out": "partitions were revoked while a dead letter was on the way",
    "revoke_with_breaker_open": "partitions were revoked while the breaker was open",
    "revoke_while_stopping": "the group took partitions back from a process that was stopping",
    "drain_cut": "a drain ended at its timeout and its calls were cut",
    "lost_with_calls_out": "an assignment was lost while calls were out",
    "lost_with_dead_letter_out": "an assignment was lost while a dead letter was on the way",
    "late_outcome_refused": "an outcome came for an assignment that was gone",
    "late_dead_letter_refused": "a dead letter was acknowledged for an assignment that was gone",
    "key_blocked_across_assignments": "a partition came back while a call of its earlier assignment was out",
    "answered_twice": "one attempt was answered twice",
    "probe_closed_breaker": "a probe closed the breaker",
    "miswired_breaker": "the breaker opened because the target was miswired",
    "target_unavailable": "a call met a target that was down",
    "target_hang": "a call met a target that hung",
    "target_miswired": "a call met a target that was miswired",
    "target_half": "a call met a target of which half was down",
    "suspect_key_set_aside": "an event of a suspect key was set aside after one attempt",
    "exhausted": "an event used its attempts up",
    "gave_up_by_age": "an event was set aside because it was too old",
    "held": "an event out of attempts was held",
    "dead_letter_refused": "a dead letter was refused",
    "dead_letter_written_and_answer_lost": "a dead letter was written and said not to be",
    "moved": "an event was moved to a retry tier",
    "exhausted_in_tier": "an event failed in a retry tier and went on from there",
    "followed_to_a_tier": "an event followed another one of its key to a retry tier",
    "followed_to_the_dead_letters": "an event followed another one of its key into the dead letters",
    "came_with_followed_keys": "a partition came to a process while keys of it were followed",
    "crash_with_notes_on_the_way": "a process died while it was being written which keys are followed",
    "follow_read_waits_for_a_transaction": "what is followed was asked for while more was being written",
    "follow_read_failed": "what is followed could not be read at first",
    "followed_no_more": "keys had been followed, and it was seen that none was any more",
    "transaction_committed": "dead letters and the offsets that they pass were committed as one",
    "transaction_aborted": "a transaction was aborted",
    "transaction_offsets_refused": "the group refused the offsets of a transaction",
    "transaction_timed_out": "the broker gave a transaction up for its age",
    "transaction_left_open_was_ended": "a process ended the transaction that one of its name had left open",
    "transaction_of_fenced_process": "a process heard in a transaction that another one has its name",
    "transaction_unknown_and_done": "what became of a transaction was not known, and it was committed",
    "transaction_unknown_and_open": "what became of a transaction was not known, and it was not committed",
    "start_waits_for_a_transaction": "a partition waited for somebody's open transaction to end",
    "dead_letter_written_twice": "a dead letter was written a second time, after a crash or a lost answer",
    "map_committed": "an ack map was committed",
    "map_carried": "a partition began with an ack map that spoke of settled events",
    "map_refused": "a partition began with a map that had been damaged",
    "map_cut_the_pace": "a call was held back because the ack map had no room",
    "paused": "a partition was paused",
    "parked": "events were parked behind a key that waited",
    "read_again": "events that were parked by their offset were asked for again",
    "commit_without_coordinator": "a commit found no coordinator",
    "commit_retried_on_new_coordinator": "a commit that had found no coordinator was taken by the next",
    "commit_done_and_answer_lost": "a commit was carried out and its answer lost",
    "commit_of_old_generation": "a commit of an old generation was refused",
    "commit_of_evicted_member": "a commit of a process that the group had put out was refused",
    "commit_of_fenced_process": "a commit of a process whose name another one had taken was refused",
    "start_unknown_for_now": "the committed offset could not be read at first",
    "seek_refused": "the client refused a seek",
    "offsets_cut": "retention took events that had not been read",
    "member_evicted": "a member was not heard of for a session and put out",
    "member_too_slow_for_a_rebalance": "a member did not give its partitions up in time and was put out",
    "thread_gave_a_drain_up": "the consumer's thread waited for a drain in vain",
    "static_member_back_in_its_session": "a static member came back before its session had ended",
    "process_fenced": "a process ended because another one has its name",
    "process_frozen": "a process was frozen for longer than its session",
    "clock_jumped": "a process's wall clock jumped, by up to two hours",
    "loop_slow": "a process's loop was slow while its thread went on",
    "crash_in_the_middle": "a process died in the middle of what it asked for",
    "crash_with_calls_out": "a process died while calls were out",
    "crash_between_dead_letter_and_commit": "a process died between a dead letter and its commit",
    "crash_while_stopping": "a process died while it was stopping",
    "repeated": "a settled event was delivered again after a crash or a loss",
    "two_owners_at_once": "two processes had calls of one partition out, one of them no longer its owner",
}


class Reached:
    """How often each situation was reached."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(SITUATIONS, 0)

    def sometimes(self, situation: str) -> None:
        self.counts[situation] += 1

    def add(self, counts: Mapping[str, int]) -> None:
        for situation, count in counts.items():
            self.counts[situation] += count

    @property
    def never(self) -> list[str]:
        return [situation for situation, count in self.counts.items() if not count]


def table(counts: Mapping[str, int]) -> Iterator[str]:
    yield f"{'times':>9}  situation"
    for situation, sentence in SITUATIONS.items():
        yield f"{counts[situation]:>9}  {sentence}"
