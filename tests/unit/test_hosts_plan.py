"""Which hosts move where, in which waves, and every reason why not."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recell.cli.main import main
from recell.cli.plan import waves_of
from recell.errors import BadInput, RecellError, Unsupported
from recell.model.deployment import Deployment, dump_deployment
from recell.model.plan import Plan, dump_plan, load_plan
from recell.model.violation import Violation
from recell.planning.split import make_plan
from recell.preflight import live
from recell.preflight.check import check
from tests.sim.cloud import layout
from tests.sim.hosts import LAYOUT, CellsWorld, scan, split


@functools.cache
def deployment() -> Deployment:
    return scan(split())


def many(computes: int) -> Deployment:
    """The same cloud, with so many computes."""
    found = deployment()
    host = found.host("cmp2")
    service = next(s for s in found.role("compute") if s.host == "cmp2")
    record = next(r for r in found.records if r.host == "cmp2")
    names = [f"x{n:04}" for n in range(computes)]
    return replace(
        found,
        hosts=(*found.hosts, *(replace(host, name=n, hostname=n) for n in names)),
        services=(*found.services, *(replace(service, host=n, nova_host=n) for n in names)),
        records=(*found.records, *(replace(record, id=100 + i, host=n) for i, n in enumerate(names))),
    )


def planned(text: str = LAYOUT, found: Deployment | None = None, *only: str) -> Plan:
    return make_plan(found or deployment(), layout(text), 0.0, only)


def waves(plan: Plan) -> list[list[str]]:
    return [
        s.params["move"]["hosts"]
        for s in plan.steps
        if s.kind == "hosts-computes" and s.params["forward"] == "leave"
    ]


def test_the_plan_makes_the_cell_and_moves_the_host() -> None:
    plan = planned()
    assert plan.kind == "hosts" and load_plan(dump_plan(plan), "plan.json") == plan
    assert b"s3cret" not in dump_plan(plan) and b"dbpw" not in dump_plan(plan)
    ids = [s.id for s in plan.steps]
    order = [
        "cell2/database",
        "cell2/broker",
        "cell2/schema",
        "ctl1/nova-conductor-cell2",
        "cell2/mapping",
        "ctl1/cell2-nova-api",
        "wave1/close",
        "wave1/rows",
        "wave1/flip-back",
        "wave1/leave",
        "cmp2/cell2-nova-conf",
        "wave1/enter",
        "wave1/flip",
        "wave1/clear",
        "wave1/open",
        "prove",
    ]
    assert [i for i in ids if i in order] == order
    schema = next(s for s in plan.steps if s.kind == "cell-schema")
    assert schema.params["argv"][1:] == [
        "--config-file",
        "/etc/nova/nova-cell2.conf",
        "db",
        "sync",
        "--local_cell",
    ]
    groups = {g["name"]: g for g in plan.topology_after["groups"]}
    assert groups["cell2"]["services"] == {"compute": ["cmp2"]}
    assert groups["cell1"]["services"]["compute"] == ["cmp1"]
    assert "super-conductor" in groups["API level"]["services"]
    assert {"api", "cell1", "cell2"} == set(plan.databases)


def test_waves_canary_and_some_hosts_only() -> None:
    found = many(7)
    text = LAYOUT.replace("[cmp2]", '[cmp2, "x*"]') + "\nmoving: {wave: 3, canary: x0004}\n"
    assert waves(planned(text, found)) == [
        ["x0004"],
        ["cmp2", "x0000", "x0001"],
        ["x0002", "x0003", "x0005"],
        ["x0006"],
    ]
    assert waves(planned(text, found, "x000[1-2]")) == [["x0001", "x0002"]]


def test_so_many_at_once_by_word_of_the_operator(tmp_path: Path) -> None:
    text = LAYOUT.replace("[cmp2]", '["cmp*"]')
    (tmp_path / "layout.yaml").write_text(text)
    (tmp_path / "deployment.json").write_bytes(dump_deployment(deployment()))
    done = CliRunner().invoke(main, ["plan", "--dir", str(tmp_path), "--wave", "2"])
    assert done.exit_code == 0, done.output
    plan = load_plan((tmp_path / "plan.json").read_bytes(), "plan.json")
    assert waves(plan) == [["cmp1", "cmp2"]] and waves(planned(text)) == [["cmp1"], ["cmp2"]]
    assert plan.layout == layout(text).digest()
    with pytest.raises(BadInput, match="moves none"):
        waves_of(layout(text.replace('\n    hosts: ["cmp*"]', "")), 2)


def test_hosts_go_back_and_between_cells_that_are_there() -> None:
    there = next(s for s in planned().steps if s.kind == "new-mapping").params["cell"]
    found = deployment()
    cell1 = next(m for m in found.mappings if m.name == "cell1")
    cell2 = replace(
        cell1,
        uuid=there,
        name="cell2",
        transport_resolved=cell1.transport_resolved.replace("mq1", "mq5").replace("mq2", "mq5"),
        database_resolved=cell1.database_resolved.replace("@db1/nova", "@db2/nova_cell2"),
    )
    records = tuple(replace(r, cell=there) if r.host == "cmp2" else r for r in found.records)
    services = tuple(
        replace(s, transport_url=cell2.transport_resolved) if s.host == "cmp2" else s for s in found.services
    )
    found = replace(found, mappings=(*found.mappings, cell2), records=records, services=services)
    back = planned(
        "generation: v2\napi: {broker: {nodes: [mq4]}}\ncells: {cell1: {hosts: [cmp2]}, cell2: {}}", found
    )
    assert not [s for s in back.steps if s.kind in ("new-mapping", "cell-schema")]
    move = next(s for s in back.steps if s.kind == "flip-hosts").params["move"]
    assert (move["old"]["name"], move["new"]["name"]) == ("cell2", "cell1")
    conf = next(s for s in back.steps if s.kind == "edit-config")
    assert conf.params["changes"][0]["nodes"] == [["mq1", 5672], ["mq2", 5672]]
    with pytest.raises(Unsupported, match="every host is in the cell"):
        planned(
            "generation: v2\napi: {broker: {nodes: [mq4]}}\ncells: {cell1: {hosts: [cmp1]}, cell2: {}}", found
        )


def _of_two(text: str, **changes: Any) -> Plan:
    """cmp2 goes to a second cell that is there, whose mapping is changed."""
    there = next(s for s in planned().steps if s.kind == "new-mapping").params["cell"]
    found = deployment()
    cell1 = next(m for m in found.mappings if m.name == "cell1")
    cell2 = replace(
        cell1,
        uuid=there,
        name="cell2",
        transport_resolved="rabbit://nova:***@mq5:5671/?ssl=1",
        database_resolved=cell1.database_resolved.replace("@db1/nova", "@db2/nova_cell2"),
    )
    mappings = (*found.mappings, replace(cell2, **changes))
    return planned(text.replace("UUID", there), replace(found, mappings=mappings))


@pytest.mark.parametrize(("url", "said"), [
    ("mysql+pymysql://nova:***@vip/nova_cell2", "of cell2: no host of the inventory is vip"),
    ("mysql+pymysql://nova:***@db2/nova_cell2?ssl_ca=/ca.pem", "of cell2: .* asks for TLS"),
    ("mysql+pymysql://nova:***@db2,db1/nova_cell2", "of cell2: .* is none of one MySQL or MariaDB server"),
])  # fmt: skip
def test_a_database_that_hosts_can_not_move_to_is_told_with_its_cell(url: str, said: str) -> None:
    with pytest.raises(RecellError, match=said) as refused:
        _of_two(TO_CELL2, database_resolved=url)
    remedy = refused.value.remedy
    assert "update_cell" in remedy and "from:" not in remedy and "database: keep" not in remedy


def with_exotic(**changes: Any) -> Deployment:
    """A third cell, which hosts can't move to or from."""
    found = deployment()
    cell1 = next(m for m in found.mappings if m.name == "cell1")
    values: dict[str, Any] = {
        "uuid": "c9", "name": "cell9", "transport_resolved": "rabbit://nova:***@far1,far2/",
        "database_resolved": "postgresql://nova:***@pg1/nova_cell9",
    }  # fmt: skip
    compute = next(s for s in found.role("compute") if s.host == "cmp1")
    there = replace(compute, host="cmp9", nova_host="cmp9", transport_url="rabbit://nova:***@far1,far2/")
    host = replace(found.host("cmp1"), name="cmp9", hostname="cmp9", ips=(), aliases=())
    record = next(r for r in found.records if r.host == "cmp1" and r.binary == "nova-compute")
    return replace(
        found,
        hosts=(*found.hosts, host),
        services=(*found.services, there),
        records=(*found.records, replace(record, cell="c9", host="cmp9", id=900)),
        mappings=(*found.mappings, replace(cell1, **{**values, **changes})),
    )


