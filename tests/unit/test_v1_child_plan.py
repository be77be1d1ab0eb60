"""The plan that adds a child to a tree of cells v1: its order, what it leaves alone, its refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recell.cli.main import main
from recell.errors import BadInput, Unsupported
from recell.model.cells_v1 import CellRecord
from recell.model.deployment import Client, Deployment, dump_deployment
from recell.model.layout import load_any_layout
from recell.model.layout_v1 import CELLS_V1_EXAMPLE, Boots
from recell.model.plan import PlanStep, load_plan
from recell.planning.v1 import plan_v1
from recell.planning.v1_child import KIND, plan_child
from recell.preflight.check import check
from tests.sim.v1_child_world import fresh, layout_text, scan
from tests.unit.stein_cloud import layout_v1, stein

Change = Callable[[Deployment], Deployment]


@pytest.fixture(scope="module")
def tree() -> Deployment:
    return scan(fresh())


def steps(deployment: Deployment, text: str = "") -> tuple[PlanStep, ...]:
    return plan_child(deployment, layout_v1(text or layout_text()), 0.0).steps


def test_all_is_ready_before_the_api_cell_knows_it_and_undo_begins_there(tree: Deployment) -> None:
    ids = [s.id for s in steps(tree)]
    known = ids.index("api/record")
    assert ids[known:] == ["api/record", "undo/empty", "prove"]
    assert ids.index("child/record") < ids.index("ctl3/nova-cells"), "it reads its records when it begins"
    assert ids.index("ctl4/start-nova-conductor-cell2") < ids.index("ctl3/retire-nova-conductor")
    assert ids.index("ctl3/nova-cells-config") < ids.index("ctl3/nova-cells")
    assert len(set(ids)) == len(ids)


def test_what_changes_in_the_child_is_named_table_by_table(tree: Deployment) -> None:
    def named(deployment: Deployment) -> set[tuple[str, str]]:
        plan = plan_child(deployment, layout_v1(layout_text()), 0.0)
        return {(c.database, c.table) for c in plan.expected_changes}

    stein_ones = {("cell2", t) for t in ("cells", "services", "quota_usages")}
    assert named(tree) == {*stein_ones, ("api", "cells")}


def test_no_other_child_and_no_guests_host_of_one_is_touched(tree: Deployment) -> None:
    assert {s.where for s in steps(tree)} == {"db3", "ctl3", "ctl4", "cmp3", "api1", "api2"}


def services(host: str, role: str, **changes: Any) -> Change:
    return lambda d: replace(
        d,
        services=tuple(
            replace(s, **changes) if (s.host, s.role) == (host, role) else s for s in d.services
        ),
    )  # fmt: skip


def without(role: str, *hosts: str) -> Change:
    return lambda d: replace(
        d, services=tuple(s for s in d.services if s.role != role or s.host not in hosts)
    )


def shared_api_database(d: Deployment) -> Deployment:
    theirs = next(s.api_database for s in d.services if s.host == "ctl1" and s.api_database)
    return services("ctl4", "scheduler", api_database=theirs)(d)


def own_api_database(d: Deployment) -> Deployment:
    return services("ctl4", "conductor", api_database="mysql+pymysql://nova2:***@db3:3306/nova2_api")(d)


def mapping(**changes: Any) -> Change:
    """Of the child, in the tree's API database."""
    return lambda d: replace(d, mappings=tuple(
        replace(m, **changes) if m.name == "cell2" else m for m in d.mappings
    ))  # fmt: skip


def unmapped(d: Deployment) -> Deployment:
    return replace(d, mappings=tuple(m for m in d.mappings if m.name != "cell2"))


def on_the_trees_broker(d: Deployment) -> Deployment:
    theirs = d.cells[0].transport_url
    moved = tuple(
        replace(s, transport_url=theirs) if s.host in ("ctl3", "ctl4", "cmp3") else s for s in d.services
    )
    return replace(d, services=moved)


def unseen(name: str = "far", url: str = "rabbit://nova:***@mq9:5672/") -> Change:
    """The API cell has a record of a cell whose controllers are not in the inventory."""

    def changed(d: Deployment) -> Deployment:
        top = replace(d.cells[0], records=(*d.cells[0].records, CellRecord(name, False, url)))
        return replace(d, cells=(top, *d.cells[1:]))

    return changed


