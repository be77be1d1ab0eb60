"""recell-lab load."""

from __future__ import annotations

import os
import sys

import click

from recell_lab import state


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    }
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF THE PROBE...]")
def command(words: tuple[str, ...]) -> None:
    """Let users work on the lab's cloud: `load --out load.jsonl [--rate 6] [--duration 60]`."""
    given = {word.partition("=")[0] for word in words}
    argv = [sys.executable, "-m", "recell.probe"]
    if "--cloud" not in given:
        argv += ["--cloud", "lab-demo"]
    if "--clouds-yaml" not in given:
        argv += ["--clouds-yaml", str(state.STATE_DIR / "clouds.yaml")]
    os.execv(argv[0], [*argv, *words])  # noqa: S606  no shell is meant: this process becomes it
