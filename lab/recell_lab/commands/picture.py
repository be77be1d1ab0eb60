"""recell-lab picture."""

from __future__ import annotations

import json
from pathlib import Path

import click

from recell_lab import proof, state


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
def command(out: Path) -> None:
    """Write down what Placement has allocated, and which QEMUs run, for `prove-cells --before`."""
    found = proof.allocations()
    found["qemu"] = proof.qemu(str(state.load().facts.get("libvirt", "")))
    out.write_text(json.dumps(found, indent=1))
    click.echo(f"{len(found['providers'])} providers, {len(found['allocations'])} consumers")