@pytest.mark.parametrize(("changes", "said"), [
    ({}, "none of one MySQL or MariaDB server"),
    ({"database_resolved": "mysql+pymysql://nova:***@vip/nova_cell9"}, "no host of the inventory is vip"),
    ({"database_resolved": "mysql://nova:***@db1:3307/nova_cell9"}, "no host of the broker of cell9"),
    ({"templated": True, "transport_resolved": "rabbit://{username}@far1/"}, "is a template"),
])  # fmt: skip
def test_a_cell_that_takes_no_part_may_be_of_any_kind_and_is_told_of(
    changes: dict[str, Any], said: str
) -> None:
    found = with_exotic(**changes)
    plan = planned(LAYOUT, found)
    told = [r for r in plan.remarks if "cell9 takes no part" in r]
    assert len(told) == 1 and said in told[0]
    assert [s.id for s in plan.steps] == [s.id for s in planned().steps], "nothing else is planned"
    groups = {g["name"]: g for g in plan.topology_after["groups"]}
    if "transport_resolved" not in changes:
        assert groups["cell9"]["services"] == {"compute": ["cmp9"]}
    for text in (LAYOUT.replace("[cmp2]", "[cmp9]"), TO_CELL2.replace("cell2: ", "cell9: ")):
        with pytest.raises(RecellError, match=said):
            planned(text, found)


