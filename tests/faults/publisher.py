"""The publisher of a fault run: writes events at an even pace until SIGTERM, and keeps a journal of them.

A process of its own. An event's number is on the disk before the broker is asked, and where it went once the
broker has said so; what the broker has not answered at the end stays unknown, never "failed".
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from functools import partial
from typing import Any

from confluent_kafka import Producer

from tests.faults.journals import value_of

__all__ = ["KEYS"]

#: So many keys, an empty one, and one event in twenty without a key.
KEYS = 120
NULL_SHARE = 0.05
TURN_S = 0.05
#: After SIGTERM: what is still on its way when a broker is frozen gets this long.
FLUSH_S = 60.0


def _main(arguments: argparse.Namespace) -> None:
    # Not an Event: a handler that sets it in the midst of the wait for it waits for itself.
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    choose = random.Random(arguments.seed)
    producer = Producer(
        {
            "bootstrap.servers": arguments.bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "message.max.bytes": 10_000_000,
            "log_level": 0,
        }
    )
    descriptor = os.open(arguments.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    acknowledged: list[tuple[Any, ...]] = []

    def write(entries: list[tuple[Any, ...]]) -> None:
        if entries:
            os.write(descriptor, b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
            os.fsync(descriptor)

    def reported(number: int, error: object, message: Any) -> None:
        if error is None:
            acknowledged.append(("a", number, message.partition(), message.offset()))

    number = arguments.first
    begun = time.monotonic()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not asked:
        due = arguments.first + int((time.monotonic() - begun) * arguments.rate)
        numbers = range(number, due)
        number = due
        write([("p", each) for each in numbers])
        for each in numbers:
            at = choose.randrange(KEYS + 1)
            key = None if choose.random() < NULL_SHARE else b"key-%d" % at if at else b""
            producer.produce(
                arguments.topic,
                value_of(each, arguments.value_bytes),
                key,
                headers=[("h", b"\x00\xff"), ("h", b"again")],
                on_delivery=partial(reported, each),
            )
        producer.poll(0)
        write(acknowledged)
        acknowledged.clear()
        time.sleep(TURN_S)
    producer.flush(FLUSH_S)
    write(acknowledged)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seed", default="")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--value-bytes", type=int, default=200)
    _main(parser.parse_args())
