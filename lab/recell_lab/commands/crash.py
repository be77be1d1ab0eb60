"""recell-lab crash."""

from __future__ import annotations

import click

from recell_lab import lab


@click.command()
@click.argument("host")
def command(host: str) -> None:
    """Kill a host without ceremony, as a power cut does; `recell-lab reboot` starts it again."""
    one = lab.host(host)
    was_running = one.running()
    one.crash()
    click.echo(f"{host} is off" if was_running else f"{host} was off already")
