"""recell-lab volumes."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path

import click

from recell_lab import volumes
from recell_lab.volumes import Kept, RealWorld, Trial

FILE = click.Path(path_type=Path, dir_okay=False)
THERE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.option("--out", required=True, type=FILE, help="Every request and operation, a line of JSON each.")
@click.option("--summary", type=FILE, help="The counts, as JSON.")
@click.option("--until-stopped", is_flag=True, help="Round after round, until SIGTERM; ends the last one.")
@click.option("--keep", type=FILE, help="Leave volumes, a guest booted from one and a snapshot, and write"
                                        " down which.")
@click.option("--kept", type=THERE, help="Look whether what --keep wrote down is as it was.")
def command(
    out: Path, summary: Path | None, until_stopped: bool, keep: Path | None, kept: Path | None
) -> None:
    """Attach volumes, boot from them, make snapshots and open consoles as the project demo's users do.

    Without another word one round. Lines of requests to Nova are like the probe's, so `recell report` reads
    them: grep them out by their "phase". Begin it after `recell-lab load`, whose users change only guests
    that they boot, or that are there when they begin. Ends with 1 when a request failed or an operation was
    lost.
    """
    if sum((until_stopped, bool(keep), bool(kept))) > 1:
        raise click.UsageError("--until-stopped, --keep and --kept are one each")
    stop = threading.Event()
    if until_stopped:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    trial = Trial(RealWorld(out), click.echo, f"volumes-{int(time.time()):x}")
    with trial.tried():
        if keep:
            keep.write_text(trial.keep().text())
        elif kept:
            kept.write_text(trial.kept(Kept.of(kept.read_text())).text())
        else:
            _rounds(trial, stop, forever=until_stopped)
    found = volumes.told(trial.counts)
    trial.world.write(found)
    if summary:
        summary.write_text(json.dumps(found, indent=1))
    for line in volumes.in_words(trial.counts):
        click.echo(line)
    sys.exit(1 if trial.counts.bad else 0)


def _rounds(trial: Trial, stop: threading.Event, *, forever: bool) -> None:
    try:
        trial.begin()
        trial.round()
        while forever and not stop.is_set():
            trial.round()
            stop.wait(volumes.POLL_S)
    finally:
        trial.tidy()
