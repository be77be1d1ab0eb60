"""recell's wall on a host: no Erlang distribution between it and the other side's hosts.

A table (nftables) or chains (iptables) of recell's own, replaced whole and removed whole. ``drop`` holds
packets off in both directions without telling anybody; ``reject`` resets what this host sends there, so
that attempts to connect fail at once. Neither ends by itself: a wall that goes while both sides still know
each other would let them meet again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from recell.adapters import firewall
from recell.adapters.ports import HostPort
from recell.errors import StepFailed, Unsupported
from recell.planning.apart import chain_name, table_name

_TABLE = "recell_split"
_IN, _OUT = "RECELL-SPLIT-IN", "RECELL-SPLIT-OUT"


def up(host: HostPort, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None:
    """Set the wall, or change it to this kind; in one transaction a protocol family."""
    which = firewall.kind(host)
    if not which:
        raise Unsupported(f"{host.name} has neither nftables nor iptables", "Install nftables there")
    if which == "nft":
        _run(host, ["nft", "-f", "-"], nft_script(kind, addresses, ports))
    else:
        for version, tool in ((4, "iptables"), (6, "ip6tables")):
            mine = [a for a in addresses if ipaddress.ip_address(a).version == version]
            if mine:
                _run(host, [f"{tool}-restore", "-w", "-n"], iptables_script(kind, mine, ports))
                for own, chain in (("INPUT", _IN), ("OUTPUT", _OUT)):
                    if host.query([tool, "-w", "-C", own, "-j", chain], timeout=20).returncode != 0:
                        _run(host, [tool, "-w", "-I", own, "-j", chain], "")
    if state(host) != kind:
        raise StepFailed(
            f"the firewall of {host.name} does not hold recell's rules", f"Look at: {_look(which)}"
        )


def down(host: HostPort) -> None:
    """Remove it; nothing when there is none."""
    if firewall.kind(host) == "nft":
        if state(host):
            _run(host, ["nft", "-f", "-"], f"delete table inet {_TABLE}\n")
    else:
        for tool in ("iptables", "ip6tables"):
            for own, chain in (("INPUT", _IN), ("OUTPUT", _OUT)):
                while host.query([tool, "-w", "-C", own, "-j", chain], timeout=20).returncode == 0:
                    _run(host, [tool, "-w", "-D", own, "-j", chain], "")
                if host.query([tool, "-w", "-n", "-L", chain], timeout=20).returncode == 0:
                    _run(host, [tool, "-w", "-F", chain], "")
                    _run(host, [tool, "-w", "-X", chain], "")
    if state(host):
        raise StepFailed(f"recell's rules stay in the firewall of {host.name}", "Look at: nft list ruleset")


def state(host: HostPort) -> str:
    """``drop``, ``reject``, or "" for no wall."""
    which = firewall.kind(host)
    if which == "nft":
        done = host.query(["nft", "list", "table", "inet", _TABLE], timeout=20)
        text = done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
    else:
        text = ""
        for tool in ("iptables", "ip6tables"):
            linked = [
                host.query([tool, "-w", "-C", own, "-j", chain], timeout=20).returncode == 0
                for own, chain in (("INPUT", _IN), ("OUTPUT", _OUT))
            ]
            done = host.query([tool, "-w", "-S", _OUT], timeout=20)
            text += done.stdout.decode("utf-8", "replace") if done.returncode == 0 and all(linked) else ""
    if "reject" in text.lower():
        return "reject"
    return "drop" if "drop" in text.lower().replace("policy drop", "") else ""


def apart(host: HostPort, other: str) -> bool:
    """Whether the lasting rules of :mod:`recell.planning.apart` are in force."""
    if firewall.kind(host) == "nft":
        done = host.query(["nft", "list", "table", "inet", table_name(other)], timeout=20)
        return done.returncode == 0 and b"reject" in done.stdout
    chain = chain_name(other)
    return any(
        host.query([tool, "-w", "-C", "OUTPUT", "-j", chain], timeout=20).returncode == 0
        for tool in ("iptables", "ip6tables")
    )


def nft_script(kind: str, addresses: Sequence[str], ports: Sequence[int]) -> str:
    doing = "drop" if kind == "drop" else "reject with tcp reset"
    hooks = ("input", "output") if kind == "drop" else ("output",)
    listed = ", ".join(str(int(p)) for p in sorted(set(ports)))
    lines = [f"add table inet {_TABLE}", f"flush table inet {_TABLE}"]
    for hook in hooks:
        lines.append(
            f"add chain inet {_TABLE} {hook} {{ type filter hook {hook} priority -300; policy accept; }}"
        )
        side = "saddr" if hook == "input" else "daddr"
        for version, family in ((4, "ip"), (6, "ip6")):
            mine = [str(a) for a in map(ipaddress.ip_address, addresses) if a.version == version]
            if mine:
                for end in ("dport", "sport"):
                    lines.append(
                        f"add rule inet {_TABLE} {hook} {family} {side} {{ {', '.join(mine)} }}"
                        f" tcp {end} {{ {listed} }} {doing}"
                    )
    return "".join(f"{line}\n" for line in lines)


def iptables_script(kind: str, addresses: Sequence[str], ports: Sequence[int]) -> str:
    lines = ["*filter", f":{_IN} - [0:0]", f":{_OUT} - [0:0]"]
    doing = "DROP" if kind == "drop" else "REJECT --reject-with tcp-reset"
    for chain, side in ((_IN, "-s"), (_OUT, "-d")):
        if chain == _IN and kind != "drop":
            continue
        for address in addresses:
            for port in sorted(set(ports)):
                lines += [
                    f"-A {chain} {side} {ipaddress.ip_address(address)} -p tcp --{end} {int(port)} -j {doing}"
                    for end in ("dport", "sport")
                ]
    return "".join(f"{line}\n" for line in [*lines, "COMMIT"])


def _run(host: HostPort, argv: Sequence[str], script: str) -> None:
    done = host.run(argv, stdin=script.encode(), timeout=30)
    if done.returncode != 0:
        detail = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise StepFailed(f"{argv[0]} failed on {host.name} ({detail})", "Look at the host's firewall")


def _look(which: str) -> str:
    return f"nft list table inet {_TABLE}" if which == "nft" else "iptables -S"
