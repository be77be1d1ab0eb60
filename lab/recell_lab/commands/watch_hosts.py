"""recell-lab watch-hosts."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from recell_lab import watching


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSON lines.")
def command(hosts: tuple[str, ...], out: Path) -> None:
    """Ask nova-compute on HOSTS for something once a second, until SIGTERM.

    Each gets a guest of the administrator's, which stays.
    """
    admin = watching.administrator()
    watch = watching.Watch(admin, watching.guests_on(admin, hosts), out)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watch.stop())
    watch.run()
