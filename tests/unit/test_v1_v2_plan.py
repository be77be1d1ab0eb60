"""The plan that takes a tree of cells v1 to cells v2: its order, its names, its refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from recell.cli.desk import hosts_of
from recell.cli.main import main
from recell.discovery import told
from recell.errors import BadInput, Unsupported
from recell.model.cells_v1 import CellRecord
from recell.model.deployment import Container, Deployment, dump_deployment
from recell.model.layout import load_any_layout, load_layout
from recell.model.layout_v1_v2 import TREE_EXAMPLE, TreeLayout
from recell.model.plan import PlanStep, dump_plan
from recell.planning.v1_v2 import SWITCH, plan_tree
from recell.preflight.check import check
from tests.sim.v1_v2_world import fresh, layout_of, scan

Change = Callable[[Deployment], Deployment]


@pytest.fixture(scope="module")
def tree() -> Deployment:
    return scan(fresh())


def steps(deployment: Deployment, text: str = TREE_EXAMPLE) -> tuple[PlanStep, ...]:
    return plan_tree(deployment, layout_of(text), 0.0).steps


def place(found: tuple[PlanStep, ...], id: str) -> int:
    return next(i for i, s in enumerate(found) if s.id == id)


def only(found: tuple[PlanStep, ...], id: str) -> PlanStep:
    return found[place(found, id)]


def test_everything_slow_comes_before_the_hold_and_the_tree_goes_off_after_it(tree: Deployment) -> None:
    found = steps(tree)
    switch = place(found, SWITCH)
    for before in (
        "both-sides", "mappings", "api1/api-config", "ctl1/nova-conductor-v2", "cell1/scheduler-fanout",
        "ctl1/start-nova-super-conductor", "ctl2/start-nova-scheduler-v2", "api2/start-nova-api-v2",
        "ctl1/start-nova-novncproxy-v2", "ctl2/nova-api", "lb1/nova-api-servers",
    ):  # fmt: skip
        assert place(found, before) < switch, before
    for after in (
        "api1/retire-nova-api", "api2/retire-nova-consoleauth", "ctl1/retire-nova-cells", "cell1/records",
        "mappings/all", "prove",
    ):  # fmt: skip
        assert place(found, after) > switch, after
    assert place(found, "ctl1/nova-api") < place(found, "ctl1/retire-nova-cells"), "it asks for key pairs"
    assert not [s for s in found if s.where.startswith("cmp")]
    safe = {s.id: s.safe_point for s in found}
    assert safe[SWITCH] == "lb1/nova-api-servers", "not left for a night before what is off stays off"
    assert {s.where for s in found} <= set(hosts_of(plan_tree(tree, layout_of(), 0.0)))


def test_consoles_are_led_to_the_proxies_of_cells_v2(tree: Deployment) -> None:
    found = steps(tree)
    led = place(found, "lb1/nova-novncproxy-consoles")
    assert place(found, "ctl2/start-nova-novncproxy-v2") < place(found, SWITCH) < led
    assert led < place(found, "api1/retire-nova-novncproxy")
    added = only(found, "lb1/nova-novncproxy-servers").params["added"]
    assert added == [["ctl1-cell1", "10.1.0.2", 6080], ["ctl2-cell1", "10.1.0.3", 6080]]


def test_a_proxy_of_cells_v2_waits_for_its_port(tree: Deployment) -> None:
    cells = tuple(
        replace(c, members=(*c.members, ("ctl1", "nova-novncproxy-api"))) if c.cell_type == "api" else c
        for c in tree.cells
    )
    model = next(s for s in tree.services if s.host == "api1" and s.role == "novncproxy")
    theirs = replace(model, host="ctl1", nova_host="ctl1", unit="nova-novncproxy-api", active=True)
    shared = replace(tree, cells=cells, services=(*tree.services, theirs))
    found = steps(shared)
    free = place(found, "ctl1/retire-nova-novncproxy-api")
    assert free < place(found, "ctl1/start-nova-novncproxy-v2") < place(found, "lb1/nova-novncproxy-consoles")
    assert place(found, "ctl2/start-nova-novncproxy-v2") < place(found, SWITCH)


def test_the_moment_knows_both_sides_doors_and_servers(tree: Deployment) -> None:
    switch = only(steps(tree), SWITCH).params
    assert switch["doors"] == {
        "old": [["api1", "10.1.0.4", 8784], ["api2", "10.1.0.5", 8784]],
        "new": [["api1", "10.1.0.4", 8774], ["api2", "10.1.0.5", 8774]],
    }
    assert ["ctl1", "nova-conductor-v2", "conductor", "ctl1"] in switch["stop"]
    assert ["ctl2", "nova-scheduler-cell1", "scheduler", "ctl2"] in switch["start"]
    assert switch["cells"] == [[h, "nova-cells", "cells", h] for h in ("api1", "api2")]
    one = switch["conversion"]
    assert (one["old"]["database"], one["cell0"], one["api_database"]) == ("nova", "nova_cell0", "nova_api")
    assert one["path"] == "api!cell1" and one["new"]["server"] == "db2"


def test_what_is_a_template_is_written_out_first(tree: Deployment) -> None:
    assert not [s for s in steps(tree) if s.kind == "literal-mapping"]
    zero, child = tree.mappings
    filled = replace(tree, mappings=(zero, replace(child, templated=True)))
    found = steps(filled)
    literal = only(found, "cell1/mapping")
    assert literal.params["config"] == "/etc/nova/nova-cell1.conf", "filled as the child fills it"
    assert place(found, "cell1/mapping") < place(found, "both-sides")


def test_the_api_level_may_have_hosts_of_its_own_choice(tree: Deployment) -> None:
    text = TREE_EXAMPLE.replace("# hosts: [ctl1, ctl2] ", "  hosts: [ctl2] ")
    found = steps(tree, text)
    assert [s.where for s in found if s.id.endswith("start-nova-super-conductor")] == ["ctl2"]
    with pytest.raises(BadInput, match="cmp1 has no unit nova-conductor"):
        steps(tree, text.replace("[ctl2]", "[cmp1]"))


def services(deployment: Deployment, unit: str, **changes: Any) -> Deployment:
    changed = tuple(replace(s, **changes) if s.unit == unit else s for s in deployment.services)
    return replace(deployment, services=changed)


def cells(deployment: Deployment, **changes: Any) -> Deployment:
    top, child = deployment.cells
    return replace(deployment, cells=(replace(top, **changes), child))


REFUSED: dict[str, tuple[Change, str]] = {
    "no cells v1": (lambda d: replace(d, generation="v2"), "runs no cells v1"),
    "another release": (lambda d: replace(d, nova_version="18.2.0"), r"Nova 18\.2\.0 is no Stein"),
    "a second child": (
        lambda d: replace(d, cells=(*d.cells, replace(d.cells[1], key="cell2", name="cell2"))),
        "2 children",
    ),
    "a child that was not scanned": (
        lambda d: cells(d, records=(CellRecord("cell1", False, ""), CellRecord("cell2", False, ""))),
        "records of cell2, of which no controller",
    ),
    "no mapping": (lambda d: replace(d, mappings=d.mappings[:1]), "a mapping of cell0 and 0 others"),
    "no cell0": (lambda d: replace(d, mappings=d.mappings[1:]), "no mapping of cell0 and 1 others"),
    "a mapping of the API cell": (
        lambda d: replace(d, mappings=(d.mappings[0], replace(
            d.mappings[1], database_resolved="mysql+pymysql://nova:***@db2:3306/nova_api_cell"))),
        "leads to nova_api_cell on db2, and cell1 is db1:3306/nova",
    ),
    "a mapping of another broker": (
        lambda d: replace(d, mappings=(d.mappings[0], replace(
            d.mappings[1], transport_resolved="rabbit://nova:***@mq4:5672/"))),
        "leads to another broker than cell1's",
    ),
    "cell0 elsewhere": (
        lambda d: replace(d, mappings=(replace(
            d.mappings[0], database_resolved="mysql+pymysql://nova:***@db2:3306/nova_cell0"), d.mappings[1])),
        "cell0 is on another server",
    ),
    "a cell that can't be read": (
        lambda d: replace(d, remarks=(*d.remarks, "cell-unread|cell1|recell can't read its database, pg1")),
        "cell1: recell can't read its database, pg1",
    ),
    "two API databases": (
        lambda d: services(d, "nova-conductor-cell1", api_database="mysql+pymysql://nova:***@db1:3306/other"),
        "have not one API database",
    ),
    "no HAProxy": (lambda d: replace(d, proxies=()), "nova-api on api1 stands behind no HAProxy"),
    "a stranger in HAProxy": (
        lambda d: replace(d, proxies=(*d.proxies, replace(
            d.proxies[0], server="old9", address="10.9.9.9:8774", host="", unit=""))),
        "old9 of HAProxy on lb1",
    ),
    "a container": (
        lambda d: services(d, "nova-conductor-cell1", container=Container("docker", "nova_conductor", "/k")),
        "run in containers",
    ),
    "nova-cells is off": (
        lambda d: replace(d, services=tuple(
            replace(s, active=False) if s.role == "cells" and s.host.startswith("ctl") else s
            for s in d.services)),
        "no running nova-cells of cell1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_can_not_be_converted_is_refused_with_a_sentence(tree: Deployment, why: str) -> None:
    change, sentence = REFUSED[why]
    with pytest.raises((Unsupported, BadInput), match=sentence) as refused:
        steps(change(tree))
    assert refused.value.remedy
    stops = [v.what for v in check(change(tree), layout_of()) if v.id.startswith("plan:")]
    assert len(stops) == 1, "check says it, too"


def test_a_layout_that_is_about_something_else_is_refused(tree: Deployment) -> None:
    with pytest.raises(BadInput, match="the layout names cell9, and the tree has cell1"):
        steps(tree, TREE_EXAMPLE.replace("cell1: {}", "cell9: {}"))
    with pytest.raises(BadInput, match="listens on 8774, where the new nova-api would"):
        steps(tree, TREE_EXAMPLE.replace("8784", "8774"))
    with pytest.raises(BadInput, match="no from:"):
        load_layout(TREE_EXAMPLE, "layout.yaml")
    for wrong in ("from: v2", "from: v1\nrabbitmq: {}"):
        with pytest.raises(BadInput):
            load_any_layout(TREE_EXAMPLE.replace("from: v1", wrong), "layout.yaml")
    assert isinstance(load_any_layout(TREE_EXAMPLE, "layout.yaml"), TreeLayout)


def test_the_command_prints_an_example_and_makes_its_plan(tree: Deployment, tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, ["plan", "--example", "--from-cells-v1"])
    assert shown.output == TREE_EXAMPLE
    (tmp_path / "layout.yaml").write_text(shown.output)
    (tmp_path / "deployment.json").write_bytes(dump_deployment(tree))
    made = CliRunner().invoke(main, ["plan", "--dir", str(tmp_path)])
    assert made.exit_code == 0, made.output
    assert "cells-v1-to-v2" in made.output and "send requests to nova-api of cells v2" in made.output
    assert b"s3cret" not in dump_plan(plan_tree(tree, layout_of(), 0.0))


def test_scan_reads_mappings_beside_cells_v1_as_a_child_fills_them(
    tree: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Config(SimpleNamespace):
        def get(self, group: str, option: str) -> str:
            return f"{self.name}:{group}/{option}"

    class Databases:
        def __init__(self, via: str, *urls: str) -> None:
            asked.extend((via, *urls))

        def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr(told, "NovaDatabases", Databases)
    monkeypatch.setattr(told, "_mappings", lambda nova, config, note: (config.name,))
    configs: Any = {(s.host, s.unit): Config(name=f"{s.host} {s.unit}") for s in tree.services}
    hosts: Any = {h.name: h.name for h in tree.hosts}

    def note(area: str, error: Exception) -> None:
        raise AssertionError(area)

    found: Any = told._beside_cells_v1(hosts, configs, tree.services, tree.cells, note)
    (who,) = found
    host = who.split()[0]
    assert host.startswith("ctl"), "of the child: the API cell would fill templates with its own database"
    assert asked == [
        host, f"{who}:api_database/connection", f"{who}:DEFAULT/transport_url", f"{who}:database/connection",
        "closed",
    ]  # fmt: skip
    none = tuple(replace(s, api_database="") for s in tree.services)
    assert told._beside_cells_v1(hosts, configs, none, tree.cells, note) == ()
