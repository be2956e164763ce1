"""The `pelton` command and `python -m pelton`: the way into `pelton.cli`, and nothing else."""

from __future__ import annotations

import sys

__all__ = ["main"]

#: What the command line itself imports, before any command is chosen; both come with the extra `server`.
_NEEDED = frozenset({"cyclopts", "rich"})


def main() -> None:
    try:
        from pelton.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.exit(f"pelton: the command line needs {error.name}: pip install 'pelton[server]'")
    sys.exit(run())


if __name__ == "__main__":
    main()
