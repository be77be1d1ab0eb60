"""What a person would do by hand to make a cell and to move hosts into it, or back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from recell.model.plan import PlanStep
from recell.planning.runbook_rabbit import Told

Lines = list[tuple[str, str, Sequence[str]]]


def _sh(*argv: str) -> str:
    return shlex.join(argv)


def _sql(statement: str, database: str = "") -> str:
    return f"{_sh('mariadb', *([database] if database else []))} <<'EOF'\n{statement}\nEOF"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _things(step: PlanStep, undo: bool, path: str) -> Lines:
    move = step.params["move"]
    database = str(move[step.params["side"]]["database"])
    if list(step.params["things"]) == ["recell"]:
        return [(step.where, "By hand no account of recell's is needed: you are root there.", ())]
    if undo:
        words = "Drop the new cell's database, once no host belongs to it."
        return [(step.where, words, (_sql(f"DROP DATABASE IF EXISTS `{database}`;"),))]
    words = f"Make the database, and give Nova's account the rights that it has on {move['old']['database']}."
    return [(step.where, words, (_sql(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb3;"),))]


def _schema(step: PlanStep, undo: bool, path: str) -> Lines:
    if undo:
        return [(step.where, "Nothing: the tables go with the database.", ())]
    words = (
        "Let nova-manage make the tables. Then raise AUTO_INCREMENT of each of them by 100 million above the"
        " other cell's: rows that move keep their numbers."
    )
    return [(step.where, words, (_sh(*(str(w) for w in step.params["argv"])),))]


def _mapping(step: PlanStep, undo: bool, path: str) -> Lines:
    if undo:
        command = _sh("nova-manage", "cell_v2", "delete_cell", "--cell_uuid", str(step.params["cell"]))
        return [(step.where, "Remove the mapping; it is refused while hosts belong to it.", (command,))]
    config = str(step.params["config"])
    command = _sh("nova-manage", "--config-file", config, "cell_v2", "create_cell", "--name",
                  str(step.params["name"]))  # fmt: skip
    words = "Map the cell with the two URLs of its own configuration; the file needs [api_database] for that."
    return [(step.where, words, (command,))]


def _rows(step: PlanStep, undo: bool, path: str) -> Lines:
    move, target = step.params["move"], str(step.params["toward"])
    names = ", ".join(move["hosts"])
    if (target == "new") == undo:
        words = f"Delete the rows of {names} in {move[target]['database']}, once no mapping leads there."
        return [(step.where, words, ())]
    source = "old" if target == "new" else "new"
    words = (
        f"By hand the rows of {names} can be copied only while nova-compute has ended and nobody uses its"
        f" instances: dump them from {move[source]['database']}, load them into {move[target]['database']}."
        " Which rows: see recell's documentation."
    )
    return [(step.where, words, ())]


def _open(step: PlanStep, undo: bool, path: str) -> Lines:
    closes = (step.params["forward"] == "close") != undo
    words = "No new builds there; wait until migrations, resizes and builds have ended."
    commands = [
        _sh("openstack", "compute", "service", "set", "--disable" if closes else "--enable", str(host),
            "nova-compute")
        for host in step.params["move"]["hosts"]
    ]  # fmt: skip
    return [(step.where, words if closes else "Builds may go there again.", commands)]


def _computes(step: PlanStep, undo: bool, path: str) -> Lines:
    leaves = (step.params["forward"] == "leave") != undo
    words = (
        "Stop it when no instance of the host has a task; guests go on. What is asked for meanwhile may"
        " be lost."
        if leaves
        else "Start it, and see that it is up."
    )
    verb = "stop" if leaves else "start"
    return [
        (str(c["host"]), words, (_sh("systemctl", verb, str(c["unit"])),)) for c in step.params["computes"]
    ]


def _flip(step: PlanStep, undo: bool, path: str) -> Lines:
    move = step.params["move"]
    goal = move["old" if undo else "new"]["cell"]
    hosts = ", ".join(_text(str(h)) for h in move["hosts"])
    cell = f"(SELECT id FROM cell_mappings WHERE uuid = {_text(str(goal))})"
    sql = "\n".join(
        (
            "START TRANSACTION;",
            f"UPDATE host_mappings SET cell_id = {cell} WHERE host IN ({hosts});",
            f"UPDATE instance_mappings SET cell_id = {cell} WHERE instance_uuid IN (THEIR_INSTANCES_UUIDS);",
            "COMMIT;",
        )
    )
    words = "Both mappings in one transaction, while nobody uses these instances."
    return [(step.where, words, (_sql(sql, "nova_api"),))]


def _console(step: PlanStep, undo: bool, path: str) -> Lines:
    command = _sh("systemctl", "disable" if undo else "enable", "--now", str(step.params["unit"]))
    return [(step.where, "Stop it." if undo else "Start it.", (command,))]


def _gate(step: PlanStep, undo: bool, path: str) -> Lines:
    if undo:
        return [(step.where, "Nothing.", ())]
    words = "See nova-api's errors in HAProxy's statistics and the depth of queues; go on when both are well."
    return [(step.where, words, ())]


def _guest(step: PlanStep, undo: bool, path: str) -> Lines:
    said, host = step.params["guest"], str(step.params["host"])
    if undo:
        return [(step.where, "Delete the guest, if it is there.",
                 (_sh("openstack", "server", "delete", "canary"),))]  # fmt: skip
    argv = ("openstack", "--os-cloud", str(said["cloud"]), "--os-compute-api-version", "2.74", "server",
            "create", "--flavor", str(said["flavor"]), "--image", str(said["image"]), "--network",
            str(said["network"]), "--host", host, "--wait", "canary")  # fmt: skip
    return [(step.where, f"Boot a guest on {host}; it goes along.", (_sh(*argv),))]


def _guest_proof(step: PlanStep, undo: bool, path: str) -> Lines:
    if undo:
        return [(step.where, "Nothing.", ())]
    words = "The guest must obey in the new cell. Look at its status after each of these."
    verbs = (("stop",), ("start",), ("reboot", "--hard"), ("delete",))
    return [(step.where, words, tuple(_sh("openstack", "server", *v, "canary") for v in verbs))]


KINDS: dict[str, Told] = {
    "canary-guest": _guest,
    "canary-proof": _guest_proof,
    "wave-gate": _gate,
    "cell-things": _things,
    "cell-schema": _schema,
    "new-mapping": _mapping,
    "start-console": _console,
    "follow-hosts": _rows,
    "hosts-open": _open,
    "hosts-computes": _computes,
    "flip-hosts": _flip,
}