def test_a_new_cell_is_on_nobodys_server_or_broker() -> None:
    with pytest.raises(Unsupported, match="cell2's database would be on cell9's server, db2"):
        planned(LAYOUT, with_exotic(database_resolved="mysql://nova:***@db2/nova_cell9?ssl_ca=/ca.pem"))
    with pytest.raises(BadInput, match="cell2's broker and vhost are cell9's"):
        planned(LAYOUT, with_exotic(transport_resolved="rabbit://nova:***@mq5/"))
    with pytest.raises(Unsupported, match="is on cell9's broker: the API level is not split off"):
        planned(LAYOUT, with_exotic(transport_resolved="rabbit://nova:***@mq4/"))


def test_two_cells_on_one_server_or_broker_stay_as_they_are() -> None:
    cell1 = next(m for m in deployment().mappings if m.name == "cell1")
    with pytest.raises(Unsupported, match="databases of cell1 and cell2 are on one server, db1"):
        _of_two(TO_CELL2, database_resolved=cell1.database_resolved.replace("/nova", "/nova_cell2"))
    with pytest.raises(Unsupported, match="cell1 and cell2 are on one broker and vhost, mq1"):
        _of_two(TO_CELL2, transport_resolved=cell1.transport_resolved)


TO_CELL2 = "generation: v2\napi: {broker: {nodes: [mq4]}}\ncells: {cell1: {}, cell2: {hosts: [cmp2]}}"


@pytest.mark.parametrize(("url", "nodes"), [
    ("rabbit://nova:***@mq5:5671/?ssl=1", [["mq5", 5671]]),
    ("rabbit://nova:***@mq5/?ssl=1", [["mq5", 5671]]),
    ("rabbit://nova:***@mq5/", [["mq5", 5672]]),
])  # fmt: skip
def test_a_cell_that_is_there_tells_its_brokers_nodes(url: str, nodes: list[list[object]]) -> None:
    conf = next(s for s in _of_two(TO_CELL2, transport_resolved=url).steps if s.kind == "edit-config")
    assert conf.params["changes"][0]["nodes"] == nodes


def test_cells_without_a_name_go_by_their_uuid() -> None:
    plan = _of_two(TO_CELL2.replace("cell2:", "UUID:"), name="")
    move = next(s for s in plan.steps if s.kind == "flip-hosts").params["move"]
    assert move["new"]["name"] == move["new"]["cell"]
    with pytest.raises(Unsupported, match="several cells are called cell1"):
        _of_two(TO_CELL2, name="cell1")


