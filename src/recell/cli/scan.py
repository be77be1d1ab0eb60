"""recell scan"""

from __future__ import annotations

import time
from pathlib import Path

import click

from recell.adapters.inventory import read_inventory
from recell.cli.desk import Desk, options
from recell.discovery import scan, scan_rabbit
from recell.model.cells_v1 import path_of
from recell.model.deployment import Deployment, dump_deployment


@click.command("scan", short_help="Discover what runs and write it to deployment.json.")
@options
@click.option(
    "--inventory",
    type=click.Path(path_type=Path),
    required=True,
    help="Ansible inventory (INI or YAML) that names every host of the deployment.",
)
@click.option("--rabbitmq", is_flag=True, help="Look at RabbitMQ and its clients alone; no Nova needed.")
def command(directory: Path, as_json: bool, inventory: Path, rabbitmq: bool) -> None:
    """Discover what runs and write it to deployment.json. Changes nothing, keeps no secret.

    Hosts are reached by SSH with your own keys and the inventory's addresses and users; they need Python
    3.6. Name all that Nova hangs on: controllers, computes, the hosts of RabbitMQ and HAProxy. Hosts that
    run none of it do no harm. A host that does not answer ends the scan (recell doctor goes on without).

    \b
    Examples:
      recell scan --inventory hosts.ini
      recell scan --inventory hosts.ini --dir ~/conversion
      recell scan --rabbitmq --inventory brokers.ini    one cluster is to become two
    """
    desk = Desk(directory)
    deployment = (scan_rabbit if rabbitmq else scan)(read_inventory(inventory), time.time())
    desk.save(desk.deployment_path, dump_deployment(deployment))
    click.echo(dump_deployment(deployment).decode() if as_json else text(deployment), nl=False)


def text(d: Deployment) -> str:
    """A deployment in words."""
    if d.rabbit:
        return _rabbit_text(d)
    # Cells v1 have each instance twice: the API cell's rows are those that users see.
    tops = {c.key for c in d.cells if c.cell_type == "api"}
    instances = sum(n for cell, n in d.instances.items() if not tops or cell in tops)
    lines = [f"Nova {d.nova_version}, {len(d.hosts)} hosts, {instances} instances"]
    for role in dict.fromkeys(s.role for s in d.services):
        hosts = [s.host + ("" if s.active else " (down)") for s in d.role(role)]
        lines.append(f"  {role:<12} {', '.join(hosts)}")
    for b in d.brokers:
        lines.append(f"  broker       {b.name}: RabbitMQ {b.version} on {', '.join(b.hosts)}")
    for m in d.mappings:
        lines.append(
            f"  cell         {m.name or m.uuid}{' (a template)' if m.templated else ''}:"
            f" {m.transport_resolved}  {m.database_resolved}"
        )
    for c in d.cells:
        path = path_of(d.cells, c.key)
        lines.append(f"  cell (v1)    {path} ({c.cell_type}): {c.transport_url}  {c.server}")
    for p in d.proxies:
        if p.unit:
            lines.append(f"  proxy        {p.proxy} {p.backend}/{p.server} -> {p.host} {p.unit}: {p.state}")
    for w in d.writers:
        lines.append(f"  also writes  {w.host} {w.where}: {w.what}")
    return "\n".join(lines) + "\n"


def _rabbit_text(d: Deployment) -> str:
    lines = [f"{len(d.rabbit)} RabbitMQ nodes on {len(d.hosts)} hosts, {len(d.rabbit_queues)} queues"]
    for n in d.rabbit:
        state = "blank" if not n.used else f"cluster of {len(n.members)}, {len(n.running)} running"
        lines.append(f"  node         {n.name} on {n.host}: RabbitMQ {n.version}, {state}, {n.handling}")
    for c in d.rabbit_clients:
        lines.append(
            f"  client       {c.label}: {c.connections} connections to {', '.join(c.nodes)}"
            + (f"; takes from {', '.join(c.queues[:4])}" if c.queues else "")
        )
    return "\n".join(lines) + "\n"
