"""Options that work against cells: upcalls that nobody can serve, and who maps hosts by itself."""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.mappings import vhost_of
from recell.doctor.rules.words import is_false, is_true, some
from recell.model.deployment import NovaService
from recell.model.health import Diagnosis, Facts

POLICY = "workarounds/disable_group_policy_check_upcall"
TRACK = "filter_scheduler/track_instance_changes"
INTERVAL = "scheduler/discover_hosts_in_cells_interval"


def _blind_conductors(facts: Facts, service: NovaService) -> list[NovaService]:
    """Conductors that serve this one's broker and have no API database."""
    home = vhost_of(facts.deployment, service.transport_url)
    return [
        c
        for c in facts.deployment.role("conductor")
        if c.active and not c.api_database and vhost_of(facts.deployment, c.transport_url) == home
    ]


def group_policy(facts: Facts) -> Iterator[Diagnosis]:
    for s in facts.deployment.role("compute"):
        blind = _blind_conductors(facts, s)
        if blind and not is_true(s.options.get(POLICY, "false")):
            yield Diagnosis(
                f"upcall:group-policy:{s.host}",
                "error",
                s.host,
                f"{s.unit} asks for server group policy through {some(c.host for c in blind)}, whose"
                " nova-conductor has no [api_database]",
                "Boots into a server group, live migration, resize and evacuate end in ERROR",
                "Set [workarounds] disable_group_policy_check_upcall = true and restart it, or give the"
                " conductor [api_database]",
            )


def cross_az_attach(facts: Facts) -> Iterator[Diagnosis]:
    for s in facts.deployment.role("compute"):
        if _blind_conductors(facts, s) and is_false(s.options.get("cinder/cross_az_attach", "true")):
            yield Diagnosis(
                f"upcall:cross-az-attach:{s.host}",
                "error",
                s.host,
                f"{s.unit} has [cinder] cross_az_attach = false and its conductor has no [api_database]",
                "Booting from a new volume asks the API database for the zone, and fails",
                "Set it to true, or give the conductor [api_database]",
            )


def api_database_on_computes(facts: Facts) -> Iterator[Diagnosis]:
    for s in facts.deployment.role("compute"):
        if s.api_database:
            blind = _blind_conductors(facts, s)
            yield Diagnosis(
                f"compute-api-database:{s.host}",
                "error" if blind else "warning",
                s.host,
                f"{s.unit} has [api_database]",
                "It does not start at its next restart: its conductor has none"
                if blind
                else "A compute host needs no database; whoever takes the host has the API database's"
                " password, and it won't start once its conductor has no [api_database]",
                f"Remove it from {s.origins.get('api_database/connection', 'its file')}",
            )


def database_on_computes(facts: Facts) -> Iterator[Diagnosis]:
    for s in facts.deployment.role("compute"):
        if s.database:
            yield Diagnosis(
                f"compute-database:{s.host}",
                "warning",
                s.host,
                f"{s.unit} has [database] connection",
                "nova-compute never uses it; whoever takes the host has the database's password",
                f"Remove it from {s.origins.get('database/connection', 'its file')}",
            )


def blind_conductors_of_the_api(facts: Facts) -> Iterator[Diagnosis]:
    apis = {vhost_of(facts.deployment, s.transport_url) for s in facts.deployment.role("api") if s.active}
    for c in facts.deployment.role("conductor"):
        if c.active and not c.api_database and vhost_of(facts.deployment, c.transport_url) in apis - {None}:
            yield Diagnosis(
                f"upcall:{c.host}:{c.unit}",
                "error",
                c.host,
                f"{c.unit} has no [api_database] and takes from the queue that nova-api publishes to",
                "Every boot, resize or migration that it happens to take ends in ERROR",
                "Give it [api_database], or move it to a broker of its cell",
            )


def instance_tracking(facts: Facts) -> Iterator[Diagnosis]:
    """Computes that cast to schedulers on another broker."""
    schedulers = {
        vhost_of(facts.deployment, s.transport_url) for s in facts.deployment.role("scheduler") if s.active
    }
    casting: dict[str, list[str]] = {}
    for s in facts.deployment.role("compute"):
        home = vhost_of(facts.deployment, s.transport_url)
        if home and schedulers and home not in schedulers and not is_false(s.options.get(TRACK, "true")):
            bound = facts.bound.get(home[0])
            if bound is not None and "scheduler_fanout" not in bound:
                casting.setdefault(home[0], []).append(s.host)
    for broker, hosts in sorted(casting.items()):
        yield Diagnosis(
            f"upcall:instance-tracking:{broker}",
            "warning",
            broker,
            f"{len(hosts)} computes tell schedulers of every change, on a broker where none listens:"
            f" {some(hosts)}",
            "When scheduler_fanout goes while a compute runs, its next build or delete fails with a 404",
            "Set [filter_scheduler] track_instance_changes = false on computes and schedulers",
        )


def discovery_races(facts: Facts) -> Iterator[Diagnosis]:
    timed = [
        f"{s.host} (every {s.options[INTERVAL]} s)"
        for s in facts.deployment.role("scheduler")
        if s.active and s.options.get(INTERVAL, "").isdigit() and int(s.options[INTERVAL]) > 0
    ]
    jobs = [
        f"{w.host} ({w.where})"
        for w in facts.deployment.writers
        if w.kind in ("cron", "timer") and "discover_hosts" in w.what
    ]
    if len(timed) + len(jobs) > 1:
        yield Diagnosis(
            "discover-hosts:race",
            "warning",
            "nova_api",
            f"discover_hosts runs in {len(timed) + len(jobs)} places: {some(timed + jobs)}",
            "Two at once try to map one host; the loser dies of DBDuplicateEntry with the rest unmapped",
            "Leave it to one: an interval on one scheduler, or one cron entry",
        )


RULES = (
    group_policy,
    cross_az_attach,
    api_database_on_computes,
    database_on_computes,
    blind_conductors_of_the_api,
    instance_tracking,
    discovery_races,
)
