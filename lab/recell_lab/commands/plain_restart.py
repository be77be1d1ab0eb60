"""recell-lab plain-restart."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from recell_lab import lab, watching
from recell_lab.cloud import ready

ANSWER_TIMEOUT = 300.0


@click.command()
@click.argument("host")
@click.option("--answers", required=True, type=click.Path(path_type=Path, exists=True),
              help="The file of a watch-hosts that watches the host.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSON lines.")
def command(host: str, answers: Path, out: Path) -> None:
    """Restart nova-compute on HOST as an operator does, and note how long it did not answer.

    Nova itself loses what users ask of it meanwhile, now and then: not while losses are counted.
    """
    one = lab.host(host)

    def answered(since: float) -> bool:
        found = watching.read_answers(answers)
        return any(a.host == host and a.status == 200 and a.done > since for a in found)

    ready.wait(f"{host} is watched", lambda: answered(0), ANSWER_TIMEOUT)
    start = time.time()
    one.run(["systemctl", "restart", "nova-compute"], timeout=ANSWER_TIMEOUT)
    restarted = time.time()
    # A question that the old process has answered late is not the new one's.
    ready.wait(f"{host} answers", lambda: answered(restarted), ANSWER_TIMEOUT)
    end = time.time()
    found = watching.read_answers(answers)
    silence = watching.longest_silence(found, host, start, end)
    lost = sum(a.host == host and a.status != 200 and start <= a.done <= end for a in found)
    line = {"host": host, "start": start, "end": end, "silence_s": silence, "lost": lost}
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    click.echo(f"nova-compute on {host} did not answer for {silence:.1f} s; {lost} questions to it were lost")
