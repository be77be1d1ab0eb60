"""The plan that makes a standard Nova the child of an API cell: its order, its refusals, its releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recell.cli.desk import hosts_of
from recell.cli.main import main
from recell.discovery.scan import generation_of, has_no_cells
from recell.errors import BadInput, Unsupported
from recell.model.deployment import Deployment, Role, ServiceRecord, dump_deployment
from recell.model.layout import load_any_layout, load_layout
from recell.model.layout_v1 import CELLS_V1_EXAMPLE
from recell.model.plan import Plan, PlanStep, dump_plan, load_plan
from recell.model.scope import Column, Left, Schema, Table
from recell.model.v1 import Conversion
from recell.planning.tables.known import SEEDED_BY_SYNC
from recell.planning.v1 import SWITCH, plan_v1
from recell.planning.v1_import import import_of
from recell.planning.v1_release import release_of
from recell.preflight.check import check
from recell_bench.schemas import JUNO, STEIN, load
from tests.unit.stein_cloud import CONF, layout_v1, service, stein


def steps(deployment: Deployment | None = None, text: str = CELLS_V1_EXAMPLE) -> tuple[PlanStep, ...]:
    return plan_v1(deployment or stein(), layout_v1(text), 0.0).steps


def place(found: tuple[PlanStep, ...], id: str) -> int:
    return next(i for i, s in enumerate(found) if s.id == id)


def only(found: tuple[PlanStep, ...], id: str) -> PlanStep:
    return found[place(found, id)]


def options(step: PlanStep) -> dict[str, str]:
    return {f"{c['section']}/{c['option']}": c.get("value", "") for c in step.params["changes"]}


def with_options(deployment: Deployment, role: Role, **values: str) -> Deployment:
    named = {key.replace("__", "/"): value for key, value in values.items()}
    services = tuple(
        replace(s, options={**s.options, **named}) if s.role == role else s for s in deployment.services
    )
    return replace(deployment, services=services)


# -- the order ---------------------------------------------------------------------------------------


def test_the_hosts_that_are_claimed_are_all_that_steps_act_on() -> None:
    plan = plan_v1(stein(), layout_v1(CELLS_V1_EXAMPLE), 0.0)
    assert {s.where for s in plan.steps} <= set(hosts_of(plan))
    assert {"lb1", "api1", "ctl1", "db2"} <= set(hosts_of(plan))


def test_everything_slow_comes_before_the_hold_and_nothing_needs_it_after() -> None:
    found = steps()
    switch = place(found, SWITCH)
    for before in (
        "api/account",
        "cmp2/nova-compute",
        "ctl1/child-config",
        "child/record",
        "ctl2/nova-conductor-cell1",
        "api1/api-config",
        "api/database",
        "api/record",
        "link",
        "state/follow",
        "api2/start-nova-api",
        "lb1/nova-api-servers",
    ):
        assert place(found, before) < switch, before
    for after in ("ctl1/nova-api", "ctl1/retire-nova-scheduler", "sync-instances", "prove"):
        assert place(found, after) > switch, after
    assert sum(s.kind == "v1-switch" for s in found) == 1, "one step: a hold is a lease"


def test_rows_are_followed_only_while_the_api_cells_nova_cells_is_off() -> None:
    """It heals while rows are imported, and half an import is left."""
    found = steps()
    assert place(found, "link") < place(found, "state/follow")
    switch = only(found, SWITCH)
    units = [s.params["unit"] for s in found if s.kind == "start-unit" and s.where.startswith("api")]
    assert "nova-cells" not in units
    assert switch.params["cells"] == [[h, "nova-cells", "cells", h] for h in ("api1", "api2")]


def test_queues_are_declared_before_anybody_casts_to_them() -> None:
    found = steps()
    assert place(found, "api/record") < place(found, "ctl1/nova-cells") < place(found, "link")
    assert place(found, "child/record") < place(found, "ctl1/nova-cells")


def test_no_compute_is_restarted_in_the_hold_and_none_twice() -> None:
    found = steps()
    forward = [s for s in found if s.kind == "recycle-compute" and s.acts == "forward"]
    assert [s.where for s in forward] == ["cmp1", "cmp2"]
    assert options(only(found, "cmp1/vif-conf")) == {
        "DEFAULT/vif_plugging_is_fatal": "false",
        "DEFAULT/vif_plugging_timeout": "5",
    }
    for s in forward:
        assert place(found, f"{s.where}/undo-nova-compute") < place(found, f"{s.where}/vif-conf")
    computes = {"cmp1", "cmp2"}
    assert not any(s.where in computes for s in found[place(found, SWITCH) :])


def test_a_compute_that_does_not_wait_for_neutron_is_left_alone() -> None:
    calm = with_options(
        stein(), "compute", DEFAULT__vif_plugging_is_fatal="False", DEFAULT__vif_plugging_timeout="5"
    )
    assert not [s for s in steps(calm) if s.kind in ("recycle-compute", "edit-config")]
    slow = with_options(stein(), "compute", DEFAULT__vif_plugging_is_fatal="false")
    assert [s for s in steps(slow) if s.kind == "recycle-compute"], "300 s is the default"


def test_a_server_of_haproxy_that_is_nobodys_is_not_converted_around() -> None:
    """It could not be fenced, and users would go on writing through it."""
    found = stein()
    stranger = replace(found.proxies[0], server="old9", address="10.9.9.9:8774", host="", unit="")
    with pytest.raises(BadInput, match="old9 of HAProxy on lb1"):
        steps(replace(found, proxies=(*found.proxies, stranger)))


def test_the_moment_knows_every_door_and_both_sides_of_the_rpc_servers() -> None:
    found = steps()
    switch = only(found, SWITCH).params
    assert switch["doors"] == {
        "old": [["ctl1", "10.1.0.2", 8774], ["ctl2", "10.1.0.3", 8774]],
        "new": [["api1", "10.1.0.4", 8774], ["api2", "10.1.0.5", 8774]],
    }
    assert switch["bare"] == []
    assert ["ctl1", "nova-cells", "cells", "ctl1"] in switch["child_cells"]
    bare = replace(stein(), proxies=tuple(p for p in stein().proxies if p.server != "ctl2"))
    assert only(steps(bare), SWITCH).params["bare"] == [["ctl2", "10.1.0.3", 8774]]
    safe = {s.id: s.safe_point for s in found}
    assert safe[SWITCH] == "lb1/nova-novncproxy-servers", "not left for a night before what is off stays off"
    assert safe["prove"] == "prove"


# -- both sides --------------------------------------------------------------------------------------


def test_each_side_knows_all_brokers_of_the_other() -> None:
    found = steps()
    child, api = only(found, "child/record"), only(found, "api/record")
    assert (child.params["name"], child.params["is_parent"]) == ("api", True)
    assert child.params["nodes"] == [["mq4", 5672], ["mq5", 5672], ["mq6", 5672]]
    assert (api.params["name"], api.params["is_parent"]) == ("cell1", False)
    assert api.params["nodes"] == [["mq1", 5672], ["mq2", 5672], ["mq3", 5672]]
    assert (child.params["side"], api.params["side"]) == ("old", "new")


@pytest.mark.parametrize(("url", "old", "new"), [
    # By addresses, at a port of TLS: what is named is named so, too, and whoever knows no names finds it.
    ("rabbit://nova:***@10.1.0.10:5671,nova:***@10.1.0.11:5671/",
     [["10.1.0.10", 5671], ["10.1.0.11", 5671], ["10.1.0.12", 5671]],
     [["10.1.0.13", 5672], ["10.1.0.14", 5672], ["10.1.0.15", 5672]]),
    # Of one host alone nobody else could make sense.
    ("rabbit://nova:***@localhost:5672/", [["mq1", 5672], ["mq2", 5672], ["mq3", 5672]],
     [["mq4", 5672], ["mq5", 5672], ["mq6", 5672]]),
    # A load balancer stands before them.
    ("rabbit://nova:***@mq-vip:5670/", [["mq1", 5672], ["mq2", 5672], ["mq3", 5672]],
     [["mq4", 5672], ["mq5", 5672], ["mq6", 5672]]),
])  # fmt: skip
def test_records_name_nodes_as_nova_does(url: str, old: list[Any], new: list[Any]) -> None:
    found = _services(transport_url=url)(stein())
    doors = (replace(found.brokers[0], doors=("mq-vip:5670",)), found.brokers[1])
    hosts = tuple(replace(h, aliases=("localhost",)) if h.name == "mq1" else h for h in found.hosts)
    made = steps(replace(found, brokers=doors, hosts=hosts))
    assert only(made, "api/record").params["nodes"] == old
    assert only(made, "child/record").params["nodes"] == new
    assert only(made, "api1/api-config").params["nodes"] == new


def test_the_childs_services_read_a_file_of_their_own() -> None:
    found = steps()
    conf = only(found, "ctl1/child-config")
    assert conf.params["source"] == CONF and conf.params["path"] == "/etc/nova/nova-cell1.conf"
    assert options(conf) == {
        "cells/enable": "true",
        "cells/name": "cell1",
        "cells/cell_type": "compute",
        "quota/driver": "nova.quota.NoopQuotaDriver",
        "DEFAULT/enabled_apis": "metadata",
    }
    unit = only(found, "ctl1/nova-conductor-cell1")
    assert unit.params["argv"] == ["/usr/bin/nova-conductor", "--config-file", "/etc/nova/nova-cell1.conf"]
    switch = only(found, SWITCH)
    assert ["ctl2", "nova-scheduler", "scheduler", "ctl2"] in switch.params["stop"]
    assert ["ctl2", "nova-scheduler-cell1", "scheduler", "ctl2"] in switch.params["start"]


def test_the_full_path_is_written_on_live_rows_only() -> None:
    follow = only(steps(), "state/follow")
    assert follow.params["assign"] == [
        {"table": "instances", "column": "cell_name", "value": "api!cell1", "where": "deleted", "equals": 0}
    ]
    assert follow.params["failed_builds"] == "cell0"


def test_guests_go_on_reading_metadata_from_the_child() -> None:
    found = steps()
    assert only(found, "ctl1/nova-api").kind == "v1-child-api"
    assert only(found, "ctl1/nova-api").params["url"] == "http://10.1.0.2:8775/"
    assert "ctl1/retire-nova-api" not in [s.id for s in found]
    alone = with_options(stein(), "api", DEFAULT__enabled_apis="osapi_compute")
    assert only(steps(alone), "ctl1/retire-nova-api").kind == "v1-retire"
    assert "ctl1/nova-api" not in [s.id for s in steps(alone)]


def test_neutron_may_have_the_childs_own_api() -> None:
    text = CELLS_V1_EXAMPLE.replace("neutron: wait ", "neutron: child ")
    plan = plan_v1(stein(), layout_v1(text), 0.0)
    assert not [s for s in plan.steps if s.kind == "recycle-compute"]
    assert "DEFAULT/enabled_apis" not in options(only(plan.steps, "ctl1/child-config"))
    assert any("Point Neutron's" in r for r in plan.remarks)


def test_records_may_be_a_file() -> None:
    found = steps(text=CELLS_V1_EXAMPLE.replace("records: table", "records: file"))
    assert options(only(found, "ctl1/child-config"))["cells/cells_config"] == "/etc/nova/cells.json"
    assert not [s for s in found if s.id == "api/record"]
    for host in ("api1", "api2"):
        record = only(found, f"{host}/api-record")
        assert (record.params["into"], record.params["path"]) == ("file", "/etc/nova/cells.json")
        assert record.params["config"] == CONF
    assert only(found, "ctl2/child-record").params["config"] == "/etc/nova/nova-cell1.conf"


def test_one_server_for_everything_gets_siblings_and_no_file_twice() -> None:
    text = CELLS_V1_EXAMPLE.replace("hosts: [api1, api2]", "hosts: [ctl1]").replace(
        "records: table", "records: file"
    )
    with pytest.raises(BadInput, match="nova-api on ctl1 listens on 8774"):
        steps(text=text)
    found = steps(text=text.replace("hosts: [ctl1]", "hosts: [ctl1]\n  port: 8784"))
    assert options(only(found, "ctl1/api-config"))["DEFAULT/osapi_compute_listen_port"] == "8784"
    paths = [(s.where, s.params["path"]) for s in found if "path" in s.params and s.kind != "v1-switch"]
    written = [p for p in paths if p[1].startswith("/etc/")]
    assert len(written) == len({*written})
    assert only(found, "ctl1/api-config").params["path"] == "/etc/nova/nova-api.conf"
    assert only(found, "ctl1/nova-cells-api").params["argv"][-1] == "/etc/nova/nova-api.conf"
    assert only(found, SWITCH).params["cells"] == [["ctl1", "nova-cells-api", "cells", "ctl1"]]
    assert options(only(found, "ctl1/child-config"))["cells/cells_config"] == "/etc/nova/cells.json"
    assert options(only(found, "ctl1/api-config"))["cells/cells_config"] == "/etc/nova/cells-api.json"


def test_what_boots_from_volumes_come_to_is_said() -> None:
    def said(version: str) -> list[str]:
        plan = plan_v1(replace(stein(), nova_version=version), layout_v1(), 0.0)
        return [r for r in plan.remarks if "Boots from a volume" in r]

    assert "stays reserved" in said("19.3.2")[0] and "stays reserved" in said("17.0.13")[0]
    assert said("16.1.8")[0].endswith("The boot fails.")
    assert said("15.1.5") == []


CONSOLES = "lb1/nova-novncproxy-consoles"


def test_consoles_are_led_where_their_tokens_are_known() -> None:
    plan = plan_v1(stein(), layout_v1(), 0.0)
    order = [s.id for s in plan.steps]
    places = [order.index(one) for one in (
        "api1/start-nova-novncproxy", "lb1/nova-novncproxy-servers", f"{CONSOLES}-back", SWITCH, CONSOLES,
        "ctl1/retire-nova-novncproxy",
    )]  # fmt: skip
    assert places == sorted(places), "a proxy goes off when nobody is led to it any more"
    beside = only(plan.steps, "lb1/nova-novncproxy-servers").params
    assert beside["added"] == [["api1-api", "10.1.0.4", 6080], ["api2-api", "10.1.0.5", 6080]]
    assert not beside["holds"] and only(plan.steps, f"{CONSOLES}-back").acts == "backward"
    assert not [r for r in plan.remarks if "console" in r]


def test_consoles_on_a_controller_are_led_when_its_proxy_has_changed() -> None:
    text = CELLS_V1_EXAMPLE.replace("hosts: [api1, api2]", "hosts: [ctl1, api2]\n  port: 8784")
    order = [s.id for s in steps(text=text)]
    assert order.index("ctl1/start-nova-novncproxy-api") < order.index(CONSOLES)
    both = CELLS_V1_EXAMPLE.replace("hosts: [api1, api2]", "hosts: [ctl1, ctl2]\n  port: 8784")
    assert not [s for s in steps(text=both) if "consoles" in s.id], "the same addresses serve"


def test_consoles_that_nobody_leads_are_named() -> None:
    def said(deployment: Deployment) -> list[str]:
        return [r for r in plan_v1(deployment, layout_v1(), 0.0).remarks if "consoles" in r]

    bare = replace(stein(), proxies=tuple(p for p in stein().proxies if p.backend != "nova-novncproxy"))
    (remark,) = said(bare)
    assert "nova-novncproxy on ctl1, nova-novncproxy on ctl2: behind no HAProxy" in remark
    assert "led to api1, api2" in remark
    none = replace(stein(), services=tuple(
        s for s in stein().services if s.role != "novncproxy" or s.host.startswith("ctl")))  # fmt: skip
    (remark,) = said(none)
    assert "api has no nova-novncproxy of its own: these consoles are away" in remark


def test_who_stands_behind_no_proxy_is_told_what_users_see() -> None:
    plan = plan_v1(stein(proxies=()), layout_v1(), 0.0)
    assert "nova-api on ctl1" in only(plan.steps, SWITCH).notice
    assert any("refused" in r for r in plan.remarks)
    assert only(plan.steps, SWITCH).params["bare"] == [
        ["ctl1", "10.1.0.2", 8774], ["ctl2", "10.1.0.3", 8774],
    ]  # fmt: skip
    held = plan_v1(stein(), layout_v1(), 0.0)
    assert only(held.steps, SWITCH).params["bare"] == []
    assert {g["backend"] for g in only(held.steps, SWITCH).params["gates"]} == {"nova-api"}


def test_a_plan_is_read_back_and_holds_no_secret() -> None:
    plan = plan_v1(stein(), layout_v1(), 0.0)
    data = dump_plan(plan)
    assert load_plan(data, "plan.json") == plan
    assert b"***" not in data.replace(b"nova:***@", b"")
    assert plan.databases == ("api", "cell1")
    ids = [s.id for s in plan.steps]
    assert len(ids) == len({*ids})
    api, child = plan.topology_after["groups"]
    assert api["services"]["api"] == ["api1", "api2"] and "conductor" not in api["services"]
    assert child["services"]["compute"] == ["cmp1", "cmp2"] and "api" not in child["services"]


def test_leaving_it_for_a_night_is_safe_where_no_compute_is_half_moved() -> None:
    found = steps()
    assert only(found, "cmp1/vif-conf").safe_point != "cmp1/vif-conf"
    assert only(found, "state/follow").safe_point == "state/follow"


# -- refusals ----------------------------------------------------------------------------------------


Change = Callable[[Deployment], Deployment]


def _services(**more: Any) -> Change:
    return lambda d: replace(d, services=tuple(replace(s, **more) if s.active else s for s in d.services))


REFUSED: dict[str, tuple[Change, str]] = {
    "nova-network": (
        lambda d: replace(d, services=(*d.services, service("cmp1", "network"))),
        "nova-network serves guests here",
    ),
    "nova-network by option": (
        lambda d: with_options(d, "api", DEFAULT__use_neutron="False"),
        "nova-network serves guests here",
    ),
    "nova-network by its record": (
        lambda d: replace(d, records=(ServiceRecord("", 1, "", "net1", "nova-network", 0, False, 3.0),)),
        "nova-network on net1",
    ),
    "Newton, which reads no class of networks": (
        lambda d: with_options(replace(d, nova_version="14.1.0", mappings=()), "api",
                               DEFAULT__use_neutron="False",
                               DEFAULT__network_api_class="nova.network.neutronv2.api.API"),
        "nova-network serves guests here",
    ),
    "Newton with mappings": (
        lambda d: replace(d, nova_version="14.1.0"), "404 for what is mapped to cell1",
    ),
    "qpid": (
        _services(transport_url="qpid://nova:***@mq1/"),
        "over qpid",
    ),
    "zmq, by an older option": (
        lambda d: with_options(_services(transport_url="")(d), "conductor",
                               DEFAULT__rpc_backend="nova.openstack.common.rpc.impl_zmq"),
        "over zmq",
    ),
    "PostgreSQL": (_services(database="postgresql://nova:***@db1/nova"), "are postgresql"),
    "Train": (lambda d: replace(d, nova_version="20.6.1"), "no cells v1"),
    "Folsom": (lambda d: replace(d, nova_version="2012.2.4"), "no cells v1"),
    "no version": (lambda d: replace(d, nova_version=""), "which Nova this is"),
    "cells v1 already": (lambda d: replace(d, generation="v1"), "cells v1 already"),
    "two cells": (
        lambda d: replace(d, mappings=(*d.mappings, replace(d.mappings[1], uuid="c2", name="cell2"))),
        "2 cells of v2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_t_be_converted_is_refused_with_a_sentence_and_a_remedy(name: str) -> None:
    change, words = REFUSED[name]
    with pytest.raises(Unsupported, match=words) as refused:
        plan_v1(change(stein()), layout_v1(), 0.0)
    assert refused.value.remedy


def test_several_reasons_are_said_at_once() -> None:
    bad = REFUSED["PostgreSQL"][0](REFUSED["nova-network"][0](stein()))
    with pytest.raises(Unsupported, match=r"nova-network serves.*; .*are postgresql"):
        plan_v1(bad, layout_v1(), 0.0)


WRONG: dict[str, tuple[str, str, str]] = {
    "a host that isn't there": ("[api1, api2]", "[api1, api9]", "api9 is not a host"),
    "brokers in use": ("[mq4, mq5, mq6]", "[mq3, mq4]", "mq3 of api: broker:"),
    "no RabbitMQ": ("[mq4, mq5, mq6]", "[db2]", "no running RabbitMQ"),
    "the child's database": ("host: db2", "host: db1", "the child's own"),
    "no nova-cells": ("[api1, api2]", "[cmp1]", "cmp1 has no unit nova-cells"),
    "one name for both": ("name: api\n", "name: cell1\n", "both cells are called cell1"),
    "a database with a quote": ("nova_api_cell", "'a`b'", "api.database.name"),
    "a name with a meaning": ("name: api\n", "name: a!b\n", "gives ! . @"),
    "a hold without an end": ("longest_s: 30", "longest_s: 0", "hold.longest_s"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_layout_that_contradicts_what_is_there_is_refused(name: str) -> None:
    old, new, words = WRONG[name]
    text = CELLS_V1_EXAMPLE.replace(old, new)
    if name == "the child's database":
        text = text.replace("nova_api_cell", "nova")
    assert text != CELLS_V1_EXAMPLE
    with pytest.raises(BadInput, match=words):
        plan_v1(stein(), layout_v1(text), 0.0)


def test_a_host_of_the_api_cell_where_nova_runs_already_is_refused() -> None:
    running = stein()
    chosen = ("api1", "consoleauth")
    services = tuple(replace(s, active=(s.host, s.role) == chosen or s.active) for s in running.services)
    with pytest.raises(BadInput, match="nova-consoleauth on api1 runs already"):
        plan_v1(replace(running, services=services), layout_v1(), 0.0)


def test_the_lab_has_a_layout_for_its_own_hosts() -> None:
    text = (Path(__file__).parents[2] / "lab/layouts/cells-v1.yaml").read_text()
    layout = layout_v1(text)
    assert layout.api.hosts == ("api1", "api2") and layout.api.broker.nodes == ("mq4",)
    other = layout_v1((Path(__file__).parents[2] / "lab/layouts/cells-v1-neutron.yaml").read_text())
    assert other.cells["cell1"].neutron == "child"
    assert other.model_copy(update={"cells": layout.cells}) == layout


def test_one_generation_is_not_taken_for_the_other() -> None:
    with pytest.raises(BadInput, match="about cells v1"):
        load_layout(CELLS_V1_EXAMPLE, "layout.yaml")
    with pytest.raises(BadInput, match="cells"):
        load_any_layout(CELLS_V1_EXAMPLE.replace("  cell1: ", "  a!b: "), "layout.yaml")


def test_the_plan_is_made_checked_and_written_down(tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_bytes(dump_deployment(stein()))
    run = CliRunner().invoke
    example = run(main, ["plan", "--example", "--cells-v1"])
    (tmp_path / "layout.yaml").write_text(example.output)
    made = run(main, ["plan", "--dir", str(tmp_path)])
    assert made.exit_code == 0 and "hold/switch" in made.output
    checked = run(main, ["check", "--offline", "--dir", str(tmp_path)])
    assert checked.exit_code == 0, checked.output
    book = run(main, ["runbook", "--dir", str(tmp_path)])
    assert book.exit_code == 0, book.output
    found = check(REFUSED["PostgreSQL"][0](stein()), layout_v1())
    assert [v.id for v in found if v.severity == "stop"] == ["plan:unsupported"]


def test_an_old_nova_without_an_api_database_is_told_from_an_inventory_that_lacks_controllers() -> None:
    services = _services(api_database="")(stein()).services
    assert generation_of(services, "2014.2.4") == "none"
    assert generation_of(services, "14.1.0") == "none"
    assert generation_of(services, "19.3.2") == "v2"
    assert generation_of(stein().services, "14.1.0") == "v2"
    assert generation_of([s for s in services if s.role == "compute"], "2014.2.4") == "v2"
    enabled = [replace(s, options={**s.options, "cells/enable": "true"}) for s in services]
    assert generation_of(enabled, "2014.2.4") == "v1"


def test_before_ocata_an_api_database_may_know_no_cells() -> None:
    cell0, cell1 = stein().mappings
    assert has_no_cells("13.1.4", ()) and has_no_cells("2015.1.4", ()) and has_no_cells("14.1.0", (cell0,))
    assert not has_no_cells("14.1.0", (cell0, cell1)) and not has_no_cells("15.1.5", ())


# -- what nova-api serves ----------------------------------------------------------------------------


def with_api(**more: Any) -> Deployment:
    found = stein()
    services = tuple(
        replace(s, **more) if s.role == "api" and s.active else s for s in found.services
    )
    return replace(found, services=services)


def liberty(**more: Any) -> Deployment:
    """nova-api as it comes: EC2 at a port below its own."""
    options = {"DEFAULT/network_api_class": "nova.network.neutronv2.api.API"}
    found = with_api(**{"ports": (8773, 8774, 8775), "options": options, **more})
    return replace(found, nova_version="12.0.6")


def test_ec2_is_refused_from_the_hold_on_and_said_before() -> None:
    plan = plan_v1(liberty(), layout_v1(), 0.0)
    switch = only(plan.steps, SWITCH).params
    assert switch["bare"] == [["ctl1", "10.1.0.2", 8773], ["ctl2", "10.1.0.3", 8773]]
    assert switch["doors"]["old"] == [["ctl1", "10.1.0.2", 8774], ["ctl2", "10.1.0.3", 8774]]
    assert any("nova-api on ctl1 (port 8773)" in r and "EC2" in r for r in plan.remarks)
    assert options(only(plan.steps, "ctl1/child-config"))["DEFAULT/enabled_apis"] == "metadata"
    kept = plan_v1(liberty(), layout_v1(CELLS_V1_EXAMPLE.replace("neutron: wait ", "neutron: child ")), 0.0)
    changed = options(only(kept.steps, "ctl1/child-config"))
    assert changed["DEFAULT/enabled_apis"] == "osapi_compute,metadata"
    for without in (liberty(ports=(8774, 8775)), replace(liberty(), nova_version="13.1.4"),
                    liberty(options={"DEFAULT/enabled_apis": "osapi_compute, metadata"})):  # fmt: skip
        quiet = plan_v1(without, layout_v1(), 0.0)
        assert only(quiet.steps, SWITCH).params["bare"] == []
        assert not any("EC2" in r for r in quiet.remarks)


def test_who_is_led_to_ec2_is_asked_about_before() -> None:
    led = liberty()
    ec2 = tuple(replace(p, backend="ec2", address=p.address.replace("8774", "8773"))
                for p in led.proxies if p.backend == "nova-api")  # fmt: skip
    led = replace(led, proxies=(*led.proxies, *ec2))
    (found,) = [v for v in check(led, layout_v1()) if v.id == "ec2:lb1:ec2"]
    assert found.severity == "stop" and found.may_accept and found.remedy
    accepted = layout_v1(CELLS_V1_EXAMPLE + "acknowledge: ['ec2:lb1:ec2']\n")
    assert [v.severity for v in check(led, accepted) if v.id == "ec2:lb1:ec2"] == ["warning"]
    assert not [v for v in check(liberty(), layout_v1()) if v.id.startswith("ec2")]


def test_metadata_is_asked_where_it_listens() -> None:
    elsewhere = with_api(options={
        "DEFAULT/metadata_listen": "127.0.0.1", "DEFAULT/metadata_listen_port": "9775",
        "DEFAULT/osapi_compute_listen": "10.2.0.2",
    })  # fmt: skip
    found = steps(elsewhere)
    assert only(found, "ctl1/nova-api").params["url"] == "http://127.0.0.1:9775/"
    assert only(found, "ctl1/undo-nova-api").params["url"] == "http://10.2.0.2:8774/"
    unknown = with_api(options={"DEFAULT/metadata_listen": "$my_ip"})
    assert only(steps(unknown), "ctl1/nova-api").params["url"] == "http://10.1.0.2:8775/"


def test_units_that_serve_one_api_each_are_told_apart() -> None:
    """nova-api-os-compute reads no enabled_apis: it would serve users of the child for ever. Metadata writes
    passwords of guests, which the API cell hears of only from a service that knows its cell."""
    found = with_api(argv=("/usr/bin/nova-api-os-compute",), options={})
    apart = [service(h, "metadata", unit="nova-api-metadata", port=8775) for h in ("ctl1", "cmp1")]
    found = replace(found, services=(*found.services, *apart))
    made = steps(found)
    assert only(made, "ctl1/retire-nova-api").kind == "v1-retire"
    assert "ctl1/nova-api" not in [s.id for s in made]
    for host in ("ctl1", "cmp1"):
        restart = only(made, f"{host}/nova-api-metadata")
        assert restart.kind == "restart-api", "no fence stands before it that it could take down"
        assert restart.params["reads"] == ["/etc/nova/nova-cell1.conf"]
        assert place(made, SWITCH) < place(made, f"{host}/nova-api-metadata")
    assert only(made, "ctl1/retire-nova-api").safe_point
    copies = [(s.where, s.params["path"]) for s in made if s.kind == "copy-config"]
    assert sorted(copies) == [(h, "/etc/nova/nova-cell1.conf") for h in ("cmp1", "ctl1", "ctl2")]
    separate = replace(found, services=(*found.services, service("ctl1", "ec2", unit="nova-api-ec2")))
    with pytest.raises(Unsupported, match="nova-api-ec2 on ctl1 serves EC2"):
        steps(separate)


def test_a_service_with_a_file_of_its_own_gets_a_copy_of_that() -> None:
    own = dict.fromkeys(("DEFAULT/transport_url", "database/connection"), "/etc/nova/api.conf")
    apart = with_api(config_files=("/etc/nova/api.conf",), explicit_config=True, origins=own,
                     argv=("/usr/bin/nova-api", "--config-file", "/etc/nova/api.conf"))  # fmt: skip
    found = steps(apart)
    copies = {(s.where, s.params["source"]): s.params["path"] for s in found if s.kind == "copy-config"}
    assert copies["ctl1", CONF] == "/etc/nova/nova-cell1.conf"
    assert copies["ctl1", "/etc/nova/api.conf"] == "/etc/nova/api-cell1.conf"
    assert only(found, "ctl1/nova-api").params["reads"] == ["/etc/nova/api-cell1.conf"]
    one = CELLS_V1_EXAMPLE.replace("records: table ", "config: /etc/nova/one.conf\n    records: table ")
    with pytest.raises(BadInput, match=r"services on ctl1 read /etc/nova/api\.conf and /etc/nova/nova\.conf"):
        steps(apart, one)


DIST = "/usr/share/nova/nova-dist.conf"


def test_a_distributions_defaults_are_read_on_and_never_written() -> None:
    """RDO's nova.conf comes second: the first file is a package's, and counts for less."""
    found = stein()
    juno = replace(found, services=tuple(
        replace(s, config_files=(DIST, *s.config_files),
                origins={k: v for k, v in s.origins.items() if s.role != "compute"})
        for s in found.services
    ))  # fmt: skip
    made = steps(juno, CELLS_V1_EXAMPLE.replace("hosts: [api1, api2]", "hosts: [ctl1]\n  port: 8784"))
    assert only(made, "cmp1/vif-conf").params["path"] == CONF
    for id in ("ctl1/nova-cells-api", "ctl1/nova-novncproxy-api"):
        argv = only(made, id).params["argv"]
        assert argv[1:] == ["--config-file", DIST, "--config-file", "/etc/nova/nova-api.conf"]
    own = only(made, "ctl1/nova-cells-config").params["argv"]
    assert own[1:] == ["--config-file", DIST, "--config-file", "/etc/nova/nova-cell1.conf"]


def test_a_computes_options_are_written_where_they_count() -> None:
    later = "/etc/nova/nova-compute.conf"
    found = stein()

    def with_origin(**more: str) -> Deployment:
        services = tuple(
            replace(s, config_files=(CONF, later), origins={**s.origins, **more})
            if s.role == "compute"
            else s
            for s in found.services
        )
        return replace(found, services=services)

    assert only(steps(with_origin()), "cmp1/vif-conf").params["path"] == CONF
    waits = with_origin(**{"DEFAULT/vif_plugging_timeout": later})
    assert only(steps(waits), "cmp1/vif-conf").params["path"] == later
    with pytest.raises(Unsupported, match="from its environment"):
        steps(with_origin(**{"DEFAULT/vif_plugging_is_fatal": "its environment"}))


def test_what_would_win_over_the_childs_copy_is_refused() -> None:
    later = "/etc/nova/nova-api.conf"
    origins = dict.fromkeys(("DEFAULT/transport_url", "database/connection"), CONF)
    apart = with_api(config_files=(CONF, later), origins={**origins, "DEFAULT/enabled_apis": later})
    with pytest.raises(Unsupported, match=rf"\[DEFAULT\] enabled_apis from {later}, which wins over {CONF}"):
        steps(apart)
    before = with_api(config_files=(DIST, CONF), origins={**origins, "DEFAULT/enabled_apis": DIST})
    assert not any("by other means" in r for r in plan_v1(before, layout_v1(), 0.0).remarks)
    beside = plan_v1(with_api(config_files=(DIST, CONF, later), origins=origins), layout_v1(), 0.0)
    assert any(f"what {later} says there" in r for r in beside.remarks)


def test_an_api_cells_units_read_the_file_that_the_layout_names() -> None:
    hosts = "hosts: [api1, api2]"
    named = CELLS_V1_EXAMPLE.replace(hosts, f"{hosts}\n  config: /etc/nova/top.conf")
    found = steps(text=named)
    for unit in ("nova-api", "nova-cells", "nova-consoleauth", "nova-novncproxy"):
        argv = only(found, f"api2/{unit}-config").params["argv"]
        assert argv == [f"/usr/bin/{unit}", "--config-file", "/etc/nova/top.conf"]
        assert only(found, f"api2/{unit}-config").kind == "drop-in"
    assert not [s for s in steps() if s.kind == "drop-in" and s.where.startswith("api")]


def test_on_a_controller_a_console_proxy_begins_when_the_other_one_has_left_its_port() -> None:
    beside = CELLS_V1_EXAMPLE.replace("hosts: [api1, api2]", "hosts: [ctl1]\n  port: 8784")
    found = steps(text=beside)
    begins = place(found, "ctl1/start-nova-novncproxy-api")
    assert place(found, "ctl1/retire-nova-novncproxy") < begins < place(found, "prove")
    assert only(found, "ctl1/start-nova-novncproxy-api").kind == "start-console"
    apart = steps()
    assert place(apart, "api1/start-nova-novncproxy") < place(apart, SWITCH)
    full = with_api(ports=(8774, 8775))
    with pytest.raises(BadInput, match="nova-api on ctl1 listens on 8775"):
        steps(full, beside.replace("8784", "8775"))


# -- releases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name", "quota", "sync"),
    [
        ("19.3.2", "Stein", ("quota", "driver"), ("db", "sync", "--local_cell")),
        ("15.1.5", "Ocata", ("quota", "driver"), ("db", "sync", "--local_cell")),
        ("14.1.0", "Newton", ("DEFAULT", "quota_driver"), ("db", "sync", "--local_cell")),
        ("13.0.0", "Mitaka", ("DEFAULT", "quota_driver"), ("db", "sync")),
        ("2014.2.4", "Juno", ("DEFAULT", "quota_driver"), ("db", "sync")),
    ],
)
def test_a_release_says_what_differs(
    version: str, name: str, quota: tuple[str, str], sync: tuple[str, ...]
) -> None:
    deployment = stein(nova_version=version)
    found = release_of(deployment, [s for s in deployment.services if s.active])
    assert (found.name, found.quota, found.sync) == (name, quota, sync)


@pytest.mark.parametrize(("version", "leftover", "quota"), [
    ("19.3.2", "DEFAULT__quota_driver", ("quota", "driver")),  # Rocky and Stein read the older name no more
    ("16.1.8", "DEFAULT__quota_driver", ("quota", "driver")),  # it is read, and the newer one wins
    ("13.1.4", "quota__driver", ("DEFAULT", "quota_driver")),
])  # fmt: skip
def test_quotas_go_off_by_the_name_that_the_release_reads(
    version: str, leftover: str, quota: tuple[str, str]
) -> None:
    told = {leftover: "nova.quota.DbQuotaDriver"}
    deployment = with_options(stein(nova_version=version), "conductor", **told)
    assert release_of(deployment, deployment.services).quota == quota


def test_juno_has_no_database_to_share() -> None:
    deployment = _services(api_database="")(stein(nova_version="2014.2.4", mappings=()))
    plan = plan_v1(deployment, layout_v1(), 0.0)
    assert only(plan.steps, "state/follow").params["failed_builds"] == ""
    assert only(plan.steps, "api/database").params["argv"][-2:] == ["db", "sync"]
    assert any("change them on both sides" in r for r in plan.remarks)


def test_an_api_database_of_before_newton_is_not_what_cells_share() -> None:
    """It holds mappings and requests of builds alone."""
    for version in ("2015.1.4", "12.0.6", "13.1.4"):
        plan = plan_v1(stein(nova_version=version, mappings=()), layout_v1(), 0.0)
        assert any("change them on both sides" in r for r in plan.remarks), version
        assert any("among the child's instances" in r for r in plan.remarks)
        assert only(plan.steps, "api/database").params["argv"][-2:] == ["db", "sync"]
    newton = plan_v1(stein(nova_version="14.1.0", mappings=stein().mappings[:1]), layout_v1(), 0.0)
    assert any("which both cells share" in r for r in newton.remarks)


def _failed_builds_at(url: str) -> tuple[Plan, str]:
    cell0, cell1 = stein().mappings
    plan = plan_v1(stein(mappings=(replace(cell0, database_resolved=url), cell1)), layout_v1(), 0.0)
    (said,) = [r for r in plan.remarks if "ailed builds" in r]
    return plan, said


@pytest.mark.parametrize(("url", "at"), [
    ("mysql+pymysql://nova:***@db9/nova_cell0", ("db9", 3306)),
    ("mysql+pymysql://other:***@db1:3307/nova_cell0", ("db1", 3307)),
    ("mysql+pymysql://nova:***@db1/nova_cell0", None),
    ("mysql+pymysql://nova:***@10.1.0.6:3306/nova_cell0", None),
])  # fmt: skip
def test_failed_builds_come_from_whichever_server_has_them(url: str, at: tuple[str, int] | None) -> None:
    plan, said = _failed_builds_at(url)
    follow = only(plan.steps, "state/follow").params
    conversion = Conversion.from_json(json.loads(json.dumps(follow["conversion"])))
    assert (conversion.cell0, conversion.cell0_at) == ("nova_cell0", at)
    assert follow["failed_builds"] == "cell0" and "are copied" in said
    assert (f"on {at[0]}" in said) if at else ("from a controller" not in said)


@pytest.mark.parametrize("url", [
    "postgresql://nova:***@db1/nova_cell0", "mysql+pymysql://nova:***@db8,db9/nova_cell0",
    "mysql+pymysql://nova:***@db9/nova_cell0?ssl_ca=/ca.pem",
])  # fmt: skip
def test_failed_builds_that_recell_can_not_read_are_told_of(url: str) -> None:
    if url.startswith("postgresql"):
        with pytest.raises(Unsupported, match="databases are postgresql"):
            _failed_builds_at(url)
        return
    plan, said = _failed_builds_at(url)
    assert "stay there" in said
    assert only(plan.steps, "state/follow").params["failed_builds"] == ""


def test_a_ca_that_is_in_files_is_told_of() -> None:
    """nova-cert's, until Ocata."""
    running = stein()
    old = replace(running, services=(*running.services, service("ctl1", "cert")))
    assert any("so certificates can't be had" in r for r in plan_v1(old, layout_v1(), 0.0).remarks)
    both = replace(old, services=(*old.services, service("api1", "cert", configured=False, active=False)))
    assert any("take them to api1 before" in r for r in plan_v1(both, layout_v1(), 0.0).remarks)
    assert not any("CA in files" in r for r in plan_v1(running, layout_v1(), 0.0).remarks)


