"""recell-lab reboot."""

from __future__ import annotations

import click

from recell_lab import lab


@click.command()
@click.argument("host")
def command(host: str) -> None:
    """Reboot a host cleanly, or start one that is off or crashed; wait for its sshd."""
    one = lab.host(host)
    one.reboot()
    one.wait_ssh()
    click.echo(f"{host} is up")
