"""Rows in which the handler's HTTP/2 misbehaves: `h2_server.py` does it, one deed after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.faults.checker import Expected, Report
from tests.faults.h2_server import CANCEL, ENHANCE_YOUR_CALM, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, Do
from tests.faults.history import History
from tests.faults.matrix import Row
from tests.faults.scene import Scene

__all__ = ["ROWS"]

#: So many good answers between two deeds.
GOOD = 19
#: Deeds that ask for another attempt burn one: with so many, no event meets bad ones alone.
RETRY = "{ attempts: 12, backoff: 10ms..200ms }"
WIRE: dict[str, object] = {"wire": True, "retry": RETRY, "timeout": "2s"}
CUT = "calls whose answer was cut"


def deed(do: Do, code: int = NO_ERROR, **more: Any) -> dict[str, Any]:
    return {"do": do.value, "code": code, **more}


def _bad(do: Do) -> Callable[[History, Report], bool]:
    """The deed was done more than once, and its calls made again."""
    return lambda history, report: sum(call.status == do.value.upper() for call in history.calls) > 1


def does(*deeds: dict[str, Any], good: int = GOOD, after: int = 900) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.serve()
        scene.flow(200)
        good_ones = [deed(Do.ANSWER)] * good
        with scene.cut("misbehaving HTTP/2"):
            scene.handler.tell(deeds=[each for one in deeds for each in (*good_ones, one)])
            scene.flow(after)
            scene.handler.tell(deeds=[])
            scene.recovering()
            scene.flow()

    return act


def storm(scene: Scene) -> None:
    """GOAWAYs that mean nothing, by hundreds: the connection goes on."""
    scene.serve()
    scene.flow(200)
    with scene.cut("GOAWAY storm"):
        for _ in range(10):
            scene.handler.tell(storm=100)
            scene.flow(60)
        scene.recovering()
        scene.flow()


def peer(**settings: Any) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.handler.tell(peer=settings)
        scene.serve()
        scene.flow(900)
        scene.handler.tell(peer={})
        with scene.cut("connections ended, so that others come"):
            scene.proxy.close()
        scene.recovering()
        scene.flow()

    return act


def peer_of_age(scene: Scene) -> None:
    scene.handler.tell(peer={"age_max_s": 1.0})
    scene.serve()
    with scene.cut("connections of one second"):
        scene.flow(1_500)
    assert scene.proxy.connections >= 3, scene.proxy.connections


def frozen_peer(scene: Scene) -> None:
    """A connection that stays open and says nothing any more, then one that never says anything."""
    scene.serve()
    scene.flow(200)
    with scene.cut("frozen peer"):
        scene.handler.tell(deeds=[deed(Do.FREEZE)])
        scene.wait(4.0)
        scene.handler.tell(deeds=[])
        scene.proxy.close()
        scene.recovering()
        scene.flow()
    with scene.cut("a peer that does not greet"):
        scene.handler.tell(peer={"greets": False})
        scene.proxy.close()
        scene.wait(3.0)
        scene.handler.tell(peer={})
        scene.proxy.close()
        scene.flow()


def _row(
    letter: str, fault: str, injected: str, expected: str, do: Do, code: int = NO_ERROR, **more: Any
) -> Row:
    return Row(
        *(letter, fault, injected, expected, CUT, does(deed(do, code, **more))),
        scene=dict(WIRE),
        bites=_bad(do) if do is not Do.GOAWAY_GRACEFUL else lambda history, report: report.ended > 0,
    )


ROWS = [
    _row(
        "18a",
        "GOAWAY: nothing was looked at",
        "GOAWAY(last=0), FIN; one call in 20",
        "made again",
        Do.GOAWAY_NONE,
    ),
    _row(
        *("18b", "GOAWAY: a server that restarts well", "GOAWAY(this), answer, FIN; one call in 20"),
        *("no call fails for it", Do.GOAWAY_GRACEFUL),
    ),
    _row(
        *("18c", "GOAWAY: ENHANCE_YOUR_CALM", "too_many_pings, FIN without an answer; one call in 20"),
        *("made again", Do.GOAWAY_ANGRY, ENHANCE_YOUR_CALM),
    ),
    Row(
        *("18d", "GOAWAY storm", "a thousand GOAWAYs (last=2³¹-1) on live connections"),
        *("no call lost or unaccounted", CUT, storm),
        scene=dict(WIRE),
    ),
    Row(
        *("18e", "connections of one second", "MAX_CONNECTION_AGE: GOAWAY, answers, FIN after 1 s"),
        *("no call lost or unaccounted", CUT, peer_of_age),
        scene=dict(WIRE),
    ),
    _row(
        *("19a", "RST_STREAM before headers", "INTERNAL_ERROR; one call in 20", "never an ack"),
        *(Do.RST_BEFORE_HEADERS, INTERNAL_ERROR),
    ),
    _row(
        *("19b", "RST_STREAM before headers, refused", "REFUSED_STREAM; one call in 20", "never an ack"),
        *(Do.RST_BEFORE_HEADERS, REFUSED_STREAM),
    ),
    _row(
        *("19c", "RST_STREAM after headers", "CANCEL; one call in 20", "never an ack"),
        *(Do.RST_AFTER_HEADERS, CANCEL),
    ),
    _row(
        *("19d", "RST_STREAM after the message", "NO_ERROR; one call in 20", "never an ack"),
        *(Do.RST_AFTER_DATA, NO_ERROR),
    ),
    Row(
        *(
            "19e",
            "half answers",
            "seven kinds in turn: half or no message, no trailers, no status, no number, 503",
        ),
        *("never an ack", CUT),
        does(
            deed(Do.HALF_MESSAGE),
            deed(Do.NO_MESSAGE),
            deed(Do.NO_TRAILERS),
            deed(Do.NO_STATUS),
            deed(Do.STATUS_NOT_A_NUMBER),
            deed(Do.HTTP_ERROR),
            deed(Do.HTTP_ERROR, http_status=429),
        ),
        scene=dict(WIRE),
        bites=_bad(Do.HALF_MESSAGE),
        quick=True,
    ),
    Row(
        *("20b", "one stream at a time", "MAX_CONCURRENT_STREAMS 1"),
        *("slower, deadlines hold", CUT, peer(streams_max=1)),
        scene={**WIRE, "timeout": "20s", "drain_timeout": "30s", "rate": 100.0},
    ),
    Row(
        *("20c", "tiny window", "INITIAL_WINDOW_SIZE 1: requests go byte by byte"),
        *("slower, deadlines hold", CUT, peer(window_bytes=1)),
        scene={**WIRE, "timeout": "20s", "drain_timeout": "30s", "rate": 100.0},
    ),
    Row(
        *("20d", "frozen peer", "connections that say nothing any more, or never did, 3–4 s each"),
        *("deadlines find it", CUT, frozen_peer),
        scene=dict(WIRE),
        judge=lambda history: Expected(),
    ),
]
