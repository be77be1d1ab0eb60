"""Holding off what exactly one TCP connection would receive, on the receiving host.

With nftables in a table of our own, ``inet recell``, whose elements expire by themselves, so that a
dead recell leaves nothing for ever; else with iptables, where a timer of systemd takes the rule
away. Nothing of the host's own rules is touched.

A held packet is dropped: TCP sends it again. Bare acknowledgements still pass, so that what the
held connection itself sends goes out undisturbed: they are short, and no end of a write (PSH).
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from recell.adapters.ports import HostPort
from recell.errors import StepFailed, Unsupported

Kind = Literal["nft", "iptables", ""]

_TABLE = """\
add table inet recell
add set inet recell held4 {{ type ipv4_addr . inet_service . inet_service; flags timeout; }}
add set inet recell held6 {{ type ipv6_addr . inet_service . inet_service; flags timeout; }}
add chain inet recell input {{ type filter hook input priority -300; policy accept; }}
flush chain inet recell input
add rule inet recell input {ip4} tcp flags & (fin | syn | rst | psh) != 0 drop
add rule inet recell input {ip4} meta length > {short4} drop
add rule inet recell input {ip6} tcp flags & (fin | syn | rst | psh) != 0 drop
add rule inet recell input {ip6} meta length > {short6} drop
{elements}"""

_PARTS = {
    "ip4": "ip saddr . tcp sport . tcp dport @held4",
    "ip6": "ip6 saddr . tcp sport . tcp dport @held6",
    # Headers with all the options that a bare acknowledgement may have.
    "short4": "80",
    "short6": "100",
}
_locks: dict[str, threading.Lock] = {}
_locks_guard = threading.Lock()


@dataclass(frozen=True)
class Flow:
    """What comes from one remote port to one local port."""

    remote_ip: str
    remote_port: int
    local_port: int

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.remote_ip).version


def kind(host: HostPort) -> Kind:
    """What works on this host; empty: neither."""
    for program, question in (("nft", ["nft", "list", "tables"]),
                              ("iptables", ["iptables", "-w", "-n", "-L", "INPUT"])):
        if host.query(question, timeout=20).returncode == 0:
            return "nft" if program == "nft" else "iptables"
    return ""


@contextmanager
def holding(
    host: HostPort, which: Kind, flows: Sequence[Flow], longest: float,
) -> Iterator[None]:
    """Drop what these flows bring, until the block ends; ``longest`` seconds if recell dies.

    :param which: as :func:`kind` says of this host.
    :raises Unsupported: the host has neither nftables nor iptables; nothing was touched.
    :raises StepFailed: the rules can't be set or removed.
    """
    if not which:
        raise Unsupported(f"{host.name} has neither nftables nor iptables",
                          "Install nftables there")
    hold, free = (_nft_hold, _nft_free) if which == "nft" else (_ipt_hold, _ipt_free)
    with _lock(host.name):
        hold(host, flows, longest)
    try:
        yield
    finally:
        with _lock(host.name):
            free(host, flows)


def _lock(name: str) -> threading.Lock:
    with _locks_guard:
        return _locks.setdefault(name, threading.Lock())


# nftables


def _element(flow: Flow, timeout: float | None = None) -> str:
    address = ipaddress.ip_address(flow.remote_ip)
    tail = "" if timeout is None else f" timeout {int(timeout)}s"
    return f"{address} . {int(flow.remote_port)} . {int(flow.local_port)}{tail}"


def _commands(verb: str, flows: Sequence[Flow], timeout: float | None = None) -> str:
    return "".join(f"{verb} element inet recell held{f.version} {{ {_element(f, timeout)} }}\n"
                   for f in flows)


def _nft(host: HostPort, script: str) -> str:
    """An nft script is one transaction; the error text, or nothing."""
    done = host.run(["nft", "-f", "-"], stdin=script.encode(), timeout=30)
    return "" if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip()


def _nft_hold(host: HostPort, flows: Sequence[Flow], longest: float) -> None:
    # Of an element that is there already, from a run that died, the timeout would stay the old one.
    _nft_delete(host, flows)
    trouble = _nft(host, _TABLE.format(elements=_commands("add", flows, longest), **_PARTS))
    if trouble:
        raise _failed(host, "hold off deliveries", trouble)


def _nft_free(host: HostPort, flows: Sequence[Flow]) -> None:
    _nft_delete(host, flows)
    listed = host.query(["nft", "list", "table", "inet", "recell"], timeout=20)
    if listed.returncode != 0:
        return
    text = listed.stdout.decode("utf-8", "replace")
    for flow in flows:
        if _element(flow) in text:
            raise _failed(host, "let deliveries pass again", "the rule is still there")
    if "elements" not in text:
        trouble = _nft(host, "delete table inet recell\n")
        if trouble and "No such file" not in trouble:
            raise _failed(host, "remove its table", trouble)


def _nft_delete(host: HostPort, flows: Sequence[Flow]) -> None:
    # One by one: an element that has expired makes its whole script fail, rightly.
    for flow in flows:
        _nft(host, _commands("delete", [flow]))


# iptables


def _rules(flow: Flow) -> tuple[list[str], ...]:
    comment = ["-m", "comment", "--comment", "recell", "-j", "DROP"]
    match = ["INPUT", "-p", "tcp", "-s", flow.remote_ip, "--sport", str(flow.remote_port),
             "--dport", str(flow.local_port)]
    short = _PARTS["short4"] if flow.version == 4 else _PARTS["short6"]
    return (
        [*match, "!", "--tcp-flags", "FIN,SYN,RST,PSH", "NONE", *comment],
        [*match, "-m", "length", "--length", f"{int(short) + 1}:65535", *comment],
    )


def _tool(flow: Flow) -> str:
    return "iptables" if flow.version == 4 else "ip6tables"


def _timer(rule: Sequence[str]) -> str:
    return "recell-free-" + hashlib.sha256(" ".join(rule).encode()).hexdigest()[:12]


def _ipt_hold(host: HostPort, flows: Sequence[Flow], longest: float) -> None:
    for tool, rule in [(_tool(flow), rule) for flow in flows for rule in _rules(flow)]:
        # The timer first: should recell die in between, it removes a rule that isn't there.
        host.run(["systemctl", "stop", f"{_timer(rule)}.timer"], timeout=20)
        timer = host.run(
            ["systemd-run", "--quiet", f"--unit={_timer(rule)}", f"--on-active={int(longest)}",
             "--", tool, "-w", "-D", *rule], timeout=20,
        )
        if timer.returncode != 0:
            _ipt_free(host, flows)
            raise _failed(host, "set a timer", timer.stderr.decode("utf-8", "replace").strip())
        if host.query([tool, "-w", "-C", *rule], timeout=20).returncode == 0:
            continue
        done = host.run([tool, "-w", "-I", *rule], timeout=20)
        if done.returncode != 0:
            _ipt_free(host, flows)
            raise _failed(host, "hold off deliveries",
                          done.stderr.decode("utf-8", "replace").strip())


def _ipt_free(host: HostPort, flows: Sequence[Flow]) -> None:
    for tool, rule in [(_tool(flow), rule) for flow in flows for rule in _rules(flow)]:
        while host.query([tool, "-w", "-C", *rule], timeout=20).returncode == 0:
            done = host.run([tool, "-w", "-D", *rule], timeout=20)
            if done.returncode != 0:
                raise _failed(host, "let deliveries pass again",
                              done.stderr.decode("utf-8", "replace").strip())
        host.run(["systemctl", "stop", f"{_timer(rule)}.timer"], timeout=20)


def _failed(host: HostPort, what: str, detail: str) -> StepFailed:
    return StepFailed(f"the firewall of {host.name} does not {what} ({detail[:200]})",
                      "Look at: nft list table inet recell, iptables -S INPUT")
