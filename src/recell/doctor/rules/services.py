"""Running processes against their files."""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.words import some
from recell.model.health import Diagnosis, Facts


def _files(argv: tuple[str, ...]) -> tuple[str, ...]:
    named = [argv[i + 1] for i, w in enumerate(argv[:-1]) if w == "--config-file"]
    return tuple(named + [w.partition("=")[2] for w in argv if w.startswith("--config-file=")])


def stale(facts: Facts) -> Iterator[Diagnosis]:
    """A file that is younger than its process. When the unit's next start reads other files than
    the process was begun with, somebody prepared it so: that is told apart."""
    running = {(r.host, r.unit): r.argv for r in facts.running}
    files: dict[tuple[str, str], list[str]] = {}
    for remark in facts.deployment.remarks:
        kind, _, rest = remark.partition("|")
        if kind == "stale-process":
            host, unit, path = rest.split("|")
            files.setdefault((host, unit), []).append(path)
    units = {(s.host, s.unit): s for s in facts.deployment.services}
    for (host, unit), paths in sorted(files.items()):
        service, argv = units.get((host, unit)), running.get((host, unit))
        if service and argv and _files(argv) != _files(service.argv):
            yield Diagnosis(
                f"prepared:{host}:{unit}",
                "note",
                host,
                f"{unit} goes on with the files that it was begun with; its next start reads {some(paths)}",
                "A drop-in was laid for the next start (recell does so for a cell's own conductor)",
                f"Nothing, or restart {unit} at a time of your choice",
            )
            continue
        yield Diagnosis(
            f"stale:{host}:{unit}",
            "warning",
            host,
            f"{unit} began before {some(paths)} was last written",
            "It may run with other settings than the file says; the next restart, at 3 a.m., applies them",
            f"Restart {unit} at a time of your choice",
        )


def single(facts: Facts) -> Iterator[Diagnosis]:
    for role, word in (("api", "nova-api"), ("scheduler", "nova-scheduler"), ("conductor", "nova-conductor")):
        hosts = {s.host for s in facts.deployment.services if s.role == role and s.active}
        if len(hosts) == 1:
            yield Diagnosis(
                f"single:{word}",
                "note",
                min(hosts),
                f"{word} runs on one host only",
                "Its restart is an outage",
                "Run a second one on another host",
            )


RULES = (stale, single)
