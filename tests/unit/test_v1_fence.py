"""A fence before a service, in a network namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from recell.adapters.ports import Finished
from recell.adapters.v1_fence import Fence
from recell.errors import Unsupported

SERVER = """
import socket, sys
servers = [socket.create_server(("127.0.0.1", p)) for p in (8774, 8775)]
servers.append(socket.create_server(("::1", 8774), family=socket.AF_INET6))
sys.stdout.write("up\\n"); sys.stdout.flush()
sys.stdin.read()
"""
TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20).close()
    print("open")
except ConnectionRefusedError:
    print("refused")
"""


class Place:
    """A host in a namespace; ``tools``: what it has."""

    name = "ctl1"

    def __init__(self, pid: int, tools: Sequence[str]) -> None:
        self._enter = ["nsenter", "-t", str(pid), "-n"]
        self.tools = tools

    def query(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, **_: Any) -> Finished:
        if argv[0].removesuffix("-restore").replace("ip6", "ip") not in self.tools:
            return Finished(127, b"", b"")
        done = subprocess.run([*self._enter, *argv], input=stdin, capture_output=True, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    run = query

    def tried(self, address: str, port: int) -> str:
        argv = [*self._enter, sys.executable, "-c", TRY, address, str(port)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(params=["nft", "iptables"])
def place(request: Any) -> Iterator[Place]:
    process = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" -c "$1"', sys.executable, SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    yield Place(process.pid, [request.param])
    process.kill()
    process.wait()


def test_a_door_is_shut_and_the_others_stay_open(place: Any) -> None:
    fence = Fence(place)
    doors = frozenset({("127.0.0.1", 8774), ("::1", 8774)})
    assert fence.trouble() == "" and fence.standing() == frozenset()
    assert place.tried("127.0.0.1", 8774) == "open"
    for _ in range(2):
        fence.put_up(doors)
        assert fence.standing() == doors
    assert place.tried("127.0.0.1", 8774) == "refused" and place.tried("::1", 8774) == "refused"
    assert place.tried("127.0.0.1", 8775) == "open", "guests' metadata"
    for _ in range(2):
        fence.take_down()
        assert fence.standing() == frozenset()
    assert place.tried("127.0.0.1", 8774) == "open"
    for argv in (["nft", "list", "ruleset"], ["iptables-save"], ["ip6tables-save"]):
        assert b"recell" not in place.query(argv).stdout.lower()


def test_a_host_without_a_firewall_says_so() -> None:
    fence = Fence(Place(1, []))  # type: ignore[arg-type]
    assert fence.trouble() == "ctl1 has neither nftables nor iptables"
    with pytest.raises(Unsupported):
        fence.put_up([("127.0.0.1", 8774)])
    assert fence.standing() == frozenset()
    fence.take_down()
