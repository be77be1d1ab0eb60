"""recell's fence before a service of one host: connections to it are refused, and open ones are reset.

What a database can't tell apart (an account that nova-api shares with conductors) an address and a port
can. In a table (nftables) or a chain (iptables) of recell's own, replaced whole and removed whole.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence

from recell.adapters import firewall
from recell.adapters.ports import HostPort
from recell.errors import StepFailed, Unsupported

__all__ = ["Fence", "iptables_script", "nft_script"]

_TABLE = "recell_fence"
_CHAIN = "RECELL-FENCE"
_NFT = re.compile(r"ip6? daddr (\S+) tcp dport (\d+) reject")
_IPT = re.compile(r"-d (\S+?)(?:/\d+)? .*--dport (\d+) .*REJECT")
_TOOLS = ((4, "iptables"), (6, "ip6tables"))
_WHERE = "nft list table inet recell_fence, iptables -S RECELL-FENCE"
Door = tuple[str, int]


class Fence:
    """:class:`~recell.adapters.v1_hold_port.FencePort`. Doors are (address, port)."""

    def __init__(self, host: HostPort) -> None:
        self.host = host.name
        self._host = host
        self._which: firewall.Kind | None = None

    def _kind(self) -> firewall.Kind:
        if self._which is None:
            self._which = firewall.kind(self._host)
        return self._which

    def trouble(self) -> str:
        return "" if self._kind() else f"{self.host} has neither nftables nor iptables"

    def put_up(self, doors: Collection[Door]) -> None:
        if not self._kind():
            raise Unsupported(self.trouble(), "Install nftables there")
        wanted = frozenset((str(ipaddress.ip_address(a)), int(p)) for a, p in doors)
        if self._kind() == "nft":
            self._run(["nft", "-f", "-"], nft_script(wanted))
        else:
            for version, tool in _TOOLS:
                mine = [d for d in wanted if ipaddress.ip_address(d[0]).version == version]
                if not mine:
                    continue
                self._run([f"{tool}-restore", "-w", "-n"], iptables_script(mine))
                if not self._linked(tool):
                    self._run([tool, "-w", "-I", "INPUT", "-j", _CHAIN], "")
        if self.standing() != wanted:
            raise StepFailed(f"the firewall of {self.host} lacks recell's fence", f"Look at: {_WHERE}")

    def take_down(self) -> None:
        if not self._kind():
            return
        if self._kind() == "nft":
            if self._nft_text():
                self._run(["nft", "-f", "-"], f"delete table inet {_TABLE}\n")
        else:
            for _, tool in _TOOLS:
                while self._linked(tool):
                    self._run([tool, "-w", "-D", "INPUT", "-j", _CHAIN], "")
                if self._host.query([tool, "-w", "-n", "-L", _CHAIN], timeout=20).returncode == 0:
                    self._run([tool, "-w", "-F", _CHAIN], "")
                    self._run([tool, "-w", "-X", _CHAIN], "")
        if self.standing():
            raise StepFailed(f"recell's fence stays in the firewall of {self.host}", f"Look at: {_WHERE}")

    def standing(self) -> frozenset[Door]:
        if not self._kind():
            return frozenset()
        if self._kind() == "nft":
            found = _NFT.findall(self._nft_text())
        else:
            text = ""
            for _, tool in _TOOLS:
                done = self._host.query([tool, "-w", "-S", _CHAIN], timeout=20)
                if done.returncode == 0 and self._linked(tool):
                    text += done.stdout.decode("utf-8", "replace")
            found = _IPT.findall(text)
        return frozenset((str(ipaddress.ip_address(a)), int(p)) for a, p in found)

    def _nft_text(self) -> str:
        # Numbers stay numbers: 8774 has no name, 80 would.
        done = self._host.query(["nft", "-n", "list", "table", "inet", _TABLE], timeout=20)
        return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""

    def _linked(self, tool: str) -> bool:
        argv = [tool, "-w", "-C", "INPUT", "-j", _CHAIN]
        return self._host.query(argv, timeout=20).returncode == 0

    def _run(self, argv: Sequence[str], script: str) -> None:
        done = self._host.run(argv, stdin=script.encode(), timeout=30)
        if done.returncode != 0:
            detail = done.stderr.decode("utf-8", "replace").strip()[:200]
            raise StepFailed(f"{argv[0]} failed on {self.host} ({detail})", f"Look at: {_WHERE}")


def nft_script(doors: Collection[Door]) -> str:
    lines = [
        f"add table inet {_TABLE}",
        f"flush table inet {_TABLE}",
        f"add chain inet {_TABLE} input {{ type filter hook input priority -290; policy accept; }}",
    ]
    for address, port in sorted(doors):
        family = "ip" if ipaddress.ip_address(address).version == 4 else "ip6"
        lines.append(
            f"add rule inet {_TABLE} input {family} daddr {ipaddress.ip_address(address)}"
            f" tcp dport {int(port)} reject with tcp reset"
        )
    return "".join(f"{line}\n" for line in lines)


def iptables_script(doors: Collection[Door]) -> str:
    lines = ["*filter", f":{_CHAIN} - [0:0]"]
    lines += [
        f"-A {_CHAIN} -d {ipaddress.ip_address(a)} -p tcp --dport {int(p)} -j REJECT --reject-with tcp-reset"
        for a, p in sorted(doors)
    ]
    return "".join(f"{line}\n" for line in [*lines, "COMMIT"])
