"""Rows of a cell's ``instances`` as cells v1 are compared by, in the columns that its release has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from recell.adapters.mysql.sql import columns
from recell.model.cells_v1 import InstanceRow

__all__ = ["STATES", "WRITTEN", "live_rows", "read_live"]

STATES = (
    "vm_state", "power_state", "task_state", "host", "node", "instance_type_id", "memory_mb", "vcpus",
    "root_gb", "ephemeral_gb", "launched_at", "terminated_at",
)  # fmt: skip
"""Columns of instances that the child alone knows, and tells the API cell."""
WRITTEN = "COALESCE(UNIX_TIMESTAMP(updated_at), 0)"
"""When a row was last written, as :attr:`InstanceRow.updated` has it."""


def read_live(there: Collection[str]) -> str:
    """The statement that asks for all live rows. ``there``: the table's columns."""
    states = [c for c in STATES if c in there]
    seen = "COALESCE(updated_at, created_at)" if "updated_at" in there else "created_at"
    changed = WRITTEN if "updated_at" in there else "0"
    return (
        f"SELECT id, uuid, cell_name, {columns(states)}, {changed} AS changed,"  # ours
        f" TIMESTAMPDIFF(SECOND, {seen}, UTC_TIMESTAMP()) AS quiet,"
        " TIMESTAMPDIFF(SECOND, created_at, UTC_TIMESTAMP()) AS age FROM instances WHERE deleted = 0"
    )


def live_rows(found: Iterable[Mapping[str, Any]]) -> dict[str, InstanceRow]:
    """What that statement brought, by uuid."""
    return {
        str(r["uuid"]): InstanceRow(
            str(r["cell_name"] or ""), str(r["host"] or ""), str(r["vm_state"] or ""),
            r["task_state"] is not None, float(r["age"] or 0), {c: r[c] for c in STATES if c in r},
            float(r["quiet"] or 0), float(r["changed"] or 0), int(r["id"]),
        )
        for r in found
    }  # fmt: skip
