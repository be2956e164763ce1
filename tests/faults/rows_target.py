"""Rows in which the handler fails, hangs or dies."""

from __future__ import annotations

from tests.conformance.authority import Authority
from tests.faults.checker import Expected, Report
from tests.faults.history import History
from tests.faults.matrix import Row
from tests.faults.scene import Scene
from tests.integration.delivery.answers import ATTEMPTS_MAX, predict
from tests.integration.delivery.processes import DEADLINE_S, until

__all__ = ["ROWS"]

CUT = "calls whose answer was cut"
SEED = "row-10"
HANG_S = 4.0


def errors(scene: Scene) -> None:
    scene.handler.tell(seed=SEED)
    scene.serve()
    scene.recovering()
    scene.flow(3_000)


def _predicted(history: History) -> Expected:
    """The oracle says of each event how it must end."""
    lanes: dict[tuple[int, bytes | None], list[str]] = {}
    number_of: dict[str, int] = {}
    for record in sorted(history.stored, key=lambda record: record.place):
        name = f"{history.name}/{history.topic}/{record.place[0]}/{record.place[1]}"
        number_of[name] = record.number
        # Events without a key are each a lane of its own.
        lane = (record.place[0], record.key) if record.key is not None else (record.place[1], None)
        lanes.setdefault(lane, []).append(name)
    ends: dict[str, str] = {}
    for (_, key), names in lanes.items():
        if key is None:
            for name in names:
                ends |= predict(SEED, [name], suspects=False)
        else:
            ends |= predict(SEED, names, suspects=True)
    return Expected(
        letters=frozenset(number_of[name] for name, end in ends.items() if end == "dead_lettered")
    )


