"""A standard Nova on its way to being the child of an API cell: both sides, and how far the rows are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from recell.model.cells_v1 import InstanceRow
from recell.model.hosts import CellEnd, TwoCells
from recell.model.relay import Side

FLAVORS = ("instance_types", "instance_type_projects", "instance_type_extra_specs")
"""Tables of flavors where each cell keeps them; a flavor before what belongs to it."""
Node = tuple[str, int]
"""A broker's node as URLs name it: host and port."""


@dataclass(frozen=True)
class Conversion(TwoCells):
    """``old``: today's Nova, the child to be; ``new``: the API cell.

    ``path``: the child's full path. ``config``: host and file from which Nova's accounts are read; the
    same accounts serve both sides. ``old_nodes``, ``new_nodes``: of each side's broker. ``cell0``: the
    database of failed builds, "" where there is none; ``cell0_at``: where its mapping has it, unless that is
    the child's server. ``keeps_usage``: whether
    this release stores how much of a quota is used. ``api_database``: Nova's API database, on the child's
    server, where mappings are written; "" where they are let alone.
    """

    path: str
    config: tuple[str, str]
    old_nodes: tuple[Node, ...]
    new_nodes: tuple[Node, ...]
    cell0: str = ""
    keeps_usage: bool = False
    api_database: str = ""
    cell0_at: Node | None = None

    def nodes(self, side: Side) -> tuple[Node, ...]:
        return self.old_nodes if side == "old" else self.new_nodes

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Conversion:
        def nodes(listed: Any) -> tuple[Node, ...]:
            return tuple((str(host), int(port)) for host, port in listed)

        host, path = content["config"]
        return cls(
            CellEnd.from_json(content["old"]), CellEnd.from_json(content["new"]),
            str(content["path"]), (str(host), str(path)),
            nodes(content["old_nodes"]), nodes(content["new_nodes"]), str(content["cell0"]),
            bool(content["keeps_usage"]), str(content.get("api_database", "")),
            next(iter(nodes([at] if (at := content.get("cell0_at")) else [])), None),
        )  # fmt: skip


@dataclass(frozen=True)
class Neighbour:
    """A row of ``cells``, or an entry of the file that stands for it. ``url`` holds a password."""

    name: str
    is_parent: bool
    url: str = field(repr=False)
    weight_offset: float = 1.0
    weight_scale: float = 1.0


@dataclass(frozen=True)
class Importing:
    """How far the API cell's rows are. ``live``: handed over, Nova itself keeps both sides; ``stale``:
    taken back after that, so they have to be copied anew. ``verified``: all were compared since the copy."""

    phase: Literal["none", "copying", "following", "drained", "live", "stale"]
    verified: bool = False


@dataclass(frozen=True)
class Agreement:
    """Instances of both sides, compared. ``wrong``: those that differ, a text each; a look at users at work
    finds some on their way. ``rows``: live ones on both sides. ``alone``: only the API cell has them, and
    no host has their guest (a build for which there was no room)."""

    rows: int
    wrong: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


@dataclass(frozen=True)
class BothSides:
    """One look at the live rows of instances, by uuid, in ``child`` and in the API cell."""

    child: Mapping[str, InstanceRow]
    api: Mapping[str, InstanceRow]


@dataclass(frozen=True)
class Settled:
    """Instances that had no cell of v2: ``mapped`` to the child, and ``brought`` to cell0."""

    mapped: int = 0
    brought: int = 0
