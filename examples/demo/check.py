"""Whether every event ended as it should, and in its customer's order.

Fed with the lines of the two journals and with the dead letters, in whatever mixture they come; it reads
nothing itself and knows nothing of Pelton. Its counts are what the screen shows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, NamedTuple

from examples.demo.journal import Published, Step, What

__all__ = ["EXPECTED", "Check", "Expected", "Lane"]


class Expected(NamedTuple):
    """How events of a type end."""

    end: What
    #: Calls until then; more of them only where some were cut.
    calls: int


EXPECTED: Final = {
    "order.placed": Expected(What.TAKEN, 1),
    "order.paid": Expected(What.TAKEN, 3),
    "order.packed": Expected(What.TAKEN, 1),
    "order.shipped": Expected(What.TAKEN, 1),
    "order.refunded": Expected(What.DEAD_LETTER, 1),
}


@dataclass(slots=True)
class Lane:
    """Where a customer's events are: the last one that was begun, and what happened to it last."""

    number: int = 0
    what: What = What.TAKEN


@dataclass(slots=True)
class Fate:
    """What is known of one event."""

    type: str = ""
    calls: int = 0
    #: Of these, cut ones, and those that began when the event was done with.
    cut: int = 0
    repeats: int = 0
    taken: bool = False
    #: The service has said that it will never succeed.
    refused: bool = False
    #: Copies in the dead-letter topic.
    dead_letters: int = 0

    @property
    def settled(self) -> bool:
        return self.taken or self.dead_letters > 0


class Check:
    """The account of one run."""

    def __init__(self) -> None:
        self.lanes: defaultdict[str, Lane] = defaultdict(Lane)
        self._fates: defaultdict[tuple[str, int], Fate] = defaultdict(Fate)
        #: Published and not settled.
        self._open: set[tuple[str, int]] = set()
        self.published = 0
        self.called = 0
        #: Calls of an event after its first.
        self.retried = 0
        self.delivered = 0
        self.dead_lettered = 0
        #: Calls of an event that was done with, and second copies of dead letters. At least once allows for
        #: them, after a crash; here nothing crashes.
        self.repeats = 0
        self.violations: list[str] = []

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def settled(self) -> int:
        return self.published - self.open

    def on_published(self, line: Published) -> None:
        self.published += 1
        event = line.customer, line.number
        fate = self._fates[event]
        fate.type = line.type
        # The service may have been faster than the publisher's note.
        if not fate.settled:
            self._open.add(event)

    def on_step(self, line: Step) -> None:
        fate = self._fates[line.customer, line.number]
        if line.what is What.BEGAN:
            self._on_began(line, fate)
        lane = self.lanes[line.customer]
        if line.number == lane.number:
            lane.what = line.what
        match line.what:
            case What.TAKEN:
                self.delivered += not fate.taken
                fate.taken = True
                self._open.discard((line.customer, line.number))
            case What.DEAD_LETTER:
                fate.refused = True
            case What.CUT:
                fate.cut += 1
            case What.BEGAN | What.RETRY:
                pass

    def _on_began(self, line: Step, fate: Fate) -> None:
        self.called += 1
        self.retried += fate.calls > 0
        fate.calls += 1
        if fate.taken or fate.refused:
            self.repeats += 1
            fate.repeats += 1
        lane = self.lanes[line.customer]
        if wrong := disorder(lane, line.number):
            self.violations.append(f"{line.customer}: {wrong}")
        lane.number = max(lane.number, line.number)

    def on_dead_letter(self, customer: str, number: int) -> None:
        fate = self._fates[customer, number]
        self.dead_lettered += fate.dead_letters == 0
        self.repeats += fate.dead_letters > 0
        fate.dead_letters += 1
        self._open.discard((customer, number))

    def faults(self) -> list[str]:
        """Everything that is not as it should be, once nothing more will come; empty if all is well."""
        found = [f"out of order: {wrong}" for wrong in self.violations]
        for (customer, number), fate in self._fates.items():
            if wrong := misfortune(fate):
                found.append(f"{customer} #{number} {fate.type}: {wrong}")
        return found


def disorder(lane: Lane, number: int) -> str:
    """What is wrong with beginning a call of this event now; empty if nothing is."""
    if lane.what is What.BEGAN:
        return f"#{number} was called while #{lane.number} was still being handled"
    if number == lane.number:
        return ""  # another attempt, or a repeat that overtakes nothing
    if number < lane.number:
        return f"#{number} was called after #{lane.number}"
    if lane.what not in (What.TAKEN, What.DEAD_LETTER):
        return f"#{number} was called before #{lane.number} was settled"
    if number > lane.number + 1:
        return f"#{number} was called before #{lane.number + 1}"
    return ""


def misfortune(fate: Fate) -> str:
    """What is wrong with an event's end; empty if nothing is."""
    if not fate.type:
        return "was called or dead-lettered, and never published"
    expected = EXPECTED[fate.type]
    if not fate.settled:
        return "is lost: neither taken by the service nor in the dead-letter topic"
    if fate.taken and fate.dead_letters:
        return "was taken by the service, and dead-lettered as well"
    if fate.taken != (expected.end is What.TAKEN):
        return f"was {'taken' if fate.taken else 'dead-lettered'}; expected: {expected.end.value}"
    calls = fate.calls - fate.repeats
    if not calls - fate.cut <= expected.calls <= calls:
        return f"was called {calls} times ({fate.cut} of them cut), not {expected.calls}"
    return ""