def another_taker(d: Deployment) -> Deployment:
    theirs = Client("mq7", "/", "nova", "10.9.9.9", "nova-cells", 1, ("cells", "cells.far"))
    return replace(d, clients=(*d.clients, theirs))


def unread(key: str) -> Change:
    said = f"cell-unread|{key}|recell can't read its database, pg1:5432/x"
    return lambda d: replace(d, remarks=(*d.remarks, said))


def on_postgresql(d: Deployment) -> Deployment:
    theirs = "postgresql://nova:***@ctl3/nova"
    return replace(d, services=tuple(
        replace(s, database=theirs) if s.host in ("ctl3", "ctl4") and s.database else s for s in d.services
    ))  # fmt: skip


def test_a_child_that_can_not_be_read_is_left_alone_and_told_of(tree: Deployment) -> None:
    plan = plan_child(unread("cell1")(tree), layout_v1(layout_text()), 0.0)
    assert "cell1 takes no part: recell can't read its database, pg1:5432/x." in plan.remarks
    assert [s.id for s in plan.steps] == [s.id for s in steps(tree)]


def test_a_cell_whose_controllers_are_not_in_the_inventory_takes_no_part(tree: Deployment) -> None:
    plan = plan_child(unseen()(tree), layout_v1(layout_text()), 0.0)
    assert any(r.startswith("far takes no part: none of its controllers") for r in plan.remarks)
    assert [s.id for s in plan.steps] == [s.id for s in steps(tree)]
    assert plan.steps[-1].params["siblings"] == ["cell1", "far"]


def same(d: Deployment) -> Deployment:
    return d


@pytest.mark.parametrize(
    ("change", "old", "new", "kind", "match"),
    [
        (shared_api_database, "", "", Unsupported, "ctl4 has the tree's .api_database., and from Pike"),
        (own_api_database, "", "", Unsupported, "ctl4 has not the tree's .api_database., .*drop every build"),
        (mapping(disabled=False), "", "", Unsupported, "and not disabled, so schedulers of the other"),
        (unmapped, "", "", Unsupported, "no mapping of cell2: what is built there could be neither deleted"),
        (on_the_trees_broker, "", "", Unsupported, "is on the broker of api"),
        (unseen("cell2"), "", "", Unsupported, "api has a record of cell2 already, of which no controller"),
        (unseen(url="rabbit://x:***@mq7:5672/"), "", "", Unsupported, "cell2 is on the broker of far"),
        (unseen(url=""), "", "", Unsupported, "record of far names no broker, and no controller"),
        (another_taker, "", "", Unsupported, "a nova-cells on 10.9.9.9 takes from cell2's broker already"),
        (without("conductor", "ctl3", "ctl4"), "", "", Unsupported, "no running nova-conductor that is"),
        (without("compute", "cmp3"), "", "", Unsupported, "no running nova-compute is on"),
        (without("cells", "ctl4"), "", "", BadInput, "ctl4 has no unit nova-cells"),
        (services("ctl3", "cells", active=True), "", "", BadInput, "nova-cells on ctl3 runs already"),
        (services("ctl4", "conductor", database="mysql://n:***@db9/x"), "", "", Unsupported, "another data"),
        (unread("api"), "", "", Unsupported, "api: recell can't read its database"),
        (on_postgresql, "", "", Unsupported, "recell can't read cell2's database, postgresql"),
        (same, "hosts: [ctl3, ctl4]\n    w", "w", BadInput, "names no hosts of cell2"),
        (same, "hosts: [ctl3, ctl4]\n    w", "hosts: [ctl9]\n    w", BadInput, "ctl9 is not a host"),
        (same, "hosts: [ctl3, ctl4]\n    w", "hosts: [ctl1]\n    w", Unsupported, "that is of no cell yet"),
        (same, "\n  cell2:\n", "\n  cell3: {}\n  cell2:\n", BadInput, "adds cell3, cell2"),
        (same, "  name: api\n", "  name: top\n", BadInput, "calls the API cell top, and it is api"),
        (same, "\n  cell2:\n", "\n  cell2:\n    records: file\n", BadInput, "in the table cells, and"),
    ],
)
def test_what_can_t_be_added_is_refused_with_a_sentence(
    tree: Deployment, change: Change, old: str, new: str, kind: type[Exception], match: str
) -> None:
    text = layout_text()
    if old:
        assert text.count(old) == 1, text
        text = text.replace(old, new)
    with pytest.raises(kind, match=match):
        steps(change(tree), text)
    found = check(change(tree), layout_v1(text))
    assert [v.id for v in found if v.id.startswith("plan:")]