def test_two_releases_look_for_key_pairs_in_the_child() -> None:
    def said(version: str) -> list[str]:
        plan = plan_v1(stein(nova_version=version, mappings=()), layout_v1(), 0.0)
        return [r for r in plan.remarks if "a config drive fails" in r]

    assert "500" in said("2015.1.4")[0] and "nova-compute looks" in said("12.0.6")[0]
    assert not any(said(v) for v in ("2014.2.4", "13.1.4", "14.1.0", "19.3.2"))


# -- rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [JUNO, STEIN])
def test_rows_are_imported_with_their_path_and_seeded_tables_are_cleared(release: str) -> None:
    child, target = load(release), load(release, "nova_api_cell")
    found = import_of(child, target, "api!cell1")
    assert {*found.clear} == {*SEEDED_BY_SYNC}
    (assignment,) = found.assignments
    assert assignment.of({"uuid": "u", "deleted": 0, "cell_name": None})["cell_name"] == "api!cell1"
    assert assignment.of({"uuid": "u", "deleted": 7, "cell_name": None})["cell_name"] is None
    assert assignment.of({"uuid": "u", "deleted": None, "cell_name": None})["cell_name"] is None
    moving = {e.table.name for e in found.scope.tables if not isinstance(e.rule, Left)}
    # What the conversion of 2015 lost, and what was seen to be needed on Stein.
    assert {"instance_metadata", "instance_extra", "migrations", "instance_id_mappings"} <= moving
    assert ("tags" in moving) == (release == STEIN)


