"""``python -m recell.probe``: users for a cloud, until SIGTERM or for a time."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from recell.errors import BadInput, RecellError
from recell.probe.cloud import Cloud, default_clouds_yaml, read_account
from recell.probe.load import Load, LoadOptions
from recell.probe.record import Recorder


async def generate(cloud_name: str, clouds_yaml: Path | None, out: Path, options: LoadOptions,
                   timeout: float) -> dict[str, Any]:
    """Run the load to its end in this process; SIGTERM and SIGINT end it softly.

    :returns: the summary. :raises RecellError: the cloud or the input can't be used.
    """
    account = read_account(cloud_name, clouds_yaml)
    with Recorder(out) as recorder:
        async with Cloud(account, timeout) as cloud:
            load = Load(cloud, recorder, options)
            loop = asyncio.get_running_loop()
            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signum, load.stop)
            return await load.run()


def parse_bounds(text: str) -> tuple[int, int]:
    """``6:14``. :raises BadInput: not two numbers, or the wrong way round."""
    low, _, high = text.partition(":")
    if not (low.isdigit() and high.isdigit() and int(low) <= int(high)):
        raise BadInput(f"--population {text!r} is not MIN:MAX", "Write it as 6:14")
    return int(low), int(high)


def read_known(path: Path | None) -> tuple[str, ...]:
    """Uuids of a file, one per line; empty lines and # lines are left out."""
    if path is None:
        return ()
    lines = (line.strip() for line in path.read_text().splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


@click.command()
@click.option("--cloud", required=True, help="A cloud of clouds.yaml.")
@click.option("--clouds-yaml", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              default=None, help="The file; else where openstacksdk looks for it.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="JSONL file, one line per request; appended to.")
@click.option("--rate", default=6.0, show_default=True, type=click.FloatRange(0.1, 1000),
              help="Requests per second.")
@click.option("--duration", default=None, type=click.FloatRange(0), help="Seconds; else SIGTERM.")
@click.option("--boot", default=0, show_default=True, type=click.IntRange(0),
              help="Boot so many guests first; they are left running as they are.")
@click.option("--known", default=None, type=click.Path(path_type=Path, exists=True),
              help="Uuids that every list must hold, one per line.")
@click.option("--population", default="6:14", show_default=True, help="Own instances, MIN:MAX.")
@click.option("--change-share", default=0.36, show_default=True, type=click.FloatRange(0, 1))
@click.option("--aim", default="", metavar="HOST,...",
              help="Compute hosts; --aim-share of all changes are about instances there.")
@click.option("--aim-share", default=0.5, show_default=True, type=click.FloatRange(0, 1))
@click.option("--settle", default=60.0, show_default=True, type=click.FloatRange(0),
              help="Seconds to wait at the end for changes in flight.")
@click.option("--timeout", default=60.0, show_default=True, type=click.FloatRange(1),
              help="Seconds that a user waits for an answer.")
@click.option("--flavor", default="m1.tiny", show_default=True)
@click.option("--image", default="guest", show_default=True)
@click.option("--seed", default=None, type=int)
def main(cloud: str, clouds_yaml: Path | None, out: Path, rate: float, duration: float | None,
         boot: int, known: Path | None, population: str, change_share: float, aim: str,
         aim_share: float, settle: float, timeout: float, flavor: str, image: str, seed: int | None) -> None:
    """Users of a cloud: open-loop requests, each written to a file with what became of it."""
    try:
        options = LoadOptions(
            rate=rate, duration=duration, boot=boot, settle=settle,
            bounds=parse_bounds(population), change_share=change_share, flavor=flavor, image=image,
            seed=seed, known=read_known(known),
            aim=tuple(host.strip() for host in aim.split(",") if host.strip()), aim_share=aim_share)
        summary = asyncio.run(
            generate(cloud, clouds_yaml or default_clouds_yaml(), out, options, timeout))
    except RecellError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    click.echo(json.dumps(summary))


if __name__ == "__main__":
    main()
