"""A target that outlives Pelton, and takes an event from the attempt behind its planned failures on; and the
world of a subscription with retry tiers that calls it.

Each event's header `plan` says how many of its attempts fail.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.integration.delivery.processes import Pelton, until
from tests.integration.delivery.world import World

__all__ = ["DELAYS_S", "FOR_EVER", "PARTITIONS", "Attempt", "Planned", "PlannedWorld"]

PARTITIONS = 2
#: Of the tiers.
DELAYS_S = (1, 2, 3)
FOR_EVER = 1_000
METHOD = "/any.Service/Method"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call as the target saw it; the time is the wall clock's, as due times are."""

    at_ms: float
    delivery_id: str
    attempt: int
    taken: bool
    metadata: dict[str, str | bytes]


class Planned(grpc.GenericRpcHandler):
    """Takes an event from the attempt behind its planned failures on."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def service(self, call: Any) -> Any:
        # Pelton asks for reflection, too.
        return grpc.unary_unary_rpc_method_handler(self._call) if call.method == METHOD else None

    def _call(self, request: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        attempt = int(metadata["pelton-attempt"])
        taken = attempt > int(metadata["plan"])
        seen = Attempt(time.time() * 1000, metadata["pelton-delivery-id"], attempt, taken, metadata)
        with self._lock:
            self.attempts.append(seen)
        if not taken:
            context.abort(grpc.StatusCode.UNKNOWN, f"not at attempt {attempt}")
        return b""

    def of(self, delivery_id: str) -> list[Attempt]:
        return [one for one in self.attempts if one.delivery_id == delivery_id]


class PlannedWorld(World):
    """A world whose subscription has tiers, and that target."""

    #: The subscription's retry policy, unless a start says otherwise.
    RETRY: str

    def __init__(self, bootstrap: str, topic: str, directory: Path) -> None:
        super().__init__(bootstrap, topic, PARTITIONS, directory)
        self.target = Planned()

    def end(self) -> None:
        super().end()
        self.target.stop()

    def start(self, retry: str = "", name: str = "pelton") -> Pelton:
        config = self.configure(self.target, "    metadata: { headers: [plan] }\n", retry or self.RETRY)
        pelton = self.serve(config, name)
        # By then the topics of the tiers are there, and may be asked for.
        until(lambda: pelton.listens, "pelton to listen")
        return pelton

    def topics(self) -> list[str]:
        return [f"retry.{self.name}.{delay}s" for delay in DELAYS_S]

    def settled(self) -> bool:
        """Every record of the source, and then of the tiers, is behind the committed offsets."""
        for topic in (self.topic, *self.topics()):
            committed = self.log.committed(f"pelton.{self.name}", topic)
            if any(committed.get(one.partition, 0) <= one.offset for one in self.log.read(topic)):
                return False
        return True

    def unended(self) -> set[str]:
        taken = {one.delivery_id for one in self.target.attempts if one.taken}
        dead = {letter.header("pelton-delivery-id") for letter in self.dead_letters()}
        return {self.delivery_id(event) for event in self.published} - taken - dead
