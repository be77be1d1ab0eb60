"""The doctor from its look at a cloud to its exit code: databases are real, hosts and brokers on paper."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from recell.adapters.nova_db import NovaDatabases
from recell.adapters.placement import PlacementApi
from recell.adapters.ports import FileStat, Finished, ProcessInfo, QueueInfo, UnitState
from recell.cli import doctor as command
from recell.cli.main import main
from recell.discovery import health
from recell.discovery.looking import Notes
from recell.errors import Unreachable, Unsupported
from recell.model.deployment import Deployment
from recell.model.health import Placement, Provider
from tests.sim.cloud import NOVA_CONF, build, scan
from tests.unit.doctor_plants import record
from tests.unit.test_doctor_gathering import nova, root, server

__all__ = ["nova", "root", "server"]


@dataclass
class PaperHost:
    name: str
    deployment: Deployment
    upgrade: ClassVar[bytes] = (
        b"warnings first\n+---+\n| Check: Cells v2 |\n| Result: Success |\n| Details: None |\n+---+\n"
    )

    def read(self, path: str) -> bytes | None:
        return b"#!/usr/bin/python3\n" if path.endswith("nova-manage") else NOVA_CONF.encode()

    def stat(self, path: str) -> FileStat | None:
        return None

    def unit(self, name: str) -> UnitState:
        return UnitState(name, True, "active", True, 1, 1.0, "", (), (), False)

    def processes(self) -> tuple[ProcessInfo, ...]:
        return tuple(
            ProcessInfo(s.main_pid, 1, s.argv, "nova", 1.0, 1, "")
            for s in self.deployment.services
            if s.host == self.name
        )

    def query(self, argv: Any, **_: Any) -> Finished:
        if "upgrade" in argv:
            return Finished(0, self.upgrade, b"")
        return Finished(0, b"33.0.2\n", b"")


@dataclass
class PaperBroker:
    name: str
    ready: int = 0
    silent: bool = False

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        if self.silent:
            raise Unreachable(f"the broker {self.name} does not answer", "Start it")
        self.ready += 1
        return (QueueInfo("notifications.info", self.ready, 0, 0, False),)

    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        return (("nova", "conductor"),)

    def password_works(self, user: str, password: str) -> bool:
        return (user, password) == ("nova", "s3cret")


@dataclass
class PaperWorld:
    deployment: Deployment
    databases: NovaDatabases
    brokers: dict[str, PaperBroker] = field(
        default_factory=lambda: {b: PaperBroker(b) for b in ("mq1", "mq4")}
    )
    time: float = 2_000_000_000.0

    def host(self, name: str) -> PaperHost:
        return PaperHost(name, self.deployment)

    def broker(self, name: str) -> PaperBroker:
        return self.brokers[name]

    def nova(self) -> NovaDatabases:
        return self.databases

    def wait(self, seconds: float) -> None:
        self.time += seconds

    def clock(self) -> float:
        return self.time


@pytest.fixture
def world(nova: NovaDatabases, root: Any, monkeypatch: pytest.MonkeyPatch) -> PaperWorld:
    deployment = scan(build(templated=False))
    # The mappings that the databases hold, under the uuids of theirs.
    cell0, cell1 = ("00000000-0000-0000-0000-000000000000", "11111111-1111-1111-1111-111111111111")
    deployment = replace(
        deployment,
        mappings=tuple(
            replace(m, uuid=cell0 if m.name == "cell0" else cell1) for m in deployment.mappings
        ),
    )  # fmt: skip
    providers = tuple(Provider(u, u, False) for u in ("node1", "node2"))
    monkeypatch.setattr(PlacementApi, "look", lambda self, suspicious: Placement(providers))
    monkeypatch.setattr(
        health, "knock", lambda gate, host, port, greeting: "" if host == "mq1" else "it is silent"
    )
    root.execute("INSERT INTO nova.compute_nodes (uuid, host, hypervisor_hostname, cpu_allocation_ratio,"
                 " ram_allocation_ratio, disk_allocation_ratio) VALUES ('node1', 'cmp1', 'node1', 1, 1, 1),"
                 " ('node2', 'cmp2', 'node2', 1, 1, 1)")  # fmt: skip
    return PaperWorld(deployment, nova)


def look(world: PaperWorld) -> tuple[Any, Notes]:
    notes = Notes()
    return health.look_at(world, world.deployment, notes, 10.0), notes  # type: ignore[arg-type]


def test_everything_is_looked_at(world: PaperWorld, root: Any) -> None:
    root.execute("INSERT INTO nova_api.host_mappings (host, cell_id) VALUES ('cmp1', 2)")
    facts, notes = look(world)
    assert notes.found == ()
    assert facts.second.at - facts.first.at == 10.0
    assert [q.ready for q in facts.second.queues] == [2, 2]
    assert len(facts.host_mappings) == 1 and facts.packages["cmp2"] == "33.0.2"
    assert facts.upgrade_check == {"Cells v2": ("success", "")}
    assert {d.name for d in facts.databases} == {"api", "cell0", "cell1"}
    assert {r.host for r in facts.running} == {"ctl1", "ctl2", "cmp1", "cmp2"}
    assert facts.bound["mq1"] == {"nova"} and len(facts.mapping_times) == 2
    kinds = {(e.kind, e.where, e.trouble) for e in facts.endpoints}
    assert ("broker", "mq1:5672", "") in kinds and ("broker", "mq2:5672", "it is silent") in kinds
    assert all(not e.trouble for e in facts.endpoints if e.kind == "database")


def test_what_does_not_answer_is_named(world: PaperWorld, root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.brokers["mq4"].silent = True
    monkeypatch.setattr(PaperHost, "upgrade", b"Traceback")
    root.execute("UPDATE nova_api.cell_mappings SET database_connection ="
                 " 'mysql+pymysql://nova:p%40w@db1/no_such' WHERE id = 2")  # fmt: skip
    facts, notes = look(world)
    areas = {u.area for u in notes.found}
    assert {
        "queues of mq4 /",
        "instances of cell1",
        "the database of cell1",
        "compute nodes of cell1",
    } <= areas
    assert not facts.whole


def run(world: PaperWorld, monkeypatch: pytest.MonkeyPatch, directory: Path, *words: str) -> Any:
    @contextmanager
    def mine(_: Deployment) -> Any:
        yield world

    monkeypatch.setattr(command, "world_of", mine)
    monkeypatch.setattr(command, "scan", lambda hosts, at, trouble: world.deployment)
    inventory = directory / "hosts.ini"
    inventory.write_text("ctl1\n")
    return CliRunner().invoke(main, ["doctor", "--inventory", str(inventory), *words])


def test_exit_codes_and_what_is_printed(
    world: PaperWorld, root: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root.execute("INSERT INTO nova_api.host_mappings (host, cell_id) VALUES ('cmp1', 2), ('cmp2', 2)")
    monkeypatch.setattr(health, "knock", lambda *_: "")
    monkeypatch.setattr(PaperBroker, "queues", lambda self, vhost: ())
    rows = [("nova-compute", h) for h in ("cmp1", "cmp2")]
    cell1 = next(m.uuid for m in world.deployment.mappings if m.name == "cell1")
    world.deployment = replace(world.deployment, records=tuple(record(h, b, cell1) for b, h in rows))
    root.execute("UPDATE nova_api.cell_mappings SET created_at = NULL")
    said = run(world, monkeypatch, tmp_path, "--json")
    content = json.loads(said.stdout)
    errors = [f for f in content["findings"] if f["severity"] in ("error", "unknown")]
    assert said.exit_code == 0 and errors == [], errors
    assert content["counts"]["error"] == 0 and content["hosts"] == len(world.deployment.hosts)
    root.execute("DELETE FROM nova_api.host_mappings WHERE host = 'cmp2'")
    said = run(world, monkeypatch, tmp_path)
    assert said.exit_code == 20
    assert "ERROR   hosts:unmapped:cmp2" in said.stdout and "mend: nova-manage" in said.stdout
    root.execute("INSERT INTO nova_api.host_mappings (host, cell_id) VALUES ('cmp2', 2)")
    monkeypatch.setattr(PaperHost, "upgrade", b"Traceback")
    said = run(world, monkeypatch, tmp_path)
    assert said.exit_code == 21 and "UNKNOWN unknown:nova-status" in said.stdout
    assert "could not be made" in said.stderr


def test_when_nothing_can_be_compared_the_silent_are_still_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def alone(hosts: Any, at: float, trouble: Any) -> Deployment:
        trouble("host ctl1", Unreachable("ctl1 does not answer by SSH", "Start it"))
        raise Unsupported("no host of the inventory runs a Nova service", "Name the controllers in it")

    monkeypatch.setattr(command, "scan", alone)
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("ctl1\nweb1\n")
    said = CliRunner().invoke(main, ["doctor", "--inventory", str(inventory)])
    assert said.exit_code == 6 and "UNKNOWN unknown:host ctl1" in said.stdout and "Start it" in said.stdout
    said = CliRunner().invoke(main, ["doctor", "--inventory", str(inventory), "--json"])
    content = json.loads(said.stdout)
    assert [f["id"] for f in content["findings"]] == ["unknown:host ctl1"]
    assert content["counts"]["unknown"] == 1
    monkeypatch.setattr(command, "scan", lambda hosts, at, trouble: alone(hosts, at, lambda *_: None))
    said = CliRunner().invoke(main, ["doctor", "--inventory", str(inventory)])
    assert said.exit_code == 6 and said.stdout == ""


def test_without_hosts_it_says_how_to_name_them(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["doctor", "--dir", str(tmp_path)])
    assert said.exit_code == 3 and "--inventory" in said.stderr


def test_the_table_of_nova_status() -> None:
    table = """+--------------------+
| Check: Cells v2    |
| Result: Failure    |
| Details: No host   |
|   mappings found   |
+--------------------+
| Check: Cinder API  |
| Result: Warning    |
| Details: None      |
+--------------------+
"""
    assert health.upgrade_results(table) == {
        "Cells v2": ("failure", "No host mappings found"),
        "Cinder API": ("warning", ""),
    }
