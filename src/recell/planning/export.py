"""What a plan changes, in the words of the tool that manages the hosts, so that its next run keeps it.

Passwords stay out: where a URL holds one, the tool's own variable for it stands. Files that these tools
don't manage (units, drop-ins, copies of nova.conf) are named in a comment: they stay as recell made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

from recell.model.deployment import Deployment, NovaService
from recell.model.plan import Plan, PlanStep
from recell.model.urls import HIDDEN, parse_url
from recell.planning.changes import Change

Tool = Literal["kolla-ansible", "openstack-ansible", "puppet"]
TOOLS: tuple[Tool, ...] = ("kolla-ansible", "openstack-ansible", "puppet")
KOLLA_NAMES = {"metadata": "nova-metadata"}
"""Kolla's service names where they are not nova-<role>."""


@dataclass(frozen=True)
class Secrets:
    """The tool's variables for Nova's passwords on the broker and on the database server."""

    broker: str
    database: str

    def in_(self, value: str) -> bool:
        return self.broker in value or self.database in value


SECRETS: dict[Tool, Secrets] = {
    "kolla-ansible": Secrets("{{ rabbitmq_password }}", "{{ nova_database_password }}"),
    "openstack-ansible": Secrets("{{ nova_oslomsg_rpc_password }}", "{{ nova_galera_password }}"),
    "puppet": Secrets("%{lookup('nova::rabbit_password')}", "%{lookup('nova::db_password')}"),
}


@dataclass(frozen=True)
class Setting:
    """An option of nova.conf for one service. ``value`` None: it must not be set. ``own``: it stands in a
    file that recell made, which tools that know one nova.conf a host don't manage."""

    host: str
    role: str
    section: str
    option: str
    value: str | None
    secret: bool = False
    own: bool = False


def export(plan: Plan, deployment: Deployment, tool: Tool) -> dict[str, str]:
    """path -> text of every file, below a directory of the operator's choice."""
    found = settings(plan, deployment, SECRETS[tool])
    writers = {"kolla-ansible": _kolla, "openstack-ansible": _osa, "puppet": _puppet}
    files = writers[tool](found)
    return {**files, "README": _readme(plan, tool)}


def settings(plan: Plan, deployment: Deployment, secrets: Secrets) -> tuple[Setting, ...]:
    """What nova.conf says by the end of the plan, service by service: of the files that it edits in
    place, and of the super-conductor's."""
    out: dict[tuple[str, str, str, str], Setting] = {}
    made = {(f.host, f.path) for f in plan.fingerprints if not f.sha256}
    for step in plan.steps:
        if step.kind not in ("edit-config", "copy-config") or step.acts == "backward":
            continue
        own = (step.where, str(step.params["path"])) in made
        for service in _readers(plan, deployment, step):
            for change in step.params.get("changes", []):
                value = _value(change, service, deployment, secrets)
                role = "super-conductor" if _of_super(plan, step, service) else service.role
                key = (service.host, role, change["section"], change["option"])
                secret = value is not None and secrets.in_(value)
                out[key] = Setting(*key, value, secret, own or role == "super-conductor")
    return tuple(out.values())


def _readers(plan: Plan, deployment: Deployment, step: PlanStep) -> list[NovaService]:
    """Services whose processes read this file by the end: those that the plan restarts for it."""
    path = str(step.params["path"])
    units = {
        (s.where, str(s.params["unit"]))
        for s in plan.steps
        if s.where == step.where and s.acts != "backward" and path in s.params.get("reads", ())
    } | {
        (str(c["host"]), str(c["unit"]))
        for s in plan.steps
        for c in s.params.get("computes", ())
        if c["host"] == step.where and path in c["reads"]
    }
    found = [s for s in deployment.services if (s.host, s.unit) in units]
    supers = [s for s in plan.steps if s.kind == "start-unit" and s.where == step.where]
    if any(path in s.params.get("reads", ()) for s in supers):
        found += [s for s in deployment.role("conductor") if s.host == step.where]
    return found


def _of_super(plan: Plan, step: PlanStep, service: NovaService) -> bool:
    """Whether the conductor stands for the super-conductor that is modelled on it."""
    return service.role == "conductor" and any(
        s.kind == "start-unit" and s.where == step.where and step.params["path"] in s.params["reads"]
        for s in plan.steps
    )


