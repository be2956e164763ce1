"""The fast path: deliveries in batches over `pelton.v1.EventHandler/HandleStream`.

One stream at a time to a target, and with it one of the target's addresses; another process, or the next
stream, takes another. A delivery's metadata does not travel: what it would say stands in the Delivery.

**What happens to a delivery that is not settled in time.** Its token is said to be cancelled, and then the
handler may still be at work on it: called again now, the key would be handled twice at once. So its result
waits: until the handler settles the token, with whatever (that it is late has been decided), or until
`GRACE_MS` is over. Then the stream is *retired*: new deliveries go to a new one, and the old one is cancelled
as soon as the others open on it are settled or have expired, too. The end of the stream is what tells the
handler to stop. So one event that hangs makes no other be called twice, and its DEADLINE_EXCEEDED comes at
the latest after twice its timeout and the grace.

**What happens to deliveries that were open when a handler lied** (it settled a token that was never given
out). Which of them made it do so cannot be seen, so none is blamed: each comes back at no cost, and is called
next on a stream of its own. Whoever is open at a lie there is the one, and its failure counts: decision 0026.

Nothing here decides what an outcome means. Connecting anew after a failure is bounded by `RECONNECT_*`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from pelton.core.delivery import Delivery
from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status
from pelton.rpc.batch import batch_head
from pelton.rpc.channels import Channels
from pelton.rpc.leases import RECONNECT_MAX_MS, RECONNECT_MIN_MS
from pelton.rpc.results import Results
from pelton.rpc.session import Flight, Session, delivery_bytes_max, expired
from pelton.rpc.status import too_large
from pelton.rpc.transport import Call, Metadata, OnResults, Result
from pelton.subscription import DeliveryMode, Subscription

__all__ = ["GRACE_MS", "RETIRED_MAX", "SUSPECTED_MAX", "StreamTransport"]

#: How long a handler that was told of an expired token has to let go of it before its stream is given up.
GRACE_MS = 500.0
#: Retired streams that still have deliveries open. One more, and the oldest is cut: what was open on it is
#: called again and burns nothing.
RETIRED_MAX = 4
#: Deliveries remembered for having been open at a lie. One that is forgotten may see one more, unblamed.
SUSPECTED_MAX = 10_000
#: After the last settlement of a drain, how long the handler has to end the stream itself.
END_GRACE_MS = 1_000.0
#: Deadlines are looked at no more often than this; a delivery may be late by as much.
_SWEEP_MIN_S = 0.005


class StreamTransport:
    """`Transport` for the mode `stream`."""

    def __init__(self, subscription: Subscription, channels: Channels, on_results: OnResults) -> None:
        """TargetError if the target's credentials cannot be used."""
        assert subscription.mode is DeliveryMode.STREAM, "the other modes make unary calls"
        self._loop = asyncio.get_running_loop()
        self._lease = channels.lease(subscription.target)
        self._path = subscription.method
        self._metadata: Metadata = (("pelton-subscription", subscription.name),)
        constants = {p.name: p.constant for p in subscription.parameters if p.constant is not None}
        self._head = batch_head(subscription.name, constants)
        self._bytes_max = subscription.target.max_message_bytes
        self._body_bytes_max = delivery_bytes_max(self._bytes_max, self._head)
        self._results = Results(on_results)
        #: Everything submitted that has no result yet. Queue and sessions hold parts of it.
        self._flights: dict[Delivery, Flight] = {}
        self._queue: deque[Flight] = deque()
        self._current: Session | None = None
        self._retired: list[Session] = []
        #: Streams of one delivery each, with what they have not sent yet. Bounded by the calls submitted.
        self._alone: dict[Session, deque[Flight]] = {}
        #: Deliveries that were open at a lie, oldest first, until they end in any other way.
        self._suspected: dict[Delivery, None] = {}
        self._backoff_ms = 0.0
        #: Why the last attempt to connect failed, for those whose time ends while they wait for the next.
        self._failure = ""
        self._reconnect: asyncio.TimerHandle | None = None
        #: The one timer for all deadlines, and when it goes off.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = float("inf")
        self._drained: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        return len(self._flights) + len(self._results)

    def submit(self, calls: Sequence[Call]) -> None:
        now_s = self._loop.time()
        earliest_s = self._timer_s
        for call in calls:
            delivery = call.delivery
            assert delivery not in self._flights, f"{delivery!r} was submitted while its last attempt is out"
            if self._closed:
                self._results.add(delivery, CANCELLED_BY_US)
            elif len(call.body) > self._body_bytes_max:
                self._results.add(delivery, too_large(len(call.body), self._body_bytes_max))
            else:
                flight = Flight(delivery, call.body, call.timeout_ms, now_s + call.timeout_ms / 1_000.0)
                self._flights[delivery] = flight
                if delivery in self._suspected:
                    self._open_alone(flight)
                else:
                    self._queue.append(flight)
                earliest_s = min(earliest_s, flight.deadline_s)
        if earliest_s < self._timer_s:
            self._arm(earliest_s)
        self._open_session()

    def cancel(self, deliveries: Collection[Delivery]) -> None:
        queued = False
        for delivery in deliveries:
            flight = self._flights.get(delivery)
            if flight is None:
                continue
            if flight.session is None:
                queued = True
            else:
                flight.session.forget(flight)
            self._end(flight, CANCELLED_BY_US)
        if queued:
            self._clean_queue()
        for session in list(self._retired):
            self._cut_if_done(session)

    async def close(self, drain_ms: float) -> None:
        self._closed = True
        until_s = self._loop.time() + drain_ms / 1_000.0
        if self._current is not None:
            self._current.finish()
        if self._flights and drain_ms > 0:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=drain_ms / 1_000.0)
        self.cancel(list(self._flights))
        self._results.hand_over()
        for timer in (self._timer, self._reconnect):
            if timer is not None:
                timer.cancel()
        sessions = self._sessions()
        tasks = [session.task for session in sessions]
        if self._current is not None:
            # The trailers of a handler that ends in good order; then nobody is waited for.
            grace_s = min(END_GRACE_MS / 1_000.0, until_s - self._loop.time())
            if grace_s > 0:
                await asyncio.wait([self._current.task], timeout=grace_s)
        for session in sessions:
            session.cancel(CANCELLED_BY_US)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._results.hand_over()
        await self._lease.release()

    def _end(self, flight: Flight, outcome: Outcome) -> None:
        del self._flights[flight.delivery]
        if flight.session is None or not flight.session.lied:
            self._suspected.pop(flight.delivery, None)
        self._results.add(flight.delivery, outcome)
        self._look_drained()

    def _look_drained(self) -> None:
        if self._drained is not None and not self._flights and not self._drained.done():
            self._drained.set_result(None)

    def _clean_queue(self) -> None:
        """Drop from the queues what has its result already. In place: the sessions hold the same queues."""
        for queue in (self._queue, *self._alone.values()):
            waiting = [flight for flight in queue if self._flights.get(flight.delivery) is flight]
            queue.clear()
            queue.extend(waiting)

    def _sessions(self) -> list[Session]:
        current = () if self._current is None else (self._current,)
        return [*self._retired, *self._alone, *current]

    # --- sessions ---------------------------------------------------------------------------------------

    def _open_session(self) -> None:
        """See to it that somebody sends what stands in the queue."""
        current = self._current
        if current is not None and (
            current.channel is not self._lease.channel()
            or current.authorization != self._lease.authorization()
        ):
            # The certificates have changed, or the token.
            self._retire(current)
            current = None
        if not self._queue:
            return
        if current is not None:
            current.wake()
        elif self._reconnect is None:
            self._current = self._make_session(self._queue)
            if self._closed:
                self._current.finish()

    def _open_alone(self, flight: Flight) -> None:
        """A stream for one delivery, closed on our side as soon as it is sent."""
        queue = deque((flight,))
        session = self._make_session(queue)
        self._alone[session] = queue
        session.finish()

    def _make_session(self, queue: deque[Flight]) -> Session:
        return Session(
            self._lease.channel(),
            self._path,
            self._metadata,
            self._lease.authorization(),
            head=self._head,
            bytes_max=self._bytes_max,
            queue=queue,
            on_acked=self._on_acked,
            on_outcome=self._on_outcome,
            on_ended=self._on_ended,
        )

    def _on_acked(self, session: Session, flights: list[Flight]) -> None:
        """`_on_outcome` of those that the handler took: the common case, carried out at once."""
        out, suspected = self._flights, self._suspected
        results: list[Result] = []
        for flight in flights:
            delivery = flight.delivery
            del out[delivery]
            results.append((delivery, ACKED))
            if suspected:
                suspected.pop(delivery, None)
        self._results.extend(results)
        self._look_drained()
        self._look_done(session)

    def _on_outcome(self, flight: Flight, outcome: Outcome) -> None:
        self._end(flight, outcome)
        if flight.session is not None:
            self._look_done(flight.session)

    def _look_done(self, session: Session) -> None:
        if session.retired or session in self._alone:
            self._cut_if_done(session)

    def _retire(self, session: Session) -> None:
        session.retired = True
        self._retired.append(session)
        if session is self._current:
            self._current = None
        if len(self._retired) > RETIRED_MAX:
            self._retired[0].cancel(
                Outcome(Status.UNAVAILABLE, "the stream was given up: others hang", cancelled=True)
            )
        self._cut_if_done(session)

    def _cut_if_done(self, session: Session) -> None:
        """A session that gets nothing new, with nothing open but what hangs, has nothing to wait for."""
        if not session.open:
            session.cancel(CANCELLED_BY_US)

    def _on_ended(self, session: Session, outcome: Outcome) -> None:
        if not session.connected:
            outcome = self._lease.explained(outcome)
        for flight, _ in session.hung.values():
            self._end(flight, expired(flight))
        for flight in session.open.values():
            self._end(flight, self._blamed(flight, session, outcome) if session.lied else outcome)
        session.hung.clear()
        session.open.clear()
        if session in self._alone:
            for flight in self._alone.pop(session):
                self._end(flight, outcome)
            return
        if session is not self._current:
            self._retired.remove(session)
            return
        self._current = None
        if session.worked:
            self._backoff_ms = 0.0
        else:
            self._backoff_ms = min(max(self._backoff_ms * 2, RECONNECT_MIN_MS), RECONNECT_MAX_MS)
            self._failure = f"; the last stream ended with {outcome.status.name}: {outcome.message}"
        if not session.connected:
            # Whoever waited for this stream waited for nothing: their breaker must hear of it now.
            for flight in list(self._queue):
                self._end(flight, outcome)
            self._queue.clear()
        if self._closed and not self._flights:
            return
        if self._backoff_ms:
            self._reconnect = self._loop.call_later(self._backoff_ms / 1_000.0, self._reconnect_now)
        else:
            self._open_session()

    def _blamed(self, flight: Flight, session: Session, outcome: Outcome) -> Outcome:
        """What a lie costs a delivery that was open at it: nothing, unless it was the only one there."""
        if not session.in_company:
            return outcome
        while len(self._suspected) >= SUSPECTED_MAX:
            del self._suspected[next(iter(self._suspected))]
        self._suspected[flight.delivery] = None
        return Outcome(outcome.status, outcome.message, cancelled=True)

    def _reconnect_now(self) -> None:
        self._reconnect = None
        self._open_session()

    # --- deadlines --------------------------------------------------------------------------------------

    def _arm(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = when_s
        self._timer = self._loop.call_at(max(when_s, self._loop.time() + _SWEEP_MIN_S), self._sweep)

    def _sweep(self) -> None:
        """Expire what is late, give up what hangs, and set the timer for what comes next.

        A look at every flight, but only when the earliest deadline of those that were out at the last look
        has come: about once per timeout while calls are fast.
        """
        self._timer, self._timer_s = None, float("inf")
        now_s = self._loop.time()
        late = [flight for flight in self._flights.values() if flight.deadline_s <= now_s]
        queued = False
        for flight in late:
            session = flight.session
            if session is None:
                queued = True
                self._end(flight, _not_connected(flight, self._failure))
            elif flight.token in session.open:
                session.expire(flight, now_s + GRACE_MS / 1_000.0)
        if queued:
            self._clean_queue()
        sessions = self._sessions()
        for session in sessions:
            if session.retired:
                self._cut_if_done(session)
            elif any(until_s <= now_s for _, until_s in session.hung.values()):
                if session in self._alone:
                    session.cancel(CANCELLED_BY_US)
                else:
                    self._retire(session)
        self._open_session()
        due_s = [flight.deadline_s for flight in self._flights.values() if flight.deadline_s > now_s]
        for session in sessions:
            if not session.retired:
                due_s.extend(until_s for _, until_s in session.hung.values())
        if due_s:
            self._arm(min(due_s))


def _not_connected(flight: Flight, failure: str) -> Outcome:
    return Outcome(
        Status.DEADLINE_EXCEEDED, f"no stream to the handler within {flight.timeout_ms:.0f} ms{failure}"
    )
