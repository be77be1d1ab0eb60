"""python -m tests.rabbit TOP KIND HANDLING NODES RATE [fresh] [undo]: one run under load, as it goes."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from tests.rabbit.cluster import Cluster
from tests.rabbit.story import Story


def main(words: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cluster = Cluster(Path(words[0]), words[2], int(words[3]), fresh="fresh" in words)
    story = Story(cluster, words[1], rate=float(words[4]))
    began = time.time()
    try:
        cluster.up()
        print(f"up after {time.time() - began:.0f} s", flush=True)
        story.clients_up()
        plan = story.scan_and_plan()
        print(f"planned {len(plan.steps)} steps after {time.time() - began:.0f} s", flush=True)
        story.go("forward")
        if "undo" in words:
            story.go("backward")
        print(story.clients_down(), flush=True)
    finally:
        cluster.down()


main(sys.argv[1:])
