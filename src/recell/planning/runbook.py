"""What a person would do by hand, without recell: each step's way back and forth in words and commands.

No secret is in it: old values are named by the file on their own host that holds them, and a password
is read from a file or asked for, never written on a command line.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from recell.errors import Unsupported
from recell.model.plan import Plan, PlanStep
from recell.planning import runbook_hosts, runbook_rabbit, runbook_v1, runbook_v1_hold, runbook_v1_v2
from recell.planning.changes import describe

STATE = "/var/lib/recell"
Recall = Callable[[str, str], Any]
"""(step id, key) -> what the journal remembers of it; None: nothing."""

SQL = "mysql --defaults-extra-file=/root/nova-db.cnf"
_LOSS = (
    "A plain restart may lose requests that it has taken and not begun: do it when nobody is at work"
    " (openstack server list --all --status BUILD is empty)."
)
_AGAIN = "If the step has run since, print the runbook again; else leave it."


@dataclass(frozen=True)
class Hand:
    """One thing to do by hand. ``commands``: for a root shell on ``where``; may be none."""

    step: str
    title: str
    where: str
    words: str
    commands: tuple[str, ...] = ()


class _Book:
    def __init__(self, plan: Plan, recall: Recall) -> None:
        self.plan = plan
        self.recall = recall
        self.known = {(f.host, f.path): f.sha256 for f in plan.fingerprints}

    def kept(self, sha256: str) -> str:
        return f"{STATE}/{self.plan.id}/{sha256}"

    def hand(self, step: PlanStep, words: str, *commands: str, where: str = "") -> Hand:
        return Hand(step.id, step.title, where or step.where, words, commands)


def back(plan: Plan, recall: Recall) -> tuple[Hand, ...]:
    """From the end to the beginning; of a plan that is half applied only what was begun has an effect."""
    book = _Book(plan, recall)
    out: list[Hand] = []
    for step in reversed(plan.steps):
        if step.acts != "forward":
            title = step.undone if step.acts == "both" else step.title
            out += [replace(h, title=title) for h in _hands(step)(book, step, True)]
    return tuple(out)


def _hands(step: PlanStep) -> Callable[[_Book, PlanStep, bool], list[Hand]]:
    """:raises Unsupported: a step that this recell plans and doesn't carry out."""
    if step.kind not in _KINDS:
        raise Unsupported(
            f"the plan's step {step.id} is of the kind {step.kind}, for which there is no runbook",
            "Read the plan itself: recell plan prints it in words",
        )
    return _KINDS[step.kind]


def forth(plan: Plan, recall: Recall) -> tuple[Hand, ...]:
    book = _Book(plan, recall)
    return tuple(h for s in plan.steps if s.acts != "backward" for h in _hands(s)(book, s, False))


def _sh(*argv: str) -> str:
    return shlex.join(argv)


