"""What all commands share: flags, --help, one style of error, and how a command starts and ends."""

from cyclegan_fast.cli.run import EXIT_INTERRUPTED, EXIT_USER_ERROR, run_command, with_errors

__all__ = ["EXIT_INTERRUPTED", "EXIT_USER_ERROR", "run_command", "with_errors"]
