"""recell-lab down."""

from __future__ import annotations

import click

from recell_lab import lab


@click.command()
@click.option("--purge", is_flag=True, help="Remove the caches too: the next up takes minutes.")
def command(purge: bool) -> None:
    """End the cloud; no process, mount, link or file of it is left."""
    ended = lab.down(purge=purge)
    click.echo(f"the lab is down ({ended} hosts)" if ended else "there is no lab to end")
