"""recell-lab status."""

from __future__ import annotations

import shutil

import click
from rich.console import Console
from rich.table import Table

from recell_lab import lab, state
from recell_lab.errors import LabError
from recell_lab.hosts import Host

MIB = 1024 * 1024


@click.command()
def command() -> None:
    """Show the hosts: what runs, what systemd says of it, how full the disk is."""
    if not state.exists():
        click.echo("there is no lab on this machine; `recell-lab up` makes one")
        return
    table = Table(box=None, header_style="bold")
    for title in ("host", "address", "role", "state", "failed units", "disk used"):
        table.add_column(title)
    for host in lab.all_hosts():
        table.add_row(host.spec.name, host.spec.ip, host.spec.role, *row(host))
    Console().print(table)


def row(host: Host) -> tuple[str, str, str]:
    """(state, failed units, disk used) of a host."""
    disk = "-"
    if host.upper().is_dir():
        usage = shutil.disk_usage(host.upper())
        disk = f"{usage.used // MIB} of {usage.total // MIB} MiB"
    if not host.running():
        return "off", "-", disk
    try:
        word = host.run(["systemctl", "is-system-running"], check=False, timeout=10).stdout
        listing = ["systemctl", "list-units", "--failed", "--plain", "--no-legend"]
        failed = host.run(listing, check=False, timeout=10).stdout.decode().splitlines()
    except LabError:
        return "no answer", "-", disk
    names = ", ".join(line.split()[0] for line in failed if line.strip())
    return word.decode().strip() or "booting", names or "none", disk
