"""Command lines: a service's own with other configuration files, and those that prove a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recell.errors import Unsupported
from recell.model.deployment import INIT_SCRIPTS, Deployment, NovaService
from recell.planning import unitfile

QUEENS = 17


def with_config(service: NovaService, moved: Mapping[str, str]) -> list[str]:
    """The service's argv, reading other files: ``moved`` maps old paths to new ones.

    Files that it reads by default must be named once one of them is (oslo.config reads its defaults
    only when none is named); configuration directories stay as they are.

    :raises Unsupported: an init script starts it, and no process tells what becomes of that.
    """
    argv = list(service.argv)
    if not moved:
        return argv
    if argv and argv[0].startswith(INIT_SCRIPTS):
        raise Unsupported(
            f"{service.unit} on {service.host} is started by {argv[0]} and does not run, so the command line"
            " that it would get can't be read",
            "Start it, then scan again; or remove the unit",
        )
    if service.explicit_config:
        out = []
        for word in argv:
            option, equals, value = word.partition("=")
            if equals and option == "--config-file" and value in moved:
                word = f"{option}={moved[value]}"
            out.append(moved.get(word, word))
        return out
    for path in service.config_files:
        argv += ["--config-file", moved.get(path, path)]
    return argv


def reading(service: NovaService, path: str) -> list[str]:
    """The service's argv with one file more, which wins: with it alone a distribution's defaults, that are
    read where no file is named, would be lost."""
    defaults = [] if service.explicit_config else [p for p in service.config_files if p.startswith("/usr/")]
    named = [word for p in (*defaults, path) for word in ("--config-file", p)]
    return [*service.argv, *named]


def renamed_log(argv: list[str], old: str, new: str) -> list[str]:
    """The same command line, logging to a file of its own where it names one."""
    out: list[str] = []
    for index, word in enumerate(argv):
        is_log = word.startswith("--log-file=") or (index > 0 and argv[index - 1] == "--log-file")
        out.append(word.replace(f"{old}.log", f"{new}.log") if is_log else word)
    return out


def dropin(argv: list[str], cell: str) -> str:
    return unitfile.dropin(argv, f"Made by recell: this service belongs to {cell}.")


def reports(deployment: Deployment) -> dict[str, Any]:
    """For a proof: ``up_s``, after which a service counts as silent; ``silent``, [cell, host, binary] of
    those that were so before. A dead host, or a dead service's record, is no fault of a conversion."""
    limit = deployment.silent_after_s
    before = [[r.cell, r.host, r.binary] for r in deployment.records if r.seconds_since_report > limit]
    return {"up_s": limit, "silent": before}


def proofs(deployment: Deployment, host: str) -> list[dict[str, Any]]:
    """nova-manage and nova-status where they are on ``host``; read-only, no secret in their argv.

    What nova-status finds in an upgrade's way (2) was there before.
    """
    facts = deployment.host(host)
    if not facts.nova_manage:
        return []
    status = facts.nova_manage.removesuffix("nova-manage") + "nova-status"
    major = deployment.nova_version.partition(".")[0]
    # Before Queens nova-manage can't list hosts.
    listed = "list_cells" if major.isdigit() and int(major) < QUEENS else "list_hosts"
    return [
        {"host": host, "argv": [*facts.nova_prefix, facts.nova_manage, "cell_v2", listed], "fine": [0]},
        {"host": host, "argv": [*facts.nova_prefix, status, "upgrade", "check"], "fine": [0, 1, 2]},
    ]
