"""Versions: of services as they report them, of packages, of what nova-status says."""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.words import some
from recell.model.health import Diagnosis, Facts
from recell.preflight.rules import WSGI_RECORDS


def service_versions(facts: Facts) -> Iterator[Diagnosis]:
    """Records that report now; an old record of a dead service says nothing."""
    live = [
        r
        for r in facts.deployment.records
        if r.binary not in WSGI_RECORDS and r.seconds_since_report < 75 and r.version
    ]
    if len({r.version for r in live}) > 1:
        newest = max(r.version for r in live)
        old = [f"{r.binary} on {r.host} ({r.version})" for r in live if r.version < newest]
        yield Diagnosis(
            "versions:services",
            "warning",
            "nova",
            f"services report versions older than {newest}: {some(old)}",
            "Nova works at the oldest service's level: RPC versions stay pinned and new features stay off",
            "Upgrade and restart them, then restart the others, which pinned their RPC versions at start",
        )


def packages(facts: Facts) -> Iterator[Diagnosis]:
    by_version: dict[str, list[str]] = {}
    for host, version in facts.packages.items():
        by_version.setdefault(version, []).append(host)
    if len(by_version) > 1:
        most = max(by_version, key=lambda v: (len(by_version[v]), v))
        others = [f"{h} ({v})" for v, hosts in by_version.items() if v != most for h in hosts]
        yield Diagnosis(
            "versions:packages",
            "warning",
            "nova",
            f"Nova is {most} on {len(by_version[most])} hosts and another version on {some(others)}",
            "A fix or a change of behaviour is in one place and not in the other",
            "Finish the upgrade; one release apart is supported only while upgrading",
        )


def upgrade_check(facts: Facts) -> Iterator[Diagnosis]:
    for title, (result, details) in facts.upgrade_check.items():
        if result in ("failure", "warning"):
            yield Diagnosis(
                f"upgrade-check:{title.lower().replace(' ', '-')}",
                "error" if result == "failure" else "warning",
                "nova-status",
                f"{title}: {details or result}",
                "Nova's own check says that the next upgrade, or this one, is not well",
                "See nova-status upgrade check and the release notes that it names",
            )


RULES = (service_versions, packages, upgrade_check)