def test_until_ocata_the_tree_s_api_database_may_be_its_own_too(tree: Deployment) -> None:
    shared = replace(shared_api_database(unmapped(tree)), nova_version="15.1.5")
    assert "prove" in [s.id for s in steps(shared)]


def test_before_rocky_the_child_is_not_mapped_in_the_tree_for_nothing_can_be_disabled(
    tree: Deployment,
) -> None:
    plan = plan_child(replace(unmapped(tree), nova_version="17.0.13"), layout_v1(layout_text()), 0.0)
    assert any("resize and migration fail" in r for r in plan.remarks)
    with pytest.raises(Unsupported, match="delete_cell"):
        steps(replace(mapping(disabled=False)(tree), nova_version="17.0.13"))
    plan = plan_child(tree, layout_v1(layout_text()), 0.0)
    assert any("discover_hosts" in r for r in plan.remarks)


def test_its_scheduler_keeps_the_file_with_the_api_database_of_its_own(tree: Deployment) -> None:
    found = {s.id: s.params for s in steps(tree)}
    argv = found["ctl3/nova-scheduler-cell2"]["argv"]
    assert argv[-3:] == ["/etc/nova/nova-cell2.conf", "--config-file", "/etc/nova/nova-scheduler.conf"]
    assert found["ctl3/nova-conductor-cell2"]["argv"][-1] == "/etc/nova/nova-cell2.conf"


def test_a_layout_that_adds_nothing_and_one_that_begins_with_two(tree: Deployment) -> None:
    with pytest.raises(BadInput, match="the tree has cell1, and the layout adds none"):
        steps(tree, CELLS_V1_EXAMPLE)
    with pytest.raises(BadInput, match="names 2 cells, and a standard Nova becomes one"):
        plan_v1(stein(), layout_v1(layout_text()), 0.0)


def test_the_first_conversion_heeds_weights_capabilities_and_boots_as_well() -> None:
    text = CELLS_V1_EXAMPLE.replace(
        "    vif_plugging_timeout: 5\n",
        "    vif_plugging_timeout: 5\n    weight_offset: 7\n    capabilities: [os=linux]\n",
    ) + "boots:\n  scheduler_filter_classes: [nova.cells.filters.all_filters]\n"
    found = {s.id: s.params for s in plan_v1(stein(), layout_v1(text), 0.0).steps}
    assert (found["api/record"]["weight_offset"], found["api/record"]["weight_scale"]) == (7, 1)
    assert found["child/record"]["weight_offset"] == 1
    told = {c["option"]: c.get("value") for c in found["ctl1/child-config"]["changes"]}
    assert told["capabilities"] == "os=linux"
    told = {c["option"]: c.get("value") for c in found["api1/api-config"]["changes"]}
    assert told["scheduler_filter_classes"] == "nova.cells.filters.all_filters"


@pytest.mark.parametrize("wrong", ["os", "os=a,b", "os = linux", "=x"])
def test_a_capability_that_nova_would_read_otherwise_is_refused(wrong: str) -> None:
    text = layout_text().replace('"os=linux"', f'"{wrong}"')
    with pytest.raises(BadInput, match="capabilities"):
        load_any_layout(text, "layout.yaml")


def test_options_are_written_as_nova_reads_them() -> None:
    classes = ("a", "c")
    given = Boots(
        mute_weight_multiplier=-10000.5, mute_child_interval=90, scheduler_filter_classes=classes
    )
    assert given.options() == {
        "mute_weight_multiplier": "-10000.5", "mute_child_interval": "90", "scheduler_filter_classes": "a,c",
    }  # fmt: skip
    assert Boots().options() == {}


def test_the_command_makes_this_plan_where_the_tree_stands(tree: Deployment, tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_bytes(dump_deployment(tree))
    (tmp_path / "layout.yaml").write_text(layout_text())
    said = CliRunner().invoke(main, ["plan", "--dir", str(tmp_path)])
    assert said.exit_code == 0, said.output
    plan = load_plan((tmp_path / "plan.json").read_bytes(), "plan.json")
    assert plan.kind == KIND and "cell2 must be empty" in said.output
    assert plan.databases == ("api", "cell2")
    names = [g["name"] for g in plan.topology_after["groups"]]
    assert names[-1] == "cell2" and len(names) == 3
