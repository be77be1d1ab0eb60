"""What runs in a process of its own, to be measured: recell's side, a reader, writers.

``python -m recell_bench.work`` takes a task as JSON on standard input and answers with JSON.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import threading
import time
from contextlib import closing, suppress
from typing import Any

import pymysql

from recell.adapters.mysql.binlog import BinlogReader, Commit, Idle, Rows
from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Session
from recell.adapters.schema import read_schema
from recell.mover import Move
from recell.mover.fence import Hold
from recell.mover.members import Members
from recell.planning.tables import cell_scope, hosts_scope


def _scope(source: Endpoint, hosts: list[str]) -> Any:
    with closing(Session(source)) as session:
        schema = read_schema(session.connection, source.database)
    return hosts_scope(schema, hosts) if hosts else cell_scope(schema)


def _used() -> dict[str, float]:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": spent.ru_utime + spent.ru_stime, "memory_mib": spent.ru_maxrss / 1024}


def copy(source: Endpoint, target: Endpoint, task: dict[str, Any]) -> dict[str, Any]:
    """Copy, while changes are captured."""
    move = Move(source, target, _scope(source, task["hosts"]))
    try:
        began = time.monotonic()
        move.prepare()
        move.copy()
        taken = time.monotonic() - began
        answer = {"seconds": taken, **_used()}
        if task.get("finish", True):
            move.finish()
        return answer
    finally:
        move.close()


def follow(source: Endpoint, target: Endpoint, task: dict[str, Any]) -> dict[str, Any]:
    """From a copy to its end: keys applied a second, and what the freeze takes under load."""
    move = Move(source, target, _scope(source, task["hosts"]))
    try:
        move.prepare()
        move.copy()
        _change(source, task["instances"], task["keys"])
        began = time.monotonic()
        move.follow()
        move.catch_up(600, 5.0)
        applied = time.monotonic() - began
        report = move.verify()
        writers = threading.Thread(target=_write, args=(source, task, stop := threading.Event()))
        writers.start()
        freezes = []
        try:
            for _ in range(task["freezes"]):
                time.sleep(task["steady_s"])
                move.catch_up(60)
                hold = Hold(source)
                frozen = time.monotonic()
                hold.begin()
                try:
                    move.drain(30)
                    hold.prove()
                    freezes.append(time.monotonic() - frozen)
                finally:
                    hold.end()
                move.follow()
        finally:
            stop.set()
            writers.join()
        answer = {"apply_s": applied, "freezes": freezes, "equal": report.equal, **_used()}
        move.finish()
        return answer
    finally:
        move.close()


def _change(source: Endpoint, instances: int, keys: int) -> None:
    """Change as many different rows, a hundred in a transaction."""
    chosen = random.Random(1).sample(range(1, instances * 10 + 1), min(keys, instances * 10))  # noqa: S311
    with _connected(source) as connection, connection.cursor() as cursor:
        for at in range(0, len(chosen), 100):
            listed = ", ".join(map(str, chosen[at:at + 100]))
            cursor.execute("UPDATE instance_system_metadata SET updated_at = UTC_TIMESTAMP(), value ="
                           f" MD5(RAND()) WHERE id IN ({listed})")
            connection.commit()


def _write(source: Endpoint, task: dict[str, Any], stop: threading.Event) -> None:
    """Row events at a steady rate, as Nova's mix: heartbeats, caches, task states, actions."""
    choose = random.Random(2)  # noqa: S311
    began, events = time.monotonic(), 0
    with _connected(source) as connection, connection.cursor() as cursor:
        while not stop.is_set():
            wait = began + events / task["rate"] - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, 0.05))
                continue
            number, kind = choose.randint(1, task["instances"]), choose.random()
            with suppress(pymysql.Error):
                if kind < 0.4:
                    cursor.execute("UPDATE services SET report_count = report_count + 1 WHERE id = %s",
                                   (1 + number % task["machines"],))
                elif kind < 0.6:
                    cursor.execute("UPDATE instance_info_caches SET network_info = CONCAT('[', REPEAT("
                                   "MD5(RAND()), 50), ']') WHERE id = %s", (number,))
                elif kind < 0.8:
                    cursor.execute("UPDATE instances SET progress = %s WHERE id = %s",
                                   (choose.randint(0, 99), number))
                else:
                    cursor.execute("INSERT INTO instance_actions (action, instance_uuid, deleted)"
                                   " SELECT 'reboot', uuid, 0 FROM instances WHERE id = %s", (number,))
                    cursor.execute("INSERT INTO instance_actions_events (event, action_id, deleted)"
                                   " VALUES ('compute_reboot_instance', LAST_INSERT_ID(), 0)")
                    events += 1
                connection.commit()
            events += 1


def read_ours(source: Endpoint, target: Endpoint, task: dict[str, Any]) -> dict[str, Any]:
    members = Members(_scope(source, []))
    end = Position.parse(task["end"])
    before, rows = _used()["cpu_s"], 0
    reader = BinlogReader(source, Position.parse(task["start"]), members.wanted, server_id=7001)
    try:
        for event in reader.read():
            if isinstance(event, Rows):
                rows += len(event.images)
            elif isinstance(event, Commit | Idle) and event.position >= end:
                break
    finally:
        reader.close()
    return {"rows": rows, "read_cpu_s": _used()["cpu_s"] - before}


def read_theirs(source: Endpoint, target: Endpoint, task: dict[str, Any]) -> dict[str, Any]:
    from pymysqlreplication import BinLogStreamReader
    from pymysqlreplication.row_event import (
        DeleteRowsEvent,
        UpdateRowsEvent,
        WriteRowsEvent,
    )

    start = Position.parse(task["start"])
    before, rows = _used()["cpu_s"], 0
    stream = BinLogStreamReader(
        connection_settings={"unix_socket": source.unix_socket, "user": source.user, "passwd": ""},
        server_id=7002, resume_stream=True, log_file=start.file, log_pos=start.offset,
        only_events=[DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent])
    for event in stream:
        rows += len(event.rows)
    stream.close()
    return {"rows": rows, "read_cpu_s": _used()["cpu_s"] - before}


def _connected(endpoint: Endpoint) -> pymysql.Connection[Any]:
    return pymysql.connect(unix_socket=endpoint.unix_socket, user=endpoint.user,
                           database=endpoint.database, charset="utf8mb4")


_TASKS = {f.__name__: f for f in (copy, follow, read_ours, read_theirs)}


def main() -> None:
    task = json.load(sys.stdin)
    ends = [Endpoint(name, "root", "", database, unix_socket=path)
            for name, database, path in (task["source"], task["target"])]
    json.dump(_TASKS[task["do"]](ends[0], ends[1], task), sys.stdout)


if __name__ == "__main__":
    main()
