"""The command line: one file a command, the same words everywhere."""

from recell.cli.main import main

__all__ = ["main"]
