"""What a person would do by hand to make a standard Nova the child of an API cell, or back."""

from __future__ import annotations

import json
import shlex

from recell.model.plan import PlanStep
from recell.model.v1 import FLAVORS
from recell.planning.changes import describe
from recell.planning.runbook_hosts import Lines, _sh, _sql, _text
from recell.planning.runbook_rabbit import Told
from recell.planning.v1_import import full_path_assignment

BY_HAND = "By hand no account of recell's is needed: you are root there."


def _account(step: PlanStep, undo: bool, path: str) -> Lines:
    return [(step.where, BY_HAND, ())]


def _config(step: PlanStep, undo: bool, path: str) -> Lines:
    target = str(step.params["path"])
    if undo:
        if path:
            words = "Put back what was there; when the kept file is not there, the step was not begun."
            return [(step.where, words, (_sh("cp", "--", path, target),))]
        return [(step.where, "Put back what was there, or remove it when nothing was.", ())]
    host, source = step.params["source"]
    address, port, name = step.params["database"]
    nodes = ", ".join(f"{h}:{p}" for h, p in step.params["nodes"])
    changed = "; ".join(describe(c) for c in step.params["changes"])
    words = (
        f"Copy {source} of {host} to {target}, root:nova, 0640. In it: transport_url, the same account on"
        f" {nodes}; [database] connection, the same account on {address}:{port}/{name}; addresses of {host}"
        f" become {step.params['my_ip']}; [DEFAULT] host goes; {changed}."
    )
    made = _sh("install", "-m", "0640", "-o", "root", "-g", "nova", "/dev/null", target)
    return [(step.where, words, (made,))]