def _value(change: Change, service: NovaService, deployment: Deployment, secrets: Secrets) -> str | None:
    match change["op"]:
        case "set":
            return change["value"]
        case "unset":
            return None
        case "mapping":
            shown = next(m.database_resolved for m in deployment.mappings if m.uuid == change["cell"])
            return shown.replace(HIDDEN, secrets.database)
        case "copy":
            return service.transport_url.replace(HIDDEN, secrets.broker)
        case _:
            of_database = change["section"] == "database"
            url = parse_url(service.database if of_database else service.transport_url).with_nodes(
                tuple((str(h), int(p)) for h, p in change["nodes"])
            )
            url = url.with_vhost(change["vhost"]) if "vhost" in change else url
            return url.shown().replace(HIDDEN, secrets.database if of_database else secrets.broker)


def _kolla(found: tuple[Setting, ...]) -> dict[str, str]:
    """Overrides that kolla merges into each service's own nova.conf: {{ node_custom_config }}/nova/...

    It has a file for each service and one for each host, none for a service on a host: where hosts differ
    the service's file asks which one it is made for.
    """
    files: dict[str, dict[str, dict[tuple[str, str], list[str]]]] = {}
    every: dict[str, set[str]] = {}
    for s in found:
        path = f"config/nova/{KOLLA_NAMES.get(s.role, f'nova-{s.role}')}.conf"
        # Kolla merges and never takes away: an option that must not be set gets an empty value.
        values = files.setdefault(path, {}).setdefault(s.section, {})
        values.setdefault((s.option, s.value or ""), []).append(s.host)
        every.setdefault(path, set()).add(s.host)
    return {
        path: "\n".join(
            f"[{section}]\n" + "".join(_line(o, v, hosts, every[path]) for (o, v), hosts in values.items())
            for section, values in sections.items()
        )
        for path, sections in files.items()
    }


def _line(option: str, value: str, hosts: list[str], every: set[str]) -> str:
    line = f"{option} = {value}".rstrip() + "\n"
    if set(hosts) == every:
        return line
    return f"{{% if inventory_hostname in {sorted(hosts)} %}}\n{line}{{% endif %}}\n"


def _osa(found: tuple[Setting, ...]) -> dict[str, str]:
    """nova_nova_conf_overrides, host by host."""
    data: dict[str, dict[str, dict[str, str]]] = {}
    for s in found:
        if not s.own:
            data.setdefault(s.host, {}).setdefault(s.section, {})[s.option] = s.value or ""
    return {
        f"host_vars/{host}.yml": _yaml({"nova_nova_conf_overrides": sections})
        for host, sections in data.items()
    }


def _puppet(found: tuple[Setting, ...]) -> dict[str, str]:
    """nova::config::nova_config of puppet-nova, node by node."""
    data: dict[str, dict[str, dict[str, Any]]] = {}
    for s in found:
        if s.own:
            continue
        entry: dict[str, Any] = {"ensure": "absent"} if s.value is None else {"value": s.value}
        if s.secret:
            entry["secret"] = True
        data.setdefault(s.host, {})[f"{s.section}/{s.option}"] = entry
    return {
        f"data/nodes/{host}.yaml": _yaml({"nova::config::nova_config": entries})
        for host, entries in data.items()
    }


def _yaml(content: Any) -> str:
    return "---\n" + str(yaml.safe_dump(content, sort_keys=True, width=200, default_flow_style=False))


def _readme(plan: Plan, tool: Tool) -> str:
    own = [
        f"  {s.where}: {s.params['name' if s.kind == 'sibling-container' else 'path']} ({s.title})"
        for s in plan.steps
        if s.kind in ("copy-config", "drop-in", "sibling-unit", "sibling-container", "v1-config")
        or (s.kind == "v1-record" and "path" in s.params)
    ]
    where = {
        "kolla-ansible": "Put config/ below node_custom_config (/etc/kolla/config). Kolla runs its own"
        " super-conductor with enable_cells: \"yes\", and names it as recell does in kolla's containers.",
        "openstack-ansible": "Merge host_vars/ into /etc/openstack_deploy. Where several services share one"
        " nova.conf on a host, the cell's conductor reads a file of its own (below).",
        "puppet": "Merge data/nodes/ into your hiera hierarchy; the passwords are looked up.",
    }[tool]  # fmt: skip
    return "\n".join(
        [
            f"What recell's plan {plan.id} changes, for {tool}.",
            "",
            where,
            "Compare with your own values before the next run, and try it with --check, --diff or --noop.",
            "",
            f"Not managed by {tool}, and to be left as they are:",
            *(own or ["  nothing"]),
            "",
        ]
    )
