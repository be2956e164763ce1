"""The group's coordinator: members, generations, who owns what, eagerly or cooperatively.

Eager: everybody gives everything up, and when the last one has, a new generation begins. Cooperative: only
what moves is given up, and goes to its new owner in one more generation. Who is not heard of for a
session, or does not give up in time, is put out, and learns of it when it asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelton.event import Partition

if TYPE_CHECKING:
    from tests.simulation.client import FakeClient
    from tests.simulation.world import World

__all__ = ["SESSION_S", "Group", "Member"]

SESSION_S = 6.0
#: How long a rebalance waits for those that drain: less than the longest that a stuck one takes, which a
#: config that is checked would not allow, so that members that are too slow are met too.
REBALANCE_TIMEOUT_S = 3.0


class Member:
    """One place in the group. A static one outlives the process that holds it."""

    def __init__(self, client: FakeClient, instance: str | None) -> None:
        self.client = client
        self.instance = instance
        self.owned: set[Partition] = set()
        #: What it has been asked to give up and has not yet.
        self.revoking: set[Partition] = set()
        #: Eager: it has given everything up and waits for the next generation.
        self.joined = False


class Group:
    """See the module."""

    def __init__(self, world: World, partitions: list[Partition], *, cooperative: bool) -> None:
        self._world = world
        self._partitions = partitions
        self._cooperative = cooperative
        self.members: list[Member] = []
        self.generation = 0
        self._preparing = False
        self._again = False
        self._round = 0

    # -- Members ---------------------------------------------------------------------------------------

    def join(self, client: FakeClient, instance: str | None) -> Member:
        """A process comes; a static one takes the place that its name still has."""
        for member in self.members:
            if instance is not None and member.instance == instance:
                self._take_over(member, client)
                return member
        member = Member(client, instance)
        member.joined = True
        self.members.append(member)
        self._begin()
        return member

    def leave(self, client: FakeClient) -> None:
        if (member := self._member_of(client)) is not None:
            self._remove(member)

    def evict(self, member: Member) -> None:
        """It was not heard of for too long. It does not know."""
        if member in self.members:
            self._world.sometimes("member_evicted")
            self._remove(member)
            member.client.put_out()

    def deal(self) -> None:
        """Deal the partitions anew, as after a change of the topics."""
        if self.members:
            self._begin()

    def gave_up(self, client: FakeClient, partitions: list[Partition]) -> None:
        """The member has drained what it was asked for."""
        member = self._member_of(client)
        if member is None:
            return
        member.owned.difference_update(partitions)
        member.revoking.difference_update(partitions)
        if not self._cooperative:
            member.joined = True
        self._go_on()

    def _member_of(self, client: FakeClient) -> Member | None:
        """Its place, if it still has one and nobody has taken it over."""
        return next((member for member in self.members if member.client is client), None)

    def _take_over(self, member: Member, client: FakeClient) -> None:
        former = member.client
        member.client = client
        former.fence()
        if member.revoking or (self._preparing and not self._cooperative):
            # The old process was asked to give these up; the new one has nothing yet.
            member.owned -= member.revoking
            if not self._cooperative:
                member.owned = set()
                member.joined = True
            member.revoking = set()
        client.tell_assigned(sorted(member.owned), self.generation)
        self._world.sometimes("static_member_back_in_its_session")
        self._go_on()

    def _remove(self, member: Member) -> None:
        self.members.remove(member)
        self._begin()

    # -- Rebalances ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._preparing:
            # The eager round takes newcomers in as it is; a cooperative one must be done first.
            self._again = self._cooperative
            self._go_on()
            return
        self._preparing = True
        self._round += 1
        self._world.loop.call_later(REBALANCE_TIMEOUT_S, self._time_out, self._round)
        if self._cooperative:
            self._begin_cooperative()
        else:
            for member in self.members:
                member.joined = not member.owned
                if member.owned:
                    member.revoking = set(member.owned)
                    member.client.tell_revoked(sorted(member.owned))
        self._go_on()

    def _begin_cooperative(self) -> None:
        self.generation += 1
        shares = self._shares()
        taken = {partition for member in self.members for partition in member.owned}
        for member in self.members:
            share = shares[member]
            member.revoking = member.owned - share
            gained = share - taken
            member.owned |= gained
            member.client.tell_assigned(sorted(gained), self.generation)
            if member.revoking:
                member.client.tell_revoked(sorted(member.revoking))

    def _go_on(self) -> None:
        if not self._preparing:
            return
        if self._cooperative:
            if any(member.revoking for member in self.members):
                return
            self._preparing = False
            taken = {partition for member in self.members for partition in member.owned}
            if self._again or (self.members and len(taken) < len(self._partitions)):
                self._again = False
                self._begin()
        else:
            if not all(member.joined for member in self.members):
                return
            self._preparing = False
            self.generation += 1
            shares = self._shares()
            for member in self.members:
                member.joined = False
                member.revoking = set()
                member.owned = shares[member]
                member.client.tell_assigned(sorted(member.owned), self.generation)

    def _time_out(self, of_round: int) -> None:
        if self._preparing and self._round == of_round:
            for member in list(self.members):
                if member.revoking and member in self.members:
                    self._world.sometimes("member_too_slow_for_a_rebalance")
                    self.evict(member)
            self._go_on()

    def _shares(self) -> dict[Member, set[Partition]]:
        """As equal as can be; now and then dealt anew, so that partitions move though nobody came or went."""
        shares: dict[Member, set[Partition]] = {member: set() for member in self.members}
        if not shares:
            return shares
        most = -(-len(self._partitions) // len(shares))
        free = list(self._partitions)
        if self._cooperative or self._world.random.random() < 0.5:
            for member, share in shares.items():
                kept = [partition for partition in free if partition in member.owned][:most]
                share.update(kept)
                free = [partition for partition in free if partition not in share]
        self._world.random.shuffle(free)
        for partition in free:
            min(shares.values(), key=len).add(partition)
        return shares
