"""layout.yaml of ``generation: v1``: a standard Nova becomes the child of an API cell."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, field_validator

from recell.model.cells_v1 import SEPARATOR
from recell.model.layout_parts import ApiBroker, Limits, Strict


class ApiCellDatabase(Strict):
    """The API cell's own database, made when it is missing. ``host``: inventory name of its server;
    ``address``: what Nova's URL calls it (empty: as today's URL calls servers)."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 3306
    address: str = ""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,64}$")] = "nova_api_cell"


class ApiCell(Strict):
    """The cell that users talk to. ``hosts``: inventory names, with Nova installed; they may be today's
    controllers, whose units then get siblings. ``config``: path of its nova.conf (empty: chosen)."""

    name: str = "api"
    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    broker: ApiBroker
    database: ApiCellDatabase
    config: str = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 8774


class ChildCell(Strict):
    """Today's Nova, or a child that is added. ``config``: path of the nova.conf that its services get (empty:
    chosen). ``hosts``: of a child that is added, its controllers by their inventory names.

    ``weight_offset``, ``weight_scale``: of the API cell's record of it, None: left alone, or Nova's 1 where
    it is made. ``capabilities``: of a child that recell configures (``hypervisor=kvm;xen``).

    ``records``: ``table`` writes each side's neighbour into its ``cells``; ``file`` into the JSON file
    that [cells] cells_config names. ``neutron``: ``wait`` lets nova-compute go on without Neutron's word
    after ``vif_plugging_timeout`` seconds; ``child`` leaves nova-api on in the child, for Neutron alone.
    """

    config: str = ""
    records: Literal["table", "file"] = "table"
    neutron: Literal["wait", "child"] = "wait"
    vif_plugging_timeout: Annotated[int, Field(ge=0)] = 5
    hosts: tuple[str, ...] = ()
    weight_offset: float | None = None
    weight_scale: float | None = None
    capabilities: tuple[Annotated[str, Field(pattern=r"^[^=,\s]+=[^=,\s]+$")], ...] = ()


class Boots(Strict):
    """How nova-cells of the API cell chooses a child for a boot: its options of [cells], seconds and factors.
    What is None or empty is left alone."""

    ram_weight_multiplier: float | None = None
    offset_weight_multiplier: float | None = None
    mute_weight_multiplier: float | None = None
    mute_child_interval: Annotated[int, Field(ge=1)] | None = None
    scheduler_filter_classes: tuple[Annotated[str, Field(pattern=r"^[^,\s]+$")], ...] = ()
    scheduler_weight_classes: tuple[Annotated[str, Field(pattern=r"^[^,\s]+$")], ...] = ()

    def options(self) -> dict[str, str]:
        """Those that are given, as nova.conf has them."""
        given = {k: v for k, v in self.model_dump().items() if v is not None and v != ()}
        return {k: ",".join(v) if isinstance(v, tuple) else f"{v:g}" for k, v in given.items()}


class Hold(Strict):
    """How long requests may wait at the load balancer, seconds. ``lease_s``: a hold that is not renewed
    ends by itself after this long; ``longest_s``: recell gives up and lets go after this long."""

    lease_s: Annotated[float, Field(ge=1, le=60)] = 5
    longest_s: Annotated[float, Field(ge=1, le=300)] = 30


class CellsV1Layout(Strict):
    """The whole file. ``cells``: today's alone; once there is a tree, its children and one that is added."""

    generation: Literal["v1"]
    api: ApiCell
    cells: Annotated[dict[str, ChildCell], Field(min_length=1)]
    boots: Boots = Boots()
    hold: Hold = Hold()
    limits: Limits = Limits()
    acknowledge: tuple[str, ...] = ()

    @field_validator("cells")
    @classmethod
    def _names(cls, cells: dict[str, ChildCell]) -> dict[str, ChildCell]:
        for name in cells:
            _cell_name(name)
        return cells

    @field_validator("api")
    @classmethod
    def _api_name(cls, api: ApiCell) -> ApiCell:
        _cell_name(api.name)
        return api

    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def _cell_name(name: str) -> None:
    """Nova splits paths at ``!``, and takes ``.`` and ``@`` apart in messages' names."""
    if not name or any(c in name for c in f"{SEPARATOR}.@/ "):
        raise ValueError(
            f"a cell can't be called {name!r}: Nova gives {SEPARATOR} . @ / and blanks a meaning"
        )


CELLS_V1_EXAMPLE = """\
# A standard Nova becomes the child of an API cell (cells v1: Juno to Stein).
generation: v1
api:
  name: api
  hosts: [api1, api2]     # nova-api, nova-cells, nova-consoleauth and console proxies; Nova is installed
  broker:
    nodes: [mq4, mq5, mq6]
  database:
    host: db2             # its server; the database is made there
    name: nova_api_cell
cells:
  cell1:                  # today's Nova
    records: table        # or file: [cells] cells_config
    neutron: wait         # or child: nova-api stays on there, for Neutron's events
    vif_plugging_timeout: 5
#   weight_offset: 0      # of the API cell's record of it; by default free memory weighs ten times as much
# cell2:                  # when the tree stands: an empty standard Nova that becomes its next child
#   hosts: [ctl3, ctl4]   # its controllers
#   capabilities: ["hypervisor=kvm"]
#boots:                   # [cells] of the API cell's nova-cells; what is not given is left alone
# ram_weight_multiplier: 10
# mute_weight_multiplier: -10000
# mute_child_interval: 300
hold:
  lease_s: 5
  longest_s: 30
"""