BAD: list[tuple[str, str, str, type[RecellError]]] = [
    ("[cmp2]", "[cmp9]", "cmp9 under cell2 is no compute host", BadInput),
    ("cell1: {}", "cell1: {hosts: [cmp2]}", "belongs to cell1 and to cell2", BadInput),
    ("cell1: {}", "cell1: {database: {host: db2}}", "Write cell1: with hosts: only", BadInput),
    ("cell1: {}", "cell1: {api_database: remove}", "api_database: keep", BadInput),
    ("conductors: [ctl1, ctl2]", "conductors: [cmp1]", "no nova-conductor of cell1", BadInput),
    ("    conductors: [ctl1, ctl2]\n", "", "no conductors", BadInput),
    ("    broker: {nodes: [mq5]}\n", "", "gives it no broker", BadInput),
    ("    database: {host: db2}\n", "", "gives it no database", BadInput),
    ("{nodes: [mq5]}", "{nodes: [mq1]}", "broker and vhost are cell1's", BadInput),
    ("{nodes: [mq5]}", "{nodes: [db2]}", "no running RabbitMQ", BadInput),
    ("{host: db2}", "{host: db1}", "a MariaDB server of its own", Unsupported),
    ("{host: db2}", "{host: db1, name: nova}", "database is cell1's", BadInput),
    ("cell2:", "cell0:", "cell0 has no hosts", BadInput),
]


@pytest.mark.parametrize(("old", "new", "said", "kind"), BAD)
def test_layouts_that_do_not_fit(old: str, new: str, said: str, kind: type[RecellError]) -> None:
    assert old in LAYOUT
    with pytest.raises(kind) as refused:
        planned(LAYOUT.replace(old, new))
    assert said in f"{refused.value.sentence} {refused.value.remedy}"


def test_deployments_in_which_hosts_can_not_move() -> None:
    found = deployment()
    cases: list[tuple[Deployment, str]] = [
        (replace(found, generation="v1"), "cells v1"),
        (replace(found, records=()), "in no cell"),
        (replace(found, nova_version="19.3.2"), "Nova 19.3.2 can't hide"),
    ]
    services = {s.host: s for s in found.role("compute")}

    def changed(**values: Any) -> Deployment:
        return replace(
            found,
            services=tuple(replace(s, **values) if s == services["cmp2"] else s for s in found.services),
        )

    cases += [
        (changed(active=False), "doesn't run"),
        (changed(options={"DEFAULT/compute_driver": "ironic.IronicDriver"}), "ironic"),
        (changed(origins={}), "takes transport_url from nowhere"),
        (
            replace(
                found, services=(*found.services, replace(services["cmp2"], unit="other", role="metadata"))
            ),
            "reads /etc/nova/nova.conf too",
        ),
        (replace(found, mappings=tuple(replace(m, templated=True) for m in found.mappings)), "is a template"),
    ]
    for case, said in cases:
        with pytest.raises(Unsupported, match=said):
            planned(LAYOUT, case)
    apis = replace(
        found,
        services=tuple(
            replace(s, transport_url=services["cmp1"].transport_url) if s.role == "api" else s
            for s in found.services
        ),
    )
    with pytest.raises(Unsupported, match="not split off"):
        planned(LAYOUT, apis)


def test_two_computes_on_a_host_concern_that_host_only() -> None:
    found = deployment()
    second = {h: replace(next(s for s in found.role("compute") if s.host == h), unit="nova-compute-b")
              for h in ("cmp1", "cmp2")}  # fmt: skip
    with pytest.raises(Unsupported, match=r"cmp2 runs several nova-compute \(.*nova-compute-b\)"):
        planned(LAYOUT, replace(found, services=(*found.services, second["cmp2"])))
    assert waves(planned(LAYOUT, replace(found, services=(*found.services, second["cmp1"])))) == [["cmp2"]]


def test_consoles_that_recell_gives_no_proxy_are_told_of() -> None:
    found = deployment()
    proxy = replace(next(s for s in found.role("conductor")), unit="nova-spiceproxy", role="spicehtml5proxy")
    said = planned(LAYOUT, replace(found, services=(*found.services, proxy))).remarks
    assert [r for r in said if "nova-spicehtml5proxy" in r] and not [
        r for r in planned().remarks if "spice" in r
    ]


