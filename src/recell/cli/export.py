"""recell export"""

from __future__ import annotations

import json
from pathlib import Path

import click

from recell.cli.desk import Desk, options
from recell.planning.export import TOOLS, Tool, export


@click.command("export", short_help="Write what Ansible or Puppet must learn to keep it.")
@options
@click.option(
    "--to", "tool", type=click.Choice(TOOLS), required=True, help="The tool that manages the hosts."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the files go; by default export/TOOL in --dir.",
)
def command(directory: Path, as_json: bool, tool: Tool, out: Path | None) -> None:
    """Write what the plan changes as variables of kolla-ansible, openstack-ansible or Puppet, so that their
    next run doesn't undo it. Made from plan.json and deployment.json; holds no secret, reaches no host.

    \b
    Example:
      recell export --to kolla-ansible && less export/kolla-ansible/README
    """
    desk = Desk(directory)
    files = export(desk.plan(), desk.deployment(), tool)
    target = out or directory / "export" / tool
    for name, text in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        desk.save(path, text.encode())
    if as_json:
        click.echo(json.dumps({"directory": str(target), "files": sorted(files)}))
        return
    for name in sorted(files):
        click.echo(str(target / name))
