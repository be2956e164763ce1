"""The `pelton` command and `python -m pelton`: the way into `pelton.cli`, and nothing else."""

from __future__ import annotations

import signal
import sys
from typing import Final

__all__ = ["main"]

#: What the command line itself imports, before any command is chosen; both come with the extra `server`.
_NEEDED = frozenset({"cyclopts", "rich"})

#: As in `pelton.cli.main`, which may not be there yet.
_EXIT_INTERRUPTED: Final = 130


def main() -> None:
    # Until there is something to stop, a Ctrl-C just ends the process: raised within an import it would show
    # where, and some libraries swallow it there. One that our parent has us ignore stays ignored.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from pelton.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.exit(f"pelton: the command line needs {error.name}: pip install 'pelton[server]'")
    try:
        if raises:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
    except KeyboardInterrupt:
        code = _EXIT_INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
