"""The control: a cluster is split by the letter of 2015's recipe, so that the harness is believed."""

from __future__ import annotations

import time

from tests.rabbit.story import Story

NOTICED_S = 90.0
"""net_ticktime is 60 s: by then every node has noticed."""


def literal(story: Story) -> None:
    """INPUT REJECT on one port, host by host, then forget. Clients are at work already."""
    cluster = story.cluster
    for name in cluster.new:
        for words in (("stop_app",), ("join_cluster", f"rabbit@{cluster.old[0]}"), ("start_app",)):
            cluster.hosts[name].ctl(*words)
    nodes = ",".join(f"os:os@{cluster.hosts[n].ip}:5672" for n in cluster.new)
    moved = cluster.hosts["rqb"]
    for path in sorted((moved.home / "etc").glob("b*.conf")):
        lines = path.read_text().splitlines()
        text = [f"transport_url = rabbit://{nodes}/" if "transport_url" in line else line for line in lines]
        path.write_text("\n".join(text))
        moved.systemctl("restart", path.stem)
    time.sleep(10)
    sides = ((cluster.new, cluster.old), (cluster.old, cluster.new))
    for mine, others in sides:
        for name in mine:
            for other in others:
                rule = ["-s", cluster.hosts[other].ip, "-p", "tcp", "--dport", "25672", "-j", "REJECT"]
                cluster.hosts[name].run(["iptables", "-I", "INPUT", *rule])
    time.sleep(NOTICED_S)
    for mine, others in sides:
        for other in others:
            cluster.hosts[mine[0]].ctl("forget_cluster_node", f"rabbit@{other}", check=False)
    time.sleep(10)
