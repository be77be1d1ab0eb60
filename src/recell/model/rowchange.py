"""A change of one row, with its way back; and how it is kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from recell.errors import BadInput

Values = Mapping[str, Any]
_TIME = "%Y-%m-%d %H:%M:%S.%f"


@dataclass(frozen=True)
class RowChange:
    """``table`` of the cell with this key; ``id``: the row's. ``before`` None: it is inserted; ``after``
    None: it is deleted; else the columns that change, and no others.

    A row that is not there yet has a negative ``id``, the server gives the real one; columns in ``refs``
    may then hold the negative id of a row that is inserted earlier. ``label``: the row in an operator's
    words; ``why``: which finding or difference it mends.
    """

    cell: str
    table: str
    id: int
    before: Values | None
    after: Values | None
    label: str = ""
    why: str = ""
    refs: tuple[str, ...] = ()

    @property
    def inverse(self) -> RowChange:
        return replace(self, before=self.after, after=self.before)

    @property
    def kind(self) -> str:
        """insert, delete (the row goes), end (Nova's own deleting, the row stays), update."""
        if self.before is None:
            return "insert"
        if self.after is None:
            return "delete"
        return "end" if self.after.get("deleted") == self.id else "update"

    def real(self, ids: Mapping[tuple[str, int], int]) -> RowChange:
        """With the ids that the server gave, by table's name and negative id."""
        if self.id > 0 and not self.refs:
            return self
        known = {number: given for (_, number), given in ids.items()}
        return replace(
            self,
            id=ids.get((self.table, self.id), self.id),
            before=_real(self.before, self.refs, known),
            after=_real(self.after, self.refs, known),
        )

    def __str__(self) -> str:
        sign = {"insert": "+", "delete": "-", "end": "-", "update": "~"}[self.kind]
        text = f"{sign} {self.cell} {self.table} {self.label or self.id}"
        if self.kind != "update" or self.before is None or self.after is None:
            return text
        before = self.before
        return f"{text}: " + ", ".join(
            f"{c} {shown(before.get(c))} -> {shown(v)}" for c, v in self.after.items() if c not in _UNSAID
        )


_UNSAID = ("updated_at", "deleted_at", "created_at")


def shown(value: Any) -> str:
    """A value for a screen: NULL, and long ones cut."""
    text = "NULL" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= 40 else f"{text[:37]}..."


def _real(values: Values | None, refs: tuple[str, ...], known: Mapping[int, int]) -> Values | None:
    if values is None:
        return None
    return {c: known.get(v, v) if c in refs and isinstance(v, int) else v for c, v in values.items()}


def way_back(changes: Sequence[RowChange]) -> tuple[RowChange, ...]:
    return tuple(c.inverse for c in reversed(changes))


def dumped(change: RowChange) -> dict[str, Any]:
    """For JSON."""
    return {
        "cell": change.cell,
        "table": change.table,
        "id": change.id,
        "before": _dump(change.before),
        "after": _dump(change.after),
        "label": change.label,
        "why": change.why,
    }


def loaded(content: Any) -> RowChange:
    """:raises BadInput: it is no change of a row."""
    try:
        return RowChange(
            str(content["cell"]),
            str(content["table"]),
            int(content["id"]),
            _load(content["before"]),
            _load(content["after"]),
            str(content["label"]),
            str(content["why"]),
        )
    except (KeyError, TypeError, ValueError):
        what = "a line of the record is no change of a row"
        raise BadInput(what, "Name a file that recell wrote") from None


def _dump(values: Values | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {c: {"time": v.strftime(_TIME)} if isinstance(v, datetime) else v for c, v in values.items()}


def _load(values: Any) -> dict[str, Any] | None:
    if values is None:
        return None
    return {
        str(c): datetime.strptime(v["time"], _TIME) if isinstance(v, dict) else v for c, v in values.items()
    }
