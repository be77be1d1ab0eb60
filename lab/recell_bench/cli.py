"""recell-bench: the command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from recell_bench.data import MEASUREMENTS, run
from recell_bench.servers import servers

_SHM = Path("/dev/shm")  # noqa: S108


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="recell", prog_name="recell-bench")
def main() -> None:
    """recell beside what others would use, on private servers of this machine."""


@main.command()
@click.option("--instances", type=click.IntRange(min=100), default=10_000, show_default=True)
@click.option("--hosts", type=click.IntRange(min=10), help="Compute hosts. [default: one for 100 instances]")
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True,
              help="Measurements of each pair; medians are told.")
@click.option("--only", type=click.Choice(MEASUREMENTS), multiple=True, help="Some of them. [default: all]")
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path),
              default=_SHM if _SHM.is_dir() else None, help="Where the databases live. [default: memory]")
@click.option("--memory", type=click.IntRange(min=64), default=1024, show_default=True,
              help="MiB of each server's buffer pool.")
@click.option("--json", "as_json", is_flag=True, help="Results as JSON.")
def data(instances: int, hosts: int | None, repeat: int, only: tuple[str, ...], directory: Path | None,
         memory: int, as_json: bool) -> None:
    """Copy, follow and freeze a Nova database of as many instances."""
    with servers(directory, memory) as (source, target):
        results = run(source, target, source.directory.parent, instances, hosts or max(10, instances // 100),
                      repeat, lambda line: click.echo(line, err=as_json), only or MEASUREMENTS)
    if as_json:
        click.echo(json.dumps(results, indent=1))
