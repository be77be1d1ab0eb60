"""Runs under load, one after another: python -m tests.rabbit TOP OUT [KIND/HANDLING[/WORD]... ...]

WORD: ``fresh``, ``undo``, or ``restart``: with what systemd's own restart of an RPC server costs, after all.
Each run prints what it does as it goes, and adds a line of JSON to OUT; logs are kept beside it. Without a
combination: all nine of a split, and a bridge there and back.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.rabbit.cluster import Cluster
from tests.rabbit.story import Story

ALL = [f"{kind}/{handling}" for kind in ("classic", "mirrored", "quorum")
       for handling in ("ignore", "autoheal", "pause_minority")]  # fmt: skip


def main(words: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    top, out = Path(words[0]), Path(words[1])
    for number, combination in enumerate(words[2:] or [*ALL, "classic/autoheal/fresh/undo"]):
        print(f"== {combination}", flush=True)
        kind, handling, *more = combination.split("/")
        cluster = Cluster(top / str(number), handling, fresh="fresh" in more)
        try:
            found = measured(Story(cluster, kind), undo="undo" in more, restart="restart" in more)
        finally:
            keep(cluster, out.with_suffix("") / combination.replace("/", "-"))
            cluster.down()
        with out.open("a") as file:
            file.write(json.dumps({"what": combination, **found}) + "\n")
        print(json.dumps(found, indent=1), flush=True)


def keep(cluster: Cluster, directory: Path) -> None:
    """What clients and nodes wrote, for whoever looks for the reason of a figure."""
    shutil.rmtree(directory, ignore_errors=True)
    for name, host in cluster.hosts.items():
        if (host.home / "log").exists():
            shutil.copytree(host.home / "log", directory / name)


def measured(story: Story, *, undo: bool, restart: bool) -> dict[str, Any]:
    """Counts of both sides, and the longest calls (seconds): in all, in each step, and in a plain restart of
    a server by systemd."""
    story.cluster.up()
    story.clients_up()
    story.scan_and_plan()
    began = time.time()
    story.go("forward")
    took = time.time() - began
    if undo:
        story.go("backward")
    time.sleep(5)
    until = time.time()
    time.sleep(5)
    # Nothing of recell runs now; what this loses by itself isn't counted.
    plain = [story.plain_restart("bserver0"), story.plain_restart("bserver1")] if restart else []
    counts = story.clients_down(until)
    return {
        "took_s": round(took, 1),
        "undone": undo,
        "sides": {side: asdict(told) for side, told in counts.items()},
        "plain_restart_s": plain,
        "cut_s": {side: story.longest(side, "rabbitmq/part") for side in "ab"},
        "steps_s": {step: {side: story.longest(side, step) for side in "ab"} for step in story.spans},
    }


main(sys.argv[1:])
