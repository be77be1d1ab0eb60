"""An API cell and two children on paper, their databases real."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.ports import Finished, UnitState
from recell.adapters.ssh import Fence
from recell.cli import care
from recell.errors import Locked
from recell.model.cells_v1 import CellRecord, CellV1
from recell.model.deployment import Deployment, dump_deployment
from recell_bench.schemas import JUNO, STEIN, ddl, load
from tests.private_server import PrivateServer
from tests.unit.test_doctor_v1 import healthy, service

API, CELL1, CELL2 = "nova_top", "nova", "nova2"
NAMES = {"api": API, "cell1": CELL1, "cell2": CELL2}
TABLES = (
    "cells", "instances", "services", "instance_types", "instance_type_projects",
    "instance_type_extra_specs", "key_pairs", "instance_groups", "instance_group_policy",
    "instance_group_member", "aggregates", "aggregate_hosts", "aggregate_metadata", "security_groups",
    "security_group_rules", "shadow_instance_types",
)  # fmt: skip
URL = "rabbit://nova:***@mq1:5672//"
FLAVORS = "CREATE TABLE flavors (id INT AUTO_INCREMENT PRIMARY KEY, flavorid VARCHAR(255))"


def tree_of_two() -> Deployment:
    facts = healthy().deployment
    top, child = facts.cells
    records = (CellRecord("cell1", False, URL), CellRecord("cell2", False, URL))
    parent = (CellRecord("api", True, URL),)
    other = replace(child, key="cell2", name="cell2", host="ctl3", members=(("ctl3", "nova-cells"),),
                    server=f"db2:3306/{CELL2}", records=parent)  # fmt: skip
    third = replace(service("ctl3", "cells"), database=f"mysql://nova:***@db2/{CELL2}")
    cells: tuple[CellV1, ...] = (replace(top, records=records), replace(child, records=parent), other)
    hosts = (*facts.hosts, replace(facts.hosts[2], name="ctl3"))
    return replace(facts, cells=cells, services=(*facts.services, third), hosts=hosts)


@dataclass
class CareHost:
    name: str
    world: CareWorld

    def read(self, path: str) -> bytes | None:
        where = {"top1": API, "ctl1": CELL1, "ctl3": CELL2}[self.name]
        conf = f"[database]\nconnection = mysql://nova:pw@db/{where}\n"
        if self.world.api:
            conf += f"[api_database]\nconnection = mysql://nova:pw@dba/{self.world.api}\n"
        return conf.encode()

    def unit(self, name: str) -> UnitState:
        return UnitState(name, True, "active", True, 1, 1.0, "", (), (), False)

    def forward(self, host: str, port: int) -> Path:
        return self.world.server.socket

    def unforward(self, local: Path, host: str, port: int) -> None:
        return None

    def run(self, argv: Any) -> Finished:
        if self.name not in self.world.claimed:
            raise Locked(f"{self.name} has not been claimed", "")
        return Finished(0, b"", b"")


@dataclass
class CareWorld:
    """``between``: called while the two looks are waited between; ``owner``: of another recell."""

    server: PrivateServer
    api: str = ""
    time: float = 0.0
    claimed: tuple[str, ...] = ()
    claims: list[Fence] = field(default_factory=list)
    owner: str = ""
    between: list[Any] = field(default_factory=list)

    def host(self, name: str) -> CareHost:
        return CareHost(name, self)

    def wait(self, seconds: float) -> None:
        self.time += seconds
        for act in self.between:
            act()

    def clock(self) -> float:
        return self.time

    def claim(self, fence: Fence, *hosts: str) -> None:
        if self.owner:
            raise Locked(f"it belongs to the journal {self.owner}", "Wait")
        self.claimed = hosts
        self.claims.append(fence)

    def release(self, *hosts: str) -> None:
        self.claimed = ()


@contextlib.contextmanager
def databases(release: str = JUNO) -> Iterator[PrivateServer]:
    """Three databases with those of that release's tables that are read, and Nova's account."""
    server = PrivateServer()
    try:
        schema = load(release)
        tables = ddl(replace(schema, tables=tuple(t for t in schema.tables if t.name in TABLES)))
        server.sql("CREATE USER nova@localhost IDENTIFIED BY 'pw'", database="")
        for name in NAMES.values():
            server.create(name, tables)
            server.sql(f"GRANT ALL ON {name}.* TO nova@localhost", database="")
        yield server
    finally:
        server.stop()


def empty(server: PrivateServer) -> None:
    """No row, and the records that the three cells have of each other."""
    for name in NAMES.values():
        server.sql("SET foreign_key_checks = 0", *(f"DELETE FROM `{t}`" for t in TABLES), database=name)
    server.row(API, "cells", name="cell1", is_parent=0, transport_url="rabbit://n:s3cret@mq1//", deleted=0)
    server.row(API, "cells", name="cell2", is_parent=0, transport_url="rabbit://n:s3cret@mq2//", deleted=0)
    for name in (CELL1, CELL2):
        server.row(name, "cells", name="api", is_parent=1, transport_url="rabbit://n:s3cret@mqa//", deleted=0)


def world_for(server: PrivateServer, directory: Path, monkeypatch: pytest.MonkeyPatch) -> CareWorld:
    """A desk in ``directory`` whose world is this."""
    world = CareWorld(server)
    (directory / "deployment.json").write_bytes(dump_deployment(tree_of_two()))
    monkeypatch.setattr(care, "world_of", lambda deployment: contextlib.nullcontext(world))
    return world


def instance(server: PrivateServer, cell: str, uuid: str, **more: Any) -> None:
    values: dict[str, Any] = {
        "uuid": uuid, "created_at": "2015-01-01", "updated_at": "2015-02-01", "vm_state": "active",
        "power_state": 1, "host": "cmp1", "node": "cmp1", "memory_mb": 512, "vcpus": 1, "root_gb": 1,
        "ephemeral_gb": 0, "instance_type_id": 2, "project_id": "p", "user_id": "u", "deleted": 0,
        "cell_name": "api!cell1" if cell == "api" else None,
    }  # fmt: skip
    server.row(NAMES[cell], "instances", **(values | more))


RELEASES = (JUNO, STEIN)
CARE = ("recell_audit", "recell_sync")
"""Accounts of docs/grants.md whose jobs are tested with these databases."""
