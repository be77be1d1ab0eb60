"""recell-lab plain-restart."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click

from recell_lab import lab, watching
from recell_lab.cloud import ready

ANSWER_TIMEOUT = 300.0


@click.command()
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@click.option("--answers", required=True, type=click.Path(path_type=Path, exists=True),
              help="The file of a watch-hosts that watches the hosts.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSON lines.")
def command(hosts: tuple[str, ...], answers: Path, out: Path) -> None:
    """Restart nova-compute on each HOST at once, as an operator does, and note how long it did not answer.

    Nova itself loses what users ask of it meanwhile, now and then: not while losses are counted.
    """

    def answered(host: str, since: float) -> bool:
        found = watching.read_answers(answers)
        return any(a.host == host and a.status == 200 and a.done > since for a in found)

    for host in hosts:
        ready.wait(f"{host} is watched", partial(answered, host, 0), ANSWER_TIMEOUT)
    start = time.time()
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(_restart, hosts))
    restarted = time.time()
    # A question that the old process has answered late is not the new one's.
    for host in hosts:
        ready.wait(f"{host} answers", partial(answered, host, restarted), ANSWER_TIMEOUT)
    end = time.time()
    found = watching.read_answers(answers)
    for host in hosts:
        silence = watching.longest_silence(found, host, start, end)
        lost = sum(a.host == host and a.status != 200 and start <= a.done <= end for a in found)
        line = {"host": host, "together": len(hosts), "start": start, "end": end, "silence_s": silence,
                "lost": lost}  # fmt: skip
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        click.echo(f"nova-compute on {host} did not answer for {silence:.1f} s; {lost} questions were lost")


def _restart(host: str) -> None:
    lab.host(host).run(["systemctl", "restart", "nova-compute"], timeout=ANSWER_TIMEOUT)
