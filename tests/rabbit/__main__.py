"""Runs under load, one after another: python -m tests.rabbit TOP OUT [KIND/HANDLING[/WORD]... | control]...

WORDs are in :mod:`tests.rabbit.words`: kills of recell and of nodes, a bridge, undo. ``control`` splits by
the letter of 2015's recipe, and must lose. Each run prints what it does as it goes, and adds a line of JSON
to OUT; logs are kept beside it. Without a combination: all nine of a split, and a bridge there and back.

It ends with 1 when a run lost, doubled or failed something beyond what RabbitMQ loses with a node that is
killed (reported apart), did not come to a good end, or when the control lost nothing.
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
from tests.rabbit.control import literal
from tests.rabbit.counting import Count, harmless, in_a_line
from tests.rabbit.story import Story
from tests.rabbit.words import ALL, Run, parse


def main(words: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    runs = [(text, parse(text)) for text in words[2:] or [*ALL, "classic/autoheal/fresh/undo"]]
    top, out = Path(words[0]), Path(words[1])
    sound = True
    for number, (text, run) in enumerate(runs):
        print(f"== {text}", flush=True)
        cluster = Cluster(top / str(number), run.handling, run.nodes, fresh=run.fresh)
        try:
            cluster.up()
            found = (controlled if run.control else measured)(Story(cluster, run.kind), run)
        finally:
            keep(cluster, out.with_suffix("") / text.replace("/", "-").replace("*", "every"))
            cluster.down()
        with out.open("a") as file:
            file.write(json.dumps({"what": text, **found}) + "\n")
        print(json.dumps(found, indent=1), flush=True)
        word = "as it should be" if found["sound"] else "NOT SOUND"
        print(f"== {text}: {word}: {found['said']}", flush=True)
        sound &= bool(found["sound"])
    return 0 if sound else 1


def keep(cluster: Cluster, directory: Path) -> None:
    """What clients and nodes wrote, for whoever looks for the reason of a figure."""
    shutil.rmtree(directory, ignore_errors=True)
    for name, host in cluster.hosts.items():
        if (host.home / "log").exists():
            shutil.copytree(host.home / "log", directory / name)


def controlled(story: Story, run: Run) -> dict[str, Any]:
    """The recipe of 2015, under the same load."""
    story.clients_up()
    literal(story)
    counts = story.clients_down()
    harmed = not all(map(harmless, counts.values()))
    return {"sound": harmed, "said": in_a_line(counts), "sides": _told(counts)}


def measured(story: Story, run: Run) -> dict[str, Any]:
    """Counts of both sides, and the longest calls (seconds): in all, in each step, and in a plain restart of
    a server by systemd; what was under way while a node was dead apart."""
    story.clients_up()
    story.scan_and_plan()
    began = time.time()
    arrived = story.travel("forward", run.forth)
    wrong = story.wrong("forward") if arrived else []
    took = time.time() - began
    if run.back is not None:
        story.travel("backward", run.back)
        wrong += story.wrong("backward")
    time.sleep(5)
    until = time.time()
    time.sleep(5)
    # Nothing of recell runs now; what this loses by itself isn't counted.
    plain = [story.plain_restart("bserver0"), story.plain_restart("bserver1")] if run.restart else []
    counts = story.clients_down(until)
    died = {
        "nodes": story.deaths.killed,
        "windows": story.deaths.windows,
        "sides": _told(story.counts(inside=True)),
    }
    return {
        "sound": not wrong and all(map(harmless, counts.values())),
        "said": in_a_line(counts),
        "wrong": wrong,
        "kills": story.kills,
        "stops": story.stops,
        "took_s": round(took, 1),
        "undone": run.back is not None,
        "sides": _told(counts),
        "while_a_node_was_dead": died if story.deaths.killed else None,
        "plain_restart_s": plain,
        "cut_s": {side: story.longest(side, "rabbitmq/part") for side in "ab"},
        "steps_s": {step: {side: story.longest(side, step) for side in "ab"} for step in story.spans},
    }


def _told(counts: dict[str, Count]) -> dict[str, Any]:
    return {side: asdict(count) for side, count in counts.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
