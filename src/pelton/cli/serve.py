"""`pelton serve`: the server, from a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["serve"]


def serve(
    *,
    config: Annotated[Path, Parameter(name=["--config", "-c"])] = Path("pelton.yaml"),
    check: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Deliver events as a configuration says, until SIGTERM or Ctrl-C; a second one cuts the drain short.

    Parameters
    ----------
    config
        The configuration file.
    check
        Only say whether it could be served: the file, the topics, the methods. Exit code 2 if not.
    """
    from pelton.bridge.service import run

    return run(config, check=check)
