"""How every command starts and ends: tyro fills in its arguments, and a failure is one sentence and a status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import escape_what_streams_cannot_write, printable, show_logs

log = logging.getLogger(__name__)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run_command(
    command: Callable[..., Any] | dict[str, Callable[..., Any]],
    argv: list[str] | None = None,
    *,
    aliases: Mapping[str, str] | None = None,
    deprecated: Mapping[str, str] | None = None,
) -> NoReturn:
    """Fills the arguments of `command` from the command line, calls it and exits.

    Args:
        command: A function whose parameters are the flags (its docstring is the help page), or several by name,
            which then are subcommands. It may return an exit status.
        argv: The words after the program's name; by default those of this process.
        aliases: Other names of flags, which --help does not list: {"--alias": "--flag"}.
        deprecated: The same, of former names, whose use is a warning in the log.
    """
    import tyro

    name = (next(iter(command.values())) if isinstance(command, dict) else command).__module__
    prog = f"python -m {name if name != '__main__' else _main_module()}"
    config = (tyro.conf.OmitArgPrefixes,)

    def run() -> Any:
        words = rename_flags(sys.argv[1:] if argv is None else argv, aliases or {})
        for flag in sorted({word.split("=")[0] for word in words} & set(deprecated or {})):
            log.warning("%s is now %s; the old name goes soon", flag, (deprecated or {})[flag])
        words = rename_flags(words, deprecated or {})
        if isinstance(command, dict):
            return tyro.extras.subcommand_cli_from_dict(command, args=words, prog=prog, config=config)
        return tyro.cli(command, args=words, prog=prog, config=config)

    with_errors(run)


def rename_flags(words: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Replaces flags in a command line, `--flag` and `--flag=value`, by their names in `names`."""
    parts = (word.partition("=") for word in words)
    return [f"{names.get(flag, flag)}{sign}{value}" for flag, sign, value in parts]


def with_errors(action: Callable[[], Any]) -> NoReturn:
    """Runs `action` and exits with its status; a `UserError` becomes one sentence on stderr and status 2.

    Warnings become one line each. SIGTERM ends the command as Ctrl-C does; a signal that the process was started to
    ignore, as a shell starts the background jobs of a script with SIGINT, stays ignored. Characters
    that stdout or stderr cannot write become escapes.
    """
    escape_what_streams_cannot_write()
    show_logs()
    warnings.showwarning = lambda message, *_: log.warning("%s", message)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = action()
    except UserError as error:
        print(f"error: {printable(str(error), line_breaks=True)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except PermissionError as error:
        reason = f"{error.filename}: {error.strerror}; change its permissions, or run as a user who has them"
        print(f"error: {printable(reason)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _main_module() -> str:
    """The dotted name behind ``python -m``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else "cyclegan_fast"
