"""The lab's synthetic instances: as many as asked for, whole, and gone again."""

from __future__ import annotations

from dataclasses import replace

from recell_bench.schemas import STEIN, ddl, load
from recell_lab.commands.rows import statements
from tests.private_server import PrivateServer

TABLES = ("instances", "instance_extra", "instance_info_caches", "instance_system_metadata")


def test_rows_come_and_go_and_others_stay() -> None:
    server = PrivateServer()
    try:
        schema = load(STEIN)
        tables = tuple(t for t in schema.tables if t.name in TABLES)
        server.create("nova", ddl(replace(schema, tables=tables)))
        server.create("nova_api", [
            "CREATE TABLE cell_mappings (id INT PRIMARY KEY, name VARCHAR(255))",
            "CREATE TABLE instance_mappings (id INT AUTO_INCREMENT PRIMARY KEY, created_at DATETIME,"
            " instance_uuid VARCHAR(36) NOT NULL UNIQUE, cell_id INT, project_id VARCHAR(255) NOT NULL)",
            "INSERT INTO cell_mappings VALUES (1, 'cell0'), (2, 'cell1')"])  # fmt: skip
        server.row("nova", "instances", uuid="mine", project_id="demo", deleted=0)
        for count in (30, 20, 0):
            server.sql(*statements(count), database="nova")
            where = "WHERE project_id = 'synthetic'"
            assert server.sql(f"SELECT COUNT(*) FROM instances {where}", database="nova") == [(count,)]
            assert server.sql(f"SELECT COUNT(*) FROM instance_mappings {where} AND cell_id = 2",
                              database="nova_api") == [(count,)]  # fmt: skip
            for table in TABLES[1:]:
                assert server.sql(f"SELECT COUNT(*) FROM {table}", database="nova") == [(count,)]
        assert server.sql("SELECT uuid FROM instances", database="nova") == [("mine",)]
    finally:
        server.stop()
