"""How every command starts and ends: its words become arguments, and a failure becomes one sentence and a status."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from cyclegan_fast.cli.flags import flags_of_function, flags_of_settings
from cyclegan_fast.cli.help import help_page, list_page
from cyclegan_fast.cli.parse import Grammar, choose
from cyclegan_fast.cli.program import as_typed, program_of
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import escape_what_streams_cannot_write, printable, show_logs

log = logging.getLogger(__name__)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_OF_PATHS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EIO, errno.ENOSPC}

Function = Callable[..., Any]


def run_command(
    command: Function | Mapping[str, Function],
    words: Sequence[str] | None = None,
    *,
    settings: type | None = None,
    first: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    deprecated: Mapping[str, str] | None = None,
    repeated: Sequence[str] = (),
    interrupted: int = EXIT_INTERRUPTED,
) -> NoReturn:
    """Fills the arguments of `command` from the command line, calls it and exits.

    Args:
        command: A function whose parameters are the flags (its docstring is the help page), or several by name,
            which then are subcommands. It may return an exit status.
        words: What follows the program's name; by default those of this process.
        settings: A dataclass of settings whose fields are further flags; those that are given reach the function as
            keywords.
        first: Names of flags that --help shows before all others.
        aliases: Other names of flags, which --help does not list: {"--alias": "--flag"}.
        deprecated: The same, of former names, whose use is a warning in the log.
        repeated: Names of flags that may come again: their values add up.
        interrupted: Status after SIGTERM or Ctrl-C, where the command does not see to them itself.
    """

    def run() -> Any:
        rest = list(sys.argv[1:] if words is None else words)
        if isinstance(command, Mapping):
            return _run_subcommand(command, rest)
        names = {"aliases": aliases or {}, "former_names": deprecated or {}, "repeated": repeated}
        return _run_function(command, rest, program_of(command), settings, first, **names)

    with_errors(run, interrupted)


def asks_for_help(words: Sequence[str]) -> bool:
    """Returns whether a command line asks for help, whatever else it holds."""
    return "--help" in words or "-h" in words


def _run_subcommand(commands: Mapping[str, Function], words: Sequence[str]) -> Any:
    prog = program_of(next(iter(commands.values())))
    if asks_for_help(words) and words[0] not in commands:
        descriptions = {name: _description(function) for name, function in commands.items()}
        examples = [found[0] for text in descriptions.values() if (found := re.search("python -m .*", text))]
        print(list_page(prog, {name: text.partition("\n")[0] for name, text in descriptions.items()}, examples))
        return 0
    name = choose(words, list(commands), prog)
    return _run_function(commands[name], words[1:], f"{prog} {name}")


def _run_function(
    function: Function,
    words: Sequence[str],
    prog: str,
    settings: type | None = None,
    first: Sequence[str] = (),
    **names: Any,
) -> Any:
    flags = (flags_of_settings(settings) if settings else []) + flags_of_function(function)
    grammar = Grammar(prog=prog, flags=flags, first=first, **names)
    if asks_for_help(words):
        print(help_page(grammar, _description(function)))
        return 0
    given = grammar.parse(words)
    positional = [given.pop(flag.name) for flag in flags if flag.is_positional and flag.name in given]
    return function(*positional, **given)


def _description(function: Function) -> str:
    """Returns the docstring of a function up to its arguments."""
    return re.split(r"\n(?:Args|Returns|Raises):\n", inspect.getdoc(function) or "")[0].strip()


def with_errors(action: Callable[[], Any], interrupted: int = EXIT_INTERRUPTED) -> NoReturn:
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
        print(f"error: {printable(as_typed(str(error)), line_breaks=True)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except (MemoryError, RuntimeError) as error:
        print(f"error: {_memory_sentence(error)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ImportError, OSError) as error:
        if _ended_the_import_of_torch(error):
            sentence = f"torch does not load ({error}): python -m cyclegan_fast.doctor names the fix"
        elif isinstance(error, OSError) and error.filename is not None and error.errno in _OF_PATHS:
            sentence = _sentence(error)
        else:
            raise
        print(f"error: {printable(sentence)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        # Where the interrupt passed an exec, such as that of a dataclass, Python ends by SIGINT in spite of the status,
        # but for a later exec: bpo-1054041.
        exec("")
        sys.exit(interrupted)
    sys.exit(status if isinstance(status, int) else 0)


def _ended_the_import_of_torch(error: Exception) -> bool:
    """Whether torch is missing, or broken: a library that it needs is not there, for example."""
    if "torch" in sys.modules:
        return False
    names = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    return "torch" in names or (isinstance(error, ImportError) and error.name == "torch")


def _memory_sentence(error: MemoryError | RuntimeError) -> str:
    """What is said of memory that ran out where nothing says what helps; any other error is raised again."""
    if isinstance(error, RuntimeError) and "torch" not in sys.modules:
        raise error  # not torch's
    import torch

    from cyclegan_fast.memory import memory_errors

    device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
    try:
        with memory_errors("this command", device, lambda: "give it fewer or smaller images at a time, or more memory"):
            raise error
    except UserError as sentence:
        return str(sentence)


def _sentence(error: OSError) -> str:
    """What the system says of a path that a user named."""
    name = os.fsdecode(error.filename)
    fix = "; change its permissions, or run as a user who has them" if isinstance(error, PermissionError) else ""
    return f"{name if len(name) <= 200 else f'{name[:197]}...'}: {error.strerror}{fix}"
