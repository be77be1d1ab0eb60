"""Nova's tables, on schemas of real databases: what moves, and what is refused instead of forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from recell.errors import BadInput, Unsupported
from recell.model.scope import (
    ByHost,
    ByParent,
    Column,
    ForeignKey,
    Left,
    Rule,
    Schema,
    Scope,
    Shared,
    Table,
    Whole,
)
from recell.planning.tables import api_cell_scope, cell_scope, hosts_scope, stranded_children
from recell.planning.tables.decisions import API_CELL, CELL, HOSTS
from recell.planning.tables.known import KNOWN, SHADOW
from recell_bench.schemas import JUNO, STEIN, TODAY, load

HOSTS_NAMED = ("cmp1", "cmp2")
SCOPES: tuple[Callable[[Schema], Scope], ...] = (
    cell_scope, lambda s: hosts_scope(s, HOSTS_NAMED), api_cell_scope,
)


def rules(scope: Scope) -> dict[str, Rule]:
    return {t.table.name: t.rule for t in scope.tables}


def changed(schema: Schema, name: str, change: Callable[[Table], Table]) -> Schema:
    return replace(schema, tables=tuple(change(t) if t.name == name else t for t in schema.tables))


def with_column(schema: Schema, table: str, column: Column) -> Schema:
    return changed(schema, table, lambda t: replace(t, columns=(*t.columns, column)))


def added(schema: Schema, *tables: Table) -> Schema:
    return replace(schema, tables=schema.tables + tables)


@pytest.mark.parametrize("release", [JUNO, STEIN, TODAY])
@pytest.mark.parametrize("scope_of", SCOPES)
def test_every_table_has_a_rule_and_parents_come_first(
    release: str, scope_of: Callable[[Schema], Scope]
) -> None:
    schema = load(release)
    scope = scope_of(schema)
    names = [t.table.name for t in scope.tables]
    assert sorted(names) == sorted(t.name for t in schema.tables)
    for place, entry in enumerate(scope.tables):
        parents = {k.parent for k in entry.table.foreign_keys}
        if isinstance(entry.rule, ByParent):
            parents.add(entry.rule.parent)
        assert parents - {entry.table.name} <= set(names[:place])
    assert scope == scope_of(replace(schema, tables=schema.tables[::-1]))


def test_a_whole_cell_moves_whole() -> None:
    for release in (JUNO, STEIN, TODAY):
        scope = cell_scope(load(release))
        assert {t.rule for t in scope.tables} == {Whole()} and not scope.hosts


def test_rows_of_hosts_today() -> None:
    scope = hosts_scope(load(TODAY), HOSTS_NAMED)
    assert scope.hosts == frozenset(HOSTS_NAMED)
    found = rules(scope)
    by_instance = ByParent("instance_uuid", "instances", "uuid")
    assert {n: r for n, r in found.items() if not isinstance(r, Left)} == {
        "services": ByHost("host", (("binary", "nova-compute"),)),
        "compute_nodes": ByHost("host"),
        "task_log": ByHost("host"),
        "instances": ByHost("host"),
        **dict.fromkeys((
            "instance_extra", "instance_info_caches", "instance_system_metadata", "instance_metadata",
            "instance_faults", "instance_actions", "block_device_mapping", "virtual_interfaces",
            "share_mapping", "volume_usage_cache", "console_auth_tokens", "migrations",
            "security_group_instance_association"), by_instance),
        "tags": ByParent("resource_id", "instances", "uuid"),
        "bw_usage_cache": ByParent("uuid", "instances", "uuid"),
        "instance_id_mappings": ByParent("uuid", "instances", "uuid"),
        "instance_actions_events": ByParent("action_id", "instance_actions", "id"),
        "pci_devices": ByParent("compute_node_id", "compute_nodes", "id"),
        **dict.fromkeys(("s3_images", "volume_id_mappings", "snapshot_id_mappings", "security_groups"),
                        Shared()),
    }
    assert all(r.why for r in found.values() if isinstance(r, Left))


def test_a_compute_node_without_a_host_column_follows_its_service() -> None:
    found = rules(hosts_scope(load(JUNO), HOSTS_NAMED))
    assert found["compute_nodes"] == ByParent("service_id", "services", "id")
    assert "tags" not in found


def test_what_an_api_cell_reads() -> None:
    found = rules(api_cell_scope(load(JUNO)))
    # What the 2015 way imported, flavors included, and what it lost.
    for name in (
            "instance_types", "instance_type_extra_specs", "instance_type_projects", "instances",
            "instance_info_caches", "block_device_mapping", "instance_system_metadata",
            "instance_groups", "instance_group_member", "instance_group_policy", "key_pairs",
            "quota_classes", "quota_usages", "quotas", "snapshots", "snapshot_id_mappings",
            "virtual_interfaces", "volumes", "instance_actions", "instance_faults",
            "instance_id_mappings", "reservations", "volume_id_mappings", "instance_metadata",
            "instance_extra", "instance_actions_events", "project_user_quotas", "s3_images",
            "security_groups", "security_group_rules", "migrations", "aggregates", "aggregate_hosts",
    ):
        assert found[name] == Whole(), name
    for name in ("services", "compute_nodes", "pci_devices", "cells", "migrate_version",
                 "shadow_instances", "networks"):
        assert isinstance(found[name], Left), name


def test_tables_left_behind_that_refer_to_moving_rows_are_named() -> None:
    assert [(name, key.parent) for name, key in stranded_children(hosts_scope(load(TODAY), ["a"]))] == [
        ("consoles", "instances"), ("fixed_ips", "instances")]
    assert stranded_children(cell_scope(load(TODAY))) == ()


def test_every_column_that_looks_like_an_owner_is_known_in_both_releases() -> None:
    # A scope of hosts looks at tables that move; a rule may change, so here is all that is there.
    from recell.planning.tables.known import owner_like

    for release in (JUNO, STEIN, TODAY):
        for table in load(release).tables:
            known = KNOWN[table.name.removeprefix(SHADOW)]
            assert {c.name for c in table.columns if owner_like(c.name)} <= known.owners, table.name


_ID = Column("id", "int", "int(11)", False, auto_increment=True)


@pytest.mark.parametrize("scope_of", SCOPES)
def test_an_unknown_table_is_refused_unless_decided(scope_of: Callable[[Schema], Scope]) -> None:
    mine = Table("instances_backup", (_ID,), ("id",))
    with pytest.raises(Unsupported, match="instances_backup is none of Nova's tables"):
        scope_of(added(load(TODAY), mine))
    with pytest.raises(Unsupported, match="shadow_else is none"):
        scope_of(added(load(TODAY), replace(mine, name="shadow_else")))


def test_the_operator_decides_on_a_table() -> None:
    schema = added(load(TODAY), Table("audit", (_ID,), ("id",)))
    why = Left("our own audit")
    assert rules(hosts_scope(schema, ["a"], {"audit": why}))["audit"] == why
    assert rules(cell_scope(schema, {"audit": why}))["audit"] == why
    with pytest.raises(Unsupported, match="nothing is decided upon and is not there"):
        cell_scope(schema, {"audit": why, "nothing": why})


def test_own_bookkeeping_never_moves() -> None:
    schema = added(load(TODAY), Table("recell_mover_state", (_ID,), ("id",)))
    assert isinstance(rules(cell_scope(schema))["recell_mover_state"], Left)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: changed(s, "tags", lambda t: replace(t, key=())), "tags has no primary key"),
        (lambda s: with_column(s, "instances", Column("x", "int", "int(11)", True, generated=True)),
         "instances.x is a generated column"),
        (lambda s: with_column(s, "instances", Column("x", "json", "json", True)), "of the type json"),
        (lambda s: with_column(s, "instance_extra", Column("target_host", "varchar", "varchar(255)", True)),
         "instance_extra.target_host may say whose row it is"),
        (lambda s: with_column(s, "services", Column("cell_uuid", "varchar", "varchar(36)", True)),
         "services.cell_uuid may say whose row it is"),
        (lambda s: changed(s, "instances", lambda t: replace(
            t, columns=tuple(c for c in t.columns if c.name != "host"))), "instances has no column host"),
        (lambda s: changed(s, "services", lambda t: replace(
            t, columns=tuple(c for c in t.columns if c.name != "binary"))), "services has no column binary"),
        (lambda s: changed(s, "instance_faults", lambda t: replace(t, foreign_keys=(
            replace(t.foreign_keys[0], on_delete="CASCADE"),))), "with CASCADE, which no binary log shows"),
        (lambda s: changed(s, "instance_faults", lambda t: replace(t, foreign_keys=(
            replace(t.foreign_keys[0], on_update="SET NULL"),))), "with SET NULL"),
        (lambda s: changed(s, "tags", lambda t: replace(t, foreign_keys=(
            ForeignKey("f", ("resource_id",), "elsewhere.x", ("id",)),))), "not a table of this database"),
        (lambda s: changed(s, "tags", lambda t: replace(t, foreign_keys=(
            ForeignKey("f", ("resource_id",), "key_pairs", ("name",)),))), "could move without it"),
        (lambda s: changed(s, "virtual_interfaces", lambda t: replace(t, foreign_keys=(
            ForeignKey("f", ("id",), "pci_devices", ("id",)),))), "could move without it"),
        (lambda s: changed(s, "instances", lambda t: replace(t, foreign_keys=(
            ForeignKey("f", ("id",), "instance_extra", ("id",)),))), "in a circle|could move without"),
    ],
)
def test_what_makes_ownership_ambiguous_is_refused(
    change: Callable[[Schema], Schema], words: str
) -> None:
    with pytest.raises(Unsupported, match=words):
        hosts_scope(change(load(TODAY)), HOSTS_NAMED)


def test_a_circle_is_refused_for_a_whole_cell_too() -> None:
    schema = changed(load(TODAY), "instances", lambda t: replace(t, foreign_keys=(
        ForeignKey("f", ("uuid",), "instance_extra", ("instance_uuid",)),)))
    with pytest.raises(Unsupported, match="in a circle"):
        cell_scope(schema)


def test_every_reason_is_told_at_once() -> None:
    schema = changed(load(TODAY), "tags", lambda t: replace(t, key=()))
    schema = added(schema, Table("mine", (_ID,), ("id",)))
    with pytest.raises(Unsupported, match=r"mine is none.*tags has no primary key"):
        cell_scope(schema)


def test_a_harmless_new_column_moves_with_its_row() -> None:
    schema = with_column(load(TODAY), "instances", Column("colour", "varchar", "varchar(9)", True))
    assert hosts_scope(schema, ["a"]).moving


def test_hosts_are_named() -> None:
    for hosts in ([], [""]):
        with pytest.raises(BadInput):
            hosts_scope(load(TODAY), hosts)


def test_decisions_can_be_printed() -> None:
    for decision in (*HOSTS, *CELL, *API_CELL):
        assert decision.topic and decision.choice and decision.why.endswith(".")
        assert not decision.count or decision.count.startswith("SELECT COUNT(*)")
