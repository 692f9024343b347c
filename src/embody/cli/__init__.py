"""The command line of `embody`: the only place that reads arguments and the environment."""

import signal
import sys
from collections.abc import Sequence

from embody.cli.operating_system import escape_unprintable_text, keep_files_open, keep_freed_memory
from embody.cli.parse import is_users_mistake, parse
from embody.errors import one_line
from embody.interruption import Interrupted, raise_on_signals

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `embody`: a user's mistake is one line and exit code 2, any other exception a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    escape_unprintable_text()
    keep_freed_memory()
    keep_files_open()
    raise_on_signals()
    try:
        parse(arguments)()
    except Exception as error:
        if not is_users_mistake(error):
            raise
        print(f"embody: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else int(signal.SIGINT)
        print(f"embody: interrupted ({signal.Signals(number).name}); the same command goes on", file=sys.stderr)
        sys.exit(128 + number)