@pytest.mark.parametrize(("role", "options", "expected"), [
    ("metadata", {"api/local_metadata_per_cell": "true"}, {"metadata:ctl1"}),
    ("api", {"api/local_metadata_per_cell": "True", "DEFAULT/enabled_apis": "metadata"}, {"metadata:ctl1"}),
    ("api", {"api/local_metadata_per_cell": "true", "DEFAULT/enabled_apis": "osapi_compute"}, set()),
    ("metadata", {}, set()),
])  # fmt: skip
def test_metadata_of_one_cell_finds_no_guest_that_moved(
    role: Any, options: dict[str, str], expected: set[str]
) -> None:
    found = deployment()
    api = next(s for s in found.role("api") if s.host == "ctl1")
    more = replace(found, services=(*found.services, replace(api, unit="other", role=role, options=options)))
    for text, ids in ((LAYOUT, expected), (LAYOUT.replace("    hosts: [cmp2]", ""), set())):
        said = {v.id for v in check(more, layout(text)) if v.id.startswith("metadata:")}
        assert said == ids


@pytest.mark.parametrize(("driver", "expected"), [("mc", {"servicegroup:ctl1"}), ("db", set())])
def test_hosts_whose_life_is_told_elsewhere_can_not_be_kept_up(driver: str, expected: set[str]) -> None:
    found = deployment()
    api = next(s for s in found.role("api") if s.host == "ctl1")
    asking = replace(api, options={**api.options, "DEFAULT/servicegroup_driver": driver})
    more = replace(found, services=tuple(asking if s is api else s for s in found.services))
    assert {v.id for v in check(more, layout(LAYOUT)) if v.id.startswith("servicegroup:")} == expected
    alone = layout(LAYOUT.replace("    hosts: [cmp2]", ""))
    assert not [v for v in check(more, alone) if v.id.startswith("servicegroup:")]


def test_a_cell_whose_conductors_are_older_gets_no_newer_host() -> None:
    def said(conductor: int, compute: int, at: str = "") -> list[str]:
        found = deployment()
        cell1 = next(m for m in found.mappings if m.name == "cell1")
        mine = next(r for r in found.records if r.host == "cmp2")
        records = (
            *(replace(r, version=compute, cell=at or r.cell) if r is mine else r for r in found.records),
            replace(mine, host="ctl1", binary="nova-conductor", version=conductor, cell="c2"),
            replace(mine, host="ctl2", binary="nova-conductor", version=conductor + 5, cell="c2"),
            replace(
                mine, host="dead", binary="nova-conductor", version=1, cell="c2", seconds_since_report=9e4
            ),
        )
        mappings = (*found.mappings, replace(cell1, uuid="c2", name="cell2"))
        found = replace(found, records=records, mappings=mappings)
        return [v.what for v in check(found, layout(TO_CELL2)) if v.id == "older-conductor:cell2:cmp2"]

    assert len(said(66, 70)) == 1 and "(service version 70)" in said(66, 70)[0] and "(66)" in said(66, 70)[0]
    assert said(70, 70) == said(71, 70) == said(66, 70, at="c2") == []


def _live(world: CellsWorld) -> dict[str, Violation]:
    plan = planned(LAYOUT, scan(world))
    return {v.id: v for rule in (live._hosts, live._lookups) for v in rule(world, plan)}


def test_a_host_that_the_api_database_has_elsewhere_is_not_moved() -> None:
    world = split()
    found = scan(world)
    assert _live(world) == {}
    cell0 = next(m.uuid for m in found.mappings if m.name == "cell0")
    for home, words in (({"cmp2": cell0}, f"mapped to {cell0}"), ({}, "mapped to no cell")):
        world.homes = {**home, "cmp1": world.homes["cmp1"]}
        plan = planned(LAYOUT, found)
        (said,) = live._hosts(world, plan)
        assert said.id == "hosts:mapped:cmp2" and said.severity == "stop" and words in said.what


def test_locks_of_the_api_database_hold_one_node_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    world = split()

    def of(**variables: str) -> dict[str, bool]:
        rows = tuple({"Variable_name": k, "Value": v} for k, v in variables.items())
        monkeypatch.setattr(world.database, "query", lambda cell, sql, args=(): rows if not cell else ())
        return {i: v.may_accept for i, v in _live(world).items()}

    assert of(wsrep_on="OFF", pxc_strict_mode="ENFORCING") == of() == {}
    assert of(wsrep_on="ON") == {"hosts:api-galera": True}
    strict = of(wsrep_on="ON", pxc_strict_mode="ENFORCING")
    assert strict == {"hosts:api-galera": True, "hosts:api-locks": False}


