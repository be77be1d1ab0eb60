"""recell-lab up."""

from __future__ import annotations

import time

import click

from recell_lab import lab, packages, state

DEFAULT_NOVA = "33.0.2"


@click.command()
@click.option("--controllers", type=click.IntRange(1, 8), default=2, show_default=True)
@click.option("--computes", type=click.IntRange(1, 16), default=4, show_default=True)
@click.option(
    "--cell-brokers",
    type=click.IntRange(0, 2),
    default=0,
    show_default=True,
    help="Blank brokers for further cells: mq5, mq6.",
)
@click.option("--libvirt-host", default="", help="A compute host whose guests are QEMU's, e.g. cmp4.")
@click.option("--second-child", is_flag=True, help="With --nova 19: a second Nova, to be added to a tree.")
@click.option("--nova", default=DEFAULT_NOVA, show_default=True, help="Nova's version; 19 is Stein.")
def command(
    controllers: int, computes: int, cell_brokers: int, libvirt_host: str, second_child: bool, nova: str
) -> None:
    """Make the cloud and wait until it works."""
    if state.exists():
        off = [host.spec.name for host in lab.all_hosts() if not host.running()]
        if off:
            raise click.ClickException(
                f"a lab is here and {', '.join(off)} of it doesn't run; run `recell-lab down`, then up again"
            )
        if state.load().facts.get("ready"):
            click.echo("the lab is up already; see `recell-lab status`")
            return
        raise click.ClickException(
            "a lab was begun here and not finished; run `recell-lab down`, then up again"
        )
    from recell_lab import cloud  # only now: it brings many imports along

    began = time.monotonic()

    def progress(line: str) -> None:
        click.echo(f"{time.monotonic() - began:6.1f} s  {line}")

    nova = packages.full_version(nova)
    wanted = cloud.Cloud.of(
        nova, controllers, computes, cell_brokers, libvirt_host, second=second_child
    )
    if second_child and not wanted.cells_v1:
        raise click.ClickException(f"Nova {nova} has no cells v1, so nothing can be added to a tree of them")
    if libvirt_host and libvirt_host not in [host.name for host in wanted.computes]:
        raise click.ClickException(f"{libvirt_host} is no compute host of this lab")
    packages.ensure_debian(progress, *(cloud.QEMU if libvirt_host else ()))
    packages.ensure_venv(nova, progress)
    cloud.up(wanted, progress)
    topology = state.load()
    state.save(topology.hosts, {**topology.facts, "ready": True})
    progress("the lab is up")
