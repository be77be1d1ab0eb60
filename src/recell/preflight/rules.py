"""Rules over a deployment as data. Each names the trap it knows.

Those that do without a layout serve `recell doctor` too (doctor/rules/shared.py).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from recell.model.deployment import Deployment
from recell.model.layout import Layout
from recell.model.urls import is_template
from recell.model.violation import Violation
from recell.planning import hosts
from recell.planning.split import is_split

OLDEST_SEEN = (33, 0, 2)
FIRST_WITH_TOKENS_IN_CELLS = 18  # Rocky
WSGI_RECORDS = ("nova-osapi_compute", "nova-metadata")
"""Written when the API starts, never again: their age says nothing."""


def _false(text: str) -> bool:
    return text.strip().lower() in ("false", "0", "no", "off")


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes", "on")


def versions(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    numbers = tuple(int(p) for p in deployment.nova_version.split(".")[:3] if p.isdigit())
    if not numbers:
        yield Violation(
            "version:unknown",
            "stop",
            "nova",
            "nova-manage on no controller tells its version",
            "Install nova-manage on a controller of the inventory, then scan again",
        )
    elif numbers < OLDEST_SEEN:
        yield Violation(
            "version:old",
            "stop",
            "nova",
            f"Nova {deployment.nova_version} is older than 33.0.2, the oldest this split was seen on",
            "Rehearse on a twin of your cloud; acknowledge version:old to go on",
            may_accept=True,
        )


def services_run(deployment: Deployment, layout: Layout | None = None) -> Iterator[Violation]:
    for s in deployment.services:
        if s.enabled and not s.active:
            yield Violation(
                f"down:{s.host}:{s.unit}",
                "stop",
                s.host,
                f"{s.unit} is enabled and does not run",
                "Start it or disable it, then scan again",
                may_accept=True,
            )
        if s.active and not s.enabled:
            yield Violation(
                f"not-enabled:{s.host}:{s.unit}",
                "warning",
                s.host,
                f"{s.unit} runs and would not start at boot",
                "Enable it",
            )


def processes_are_current(deployment: Deployment, layout: Layout | None = None) -> Iterator[Violation]:
    for remark in deployment.remarks:
        kind, _, rest = remark.partition("|")
        if kind == "stale-process":
            host, unit, path = rest.split("|")
            yield Violation(
                f"stale:{host}:{unit}",
                "stop",
                host,
                f"{unit} began before {path} was last written, so it may run with other settings",
                f"Restart {unit} at a time of your choice, then scan again",
                may_accept=True,
            )


def engines_are_patient(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    """A service that is stopping finishes what it has begun; an engine that kills it earlier loses that."""
    for s in deployment.role("scheduler", "conductor"):
        if s.active and s.container and 0 < s.container.grace_s < layout.limits.stop_s:
            yield Violation(
                f"grace:{s.host}:{s.unit}",
                "warning",
                s.host,
                f"{s.container.engine} kills {s.container.name} {s.container.grace_s:.0f} s after it is asked"
                f" to stop; the layout gives it {layout.limits.stop_s:.0f} s to finish what it has begun",
                f"Give docker stop in {s.fragment} a longer -t (and the unit a TimeoutStopSec beyond it), or"
                " convert when no task takes so long",
            )


def one_of_each_is_not_enough(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    apis = [s for s in deployment.role("api") if s.active]
    if len({s.host for s in apis}) == 1:
        yield Violation(
            "single:nova-api",
            "stop",
            apis[0].host,
            "there is one nova-api: while it restarts every request would fail",
            "Run a second one behind the proxy for the time of the conversion; or acknowledge"
            " single:nova-api and live with failed requests",
            may_accept=True,
        )


def proxies(deployment: Deployment, layout: Layout | None = None) -> Iterator[Violation]:
    for s in deployment.role("api", "metadata"):
        if not s.active:
            continue
        mine = deployment.servers_of(s)
        if not mine:
            yield Violation(
                f"no-proxy:{s.host}:{s.unit}",
                "stop",
                s.host,
                f"no HAProxy of the inventory leads to {s.unit}: requests fail while it restarts",
                "Add the load balancer to the inventory; or acknowledge this and live with failed requests",
                may_accept=True,
            )
        for server in mine:
            partners = [
                p
                for p in deployment.proxies
                if (p.proxy, p.backend) == (server.proxy, server.backend)
                and p.server != server.server
                and p.state.split()[:1] in (["UP"], ["no"])
            ]
            if not partners:
                yield Violation(
                    f"alone:{server.proxy}:{server.backend}",
                    "stop",
                    server.proxy,
                    f"{server.backend} has no second server that is up",
                    f"Bring another {s.role} server up behind {server.backend}, then scan again",
                )
            if server.state.startswith("no"):
                yield Violation(
                    f"no-check:{server.proxy}:{server.backend}",
                    "warning",
                    server.proxy,
                    f"{server.backend} does not check its servers",
                    "Add `check` to its server lines: HAProxy then notices a dead one by itself",
                )


def templates(deployment: Deployment, layout: Layout | None = None) -> Iterator[Violation]:
    for m in deployment.mappings:
        for name, text in (
            ("transport_url", m.transport_resolved),
            ("database_connection", m.database_resolved),
        ):
            if is_template(text) or "None" in text:
                yield Violation(
                    f"template:{m.name or m.uuid}:{name}",
                    "stop",
                    "nova_api",
                    f"the mapping of {m.name or m.uuid} has a {name} that nova-api can't fill: {text}",
                    "Write it out with nova-manage cell_v2 update_cell, giving both URLs",
                )
        if m.disabled:
            yield Violation(
                f"disabled:{m.name or m.uuid}",
                "warning",
                "nova_api",
                f"cell {m.name or m.uuid} is disabled for new instances",
                "Enable it if that is not what you want",
            )


def upcalls(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    wants_removal = any(c.api_database == "remove" for c in layout.cells.values())
    for s in deployment.role("conductor"):
        if not s.api_database:
            yield Violation(
                f"upcall:{s.host}:{s.unit}",
                "stop",
                s.host,
                f"{s.unit} has no [api_database]: it takes from the queue that nova-api publishes to"
                " and can't serve it",
                "Give it [api_database], or stop it",
            )
    if not wants_removal:
        return
    for s in deployment.services:
        if s.role in ("api", "compute") and _false(s.options.get("cinder/cross_az_attach", "true")):
            yield Violation(
                f"upcall:cross_az_attach:{s.host}",
                "stop",
                s.host,
                f"{s.unit} has [cinder] cross_az_attach = false: attaching a volume asks the API database"
                " through the cell's conductor",
                "Keep api_database in the layout, or set it to true",
            )


def console_tokens(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    """Before Rocky nova-api gives each console's token to nova-consoleauth, at the broker that both are on;
    in Rocky and Stein a workaround has it do so still. The split leaves that service where it is."""
    major = deployment.nova_version.partition(".")[0]
    if is_split(deployment) or not any(s.active for s in deployment.role("consoleauth")):
        return
    for s in deployment.role("api"):
        if s.active and (
            (major.isdigit() and int(major) < FIRST_WITH_TOKENS_IN_CELLS)
            or _true(s.options.get("workarounds/enable_consoleauth", "false"))
        ):
            yield Violation(
                f"consoleauth:{s.host}",
                "stop",
                s.host,
                f"{s.unit} gives tokens of consoles to nova-consoleauth, which stays with the cell: after the"
                " split users get no console",
                "Upgrade to Rocky or newer without [workarounds] enable_consoleauth; or acknowledge"
                f" consoleauth:{s.host} and live without consoles",
                may_accept=True,
            )


def computes_with_api_database(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    remove = any(c.api_database == "remove" for c in layout.cells.values())
    for s in deployment.role("compute"):
        if s.api_database:
            yield Violation(
                f"compute-api-database:{s.host}",
                "stop" if remove else "warning",
                s.host,
                f"{s.unit} has [api_database]: it does not start once its conductor has none",
                f"Remove [api_database] from {s.origins.get('api_database/connection', 'its file')}",
            )


def other_writers(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    for w in deployment.writers:
        remedy = {
            "cron": "Suspend it until the conversion is done; then give it --all-cells or the cell's own"
            " --config-file",
            "timer": "systemctl stop it until the conversion is done",
            "manager": "Stop it until its data say what recell changed (recell plan prints that)",
        }.get(w.kind, "Set it to -1 and restart the scheduler until the conversion is done")
        yield Violation(
            f"{w.kind}:{w.host}:{w.where}",
            "stop",
            w.host,
            f"{w.where}: {w.what}",
            f"{remedy}; or acknowledge it",
            may_accept=True,
        )


def notifications(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    notifying = [
        s
        for s in deployment.role("api", "scheduler", "conductor")
        if s.options.get("oslo_messaging_notifications/driver", "") not in ("", "noop")
    ]
    if notifying and layout.services.notifications == "follow":
        listeners = [c for c in deployment.clients if any("notifications" in q for q in c.queues)]
        for c in listeners:
            yield Violation(
                f"notifications:{c.host}:{c.program}",
                "warning",
                c.host,
                f"{c.program or 'a client'} listens for notifications on {c.broker} and will hear the API"
                " level's no more",
                "Let it listen on both brokers, or write notifications: keep",
            )


def alarms(deployment: Deployment, layout: Layout | None = None) -> Iterator[Violation]:
    for b in deployment.brokers:
        for alarm in b.alarms:
            yield Violation(
                f"alarm:{b.name}:{alarm}",
                "stop",
                b.name,
                f"the broker {b.name} has an alarm: {alarm}",
                "See rabbitmqctl status there",
            )


def brokers(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    for b in deployment.brokers:
        wanted = layout.api.broker.nodes
        if set(wanted) & set(b.hosts) and len(wanted) < len(b.hosts):
            left = sorted(set(b.hosts) - set(wanted))
            yield Violation(
                f"broker-nodes:{b.name}",
                "warning",
                b.name,
                f"{', '.join(left)} of the API level's cluster are not in the layout",
                "Name all its nodes, so that clients know where to go when one is away",
            )


def firewalls(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    moved = {s.host for s in deployment.role("scheduler", "conductor") if s.active}
    patterns = [p for cell in layout.cells.values() for p in cell.hosts]
    moved |= {
        s.host for s in deployment.role("compute") if any(fnmatch.fnmatch(s.host, p) for p in patterns)
    }
    for host in deployment.hosts:
        if host.name in moved and not host.firewall:
            yield Violation(
                f"firewall:{host.name}",
                "stop",
                host.name,
                "there is neither nft nor iptables: recell can't hold off deliveries while a service stops",
                "Install nftables there (no rule of yours is touched)",
            )


def clocks(deployment: Deployment, layout: Layout | None = None) -> Iterator[Violation]:
    for host in deployment.hosts:
        if abs(host.clock_offset_s) > 2:
            yield Violation(
                f"clock:{host.name}",
                "stop",
                host.name,
                f"its clock is {host.clock_offset_s:+.1f} s from this machine's",
                "Set the clock (chrony), then scan again",
            )


def records(deployment: Deployment, layout: Layout | None = None) -> Iterator[Violation]:
    limit = deployment.silent_after_s + 15
    for r in deployment.records:
        if r.binary in WSGI_RECORDS:
            continue
        if r.seconds_since_report > limit and not r.disabled:
            yield Violation(
                f"record:{r.binary}:{r.host}",
                "warning",
                r.host,
                f"{r.binary} on {r.host} has not reported for {r.seconds_since_report:.0f} s",
                "Start it, or delete its record (openstack compute service delete)",
            )
    known = {(s.nova_host, f"nova-{s.role}") for s in deployment.services}
    running = {(s.nova_host, f"nova-{s.role}") for s in deployment.services if s.active}
    for r in deployment.records:
        here = (r.host, r.binary) in known
        # Six reports fit into Nova's own patience: one that is off and has missed three was stopped just now.
        stopped = here and r.seconds_since_report > deployment.silent_after_s / 2
        if (
            r.binary not in WSGI_RECORDS
            and r.seconds_since_report < limit
            and (r.host, r.binary) not in running
            and not stopped
            and r.binary.startswith("nova-")
        ):
            found, mend = "was not found on any host of the inventory", "Add its host to the inventory"
            if here:
                found = f"is off there, though its last report is {r.seconds_since_report:.0f} s old"
                mend = "If it was stopped just now, wait a minute; else add the host that reports in its name"
            yield Violation(
                f"unseen:{r.binary}:{r.host}",
                "stop",
                r.host,
                f"{r.binary} on {r.host} reports to Nova and {found}",
                f"{mend}, then scan again",
                may_accept=r.binary == "nova-compute",
            )


def metadata_of_one_cell(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    """It looks in its own cell's database only, and guests of hosts that move are in another one then."""
    if not hosts.wanted(layout):
        return
    for s in deployment.role("metadata", "api"):
        serves = s.role == "metadata" or "metadata" in s.options.get("DEFAULT/enabled_apis", "")
        if s.active and serves and _true(s.options.get("api/local_metadata_per_cell", "false")):
            yield Violation(
                f"metadata:{s.host}",
                "stop",
                s.host,
                f"{s.unit} serves metadata of one cell only ([api] local_metadata_per_cell), and finds no"
                " guest of a host that has moved",
                "Let Neutron's metadata agents for these hosts ask a nova-metadata of all cells, or one of"
                f" their new cell's; then acknowledge metadata:{s.host}",
                may_accept=True,
            )