def hang(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    with scene.cut("hang"):
        scene.handler.tell(hang=True)
        scene.wait(HANG_S)
        scene.handler.tell(hang=False)
        scene.recovering()
        scene.flow(600)


def killed_before_the_answer(scene: Scene) -> None:
    """The journal says OK, and nobody hears of it."""
    scene.serve()
    scene.flow()
    for _ in range(2):
        with scene.cut("handler killed"):
            scene.handler.tell(withhold=True)
            at = scene.taken()
            until(lambda at=at: scene.taken() > at + 5, "answers to be withheld", DEADLINE_S)  # type: ignore[misc]
            scene.handler.kill()
            scene.handler.start()
            scene.recovering()
            scene.flow(200)


def frozen(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    with scene.cut("handler frozen"):
        scene.handler.freeze()
        scene.wait(HANG_S)
        scene.handler.thaw()
        scene.recovering()
        scene.flow(600)


def away(scene: Scene) -> None:
    """Not there for longer than all attempts of an event would take: nothing is set aside for it."""
    scene.serve()
    scene.flow()
    with scene.cut("handler away"):
        scene.handler.stop()
        scene.wait(10.0)
        scene.handler.start()
        scene.recovering()
        scene.flow(600)


def all_unwell(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    scene.handler.tell(status="UNAVAILABLE")
    scene.wait(6.0)
    scene.handler.tell(status="OK")
    scene.recovering()
    scene.flow(600)


def miswired(scene: Scene) -> None:
    pelton = scene.serve()
    scene.flow()
    scene.handler.tell(status="PERMISSION_DENIED")
    until(lambda: "target refuses every call" in pelton.log(), "the alarm", DEADLINE_S)
    scene.wait(2.0)
    scene.handler.tell(status="OK")
    scene.recovering()
    scene.flow(600)


def lies(scene: Scene) -> None:
    """A batch of settlements with a token that was never given out counts for nothing."""
    scene.serve()
    scene.flow()
    with scene.cut("lies"):
        scene.handler.tell(lies_every=4)
        for _ in range(6):
            scene.flow(100)
        scene.handler.tell(lies_every=0)
        scene.recovering()
        scene.flow()


def _lied(history: History, report: Report) -> bool:
    return sum(call.status == "LIED" for call in history.calls) > 1


def wrong_certificate(scene: Scene) -> None:
    """It comes back with a certificate of somebody else's, and later with its own."""
    pelton = scene.serve()
    scene.flow()
    mine = scene.handler.pair
    with scene.cut("wrong certificate"):
        scene.handler.stop()
        scene.handler.pair = Authority(scene.directory, "stranger").issue("127.0.0.1")
        scene.handler.start()
        until(lambda: "target refuses every call" in pelton.log(), "the alarm", DEADLINE_S)
        scene.wait(2.0)
        scene.handler.stop()
        scene.handler.pair = mine
        scene.handler.start()
        scene.recovering()
        scene.flow(600)


def token_rotated(scene: Scene) -> None:
    """The handler wants the next token before its file has it."""
    scene.handler.tell(token="first")
    pelton = scene.serve()
    scene.flow()
    scene.handler.tell(token="second")
    until(lambda: "target refuses every call" in pelton.log(), "the alarm", DEADLINE_S)
    scene.token.write_text("second")
    scene.recovering()
    scene.flow(600)


def _unauthenticated(history: History, report: Report) -> bool:
    return any(call.status == "UNAUTHENTICATED" for call in history.calls)


def _repeats(history: History, report: Report) -> bool:
    return report.repeats > 0


def _again(history: History, report: Report) -> bool:
    return report.calls > report.ended


ROWS = [
    Row(
        *("10a", "handler errors", "an oracle's mix: transient, poison, pushback, verdicts; 5 % of events"),
        *("each ends as the oracle says", "nothing", errors),
        scene={"retry": f"{{ attempts: {ATTEMPTS_MAX}, backoff: 5ms..40ms }}"},
        judge=_predicted,
        bites=lambda history, report: report.letters > 10,
        repeats_none=True,
    ),
    Row(
        *("10b", "handler unwell", "UNAVAILABLE to every call for 6 s"),
        *("no attempt burned, nothing set aside", "nothing", all_unwell),
        bites=_again,
        repeats_none=True,
    ),
    Row(
        *("10c", "handler miswired", "PERMISSION_DENIED to every call until alarmed and 2 s more"),
        *("pauses and alarms, nothing set aside", "nothing", miswired),
        bites=_again,
        repeats_none=True,
    ),
    Row(
        *("11a", "handler hangs", f"takes calls and never answers for {HANG_S:.0f} s"),
        *("deadlines fire, calls are made again", CUT, hang),
        scene={"timeout": "1s"},
        bites=_again,
    ),
    Row(
        *("11b", "handler frozen", f"SIGSTOP {HANG_S:.0f} s"),
        *("deadlines fire, calls are made again", CUT, frozen),
        scene={"timeout": "1s"},
        bites=_again,
    ),
    Row(
        *("12", "handler killed after its work, before its answer", "journal, then SIGKILL; twice"),
        *("comes again with the same id", CUT, killed_before_the_answer),
        bites=_repeats,
        quick=True,
    ),
    Row(
        *("13", "handler lies", "one batch of settlements in four has a token that was never given out"),
        *("none of that batch counts", CUT, lies),
        scene={"stream": True, "retry": "{ attempts: 30, backoff: 10ms..200ms }"},
        bites=_lied,
    ),
    Row(
        *("14b", "handler away", "SIGTERM, started 10 s later"),
        *("no attempt burned, recovers by itself", CUT, away),
    ),
    Row(
        *("14c", "handler's certificate is somebody else's", "restarted with it, later with its own"),
        *("alarmed, no attempt burned, recovers by itself", CUT, wrong_certificate),
        scene={"tls": True},
    ),
    Row(
        *("14d", "token rotated", "the handler wants another before the token's file has it"),
        *("alarmed, no attempt burned, recovers by itself", "nothing", token_rotated),
        scene={"tls": True},
        bites=_unauthenticated,
        repeats_none=True,
    ),
]
