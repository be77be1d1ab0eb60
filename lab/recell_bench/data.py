"""`recell-bench data`: rows moved by recell and by others, in pairs, on the same servers."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recell.model.scope import Schema
from recell.planning.tables import hosts_scope
from recell_bench.generate import fill
from recell_bench.schemas import TODAY, ddl, indexes, load
from recell_bench.servers import Cost, Server, measure, missing, program, version

Say = Callable[[str], None]
OLD, NEW = "nova", "nova_cell1"
EVENTS_PER_SECOND = 400
_FOLLOWED_ROWS = 60_000


@dataclass(frozen=True)
class Pair:
    """One measurement of a rival and of recell, one after the other. ``wall``, ``cpu``: what recell
    needed, as a part of what the rival needed, turned round: 2 is twice as good."""

    rival: Cost
    recell: Cost

    @property
    def wall(self) -> float:
        return self.rival.wall_s / self.recell.wall_s

    @property
    def cpu(self) -> float:
        return self.rival.cpu_s / max(self.recell.cpu_s, 0.01)


@dataclass
class Bench:
    source: Server
    target: Server
    schema: Schema
    instances: int
    hosts: int
    pairs: int
    place: Path
    say: Say
    rows: int = 0
    memory_mib: float = 0.0
    results: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        self.source.create(OLD, ddl(self.schema, indexes(TODAY)))
        def make() -> None:
            self.rows = fill(self.source, self.schema, self.instances, self.hosts)

        cost = measure(make, self.source)
        self.results["database"] = {"instances": self.instances, "hosts": self.hosts, "rows": self.rows}
        self.say(f"{self.rows:,} rows of {self.instances:,} instances on {self.hosts:,} hosts,"
                 f" made in {cost.wall_s:.0f} s")

    def empty(self) -> None:
        self.target.create(NEW, ddl(self.schema, indexes(TODAY)))
        # The binlog of the copy before would fill the memory.
        self.target.sql("RESET MASTER")

    # -- recell's side ---------------------------------------------------------------------------

    def work(self, do: str, **task: Any) -> dict[str, Any]:
        ends = {side: (server.directory.name, database, str(server.socket))
                for side, server, database in (("source", self.source, OLD), ("target", self.target, NEW))}
        done = subprocess.run(
            [sys.executable, "-m", "recell_bench.work"], stdout=subprocess.PIPE, check=True,
            env=self._environment(), input=json.dumps({"do": do, **ends, **task}).encode())
        answer: dict[str, Any] = json.loads(done.stdout)
        self.memory_mib = max(self.memory_mib, answer.get("memory_mib", 0.0))
        return answer

    def _environment(self) -> dict[str, str]:
        """Modules are compiled once, as on a machine where recell is installed, whatever this shell says."""
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return {**inherited, "PYTHONPYCACHEPREFIX": str(self.place / "compiled")}

    # -- copies ----------------------------------------------------------------------------------

    def compare(self, name: str, rival: Callable[[], None], hosts: list[str], rows: int) -> None:
        pairs = []
        for number in range(self.pairs):
            costs = {}
            order = [("rival", rival), ("recell", lambda: self.work("copy", hosts=hosts))]
            for side, act in order if number % 2 == 0 else order[::-1]:
                self.empty()
                costs[side] = measure(act, self.source, self.target)
            pairs.append(Pair(costs["rival"], costs["recell"]))
        wall, cpu = statistics.median(p.wall for p in pairs), statistics.median(p.cpu for p in pairs)
        rates = {side: rows / statistics.median(getattr(p, side).wall_s for p in pairs)
                 for side in ("rival", "recell")}
        self.results[name] = {
            "rows": rows, "wall_ratio": wall, "cpu_ratio": cpu, "rows_per_s": rates,
            "pairs": [{side: vars(getattr(p, side)) for side in ("rival", "recell")} for p in pairs]}
        self.say(f"{name}: recell {wall:.2f} times as fast, with 1/{cpu:.2f} of the CPU"
                 f" ({rates['rival']:,.0f} and {rates['recell']:,.0f} rows/s)")

    def dump(self) -> None:
        self._pipe([program("mysqldump"), *self.source.client(), "--single-transaction", "--quick",
                    "--no-create-info", "--default-character-set=utf8mb4", OLD])

    def dump_hosts(self, hosts: list[str]) -> None:
        listed = ", ".join(f"'{h}'" for h in hosts)
        mine = f"IN (SELECT uuid FROM instances WHERE host IN ({listed}))"
        where = {
            "instances": f"host IN ({listed})", "services": f"host IN ({listed})",
            "compute_nodes": f"host IN ({listed})", "tags": f"resource_id {mine}",
            "instance_id_mappings": f"uuid {mine}",
            "pci_devices": "compute_node_id IN (SELECT id FROM compute_nodes WHERE host IN"
                           f" ({listed}))",
            "instance_actions_events":
                f"action_id IN (SELECT id FROM instance_actions WHERE instance_uuid {mine})",
        }
        for name in ("instance_extra", "instance_info_caches", "instance_system_metadata",
                     "instance_metadata", "instance_actions", "block_device_mapping", "virtual_interfaces",
                     "instance_faults", "migrations"):
            where[name] = f"instance_uuid {mine}"
        for table, condition in where.items():
            # A consistent snapshot would lock nothing either; a table at a time was the way of 2015.
            self._pipe([program("mysqldump"), *self.source.client(), "--single-transaction", "--quick",
                        "--no-create-info", "--default-character-set=utf8mb4", f"--where={condition}",
                        OLD, table])

    def _pipe(self, dump: list[str]) -> None:
        with subprocess.Popen(dump, stdout=subprocess.PIPE) as sender:
            subprocess.run([program("mariadb"), *self.target.client(), "--default-character-set=utf8mb4",
                            NEW], stdin=sender.stdout, check=True)
        if sender.returncode:
            raise subprocess.CalledProcessError(sender.returncode, dump[0])

    def mydumper(self) -> None:
        place = self.place / "dump"
        try:
            subprocess.run(["mydumper", "--socket", str(self.source.socket), "--user", "root",
                            "--threads", "2", "--database", OLD, "--outputdir", str(place), "--no-schemas",
                            "--rows", "50000"], check=True, capture_output=True)
            subprocess.run(["myloader", "--socket", str(self.target.socket), "--user", "root",
                            "--threads", "2", "--database", NEW, "--directory", str(place)],
                           check=True, capture_output=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def rows_of(self, hosts: list[str]) -> int:
        """Number of rows that a move of these hosts copies: counted after a copy."""
        self.empty()
        self.work("copy", hosts=hosts)
        moving = [t.table.name for t in hosts_scope(self.schema, hosts).moving]
        return sum(int(self.target.sql(f"SELECT COUNT(*) FROM `{NEW}`.`{name}`")[0][0])
                   for name in moving)

    # -- changes ---------------------------------------------------------------------------------

    def capture(self) -> None:
        start = self._end()
        with self.source.connect(OLD) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM instance_system_metadata")
            high = int(cursor.fetchone()[0])
            for at in range(0, min(_FOLLOWED_ROWS, high), 500):
                cursor.execute("UPDATE instance_system_metadata SET value = MD5(RAND()) WHERE id > %s"
                               " AND id <= %s",
                               (at, at + 500))
            for at in range(0, min(_FOLLOWED_ROWS // 6, self.instances), 100):
                cursor.execute("UPDATE instance_extra SET updated_at = UTC_TIMESTAMP() WHERE id > %s"
                               " AND id <= %s",
                               (at, at + 100))
        end = self._end()
        ratios, said = [], {}
        for _ in range(self.pairs):
            theirs = self.work("read_theirs", start=start)
            ours = self.work("read_ours", start=start, end=end)
            said = {side: answer["rows"] / max(answer["read_cpu_s"], 0.01)
                    for side, answer in (("mysql-replication", theirs), ("recell", ours))}
            ratios.append(said["recell"] / said["mysql-replication"])
            assert theirs["rows"] == ours["rows"], (theirs, ours)  # noqa: S101
        ratio = statistics.median(ratios)
        self.results["capture"] = {"cpu_ratio": ratio, "rows_per_cpu_s": said}
        self.say(f"capture: {ratio:.1f} times mysql-replication's rows per CPU second"
                 f" ({said['mysql-replication']:,.0f} and {said['recell']:,.0f})")

    def _end(self) -> str:
        file, offset = self.source.sql("SHOW MASTER STATUS")[0][:2]
        return f"{file}:{offset}"

    def changes(self, hosts: list[str], freezes: int = 5, keys: int = 20_000) -> None:
        self.empty()
        answer = self.work("follow", hosts=hosts, instances=self.instances, machines=self.hosts, keys=keys,
                           rate=EVENTS_PER_SECOND, freezes=freezes, steady_s=4.0)
        changed = min(keys, self.instances * 10)
        freeze = statistics.median(answer["freezes"])
        self.results["changes"] = {
            "keys_per_s": changed / answer["apply_s"], "freeze_ms": freeze * 1e3, "equal": answer["equal"],
            "freezes_ms": [f * 1e3 for f in answer["freezes"]], "events_per_s": EVENTS_PER_SECOND}
        self.say(f"apply: {changed / answer['apply_s']:,.0f} distinct keys/s; freeze under"
                 f" {EVENTS_PER_SECOND} row"
                 f" events/s: {freeze * 1e3:.0f} ms (of {freezes}, worst {max(answer['freezes']) * 1e3:.0f});"
                 f" {'equal' if answer['equal'] else 'NOT EQUAL'}")


MEASUREMENTS = ("copy", "mydumper", "hosts", "capture", "changes")


def run(source: Server, target: Server, place: Path, instances: int, hosts: int, pairs: int, say: Say,
        only: Collection[str] = MEASUREMENTS) -> dict[str, Any]:
    """Measurements, as plain JSON."""
    bench = Bench(source, target, load(TODAY, OLD), instances, hosts, pairs, place, say)
    bench.prepare()
    if "copy" in only:
        bench.compare("copy against mysqldump | mysql", bench.dump, [], bench.rows)
    if "mydumper" in only and missing("mydumper"):
        bench.results["copy against mydumper + myloader"] = None
        say("mydumper is not installed: not compared (apt-get install mydumper)")
    elif "mydumper" in only:
        bench.compare("copy against mydumper + myloader", bench.mydumper, [], bench.rows)
    if "hosts" in only:
        some = [f"cmp-{n:04d}" for n in range(max(1, hosts // 10))]
        count = bench.rows_of(some)
        bench.compare(f"copy of {len(some)} of {hosts} hosts against mysqldump --where",
                      lambda: bench.dump_hosts(some), some, count)
    if "capture" in only:
        bench.capture()
    if "changes" in only:
        bench.changes([])
    bench.results["memory_mib"] = bench.memory_mib
    bench.results["machine"] = {
        "cores": os.cpu_count(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("mariadbd", "mydumper") if shutil.which(name)},
        "python": platform.python_version()}
    say(f"peak memory of recell: {bench.memory_mib:.0f} MiB")
    return bench.results
