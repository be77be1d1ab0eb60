"""recell sync on databases in Juno's shape: API cell to children, once and as a loop, and back."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from recell.cli.main import main
from recell.discovery.sync_v1 import sides
from recell.errors import Unreachable
from recell.planning.sync_v1 import KINDS
from tests.private_server import PrivateServer
from tests.unit.care_cloud import (
    API,
    CARE,
    CELL1,
    CELL2,
    TABLES,
    CareWorld,
    databases,
    empty,
    world_for,
)

SYNCED = [t.name for k in KINDS for t in k.tables if t.name in TABLES]


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with databases() as made:
        yield made


@pytest.fixture
def world(server: PrivateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CareWorld:
    empty(server)
    return world_for(server, tmp_path, monkeypatch)


def run(directory: Path, *more: str) -> Result:
    said = CliRunner().invoke(main, ["sync", "--dir", str(directory), *more])
    assert "s3cret" not in said.output
    if said.exception is not None and not isinstance(said.exception, SystemExit):
        raise said.exception
    return said


def dump(server: PrivateServer, *names: str) -> dict[str, list[tuple[Any, ...]]]:
    return {f"{d}.{t}": server.sql(f"SELECT * FROM {t} ORDER BY id", database=d)
            for d in names for t in SYNCED}  # fmt: skip


def add(server: PrivateServer, database: str, table: str, **values: Any) -> None:
    server.row(database, table, **({"created_at": "2015-01-01", "deleted": 0} | values))


def plant(server: PrivateServer) -> None:
    """Something of every table in the API cell; in cell1 a flavor that differs and rows of its own."""
    size = {"memory_mb": 512, "vcpus": 1, "swap": 0, "root_gb": 1, "ephemeral_gb": 0, "rxtx_factor": 1.5}
    add(server, API, "instance_types", id=7, flavorid="s", name="small", **size)
    add(server, API, "instance_types", id=9, flavorid="p", name="private", is_public=0, **size)
    add(server, API, "instance_types", id=3, flavorid="old", name="old", **size)
    server.sql("UPDATE instance_types SET deleted = id, deleted_at = '2015-03-01' WHERE id = 3", database=API)
    add(server, API, "instance_type_projects", instance_type_id=9, project_id="p1")
    add(server, API, "instance_type_extra_specs", instance_type_id=7, key="hw:x%s", value="Zürich")
    add(server, API, "key_pairs", user_id="u", name="k", fingerprint="f", public_key="ssh-rsa AAAA")
    add(server, API, "instance_groups", id=5, uuid="g1", name="web", project_id="p", user_id="u")
    add(server, API, "instance_group_policy", group_id=5, policy="anti-affinity")
    add(server, API, "instance_group_member", group_id=5, instance_id="i1")
    add(server, API, "aggregates", id=8, name="rack")
    add(server, API, "aggregate_metadata", aggregate_id=8, key="availability_zone", value="az1")
    for host in ("cmp1", "cmp9", "api!cell2@cmp5"):
        add(server, API, "aggregate_hosts", aggregate_id=8, host=host)
    add(server, API, "security_groups", id=4, name="default", project_id="p", description="d")
    add(server, API, "security_group_rules", parent_group_id=4, protocol="icmp", from_port=-1, to_port=-1)
    add(server, API, "security_group_rules", parent_group_id=4, protocol="tcp", from_port=1, to_port=9,
        group_id=4)  # fmt: skip
    add(server, CELL1, "services", host="cmp1", binary="nova-compute", report_count=1)
    add(server, CELL1, "instance_types", id=7, flavorid="s", name="small", **size | {"memory_mb": 256})
    add(server, CELL1, "instance_types", id=2, flavorid="old", name="old", **size)
    add(server, CELL1, "instance_types", id=4, flavorid="own", name="own", **size)
    add(server, CELL1, "shadow_instance_types", id=9, flavorid="z", name="z", **size)


ALL = ("--only", "flavors", "--only", "key-pairs", "--only", "server-groups", "--only", "aggregates",
       "--only", "security-groups")  # fmt: skip


def test_children_become_as_the_api_cell_is_and_can_be_put_back(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    plant(server)
    top, before = dump(server, API), dump(server, CELL1, CELL2)
    dry = run(tmp_path, "--dry-run", *ALL)
    assert dry.exit_code == 0 and "cell1 flavors: 3 new, 1 changed, 1 ended (not written)" in dry.output
    assert "~ cell1 instance_types s: memory_mb 256 -> 512" in dry.output
    assert dump(server, CELL1, CELL2) == before and world.claims == []

    said = run(tmp_path, *ALL)
    assert said.exit_code == 0, said.output
    assert dump(server, API) == top, "nothing goes up"
    flavors = server.sql("SELECT flavorid, id, memory_mb, deleted FROM instance_types ORDER BY flavorid",
                         database=CELL1)  # fmt: skip
    # An archived row has the number 9: the private flavor gets another, and that is said.
    number = flavors.pop(2)[1]
    assert flavors == [("old", 2, 512, 2), ("own", 4, 512, 0), ("s", 7, 512, 0)]
    assert number not in (2, 4, 7, 9)
    assert "its number in the API cell, 9, is another's there" in said.output
    assert "extra  instance_types own" in said.output
    assert server.sql("SELECT instance_type_id, project_id FROM instance_type_projects",
                      database=CELL1) == [(number, "p1")]  # fmt: skip
    assert server.sql("SELECT t.id, s.`key`, s.value FROM instance_type_extra_specs s JOIN instance_types t"
                      " ON t.id = s.instance_type_id", database=CELL2) == [
        (7, "hw:x%s", "Zürich")]  # fmt: skip
    for name, hosts in ((CELL1, ["cmp1"]), (CELL2, ["cmp5"])):
        assert server.sql("SELECT h.host, a.name FROM aggregate_hosts h JOIN aggregates a ON a.id ="
                          " h.aggregate_id", database=name) == [(h, "rack") for h in hosts]  # fmt: skip
        assert server.sql("SELECT r.protocol, r.from_port, p.name, g.name FROM security_group_rules r"
                          " JOIN security_groups p ON p.id = r.parent_group_id LEFT JOIN security_groups g"
                          " ON g.id = r.group_id ORDER BY r.protocol", database=name) == [
            ("icmp", -1, "default", None), ("tcp", 1, "default", "default")]  # fmt: skip
        assert server.sql("SELECT user_id, name, public_key FROM key_pairs", database=name) == [
            ("u", "k", "ssh-rsa AAAA")]  # fmt: skip
        assert server.sql("SELECT g.uuid, m.instance_id, p.policy FROM instance_groups g JOIN"
                          " instance_group_member m ON m.group_id = g.id JOIN instance_group_policy p ON"
                          " p.group_id = g.id", database=name) == [("g1", "i1", "anti-affinity")]  # fmt: skip

    after = dump(server, CELL1, CELL2)
    again = run(tmp_path, *ALL)
    assert again.exit_code == 0 and "Equal: flavors" in again.output
    assert dump(server, CELL1, CELL2) == after
    (record,) = tmp_path.glob("sync-*.jsonl")
    back = run(tmp_path, "--undo", str(record))
    assert back.exit_code == 0 and "0 left" in back.output, back.output
    assert dump(server, CELL1, CELL2) == before and world.claimed == ()


def test_what_the_child_alone_has_ends_only_when_told(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    plant(server)
    add(server, API, "instance_types", id=1, flavorid="mine", name="own", memory_mb=1, vcpus=1, swap=0)
    said = run(tmp_path, "--only", "flavors")
    assert said.exit_code == 20 and "another row there has the name own (flavorid own)" in said.output
    assert server.sql("SELECT deleted FROM instance_types WHERE flavorid = 'own'", database=CELL1) == [(0,)]
    assert run(tmp_path, "--only", "flavors", "--delete-extra").exit_code == 0
    assert server.sql("SELECT flavorid FROM instance_types WHERE deleted = 0 AND name = 'own'",
                      database=CELL1) == [("mine",)]  # fmt: skip
    assert server.sql("SELECT deleted = id FROM instance_types WHERE flavorid = 'own'",
                      database=CELL1) == [(1,)]  # fmt: skip


def test_a_loop_follows_and_a_child_that_is_away_for_a_while_is_gone_on_without(
    server: PrivateServer, world: CareWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter(range(9))

    def away(databases: Any, top: str, child: str, *more: Any) -> Any:
        if child == "cell1" and world.time == 0:
            raise Unreachable("the database nova on db1 does not answer", "")
        return sides(databases, top, child, *more)

    def users() -> None:
        number = next(rounds)
        if number == 0:
            add(server, API, "key_pairs", user_id="u", name="late", public_key="x")
        if number == 1:
            server.sql("UPDATE key_pairs SET deleted = id, deleted_at = '2016-01-01'", database=API)
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("recell.cli.sync.sides", away)
    world.between.append(users)
    said = run(tmp_path, "--watch", "60", "--only", "key-pairs", "--json")
    assert said.exit_code == 0, said.output
    first, second, third = (json.loads(line) for line in said.stdout.splitlines())
    assert first["unreachable"] == ["cell1: the database nova on db1 does not answer"]
    assert [len(c["written"]) for c in second["cells"]] == [1, 1] and second["unreachable"] == []
    assert [c["written"][0]["after"]["deleted"] > 0 for c in third["cells"]] == [True, True]
    assert third["record"].endswith(".jsonl") and world.claimed == ()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_child_that_is_away_is_an_answer_of_its_own(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    add(server, API, "key_pairs", user_id="u", name="k")
    world.owner = "j1 (recell apply)"
    assert run(tmp_path, "--only", "key-pairs").exit_code == 9
    assert server.sql("SELECT COUNT(*) FROM key_pairs", database=CELL2) == [(0,)]


def test_rows_in_an_api_database_are_nobodys_to_keep_equal(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    """Stein; and Mitaka, whose API database has tables for what is still in the cells."""
    plant(server)
    server.create("nova_api", [f"CREATE TABLE {t} (id INT PRIMARY KEY)" for t in
                               ("flavors", "key_pairs", "instance_groups", "aggregates")])  # fmt: skip
    server.sql("GRANT ALL ON nova_api.* TO nova@localhost", database="")
    world.api = "nova_api"
    said = run(tmp_path, "--dry-run")
    assert said.exit_code == 0 and "cell1 flavors: 3 new" in said.output
    assert "security-groups are Neutron's" in said.output
    server.sql(*(f"INSERT INTO {t} VALUES (1)" for t in ("flavors", "key_pairs", "instance_groups")),
               "UPDATE nova_top.aggregates SET deleted = id", database="nova_api")  # fmt: skip
    before = dump(server, CELL1, CELL2)
    said = run(tmp_path)
    assert said.exit_code == 6, said.output
    for kind in ("flavors", "key-pairs", "server-groups", "aggregates"):
        assert f"{kind} are in the API database, which the API cell and its children share" in said.output
    assert dump(server, CELL1, CELL2) == before


def test_schemas_that_differ_are_refused(server: PrivateServer, world: CareWorld, tmp_path: Path) -> None:
    plant(server)
    server.sql("ALTER TABLE key_pairs ADD COLUMN type VARCHAR(9)", database=CELL2)
    try:
        said = run(tmp_path, "--only", "key-pairs")
    finally:
        server.sql("ALTER TABLE key_pairs DROP COLUMN type", database=CELL2)
    assert said.exit_code == 6 and "key_pairs differs between api and cell2" in said.output


def test_an_account_of_recells_own(server: PrivateServer, world: CareWorld, tmp_path: Path) -> None:
    file = tmp_path / "my.cnf"
    file.write_text("[client]\nuser = recell_nobody\npassword = 'x'\n")
    assert run(tmp_path, "--login", str(file)).exit_code == 3, "others may read it"
    file.chmod(0o600)
    refused = run(tmp_path, "--login", str(file))
    assert refused.exit_code == 5 and "refuses the account recell_nobody" in refused.output
    file.write_text("[mysql]\n")
    assert run(tmp_path, "--login", str(file)).exit_code == 3


def test_words_that_contradict_each_other_are_refused(world: CareWorld, tmp_path: Path) -> None:
    assert run(tmp_path, "--only", "flavours").exit_code == 3
    assert run(tmp_path, "--undo", "x", "--watch", "5").exit_code == 3


# -- rights ------------------------------------------------------------------------------------------


def care_grants() -> list[tuple[str, str, str]]:
    """(account, right, database there) of docs/grants.md."""
    text = (Path(__file__).parents[2] / "docs" / "grants.md").read_text()
    found = re.findall(r"GRANT (.*) ON (nova\w*)\.\* TO (recell_audit|recell_sync)@", text)
    return [(account, right, on) for rights, on, account in found for right in rights.split(", ")]


def works(server: PrivateServer, directory: Path, account: str, *without: str) -> bool:
    """Whether the account's job is done and undone with the documented rights, less one."""
    empty(server)
    plant(server)
    server.sql("UPDATE security_groups SET deleted = NULL WHERE id = 4", database=API)
    add(server, CELL1, "key_pairs", user_id="u", name="null", deleted=None)
    server.sql(f"CREATE OR REPLACE USER {account}@localhost IDENTIFIED BY 'pw'", database="")
    for who, right, on in care_grants():
        for database in (API,) if on == "nova" else (CELL1, CELL2):
            if who == account and (right, on) != without:
                server.sql(f"GRANT {right} ON {database}.* TO {account}@localhost", database="")
    file = directory / "my.cnf"
    file.write_text(f"[client]\nuser={account}\npassword=pw\n")
    file.chmod(0o600)
    verb = account.removeprefix("recell_")
    argv = [verb, "--dir", str(directory), "--login", str(file)]
    before = dump(server, API, CELL1, CELL2)
    more = ["--heal", "--yes", "--between", "0"] if verb == "audit" else []
    done = CliRunner().invoke(main, [*argv, *more])
    records = list(directory.glob(f"{verb}-*.jsonl"))
    if done.exit_code != 0 or len(records) != 1:
        return False
    changed = dump(server, API, CELL1, CELL2)
    back = CliRunner().invoke(main, [*argv, "--undo", str(records[0])])
    return back.exit_code == 0 and changed != before and dump(server, API, CELL1, CELL2) == before


@pytest.mark.parametrize("account", CARE)
def test_the_documented_rights_are_enough_for_care(
    server: PrivateServer, world: CareWorld, tmp_path: Path, account: str
) -> None:
    assert works(server, tmp_path, account)


@pytest.mark.parametrize(("account", "right", "on"), care_grants())
def test_no_right_for_care_is_listed_that_is_not_needed(
    server: PrivateServer, world: CareWorld, tmp_path: Path, account: str, right: str, on: str
) -> None:
    assert not works(server, tmp_path, account, right, on)
