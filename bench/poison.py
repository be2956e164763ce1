"""What poison costs the others: 1 % of the keys fail for ever, beside a control in which they do not.

`python bench/poison.py`, or shorter with `--seconds 20 --rounds 1`. Control and poison take turns, each turn
a fresh Pelton and target over the same events with a consumer group of its own, so that a slow minute of
the computer hits both; on a busy one, `--together` has them run at once. Counted are the events of the
other keys that the target took, by its own journal.
Exit code 1 where they kept less than `KEPT_MIN` of the control's pace.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

# Run by its path, so that only its own folder is known; the harness is the delivery tests'.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.processes import Failed, program
from pelton.local.broker import LocalKafka
from tests.integration.delivery.processes import Call, Target, serving, until
from tests.integration.delivery.world import World

KEPT_MIN = 0.95
PARTITIONS = 8
KEYS = 500
POISON = frozenset(b"key-%d" % number for number in range(0, KEYS, KEYS // 5))
#: Every event passes through it; it makes a call take as long as a quick service's.
DELAY_MS = 3
#: Left out of each turn: connecting, the first fetches, and the retries of the first of each poison key.
WARM_UP_S = 2.0
#: More than is delivered in a turn of 20 s; a turn that runs out of events says so.
EVENTS = 200_000
RETRY = "{ attempts: 8, backoff: 100ms..1m }"


def main() -> int:
    options = _options()
    random_keys = random.Random(0)
    keys = [b"key-%d" % random_keys.randrange(KEYS) for _ in range(options.events)]
    kept_all = True
    with tempfile.TemporaryDirectory(prefix="pelton-poison-") as folder, LocalKafka.temporary() as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for future in admin.create_topics([NewTopic("poisoned", PARTITIONS, 1)]).values():
            future.result()
        world = World(kafka.bootstrap, "poisoned", PARTITIONS, Path(folder))
        world.publish_keys(keys)
        key_of = {world.delivery_id(event): event.key for event in world.published}
        print(f"{options.events} events, {KEYS} keys, {len(POISON)} of them poison, target {DELAY_MS} ms")
        for status in options.status:
            ratios = []
            for number in range(1, options.rounds + 1):
                control, poisoned = _round(world, status, number, options, key_of)
                ratios.append(poisoned / control)
                print(
                    f"{status} round {number}: control {control:.0f}/s, with poison {poisoned:.0f}/s,"
                    f" kept {100 * ratios[-1]:.1f} %",
                    flush=True,
                )
            kept = median(ratios)
            kept_all &= kept >= KEPT_MIN
            print(
                f"{status}: the others kept {100 * kept:.1f} % of the control's pace"
                f" (at least {100 * KEPT_MIN:.0f} %)"
            )
    return 0 if kept_all else 1


def _round(
    world: World, status: str, number: int, options: argparse.Namespace, key_of: dict[str, bytes | None]
) -> tuple[float, float]:
    """The pace of the control, and of the others beside poison."""

    def turn(answer: str) -> float:
        group = f"poisoned-{status.lower()}-{number}-{answer.lower()}"
        return _turn(world, answer, group, options.seconds / options.rounds, key_of)

    if options.together:
        with ThreadPoolExecutor(2) as both:
            control, poisoned = both.map(turn, ("OK", status))
        return control, poisoned
    # Who goes first changes.
    paces = {answer: turn(answer) for answer in (("OK", status) if number % 2 else (status, "OK"))}
    return paces["OK"], paces[status]


def _turn(shared: World, answer: str, group: str, seconds: float, key_of: dict[str, bytes | None]) -> float:
    """Events a second of the keys that are no poison, in `seconds` after the warm-up."""
    directory = shared.directory / group
    directory.mkdir()
    world = World(shared.log.bootstrap, shared.topic, PARTITIONS, directory)
    poison = ",".join(key.decode() for key in POISON)
    target = Target(
        directory, "--delay-ms", str(DELAY_MS), "--poison-status", answer, "--poison-keys", poison
    )
    try:
        with serving(target):
            more = f"    group: {group}\n    dead_letters: {{ topic: dlq.{group} }}"
            pelton = world.serve(world.configure(target, more, RETRY))
            until(lambda: pelton.metrics().sum("pelton_events_settled_total") > 0, "the first event")
            time.sleep(WARM_UP_S + seconds)
            pelton.kill()
    finally:
        world.end()
    calls = target.journal()
    if len({call.delivery_id for call in calls}) == len(key_of):
        raise Failed(f"all {len(key_of)} events were delivered in less than {seconds:.0f} s: raise --events")
    return _pace(calls, seconds, key_of)


def _pace(calls: list[Call], seconds: float, key_of: dict[str, bytes | None]) -> float:
    from_ns = calls[0].start_ns + WARM_UP_S * 1e9
    until_ns = from_ns + seconds * 1e9
    taken = {call.delivery_id for call in calls if call.status == "OK" and from_ns <= call.end_ns < until_ns}
    return sum(key_of[delivery_id] not in POISON for delivery_id in taken) / seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of control, and of poison, for each status"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns that the seconds are spread over")
    parser.add_argument(
        "--together",
        action="store_true",
        help="control and poison at the same time: what else the computer does hits both alike",
    )
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--status", nargs="+", default=["INVALID_ARGUMENT", "UNKNOWN"])
    return parser.parse_args()


if __name__ == "__main__":
    program("bench-poison", main)
