"""The unit that keeps two RabbitMQ clusters' nodes from each other at every boot. No I/O.

Their cookies differ and would do; but a cookie that somebody copies back, and one ping, make them one again.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

CHAIN = "RECELL-APART"


def unit_name(other: str) -> str:
    """``other``: the first host of the other side."""
    return f"recell-apart-{re.sub('[^A-Za-z0-9-]', '-', other)}"


def table_name(other: str) -> str:
    return unit_name(other).replace("-", "_")


def chain_name(other: str) -> str:
    """iptables takes 28 characters at most."""
    return f"{CHAIN}-{re.sub('[^A-Za-z0-9]', '-', other)}"[:28]


def unit_text(firewall: str, other: str, addresses: Sequence[str], ports: Sequence[int]) -> str:
    """A unit file. ``firewall``: nft or iptables; ``addresses``: of the other side's hosts.

    What leaves for there is reset, so whoever tries is told at once.
    """
    listed = [ipaddress.ip_address(a) for a in addresses]
    up, down = (_nft if firewall == "nft" else _iptables)(other, listed, sorted(set(ports)))
    lines = [
        "# Made by recell: no Erlang distribution between this host and the RabbitMQ cluster of",
        f"# {other}. The two were one cluster and must not meet again.",
        "[Unit]",
        f"Description=Keep RabbitMQ apart from the cluster of {other}",
        # A start or reload of these empties the tables; what is part of them comes back with them.
        "After=nftables.service netfilter-persistent.service firewalld.service",
        "PartOf=nftables.service netfilter-persistent.service firewalld.service",
        "ReloadPropagatedFrom=nftables.service netfilter-persistent.service firewalld.service",
        "Before=rabbitmq-server.service",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        *(f"ExecStart={line}" for line in up),
        *(f"ExecReload={line}" for line in up),
        *(f"ExecStop={line}" for line in down),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "".join(f"{line}\n" for line in lines)


_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def _nft(other: str, addresses: Sequence[_Ip], ports: Sequence[int]) -> tuple[list[str], list[str]]:
    table = f"inet {table_name(other)}"
    script = [
        f"add table {table}",
        f"flush table {table}",
        f"add chain {table} output {{ type filter hook output priority -300; policy accept; }}",
    ]
    for version, family in ((4, "ip"), (6, "ip6")):
        mine = ", ".join(str(a) for a in addresses if a.version == version)
        if mine:
            script += [
                f"add rule {table} output {family} daddr {{ {mine} }} tcp {end}"
                f" {{ {', '.join(map(str, ports))} }} reject with tcp reset"
                for end in ("dport", "sport")
            ]
    # One argument, so that it is one transaction.
    return [f"/usr/bin/env nft '{'; '.join(script)}'"], [f"-/usr/bin/env nft 'delete table {table}'"]


def _iptables(other: str, addresses: Sequence[_Ip], ports: Sequence[int]) -> tuple[list[str], list[str]]:
    chain = chain_name(other)
    up: list[str] = []
    down: list[str] = []
    for version, tool in ((4, "iptables"), (6, "ip6tables")):
        mine = [a for a in addresses if a.version == version]
        if not mine:
            continue
        call = f"/usr/bin/env {tool} -w"
        up += [f"-{call} -N {chain}", f"{call} -F {chain}"]
        up += [
            f"{call} -A {chain} -d {a} -p tcp --{end} {p} -j REJECT --reject-with tcp-reset"
            for a in mine
            for p in ports
            for end in ("dport", "sport")
        ]
        up += [f"-{call} -D OUTPUT -j {chain}", f"{call} -I OUTPUT -j {chain}"]
        down += [f"-{call} -D OUTPUT -j {chain}", f"-{call} -F {chain}", f"-{call} -X {chain}"]
    return up, down
