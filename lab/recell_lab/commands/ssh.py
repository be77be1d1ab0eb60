"""recell-lab ssh."""

from __future__ import annotations

import os

import click

from recell_lab import keys, lab


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("host")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
def command(host: str, words: tuple[str, ...]) -> None:
    """Open a shell on a host, or run a command there."""
    lab.host(host)
    argv = ["ssh", "-F", str(keys.SSH_CONFIG), host, *words]
    os.execvp(argv[0], argv)  # noqa: S606  no shell is meant: this process becomes ssh