@pytest.mark.parametrize(("grants", "said"), [
    (["GRANT USAGE ON *.* TO `nova`@`%`", "GRANT ALL PRIVILEGES ON `nova\\_api`.* TO `nova`@`%`"], 0),
    (["GRANT SELECT, LOCK TABLES ON `nova%`.* TO `nova`@`%`"], 0),
    (["GRANT SELECT, INSERT, UPDATE, DELETE ON `nova\\_api`.* TO `nova`@`%`"], 1),
    (["GRANT ALL PRIVILEGES ON `nova\\_cell0`.* TO `nova`@`%`",
      "GRANT SELECT ON `nova_api`.* TO `nova`@`%`"], 1),
    (["GRANT ALL PRIVILEGES ON `novaXapi`.* TO `nova`@`%`"], 1),
    (["GRANT `writer` TO `nova`@`%`", "GRANT USAGE ON *.* TO `nova`@`%`"], 0),
])  # fmt: skip
def test_a_flip_locks_as_novas_own_account(
    monkeypatch: pytest.MonkeyPatch, grants: list[str], said: int
) -> None:
    world = split()
    answers: dict[str, tuple[dict[str, Any], ...]] = {
        "SHOW GRANTS": tuple({"Grants for nova@%": line} for line in grants),
        "SELECT DATABASE() AS here, CURRENT_USER() AS me": ({"here": "nova_api", "me": "nova@%"},),
    }
    monkeypatch.setattr(
        world.database, "query", lambda cell, sql, args=(): () if cell else answers.get(sql, ())
    )
    found = _live(world)
    assert len(found) == said
    if said:
        one = found["hosts:api-lock-right"]
        assert one.severity == "stop" and "nova@% may not LOCK TABLES in nova_api" in one.what


def test_nobody_is_forgotten_in_a_large_cloud() -> None:
    found = many(300)
    plan = planned(LAYOUT.replace("[cmp2]", '["*"]') + "\nmoving: {wave: 10}\n", found)
    moved = [h for wave in waves(plan) for h in wave]
    assert sorted(moved) == sorted(["cmp1", "cmp2", *(f"x{n:04}" for n in range(300))])
    assert len(waves(plan)) == 31


def test_what_goes_on_unrestarted_since_the_split_stands_in_no_ones_way() -> None:
    found = replace(
        deployment(),
        remarks=(
            "stale-process|ctl1|nova-conductor|/etc/nova/nova-cell1.conf",
            "stale-process|ctl1|nova-super-conductor|/etc/nova/nova.conf",
            "stale-process|cmp2|nova-compute|/etc/nova/nova.conf",
        ),
    )
    said = {v.id: v.severity for v in check(found, layout(LAYOUT)) if v.id.startswith("stale:")}
    assert said == {
        "stale:ctl1:nova-conductor": "warning",
        "stale:ctl1:nova-super-conductor": "stop",
        "stale:cmp2:nova-compute": "stop",
    }


def test_notifications_go_on_to_where_they_are_listened_for() -> None:
    def changed(text: str) -> dict[str, list[dict[str, Any]]]:
        return {
            s.id: [c for c in s.params["changes"] if c["section"] == "oslo_messaging_notifications"]
            for s in planned(text).steps
            if s.kind in ("edit-config", "copy-config")
        }

    kept = changed(LAYOUT)
    assert {"cmp2/cell2-nova-conf", "ctl1/cell2-conductor-config"} <= kept.keys()
    driver = "oslo_messaging_notifications/driver"
    assert {"cmp2", "ctl1"} <= {s.host for s in deployment().services if s.options.get(driver)}
    for found in kept.values():
        assert [(c["op"], c["source"]) for c in found] == [("copy", ["DEFAULT", "transport_url"])]
    follow = changed(LAYOUT + "services: {notifications: follow}\n")
    assert follow.keys() == kept.keys() and not any(follow.values())


def test_schedulers_forget_where_hosts_were_once_all_have_moved() -> None:
    ids = [s.id for s in planned().steps]
    for host in ("ctl1", "ctl2"):
        assert ids.index("wave1/open") < ids.index(f"{host}/moved-nova-scheduler") < ids.index("prove")
        assert f"{host}/undo-moved-nova-scheduler" not in ids, "the cell's own end restarts them on undo"


def test_a_host_that_moves_needs_a_firewall_too() -> None:
    found = deployment()
    bare = replace(
        found,
        hosts=tuple(replace(h, firewall="" if h.name in ("cmp1", "cmp2") else "nft") for h in found.hosts),
    )
    assert {v.id for v in check(bare, layout(LAYOUT)) if v.id.startswith("firewall:")} == {"firewall:cmp2"}
