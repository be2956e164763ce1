"""Rows in which the way to the handler breaks off a share of all calls, for as long as it takes many of them.

One key of the same load is poisonous all the while, by a status of the unwell kind: what spares the innocent
must not spare it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.checker import Expected
from tests.faults.cuts import Cuts, How
from tests.faults.history import History
from tests.faults.matrix import Bite, Row
from tests.faults.scene import Scene
from tests.integration.delivery.processes import until

__all__ = ["ROWS"]

CUT = "calls whose answer was cut"
POISON = "key-7"
SEED = 17
#: Below this, an innocent event that loses an attempt with every cut would be set aside by chance: with four
#: attempts and half of the calls cut, one in sixteen.
RETRY = "{ attempts: 4, backoff: 10ms..200ms }"
SCENE: dict[str, object] = {"retry": RETRY, "rate": 120.0}
#: Of the share that was asked for.
OFF_MAX = 0.1
#: Of what cannot be drawn call by call, and is less often.
COARSE_OFF_MAX = 0.2
#: Of the calls that are cut, half after the work; of these again some when nobody has seen it.
REPEATED_MIN = 0.25
#: Ten times what it takes, and far less than what a run waits for.
POISON_S = 60.0


def _letters(history: History) -> Expected:
    """The poisonous key's, and nobody else's."""
    key = POISON.encode()
    return Expected(letters=frozenset(record.number for record in history.stored if record.key == key))


def _bites(many: int) -> Bite:
    """The poison was set aside; and by the handler's journal, which knows of no proxy, much came again."""
    return lambda history, report: report.letters > 0 and report.repeats > REPEATED_MIN * many


def cuts(share: float, many: int, how: How) -> Callable[[Scene], None]:
    """Until so many are cut."""

    def act(scene: Scene) -> None:
        cuts = Cuts(how, seed=SEED)
        scene.proxy.edit = cuts
        scene.handler.tell(delay_ms=20, status_of_key={POISON: "UNAVAILABLE"})
        pelton = scene.serve()
        scene.flow(100)
        # Those that are out already are broken off with their connections, too.
        before = cuts.calls - (cuts.out if how is How.CONNECTIONS else 0)
        with scene.cut("calls cut"):
            cuts.share = share
            until(lambda: cuts.cut >= many, f"{many} calls to be cut", POISON_S)
            cuts.share = 0.0
            cut, calls = cuts.cut, cuts.calls - before
            scene.recovering()
            scene.flow()
            until(lambda: "dead-lettered" in pelton.log(), "the poisonous key to be set aside", POISON_S)
            # What is left of it alone would be tried for ever: that looks like an outage.
            scene.handler.tell(status_of_key={})
        scene.figure = f"{cut} of {calls} {how.value} cut, over {scene.proxy.connections} connections"
        assert abs(cut / calls - share) <= (OFF_MAX if how is How.CALLS else COARSE_OFF_MAX), scene.figure
        scene.published_over()
        until(scene.settled, "every event to be settled", POISON_S)
        if how is How.CALLS:
            # The handler's journal says the same as the proxy.
            assert scene.called() == cuts.calls - cuts.before, (scene.called(), cuts.calls, cuts.before)

    return act


def _row(
    number: str,
    fault: str,
    injected: str,
    share: float,
    many: int,
    how: How = How.CALLS,
    *,
    quick: bool = False,
    **scene: object,
) -> Row:
    return Row(
        *(number, fault, injected, "nothing is set aside but the poisonous key", CUT),
        cuts(share, many, how),
        scene={**SCENE, **scene},
        judge=_letters,
        bites=_bites(many),
        quick=quick,
    )


SINGLE = "single HTTP/2 streams reset, before and after the work"

ROWS = [
    _row("17e", "three calls in ten are cut", SINGLE, 0.3, 150, quick=True),
    _row("17f", "every other call is cut", SINGLE, 0.5, 250),
    _row("17g", "seven calls in ten are cut", SINGLE, 0.7, 200),
    _row(
        *(
            "17h",
            "every other call is cut with its connection",
            "connections end when half of it is answered",
        ),
        *(0.5, 250, How.CONNECTIONS),
    ),
    _row("17i", "every other call is cut, grpc.aio", SINGLE, 0.5, 250, subscription="    transport: aio"),
    _row(
        *(
            "17j",
            "every other answer of a stream is cut",
            "HandleStream reset in place of a batch of settlements",
        ),
        *(0.5, 6, How.BATCHES),
        stream=True,
    ),
]
