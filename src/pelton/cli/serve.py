"""`pelton serve`: the server, from a configuration file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter, validators

__all__ = ["serve"]

#: More than any one host has cores for Pelton beside what it calls.
WORKERS_MAX: Final = 64


def serve(
    *,
    config: Annotated[Path, Parameter(name=["--config", "-c"])] = Path("pelton.yaml"),
    check: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    workers: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=WORKERS_MAX))] = 1,
    worker: Annotated[str | None, Parameter(show=False)] = None,
) -> int:
    """Deliver events as a configuration says, until SIGTERM or Ctrl-C; a second one cuts the drain short.

    Parameters
    ----------
    config
        The configuration file.
    check
        Only say whether it could be served: the file, the topics, the methods. Exit code 2 if not.
    workers
        Processes that share the work, at most 64: one that dies is replaced, SIGHUP replaces all in turn.
    worker
        Given by the supervisor to each of them.
    """
    # gRPC's core writes lines of its own to standard error, between ours. What they say of a connection
    # stands in the status of each call that it fails. Read when gRPC is imported, which here it is not yet.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if workers > 1 and not check:
        # Read when gRPC is imported. The workers are no forks of it, and it would log a line for each.
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        from pelton.bridge.workers import run as supervise

        return supervise(config, workers)

    from pelton.bridge.service import run
    from pelton.bridge.worker import Place

    return run(config, check=check, place=None if worker is None else Place.parse(worker))