def _text(value: str) -> str:
    """A text in SQL that a person will paste."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _mapping(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    kept = book.recall(step.id, "old" if undo else "new")
    cell = str(step.params["cell"])
    if kept is None:
        if undo:
            return [book.hand(step, f"No old URLs were kept when this was printed. {_AGAIN}")]
        return [
            book.hand(
                step,
                "Write both URLs of the mapping out as every process fills them today. nova-manage takes them"
                " on its command line: clear the shell's history afterwards, and read both back.",
                f"nova-manage cell_v2 list_cells --verbose | grep {cell}",
            )
        ]
    script = (
        "import sys\n"
        f"u, _, t, d, _ = open({book.kept(str(kept))!r}, 'rb').read().split(b'\\0')\n"
        "print(\"UPDATE cell_mappings SET transport_url = UNHEX('%s'), database_connection = UNHEX('%s'),\"\n"
        "      \" updated_at = UTC_TIMESTAMP() WHERE uuid = '%s';\" % (t.hex(), d.hex(), u.decode()))"
    )
    return [
        book.hand(
            step,
            f"Write the {'old' if undo else 'new'} URLs of cell {cell} into nova_api.cell_mappings; they are"
            " kept in a root-only file. Then restart nova-api, nova-scheduler and the super-conductor.",
            f"python3 - <<'EOF' | {SQL} nova_api\n{script}\nEOF",
        )
    ]


def _account(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    user, vhost = str(step.params["user"]), str(step.params["vhost"])
    where = str(step.params["broker"])
    if not undo:
        return [
            book.hand(
                step,
                "Make the vhost and Nova's account unless they are there; the password is asked for: give the"
                f" one in transport_url of {step.params['config']} on {step.params['host']}.",
                _sh("rabbitmqctl", "add_vhost", vhost),
                _sh("rabbitmqctl", "add_user", user),
                _sh("rabbitmqctl", "set_permissions", "-p", vhost, user, ".*", ".*", ".*"),
                where=where,
            )
        ]
    made: list[str] = book.recall(step.id, "made") or []
    commands = []
    if "permissions" in made and "user" not in made:
        commands.append(_sh("rabbitmqctl", "clear_permissions", "-p", vhost, user))
    if "user" in made:
        commands.append(_sh("rabbitmqctl", "delete_user", user))
    if "vhost" in made:
        commands.append(_sh("rabbitmqctl", "delete_vhost", vhost))
    words = "Remove what recell made." if commands else f"Nothing was made when this was printed. {_AGAIN}"
    return [book.hand(step, words, *commands, where=where)]


def _exchange(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    vhost, queue, exchange = (str(step.params[k]) for k in ("vhost", "queue", "exchange"))
    if undo:
        command = _sh("rabbitmqctl", "delete_queue", "-p", vhost, queue)
        return [book.hand(step, "Remove the spare queue once schedulers listen here again.", command)]
    content = {
        "queues": [{"name": queue, "vhost": vhost, "durable": True, "auto_delete": False,
                    "arguments": {"x-max-length": 1}}],
        "bindings": [{"source": exchange, "vhost": vhost, "destination": queue, "destination_type": "queue",
                      "routing_key": "", "arguments": {}}],
    }  # fmt: skip
    command = f"rabbitmqctl import_definitions --format json <<'EOF'\n{json.dumps(content)}\nEOF"
    return [book.hand(step, "Bind a spare queue of one message, so that the exchange stays.", command)]


def _copy(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    path = str(step.params["path"])
    if undo:
        return [book.hand(step, "Remove the copy.", _sh("rm", "-f", "--", path))]
    words = "; ".join(describe(c) for c in step.params.get("changes", []))
    return [
        book.hand(
            step,
            f"Copy it, and change in the copy: {words}." if words else "Copy it as it is.",
            _sh("cp", "-p", "--", str(step.params["source"]), path),
        )
    ]


def _edit(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    path = str(step.params["path"])
    if not undo:
        words = "; ".join(describe(c) for c in step.params["changes"])
        return [
            book.hand(step, f"Keep a copy, then edit {path}: {words}.", _sh("cp", "-p", path, path + ".old"))
        ]
    before = book.recall(step.id, "before") or book.known.get((step.where, path))
    if not before:
        return [
            book.hand(step, f"Take the change in {path} back by hand: it was not written yet, or by nobody.")
        ]
    return [
        book.hand(
            step,
            "Put the old file back; cp onto a file that exists keeps its owner and mode. When the kept one is"
            " not there, the step was not begun.",
            _sh("sha256sum", book.kept(str(before)), path),
            _sh("cp", "--", book.kept(str(before)), path),
        )
    ]


def _unit_file(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    path = str(step.params["path"])
    if undo:
        commands = [_sh("rm", "-f", "--", path)]
        if path.endswith(".conf"):
            commands.append(_sh("rmdir", "--ignore-fail-on-non-empty", path.rpartition("/")[0]))
        return [book.hand(step, "Remove it.", *commands, "systemctl daemon-reload")]
    model, unit = str(step.params.get("model", "")), str(step.params["unit"])
    if renamed := step.params.get("renamed"):
        old, new = (str(word) for word in renamed)
        script = f"s/(^|[[:space:]]){re.escape(old)}([[:space:]]|$)/\\1{new}\\2/g"
        copied = f"systemctl cat {shlex.quote(model)} | sed -E {shlex.quote(script)} > {shlex.quote(path)}"
        words = f"Copy the unit {model}; in the copy its commands are about {new}."
        return [book.hand(step, words, copied, "systemctl daemon-reload")]
    argv = shlex.join(str(w) for w in step.params["argv"])
    if step.kind == "drop-in":
        text = str(step.params["text"])
        directory = path.rpartition("/")[0]
        commands = [_sh("mkdir", "-p", directory), f"cat > {shlex.quote(path)} <<'EOF'\n{text}EOF"]
        return [book.hand(step, f"Lay a drop-in: {argv}", *commands, "systemctl daemon-reload")]
    return [
        book.hand(
            step,
            f"Copy the unit {model} and give the copy ExecStart={argv}",
            f"systemctl cat {shlex.quote(model)} > {shlex.quote(path)}",
            _sh("systemctl", "edit", "--full", unit),
        )
    ]


def _container(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    engine, model, name, directory = (
        str(step.params[key]) for key in ("engine", "model", "name", "directory")
    )
    if undo:
        command = _sh(engine, "rm", "--volumes", name)
        return [book.hand(step, "Remove it; its unit is stopped by now.", command)]
    return [
        book.hand(
            step,
            f"Create, and don't start, a container {name} like {model}: the same image, environment (but for"
            f" KOLLA_SERVICE_NAME) and mounts, with {directory} in the place of {model}'s directory."
            ' kolla-ansible with enable_cells: "yes" makes the same.',
            _sh(engine, "container", "inspect", model),
        )
    ]


def _start(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    unit = str(step.params["unit"])
    if undo:
        return [book.hand(step, f"Stop it. {_LOSS}", _sh("systemctl", "disable", "--now", unit))]
    return [book.hand(step, "Start it, and see that it consumes.", _sh("systemctl", "enable", "--now", unit))]


def _restart(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    unit = str(step.params["unit"])
    commands = [_sh("systemctl", "restart", unit)]
    words = f"Restart {unit}. {_LOSS}"
    if step.kind in ("restart-api", "renew-api", "v1-child-api"):
        words = f"Restart {unit} while no proxy sends it requests, and wait until it answers."
        commands.append(
            _sh("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\\n", str(step.params["url"]))
        )
    if step.kind == "recycle-compute":
        words = f"Restart {unit} when no instance of the host has a task; guests go on."
    return [book.hand(step, words, *commands)]


def _proxied(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    forward = str(step.params["forward"])
    state = forward if not undo else {"drain": "ready", "ready": "drain"}[forward]
    out = []
    for target in step.params["servers"]:
        line = f"set server {target['backend']}/{target['server']} state {state}"
        out.append(
            book.hand(
                step,
                (
                    "Send requests there again."
                    if state == "ready"
                    else "Send no new requests; wait for those inside."
                )
                + " One that `show stat` has in MAINT stays there, and one that was in DRAIN before. The"
                " socket is the one that `stats socket` names in haproxy.cfg.",
                f"echo {shlex.quote(line)} | socat stdio unix-connect:/run/haproxy/admin.sock",
                where=str(target["proxy"]),
            )
        )
    return out


def _quiet(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    return [
        book.hand(
            step,
            "Wait until nothing that was begun through the other broker is under way: both counts are 0, or"
            " young.",
            f"echo 'SELECT count(*) FROM build_requests' | {SQL} nova_api",
            "echo \"SELECT count(*) FROM instance_actions_events WHERE event LIKE 'conductor%' AND"
            f' finish_time IS NULL AND deleted = 0" | {SQL} THE_CELLS_DATABASE',
        )
    ]


def _records(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    retires = undo == (step.acts == "backward")
    database = f"{SQL} THE_DATABASE_OF_CELL_{step.params['cell']}"
    if retires:
        pairs = ", ".join(f"{host}/{binary}" for host, binary in step.params["services"])
        named = [f"(host = {_text(h)} AND `binary` = {_text(b)})" for h, b in step.params["services"]]
        where = " OR ".join(named)
        sql = (
            f"UPDATE services SET deleted = id, deleted_at = UTC_TIMESTAMP() WHERE deleted = 0 AND ({where});"
        )
        return [book.hand(step, f"Retire the records of {pairs}.", f"{database} <<'EOF'\n{sql}\nEOF")]
    ids = [int(i) for i in book.recall(step.id, "retired") or []]
    if not ids:
        return [book.hand(step, f"No record was retired when this was printed. {_AGAIN}")]
    listed = ", ".join(str(i) for i in ids)
    sql = f"UPDATE services SET deleted = 0, deleted_at = NULL WHERE id IN ({listed}) AND deleted = id;"
    return [book.hand(step, "Restore exactly these records.", f"{database} <<'EOF'\n{sql}\nEOF")]


def _prove(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    commands = [shlex.join(str(w) for w in c["argv"]) for c in step.params.get("commands", [])]
    return [book.hand(step, "See that every service is up and every host is listed.", *commands)]


def _by_hand(told: runbook_rabbit.Told) -> Callable[[_Book, PlanStep, bool], list[Hand]]:
    def hands(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
        kept = book.recall(step.id, "before" if undo else "after")
        path = book.kept(str(kept)) if kept else ""
        return [book.hand(step, words, *commands, where=on) for on, words, commands in told(step, undo, path)]

    return hands

def _things(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    end, database = step.params["ends"][step.params["side"]], str(step.params["ends"]["database"])
    account = f"recell_{book.plan.id[:8]}"
    made: list[str] = (book.recall(step.id, "made") or []) if undo else list(step.params["things"])
    if undo:
        known = "; ".join(
            {"recell": f"drop the accounts {account}", "database": f"drop the database {database}",
             "nova": "drop Nova's accounts"}[t]
            for t in reversed(made)
        )  # fmt: skip
        words = f"On {end['address']}:{end['port']}, as its root: {known}." if known else (
            f"Nothing was made when this was printed. {_AGAIN}"
        )
        return [book.hand(step, words, *(["mariadb"] if known else []))]
    if step.params["side"] == "old":
        return [book.hand(step, "By hand no account of recell's is needed: you are root there.")]
    old = step.params["ends"]["old"]
    return [
        book.hand(
            step,
            f"Make the empty database, and Nova's account as SHOW GRANTS tells it on {old['address']}.",
            f"mariadb-dump --no-data --databases {shlex.quote(database)}"
            f" | ssh {shlex.quote(end['host'])} mariadb",
            where=str(old["host"]),
        )
    ]


def _follow(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    ends = step.params["ends"]
    if undo:
        return [
            book.hand(
                step,
                "Drop the tables recell_mover_* of the cell's database on both servers; none of Nova's"
                " rows is in them.",
            )
        ]
    command = (
        f"mariadb-dump --single-transaction --master-data=2 {shlex.quote(str(ends['database']))}"
        f" | ssh {shlex.quote(str(ends['new']['host']))} mariadb {shlex.quote(str(ends['database']))}"
    )
    words = "Load a dump into the new server, and let it replicate from the position in the dump's head."
    return [book.hand(step, words, command, where=str(ends["old"]["host"]))]


def _relay(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    installs = (step.params["forward"] == "install") != undo
    unit = f"recell-relay-{book.plan.id}"
    if installs:
        side = "new" if undo else "old"
        end = step.params["ends"][side]
        command = _sh("socat", f"TCP-LISTEN:{step.params['port']},fork,reuseaddr",
                      f"TCP:{end['address']}:{end['port']}")  # fmt: skip
        words = f"Any TCP forwarder will do by hand; it leads to the {side} server."
        return [book.hand(step, words, command)]
    words = "Stop it once nobody is connected through it."
    return [book.hand(step, words, _sh("systemctl", "disable", "--now", unit))]


def _relayed(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    sql = "SELECT id, user, host FROM information_schema.processlist WHERE db = " + _text(
        str(step.params["ends"]["database"])
    )
    where = str(step.params["ends"]["new" if undo else "old"]["host"])
    words = f"See that every session comes from {', '.join(step.params['relay_addresses'])}."
    return [book.hand(step, words, f"echo {shlex.quote(sql)} | mariadb", where=where)]


def _switch(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    ends = step.params["ends"]
    source, goal = (ends["new"], ends["old"]) if undo else (ends["old"], ends["new"])
    words = (
        f"By hand users notice this. Stop every Nova service but nova-compute; dump {ends['database']} on"
        f" {source['address']} and load it on {goal['address']}"
        + (", after its rights there are given back to Nova's account" if undo else "")
        + "; let the relay lead there; start the services."
    )
    command = f"mariadb-dump --single-transaction {shlex.quote(str(ends['database']))} > cell.sql"
    return [book.hand(step, words, command, where=str(source["host"]))]


def _node(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    if book.recall(step.id, "old") is not None or undo:
        return _mapping(book, step, undo)
    host, port = step.params["node"]
    words = f"Write {host}:{port} as the host of the cell's database_connection, all else as it is."
    listed = f"nova-manage cell_v2 list_cells --verbose | grep {step.params['cell']}"
    return [book.hand(step, words, listed)]


def _nodes(book: _Book, step: PlanStep, undo: bool) -> list[Hand]:
    if book.recall(step.id, "old") is not None or undo:
        return _mapping(book, step, undo)
    nodes = ", ".join(f"{host}:{port}" for host, port in step.params["nodes"])
    words = f"Write {nodes} as the hosts of the cell's transport_url, with the account that it has."
    listed = f"nova-manage cell_v2 list_cells --verbose | grep {step.params['cell']}"
    return [book.hand(step, words, listed)]


_KINDS: dict[str, Callable[[_Book, PlanStep, bool], list[Hand]]] = {
    "literal-mapping": _mapping,
    "broker-account": _account,
    "keep-exchange": _exchange,
    "copy-config": _copy,
    "edit-config": _edit,
    "drop-in": _unit_file,
    "sibling-unit": _unit_file,
    "sibling-container": _container,
    "start-unit": _start,
    "restart-rpc": _restart,
    "restart-api": _restart,
    "v1-child-api": _restart,
    "recycle-compute": _restart,
    "proxied": _proxied,
    "quiet": _quiet,
    "retire-records": _records,
    "prove": _prove,
    **{
        kind: _by_hand(told)
        for kinds in (
            runbook_rabbit.KINDS,
            runbook_hosts.KINDS,
            runbook_v1.KINDS,
            runbook_v1_hold.KINDS,
            runbook_v1_v2.KINDS,
        )
        for kind, told in kinds.items()
    },
    "database-things": _things,
    "follow-database": _follow,
    "relay": _relay,
    "relayed": _relayed,
    "switch-database": _switch,
    "move-mapping": _node,
    "nodes-mapping": _nodes,
    "renew-api": _restart,
    "renew-rpc": _restart,
    "renew-console": _restart,
}
"""Every kind of step there is; a test compares them with those of recell.steps."""
