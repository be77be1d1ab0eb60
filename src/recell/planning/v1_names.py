"""What a conversion to cells v1 calls its files and units."""

from __future__ import annotations

from recell.model.deployment import CONSOLES, HostFacts, NovaService
from recell.planning.database import addresses
from recell.planning.v1_facts import V1Facts

USUAL = "/etc/nova/nova.conf"


def child_config(facts: V1Facts, path: str) -> str:
    """The child's nova.conf beside the one that its services read today."""
    return facts.own.config or _beside(path, facts.child)


def api_config(facts: V1Facts, host: str) -> str:
    """The API cell's nova.conf: the usual one on hosts of its own, one beside it on controllers."""
    if facts.layout.api.config:
        return facts.layout.api.config
    return (
        _beside(USUAL, facts.layout.api.name)
        if host in facts.shared
        else USUAL
    )


def _beside(path: str, name: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}-{name}.{suffix}" if dot else f"{path}-{name}"


def child_unit(facts: V1Facts, service: NovaService) -> str:
    """The unit beside today's that is the child's own."""
    return f"{service.unit}-{facts.child}"


def api_unit(facts: V1Facts, host: str, role: str) -> str:
    """The unit of the API cell for a role: what is installed, or its sibling on a shared host."""
    installed = facts.installed(host, role)
    name = installed.unit if installed else f"nova-{role}"
    return f"{name}-{facts.layout.api.name}" if host in facts.shared else name


def numeric(host: HostFacts) -> str:
    """An address that a firewall takes, too."""
    return next(a for a in (host.address.host, *addresses(host)) if a[:1].isdigit() or ":" in a)


def api_roles(facts: V1Facts, host: str) -> tuple[str, ...]:
    """What an API cell runs: no scheduler, no conductor. Console proxies as far as they are installed."""
    consoles = [r for r in CONSOLES if facts.installed(host, r) and any(s.role == r for s in facts.consoles)]
    certs = ["cert"] if facts.installed(host, "cert") and facts.deployment.role("cert") else []
    return ("cells", "consoleauth", *consoles, *certs, "api")


def records_file(facts: V1Facts, host: str, kind: str) -> str:
    """Of the layout's ``records: file``; on a shared host each cell has one."""
    suffix = facts.layout.api.name if kind == "api" and host in facts.shared else ""
    return f"/etc/nova/cells{'-' if suffix else ''}{suffix}.json"