def hosts_are_up_by_their_records(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    """From leave to flip recell says in the database that hosts are up; memcached it doesn't tell."""
    if not hosts.wanted(layout):
        return
    for s in deployment.role("api"):
        if s.active and s.options.get("DEFAULT/servicegroup_driver", "db") != "db":
            yield Violation(
                f"servicegroup:{s.host}",
                "stop",
                s.host,
                f"{s.unit} does not ask the database whether a host is up (servicegroup_driver ="
                f" {s.options['DEFAULT/servicegroup_driver']}): one that moves is down for it soon",
                "Set [DEFAULT] servicegroup_driver = db for all of Nova; or acknowledge this, and that"
                " nova-api ends by itself what users delete on a host that is away for a minute",
                may_accept=True,
            )


def conductors_are_as_new(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    """A conductor doesn't know the objects that a newer nova-compute sends."""
    limit = deployment.silent_after_s + 15
    for name, cell in layout.cells.items():
        uuid = next((m.uuid for m in deployment.mappings if name in (m.name, m.uuid)), "")
        serving = [r for r in deployment.records if r.binary == "nova-conductor" and r.cell == uuid]
        oldest = min((r for r in serving if r.seconds_since_report < limit and r.version),
                     key=lambda r: r.version, default=None)  # fmt: skip
        if oldest is None:
            continue
        coming = {s.nova_host: s.host for s in deployment.role("compute")
                  if any(fnmatch.fnmatch(s.host, p) for p in cell.hosts)}  # fmt: skip
        for r in deployment.records:
            if r.binary != "nova-compute" or r.host not in coming or r.cell == uuid:
                continue
            if r.version > oldest.version:
                yield Violation(
                    f"older-conductor:{name}:{coming[r.host]}",
                    "stop",
                    coming[r.host],
                    f"nova-compute there is newer (service version {r.version}) than {name}'s nova-conductor"
                    f" on {oldest.host} ({oldest.version})",
                    "Upgrade that cell's conductors first; then scan again",
                )


def strangers(deployment: Deployment, layout: Layout) -> Iterator[Violation]:
    targets = {b.name for b in deployment.brokers if set(layout.api.broker.nodes) & set(b.hosts)}
    for c in deployment.clients:
        if c.broker in targets and c.program == "nova-compute":
            yield Violation(
                f"compute-on-target:{c.host}",
                "stop",
                c.host,
                f"a nova-compute at {c.host} is connected to {c.broker}, the API level's broker",
                "Point it at the cell's broker",
            )
