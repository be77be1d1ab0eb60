"""The lab's network: a bridge on the machine, a veth pair and a network namespace per host."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from recell_lab.errors import LabError
from recell_lab.layer import HostSpec

BRIDGE = "recell0"
MACHINE = IPv4Interface("10.77.0.1/24")
LINK_PREFIX = "rl-"
IFNAMSIZ = 15
# Where the machine filters bridged frames (a container engine switches that on), ours must pass.
FORWARD_RULE = ("FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT")
BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def link_name(host: str) -> str:
    """The machine's end of a host's cable. Raises LabError when the name does not fit."""
    name = LINK_PREFIX + host
    if len(name) > IFNAMSIZ or not host.replace("-", "").isalnum():
        raise LabError(
            f"{host!r} cannot be a host's name: at most {IFNAMSIZ - len(LINK_PREFIX)} "
            "letters, digits and hyphens"
        )
    return name


def mac(ip: str) -> str:
    """A host's own MAC address: the same after each boot, so neighbours' caches stay true."""
    return "02:4e:" + ":".join(f"{byte:02x}" for byte in IPv4Address(ip).packed)


def ip_batch(lines: Sequence[str], *, force: bool = False) -> None:
    """Run `ip -batch`; with force, go on after a line that fails and don't complain.

    The lines are made of names checked by link_name, addresses and process ids.
    """
    argv = ["ip", "-force", "-batch", "-"] if force else ["ip", "-batch", "-"]
    done = subprocess.run(
        argv,
        input="".join(f"{line}\n" for line in lines).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode and not force:
        error = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        raise LabError(f"the network of the lab cannot be set up: ip says {error}")


def _names() -> list[str]:
    # Asked of the kernel: `down` works on a machine that has no iproute2 yet.
    return [name for _, name in socket.if_nameindex()]


def create_bridge() -> None:
    """Make the bridge; nothing to do when it is there. Raises LabError when it cannot be."""
    if BRIDGE not in _names():
        done = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, check=True)
        taken = overlapping(json.loads(done.stdout or b"[]"))
        if taken:
            raise LabError(
                f"this machine reaches {MACHINE.network} through {', '.join(taken)}; the lab "
                "needs these addresses for itself: remove that route, or use another machine"
            )
        ip_batch(
            [
                # A fixed address: else the bridge takes the lowest of its ports', which changes.
                f"link add {BRIDGE} address {mac(str(MACHINE.ip))} type bridge",
                f"address add {MACHINE} dev {BRIDGE}",
                f"link set {BRIDGE} up",
            ]
        )
    if _filters_bridges() and not _forward_rule("-C"):
        _forward_rule("-I")


def overlapping(routes: Sequence[Mapping[str, object]]) -> list[str]:
    """The devices other than the bridge whose routes (`ip -json route`) cross the lab's network."""
    devices = []
    for route in routes:
        destination, device = str(route.get("dst")), str(route.get("dev"))
        if destination == "default" or device == BRIDGE:
            continue
        try:
            crosses = IPv4Network(destination, strict=False).overlaps(MACHINE.network)
        except ValueError:  # a word such as "unreachable" before it
            continue
        if crosses:
            devices.append(device)
    return devices


def _filters_bridges() -> bool:
    return BRIDGE_FILTER.exists() and BRIDGE_FILTER.read_text().strip() == "1"


def _forward_rule(action: str) -> bool:
    done = subprocess.run(["iptables", action, *FORWARD_RULE], capture_output=True, check=False)
    return done.returncode == 0


def plug(spec: HostSpec, pid: int) -> None:
    """Lay a cable from the bridge to eth0 of the network namespace of process pid."""
    name = link_name(spec.name)
    # Links of a namespace that just died go away a moment later: don't stumble over them.
    ip_batch([f"link del {name}"], force=True)
    ip_batch(
        [
            f"link add {name} type veth peer name eth0 address {mac(spec.ip)} netns {pid}",
            f"link set {name} master {BRIDGE} up",
        ]
    )


def configure_inside(spec: HostSpec) -> None:
    """Give eth0 its address. Called inside the host's network namespace; no route leads out."""
    ip_batch(
        [
            "link set lo up",
            f"address add {spec.ip}/{MACHINE.network.prefixlen} dev eth0",
            "link set eth0 up",
        ]
    )


def unplug(host: str) -> None:
    """Pull the cable: from now on peers hear nothing of the host, not even a FIN."""
    ip_batch([f"link del {link_name(host)}"], force=True)


def remove() -> None:
    """Remove the bridge and what is left of cables."""
    names = _names()
    lines = [f"link del {name}" for name in names if name.startswith(LINK_PREFIX)]
    if BRIDGE in names:
        if BRIDGE_FILTER.exists():
            _forward_rule("-D")
        lines.append(f"link del {BRIDGE}")
    if lines:
        ip_batch(lines, force=True)


def hosts_file(name: str, peers: Sequence[HostSpec]) -> str:
    """The text of /etc/hosts of a host."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{peer.ip} {peer.name}" for peer in peers]
    if all(peer.name != name for peer in peers):
        raise LabError(f"{name} is not among the hosts of its own lab")
    return "".join(f"{line}\n" for line in lines)
