"""Tests' own servers don't disturb each other, whoever starts when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.private_server import PrivateServer, free_ports

_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ANOTHER = "from tests import private_server as p; print(*(n for n in {} if p._take(n)))"


def test_a_server_that_starts_leaves_the_others_temporary_files_alone() -> None:
    servers: list[PrivateServer] = []
    try:
        servers.append(PrivateServer())
        with servers[0].connect("mysql") as client, client.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE mine (id INT) ENGINE = MyISAM")
            cursor.execute("SELECT @@tmpdir")
            place = Path(cursor.fetchall()[0][0])
            before = sorted(place.glob("#sql*"))
            assert before
            servers.append(PrivateServer())
            assert [f for f in before if not f.exists()] == []
    finally:
        for server in servers:
            server.stop()


def test_a_port_that_is_not_listened_at_yet_is_nobody_elses() -> None:
    ports = free_ports(3)
    low, high = map(int, _PORTS.read_text().split())
    assert len({*ports, *free_ports(3)}) == 6
    assert not any(low <= port <= high for port in ports), "clients are given these"
    said = subprocess.run([sys.executable, "-c", _ANOTHER.format(ports)], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, check=True).stdout
    assert said.split() == []