def _changed(schema: Schema, name: str, change: Callable[[Table], Table | None]) -> Schema:
    made = (change(t) if t.name == name else t for t in schema.tables)
    return replace(schema, tables=tuple(t for t in made if t is not None))


def _without(column: str) -> Callable[[Table], Table]:
    return lambda t: replace(t, columns=tuple(c for c in t.columns if c.name != column))


def _wider(column: str) -> Callable[[Table], Table]:
    def change(table: Table) -> Table:
        made: list[Column] = [
            replace(c, full_type="varchar(9)") if c.name == column else c for c in table.columns
        ]
        return replace(table, columns=tuple(made))

    return change


def test_an_api_cell_of_another_release_can_t_take_the_rows() -> None:
    child, target = load(STEIN), load(STEIN, "nova_api_cell")
    for broken, words in (
        (_changed(target, "instance_extra", lambda t: None), "no table instance_extra"),
        (_changed(target, "instances", _without("progress")), r"no column instances\.progress"),
        (_changed(target, "instances", _wider("uuid")), r"instances\.uuid is varchar\(36\), and there"),
    ):
        with pytest.raises(Unsupported, match=words):
            import_of(child, broken, "api!cell1")
    blind = _changed(child, "instances", _without("cell_name"))
    with pytest.raises(Unsupported, match=r"no instances\.cell_name"):
        import_of(blind, target, "api!cell1")
