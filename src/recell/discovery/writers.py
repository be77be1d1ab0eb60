"""What else writes to Nova's databases or files: cron, timers, configuration management, options."""

from __future__ import annotations

import posixpath

from recell.adapters.ports import HostPort
from recell.model.deployment import NovaService, OtherWriter

_MANAGERS = {
    "puppet": "Puppet",
    "puppet-agent": "Puppet",
    "chef-client": "Chef",
    "salt-minion": "Salt",
    "cfengine3": "CFEngine",
}
_CRONTABS = (
    "/etc/crontab",
    "/etc/cron.d/*",
    "/var/spool/cron/crontabs/*",
    "/var/spool/cron/*",
    "/etc/cron.hourly/*",
    "/etc/cron.daily/*",
    "/etc/cron.weekly/*",
)


def find_writers(host: HostPort) -> tuple[OtherWriter, ...]:
    """On one host. What a command line says is shown up to its first argument that may be a value."""
    out: list[OtherWriter] = []
    for pattern in _CRONTABS:
        for path in host.glob(pattern) if "*" in pattern else (pattern,):
            for line in (host.read(path) or b"").decode(errors="replace").splitlines():
                if "nova-manage" in line and not line.lstrip().startswith("#"):
                    out.append(OtherWriter(host.name, "cron", path, _words(line)))
    listed = host.query(["systemctl", "list-unit-files", "--type=timer", "--no-legend", "--plain"])
    for line in listed.stdout.decode(errors="replace").splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[1] == "enabled":
            unit = host.unit(fields[0].removesuffix(".timer"))
            if any(posixpath.basename(w) == "nova-manage" for w in unit.exec_start):
                out.append(OtherWriter(host.name, "timer", fields[0], _words(" ".join(unit.exec_start))))
    for name, who in _MANAGERS.items():
        unit = host.unit(name)
        if unit.exists and unit.running:
            out.append(OtherWriter(host.name, "manager", f"{name}.service", f"{who} may put nova.conf back"))
    if host.glob("/etc/kolla/nova-*"):
        out.append(OtherWriter(host.name, "manager", "/etc/kolla", "kolla writes each service's nova.conf"))
    return tuple(out)


def from_options(services: tuple[NovaService, ...]) -> tuple[OtherWriter, ...]:
    """Nova's own: a scheduler that maps hosts by itself."""
    name = "scheduler/discover_hosts_in_cells_interval"
    return tuple(
        OtherWriter(
            s.host, "option", s.unit, f"[scheduler] discover_hosts_in_cells_interval = {s.options[name]}"
        )
        for s in services
        if s.role == "scheduler" and _positive(s.options.get(name, "-1"))
    )


def _positive(text: str) -> bool:
    try:
        return int(text) > 0
    except ValueError:
        return False


def _words(line: str) -> str:
    """nova-manage and its subcommands: what follows might be a URL."""
    after = line[line.index("nova-manage") :].split()
    return " ".join([after[0], *(w for w in after[1:4] if w.replace("_", "").isalnum())])
