"""`pelton`: which commands there are, and how every one of them ends.

A command is named here and imported only when it runs, so that `pelton --help` answers at once. Errors end
here too: what Pelton raises on purpose is a message on stderr, and no traceback unless `--debug` asks for it.

Exit codes: 0 done; 1 failed; 2 the command line or the configuration is wrong; 130 interrupted;
141 whoever read our output went away. A command may have others, and its help says which.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, UnusedCliTokensError

from pelton import __version__
from pelton.errors import ConfigError, PeltonError

__all__ = ["main"]

EXIT_FAILED: Final = 1
EXIT_WRONG: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141

app = App(
    name="pelton",
    help="Kafka events in, gRPC calls out.",
    help_epilogue="Any command takes --debug: log everything, and show where an error comes from.",
    # The richer formats load a Markdown parser, which costs more time than all the rest.
    help_format="plaintext",
    version=__version__,
    result_action="return_value",
)
app.command("pelton.cli.serve:serve", name="serve", help="Deliver events as a configuration says.")
app.command("pelton.cli.publish:publish", name="publish", help="Publish one event, or a few.")
app.command("pelton.cli.tail:tail", name="tail", help="Show the events of a topic as they come.")
app.command(
    "pelton.cli.release:release", name="release", help="Let keys go on whose events follow a dead letter."
)
app.command("pelton.cli.kafka:app", name="kafka", help="A real Apache Kafka on this computer.")
app.command("pelton.cli.version:version", name="version", help="Versions of Pelton and what it runs on.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    tokens, debug = _without_debug(sys.argv[1:] if arguments is None else arguments)
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG)
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # here a reader that went away can still be told from a failure
    except BrokenPipeError:
        # Python flushes once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        return _tell(error)
    return code if isinstance(code, int) else 0


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, and whether it was among them; after `--` everything is data."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*options, *arguments[end:]], len(options) < end


def _tell(error: Exception) -> int:
    """Say what is wrong in the user's terms, and with which code that ends."""
    if isinstance(error, CycloptsError):
        of = " ".join(("pelton", *(error.command_chain or ())))
        text = str(error)
        if isinstance(error, UnusedCliTokensError):
            too_many = " ".join(error.unused_tokens or ())
            text = f"{too_many!r} is more than it takes; what has an option follows it, as in --config FILE."
        return _say(f"{text}\nSee `{of} --help`.", EXIT_WRONG)
    if isinstance(error, ConfigError):
        return _say(str(error), EXIT_WRONG)
    if isinstance(error, PeltonError):
        return _say(str(error), EXIT_FAILED)
    missing = _missing_module(error)
    if missing is not None:
        return _say(
            f"this needs {missing}, which is not installed: pip install 'pelton[server]'", EXIT_FAILED
        )
    return _say(
        f"a bug in Pelton: {type(error).__name__}: {error}\nRun it with --debug to see where.", EXIT_FAILED
    )


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"pelton: {text}\n")
    return code


def _missing_module(error: BaseException | None) -> str | None:
    """The library whose absence is behind the error; a lazily named command wraps it once more."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("pelton"):
            return error.name
        error = error.__cause__
    return None
