"""One host, looked at by itself."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recell.adapters.containers import inside
from recell.adapters.ports import HostPort
from recell.adapters.ssh import SshHost
from recell.discovery.services import Found, find_services
from recell.discovery.writers import find_writers
from recell.model.deployment import Address, HostFacts, NovaService, OtherWriter
from recell.model.urls import is_address

__all__ = ["Seen", "host_facts", "look_at", "nova_version"]


@dataclass(frozen=True)
class Seen:
    """One host, looked at."""

    facts: HostFacts
    found: Found
    writers: tuple[OtherWriter, ...]
    has_rabbit: bool
    has_haproxy: bool
    nova_version: str


def look_at(host: SshHost, address: Address) -> Seen:
    """:raises Unreachable, Denied: it can't be."""
    host.hello()  # connects; the second one takes no time, so its clock can be compared
    asked = time.time()
    hello = host.hello()
    offset = float(hello["now"]) - (asked + time.time()) / 2
    hostname = str(hello["hostname"])
    processes = host.processes()
    names = {p.argv[0].rpartition("/")[2] for p in processes if p.argv}
    found = find_services(host, hostname)
    manage = _which(host, "nova-manage")
    prefix = () if manage else _nova_container(found.services)
    manage = "nova-manage" if prefix else manage
    facts = replace(
        host_facts(host, address, hostname),
        config_files=found.files,
        nova_manage=manage,
        nova_prefix=prefix,
        clock_offset_s=round(offset, 3),
    )
    rabbit = any(
        p.argv and p.argv[0].endswith(("beam.smp", "beam")) and "rabbit" in " ".join(p.argv)
        for p in processes
    )
    version = nova_version(host, manage, prefix) if manage and found.services else ""
    return Seen(
        facts, found, find_writers(host) if found.services else (), rabbit, "haproxy" in names, version
    )


def host_facts(host: HostPort, address: Address, hostname: str) -> HostFacts:
    """What every host has, whatever runs on it."""
    return HostFacts(
        name=host.name,
        address=address,
        ips=_ips(host),
        hostname=hostname,
        os=_os(host),
        firewall=(_which(host, "nft") and "nft") or (_which(host, "iptables") and "iptables"),
    )


def _nova_container(services: Sequence[NovaService]) -> tuple[str, ...]:
    """What to write before nova-manage where a container has it: nova-api's, else any that runs."""
    running = [s for s in services if s.container and s.active]
    for s in sorted(running, key=lambda s: s.role != "api"):
        if s.container:
            return tuple(inside(s.container.engine, s.container.name, ()))
    return ()


def _which(host: HostPort, program: str) -> str:
    for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        if host.stat(f"{directory}/{program}"):
            return f"{directory}/{program}"
    return ""


def _ips(host: HostPort) -> tuple[str, ...]:
    words = host.query(["hostname", "-I"]).stdout.decode(errors="replace").split()
    return tuple(w for w in words if is_address(w))


def _os(host: HostPort) -> str:
    text = (host.read("/etc/os-release") or b"").decode(errors="replace")
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    return match[1] if match else ""


def nova_version(host: HostPort, manage: str, prefix: tuple[str, ...] = ()) -> str:
    """Asked of the Python that nova-manage names: loading all of nova-manage takes seconds.

    :param prefix: what runs it in a container, whose files aren't read from here.
    """
    first = b"" if prefix else (host.read(manage) or b"").split(b"\n", 1)[0]
    interpreter = first.decode(errors="replace").removeprefix("#!").split()
    if interpreter and interpreter[0].startswith("/"):
        code = "import importlib.metadata as m; print(m.version('nova'))"
        ended = host.query([*interpreter, "-c", code], timeout=60)
        if ended.returncode == 0:
            return ended.stdout.decode(errors="replace").strip()
    ended = host.query([*prefix, manage, "--version"], timeout=120)
    words = (ended.stdout + b" " + ended.stderr).decode(errors="replace").split()
    return next((w for w in reversed(words) if re.fullmatch(r"\d+\.\d+.*", w)), "")
