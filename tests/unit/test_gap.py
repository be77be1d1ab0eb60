"""Numbers of a new cell: far above, read back, still there after a restart of the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from recell.adapters.mysql.session import Session
from recell.errors import StepFailed, Unsupported
from recell.mover.gap import GAP, keeps_counters, part_counters, plan_gap, raise_counters, read_counters
from recell.planning.tables import SEEDED_BY_SYNC
from recell_bench.schemas import TODAY, ddl, load
from tests.private_server import PrivateServer

SCHEMA = load(TODAY, "old")
NEW = load(TODAY, "new")


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    made = PrivateServer()
    made.create("old", ddl(SCHEMA))
    yield made
    made.stop()


def test_a_new_cell_counts_from_far_above(server: PrivateServer) -> None:
    server.create("new", ddl(NEW))
    server.row("old", "instances", id=5_000_000, uuid="a", deleted=0)
    server.row("new", "instance_types", id=5, name="seeded", memory_mb=1, vcpus=1, swap=0, deleted=0)
    with closing(Session(server.endpoint("old"))) as old, closing(Session(server.endpoint("new"))) as new:
        counters = read_counters(old, SCHEMA)
        assert counters["instances"] == 5_000_001
        assert "tags" not in counters
        starts = plan_gap(NEW, [counters, {"instances": 7}])
        assert starts["instances"] == 106_000_000
        raise_counters(new, NEW, starts, SEEDED_BY_SYNC)
        assert read_counters(new, NEW) == starts
        raise_counters(new, NEW, starts)  # done already: also with rows
        server.row("new", "instances", uuid="b", deleted=0)
        assert server.sql("SELECT id FROM new.instances") == [(starts["instances"],)]
        raise_counters(new, NEW, starts)
    server.halt()
    server.start()
    with closing(Session(server.endpoint("new"))) as new:
        after = read_counters(new, NEW)
        assert after.pop("instances") == starts.pop("instances") + 1
        assert after == starts
        # The next cell stays clear of this one too.
        assert plan_gap(NEW, [counters, after])["services"] == starts["services"] + GAP


def test_rows_that_flow_back_do_not_bring_the_counters_together(server: PrivateServer) -> None:
    server.create("old", ddl(SCHEMA))
    server.create("new", ddl(NEW))
    server.row("old", "instances", id=5_000_000, uuid="a", deleted=0)
    with closing(Session(server.endpoint("old"))) as old, closing(Session(server.endpoint("new"))) as new:
        raise_counters(new, NEW, plan_gap(NEW, [read_counters(old, SCHEMA)]))
        raised = part_counters(old, new, SCHEMA)
        assert raised["instances"] == 206_000_000
        assert read_counters(old, SCHEMA) == raised
        server.row("new", "instances", uuid="b", deleted=0)
        server.sql("INSERT INTO old.instances SELECT * FROM new.instances")  # it flows back
        server.row("old", "instances", uuid="c", deleted=0)
        assert server.sql("SELECT id, uuid FROM old.instances ORDER BY id") == [
            (5_000_000, "a"), (106_000_000, "b"), (206_000_000, "c")]
        assert part_counters(old, new, SCHEMA) == {}
        server.row("new", "instances", id=2_000_000_000, uuid="d", deleted=0)
        with pytest.raises(Unsupported, match="no room for 100,000,000 more numbers twice in instances"):
            part_counters(old, new, SCHEMA)


def test_rows_that_were_there_before_are_refused(server: PrivateServer) -> None:
    server.create("new", ddl(NEW))
    server.row("new", "instances", uuid="b", deleted=0)
    with closing(Session(server.endpoint("new"))) as new:
        with pytest.raises(StepFailed, match=r"instances of .* has rows before"):
            raise_counters(new, NEW, {"instances": 1_000_000})
        server.sql("DELETE FROM new.instances")
        raise_counters(new, NEW, {"instances": 1_000_000})


def test_no_room() -> None:
    assert plan_gap(NEW, [{"instances": 1_900_000_000}])["instances"] == 2_000_000_000
    with pytest.raises(Unsupported, match=r"instances \(2,000,000,000 of 2,147,483,647\)"):
        plan_gap(NEW, [{"instances": 2_000_000_000}])
    assert plan_gap(NEW, [{"share_mapping": 2**40}])["share_mapping"] > 2**40


@pytest.mark.parametrize(("version", "kept"), [
    ("10.11.19-MariaDB-0+deb12u1-log", True), ("10.2.4-MariaDB", True), ("10.2.3-MariaDB", False),
    ("5.5.68-MariaDB", False), ("8.0.36", True), ("5.7.44-log", False),
])
def test_which_servers_keep_counters(version: str, kept: bool) -> None:
    assert keeps_counters(version) is kept
