"""What a host is called in a URL: as the URL that stands there today calls the hosts that it names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from recell.model.deployment import Deployment, HostFacts
from recell.model.urls import is_address, parse_url


def named_nodes(
    deployment: Deployment, like: str, hosts: Iterable[str], port: int
) -> tuple[tuple[str, int], ...]:
    """``like``: a shown URL; ``hosts``: inventory names."""
    example = parse_url(like).hosts[0]
    return tuple((called_like(deployment, example, deployment.host(h)), port) for h in hosts)


def called_like(deployment: Deployment, example: str, host: HostFacts) -> str:
    """By address on the same network, where the example is one; else by name, in the same domain."""
    if is_address(example):
        return _near(example, host)
    short, dot, domain = example.partition(".")
    known = {h.hostname.partition(".")[0] for h in deployment.hosts}
    same_domain = dot and short in known and "." not in host.hostname
    return f"{host.hostname}.{domain}" if same_domain else host.hostname


def _near(example: str, host: HostFacts) -> str:
    """Of several networks that one which the example is on. A virtual address comes behind the host's own."""
    wanted = ipaddress.ip_address(example)
    listed = [a for a in (host.address.host, *host.ips) if is_address(a)]
    same = [a for a in listed if ipaddress.ip_address(a).version == wanted.version]
    for length in (24, 16) if wanted.version == 4 else (64, 48):
        network = ipaddress.ip_network(f"{example}/{length}", strict=False)
        for address in same:
            if ipaddress.ip_address(address) in network:
                return address
    return next(iter([host.address.host] if host.address.host in same else same), host.address.host)
