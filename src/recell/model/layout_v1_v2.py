"""layout.yaml of ``generation: v2`` with ``from: v1``: a tree of cells v1 becomes cells v2."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from recell.model.layout_parts import Limits
from recell.model.layout_v1 import Hold


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TreeApi(_Strict):
    """The API level to be. Its nova-api runs on the API cell's hosts, beside the one that is there, on
    ``port``; ``hosts``: of its scheduler and super-conductor (empty: the child's conductors' hosts).
    ``config``: path of their nova.conf (empty: chosen). All of it is on the API cell's broker."""

    port: Annotated[int, Field(ge=1, le=65535)]
    hosts: tuple[str, ...] = ()
    config: str = ""
    super_conductor_unit: Annotated[str, Field(min_length=1)] = "nova-super-conductor"


class TreeChild(_Strict):
    """The child. ``config``: path of the nova.conf that its services get (empty: chosen)."""

    config: str = ""


class TreeLayout(_Strict):
    """The whole file. ``cells``: the tree's child, by the name that it has."""

    generation: Literal["v2"] = "v2"
    source: Annotated[Literal["v1"], Field(alias="from")]
    api: TreeApi
    cells: Annotated[dict[str, TreeChild], Field(min_length=1)]
    hold: Hold = Hold()
    limits: Limits = Limits()
    acknowledge: tuple[str, ...] = ()

    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


TREE_EXAMPLE = """\
# A tree of cells v1 (an API cell and its child) becomes cells v2. Nova is Stein, the last that knows both.
generation: v2
from: v1
api:
  port: 8784              # free on the API cell's hosts: the new nova-api runs there beside the old one
# hosts: [ctl1, ctl2]     # of its scheduler and super-conductor; left out: where the child's conductors run
cells:
  cell1: {}               # the child, by its name
hold:
  lease_s: 5
  longest_s: 30
"""