def _database(step: PlanStep, undo: bool, path: str) -> Lines:
    ends = step.params["conversion"]
    database = str(ends["new"]["database"])
    if undo:
        words = (
            "See that its instances without a host are nobody's (failed builds that no cell took are nowhere"
            " else), then drop it."
        )
        return [(step.where, words, (_sql(f"DROP DATABASE IF EXISTS `{database}`;"),))]
    make = f"Make it, and give Nova's account the rights that it has on {ends['old']['database']}."
    sync = "Let nova-manage make the tables."
    clear = "Clear what that puts there: flavors and quota classes come from the child."
    emptied = "DELETE FROM instance_types; DELETE FROM quota_classes;"
    return [
        (step.where, make, (_sql(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb3;"),)),
        (str(step.params["on"]), sync, (_sh(*(str(w) for w in step.params["argv"])),)),
        (step.where, clear, (_sql(emptied, database),)),
    ]


def _record(step: PlanStep, undo: bool, path: str) -> Lines:
    name = str(step.params["name"])
    host, config = step.params["account"]
    nodes = ",".join(f"USER:PASSWORD@{h}:{p}" for h, p in step.params["nodes"])
    url = f"rabbit://{nodes}/{step.params['vhost']}"
    if step.params["into"] == "file":
        target = str(step.params["path"])
        if undo:
            return [(step.where, "Remove the file, or put back what was there.", ())]
        entry = {
            "name": name, "api_url": "", "transport_url": url, "is_parent": step.params["is_parent"],
            "weight_offset": step.params["weight_offset"], "weight_scale": step.params["weight_scale"],
        }  # fmt: skip
        words = (
            f"Write this file, root:nova, 0640, with the account in transport_url of {config} on {host} in"
            " place of USER:PASSWORD."
        )
        text = json.dumps({name: entry}, indent=4)
        return [(step.where, words, (f"umask 027; cat > {shlex.quote(target)} <<'EOF'\n{text}\nEOF",))]
    end = step.params["conversion"][step.params["side"]]
    database = str(end["database"])
    if undo:
        sql = f"DELETE FROM cells WHERE name = {_text(name)} AND deleted = 0;"
        return [(str(end["server"]), "Remove the record.", (_sql(sql, database),))]
    sql = (
        "INSERT INTO cells (created_at, name, is_parent, transport_url, weight_offset, weight_scale, deleted)"
        f" VALUES (UTC_TIMESTAMP(), {_text(name)}, {int(bool(step.params['is_parent']))}, {_text(url)},"
        f" {float(step.params['weight_offset'])}, {float(step.params['weight_scale'])}, 0);"
    )
    words = (
        f"Write the record, with the account in transport_url of {config} on {host} in place of"
        " USER:PASSWORD. deleted must be 0: it has no default, and NULL is taken for deleted."
    )
    return [(str(end["server"]), words, (_sql(sql, database),))]


def _link(step: PlanStep, undo: bool, path: str) -> Lines:
    out: Lines = []
    if undo:
        for host, unit, _ in (*step.params["api"], *step.params["child"]):
            words = "Stop it. It does not end by itself: systemd kills it after its TimeoutStopSec."
            out.append((str(host), words, (_sh("systemctl", "stop", str(unit)),)))
        return out
    for host, unit, _ in step.params["api"]:
        words = (
            "Start it, wait until its queues are declared, see in both sides' nova-cells.log that capacities"
            " arrive, and stop it again: it must not run while rows are imported."
        )
        commands = (_sh("systemctl", "start", str(unit)), _sh("systemctl", "stop", str(unit)))
        out.append((str(host), words, commands))
    return out


def _follow(step: PlanStep, undo: bool, path: str) -> Lines:
    ends = step.params["conversion"]
    if undo:
        return [(step.where, "Nothing: the copy goes with its database.", ())]
    given = full_path_assignment(str(ends["path"]))
    words = (
        "By hand rows can be copied only while nova-api is off. Every table that an API cell reads"
        " (recell's documentation lists them), then the child's full path on live instances. Start no"
        " nova-cells of the API cell before."
    )
    dump = _sh("mariadb-dump", "--no-create-info", "--skip-add-locks", "--single-transaction",
               "--complete-insert", str(ends["old"]["database"]))  # fmt: skip
    load = _sh("ssh", str(ends["new"]["server"]), "mariadb", str(ends["new"]["database"]))
    sql = (
        f"UPDATE {given['table']} SET {given['column']} = {_text(str(given['value']))}"
        f" WHERE {given['where']} = {given['equals']};"
    )
    return [
        (str(ends["old"]["server"]), words, (f"{dump} | {load}",)),
        (step.where, "Nobody finds an instance without it.", (_sql(sql, str(ends["new"]["database"])),)),
    ]


def _sync(step: PlanStep, undo: bool, path: str) -> Lines:
    if undo:
        words = (
            "See what only the API cell has (key pairs, flavors and the like, where this release keeps them"
            " in each cell), and make it in the child too."
        )
        return [(step.where, words, ())]
    words = (
        "As an administrator of Nova let the child send what changed lately: POST /os-cells/sync_instances,"
        " with updated_since."
    )
    return [(step.where, words, ())]


def _prove(step: PlanStep, undo: bool, path: str) -> Lines:
    if step.acts == "both" and not undo:
        return [(step.where, "Note which units run and start at boot.", ())]
    if undo:
        words = (
            "See that they are as they were. Usage of quotas was counted by nobody meanwhile, where it is"
            " kept in a table: let Nova count it anew."
        )
        database = str(step.params["conversion"]["old"]["database"])
        sql = _sql("UPDATE quota_usages SET until_refresh = 1 WHERE deleted = 0;", database)
        return [(str(step.params["conversion"]["old"]["server"]), words, (sql,))]
    words = "See that every instance is listed and can be stopped and started, and that a boot gets a host."
    return [(step.where, words, (_sh("nova-manage", "cell", "list"),))]


def _flavors(step: PlanStep, undo: bool, path: str) -> Lines:
    ends = step.params["conversion"]
    if undo:
        return [(step.where, "Nothing, where it has no instances.", ())]
    words = "Where these tables of the API cell have rows, make the child's the same, numbers included."
    dump = _sh("mariadb-dump", "--single-transaction", str(ends["new"]["database"]), *FLAVORS)
    load = _sh("ssh", str(ends["old"]["server"]), "mariadb", str(ends["old"]["database"]))
    return [(str(ends["new"]["server"]), words, (f"{dump} | {load}",))]


def _weights(step: PlanStep, undo: bool, path: str) -> Lines:
    name, end = str(step.params["name"]), step.params["conversion"]["new"]
    if step.params["into"] == "file":
        said = "what it was" if undo else ", ".join(f"{k} {v}" for k, v in step.params["wanted"].items())
        return [(step.where, f"In {step.params['path']} give {name} {said}.", ())]
    if undo:
        return [(str(end["server"]), f"Give the record of {name} the weights that it had.", ())]
    written = ", ".join(f"{k} = {float(v)}" for k, v in step.params["wanted"].items())
    sql = f"UPDATE cells SET {written} WHERE name = {_text(name)} AND deleted = 0;"
    return [(str(end["server"]), "Write what it weighs.", (_sql(sql, str(end["database"])),))]


def _child_record(step: PlanStep, undo: bool, path: str) -> Lines:
    end = step.params["conversion"]["old"]
    count = _sql("SELECT COUNT(*) FROM instances WHERE deleted = 0;", str(end["database"]))
    if not undo:
        return [(str(end["server"]), "See that it has no instance.", (count,)), *_record(step, undo, path)]
    words = "Wait two minutes, and see that no build came meanwhile; else write the record again."
    return [*_record(step, undo, path), (str(end["server"]), words, (count,))]


def _empty(step: PlanStep, undo: bool, path: str) -> Lines:
    end = step.params["conversion"]["old"]
    count = _sql("SELECT COUNT(*) FROM instances WHERE deleted = 0;", str(end["database"]))
    return [(str(end["server"]), "See that nobody has an instance there.", (count,))]


def _join(step: PlanStep, undo: bool, path: str) -> Lines:
    words = "See both cells' records, and in nova-cells.log of both sides that capacities arrive."
    return [(step.where, words, (_sh("nova-manage", "cell", "list"),))]


KINDS: dict[str, Told] = {
    "v1-child-record": _child_record,
    "v1-empty": _empty,
    "v1-flavors": _flavors,
    "v1-join": _join,
    "v1-weights": _weights,
    "v1-account": _account,
    "v1-config": _config,
    "v1-database": _database,
    "v1-record": _record,
    "v1-link": _link,
    "v1-follow": _follow,
    "v1-sync": _sync,
    "v1-prove": _prove,
}
