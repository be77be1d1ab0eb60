"""layout.yaml: the cells that the operator wants. Read strictly: an unknown word is an error."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError

from recell.errors import BadInput
from recell.model.layout_parts import ApiBroker, Limits, Strict
from recell.model.layout_v1 import CellsV1Layout
from recell.model.layout_v1_v2 import TreeLayout
from recell.model.window import PATTERN


class ApiLevel(Strict):
    """nova-api, scheduler, super-conductor."""

    broker: ApiBroker
    super_conductor_unit: str = "nova-super-conductor"
    hosts: tuple[str, ...] = ()  # of the super-conductor; empty: where nova-conductor runs today


class CellDatabase(Strict):
    """A database server of the cell's own: inventory name of its host, port, and the address that Nova's
    URLs get (empty: the host's name, or its IP address where today's URL has one).

    ``from``: inventory name of today's server, when the URL leads to a virtual address or a proxy.
    ``relay_port``: free on today's server's host; Nova reaches its database through it for the time of
    the move. ``name``: of a new cell's database; empty: nova_<cell>.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 3306
    address: str = ""
    source: Annotated[str, Field(alias="from")] = ""
    relay_port: Annotated[int, Field(ge=1, le=65535)] = 3307
    name: str = ""


class CellBroker(Strict):
    """A new cell's own RabbitMQ: inventory names of its hosts, port, vhost (empty: the same as today's)."""

    nodes: Annotated[tuple[str, ...], Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 5672
    vhost: str = ""


class CellConsoles(Strict):
    """A new cell's own nova-novncproxy: ``hosts`` that have one to model it on, its ``port``, and the
    ``url`` that its computes give to users."""

    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    url: Annotated[str, Field(min_length=1)]


class Cell(Strict):
    """cell1, the deployment that is there today; or a further cell.

    ``database``: ``keep``, or the server that it moves to; of a new cell, the server that it gets.
    ``api_database``: ``keep`` lets its conductor go on reading the API database (group policy
    upcalls); ``remove`` sets [workarounds] disable_group_policy_check_upcall on every compute first.
    ``hosts``: computes that belong to it, by inventory name or pattern; those that no cell names stay.
    ``conductors``, ``consoles``: hosts of a new cell's services; each has one today to model it on.
    """

    broker: Literal["keep"] | CellBroker = "keep"
    database: Literal["keep"] | CellDatabase = "keep"
    api_database: Literal["keep", "remove"] = "keep"
    config: str = ""  # path of its conductor's own nova.conf; empty: nova-<cell>.conf beside nova.conf
    hosts: tuple[str, ...] = ()
    conductors: tuple[str, ...] = ()
    consoles: CellConsoles | None = None


class CanaryGuest(Strict):
    """A throw-away guest on the canary host: ``flavor`` and ``image`` by name or id; ``network``: a uuid,
    ``auto``, or ``none``. ``cloud``: of clouds.yaml, whose user may say on which host a guest is born."""

    cloud: Annotated[str, Field(min_length=1)]
    flavor: Annotated[str, Field(min_length=1)]
    image: Annotated[str, Field(min_length=1)]
    network: Annotated[str, Field(min_length=1)] = "none"


class Abort(Strict):
    """What stops a run before a wave's computes are touched, and before the next wave. ``api_errors``: more
    answers of nova-api's with a 5xx status than this since the wave began, as HAProxy counts them;
    ``queue_depth``: more messages than this that wait for ten seconds in a queue that somebody takes from."""

    api_errors: Annotated[int, Field(ge=0)] | None = None
    queue_depth: Annotated[int, Field(ge=1)] | None = None


class Moving(Strict):
    """How hosts move to other cells. ``wave``: so many at once; ``canary``: this one alone, before all
    others; ``max_failures``: hosts that may be left out because they don't come to rest. ``window``: a wave
    begins only inside and when it fits, every day, UTC: ``22:00-05:00``. ``grace_s``: so long rows of the
    cell that was left are watched for late writes before they are deleted."""

    wave: Annotated[int, Field(ge=1, le=100)] = 1
    canary: str = ""
    canary_guest: CanaryGuest | None = None
    max_failures: Annotated[int, Field(ge=0)] = 0
    window: Annotated[str, Field(pattern=PATTERN)] = ""
    abort: Abort = Abort()
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 60


class Placement(Strict):
    """Where the services go that belong to neither side by nature.

    ``metadata``: ``api`` serves all cells from the API level, ``cell`` leaves it with cell1.
    ``consoles``: they read their tokens in a cell's database, so they go with cell1.
    ``notifications``: ``keep`` goes on sending them to the broker where today's consumers listen,
    ``follow`` lets every service send to its own broker.
    """

    metadata: Literal["api", "cell"] = "api"
    consoles: Literal["cell"] = "cell"
    notifications: Literal["keep", "follow"] = "keep"


class RabbitSide(Strict):
    """Hosts of RabbitMQ nodes by their inventory names, and who belongs to them.

    ``clients``: patterns of ``unit@host`` as `recell scan --rabbitmq` lists them; ``queues``: patterns of the
    names of queues that nobody takes from now.
    """

    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    clients: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()


class KeptSide(RabbitSide):
    """What stays: every client and queue that the other side doesn't name, unless patterns say less."""

    clients: tuple[str, ...] = ("*",)
    queues: tuple[str, ...] = ("*",)


class RabbitSplit(Strict):
    """One RabbitMQ cluster becomes two.

    ``split``: new nodes join, clients and queues move to them, and the cluster is cut between its sides:
    RabbitMQ 3.8 to 3.12 with Mnesia. ``fresh``: the new nodes are a cluster of their own from the beginning,
    and shovels bridge the two while clients move: 3.8 and newer. ``settle_s``: how long the sides stay
    walled off after the cut, at least. ``firewall``: after a cut, rules on every node's host that last over
    reboots, or none of recell's.
    """

    method: Literal["split", "fresh"] = "split"
    keep: KeptSide
    new: RabbitSide
    settle_s: Annotated[float, Field(ge=10)] = 10
    firewall: Literal["permanent", "none"] = "permanent"


class MovingClients(Strict):
    """How clients move. ``wave``: so many nova-computes at once, or Neutron agents of one kind; unless it is
    said, a tenth of them, ten at most. Servers that stand in for each other (conductors, schedulers,
    neutron-servers, web services) move one by one, whatever it says."""

    # More than sixteen hosts recell doesn't wait for at a time.
    wave: Annotated[int, Field(ge=1, le=16)] | None = None


class BrokerLayout(Strict):
    """A layout about RabbitMQ alone; no Nova has to be there."""

    rabbitmq: RabbitSplit
    moving: MovingClients = MovingClients()
    limits: Limits = Limits()
    acknowledge: tuple[str, ...] = ()

    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Layout(Strict):
    """The whole file. ``acknowledge`` names findings of `recell check` that the operator has read
    and accepts, by the id that check prints."""

    generation: Literal["v2"] = "v2"
    api: ApiLevel
    cells: dict[str, Cell]
    services: Placement = Placement()
    moving: Moving = Moving()
    limits: Limits = Limits()
    acknowledge: tuple[str, ...] = ()

    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class _OneOfEach(yaml.SafeLoader):
    """YAML lets a key stand twice and keeps the last; an operator's slip must not pass so."""


def _mapping(loader: _OneOfEach, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"{key} stands twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_OneOfEach.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_layout(text: str, where: str) -> Layout:
    """:raises BadInput: not YAML, an unknown or missing word, a wrong value; says where."""
    found = load_any_layout(text, where)
    if isinstance(found, BrokerLayout):
        raise BadInput(
            f"{where} is about RabbitMQ alone, and this is about Nova's cells", "Write api: and cells: in it"
        )
    if not isinstance(found, Layout):
        raise BadInput(
            f"{where} is about cells v1, and this is about cells v2",
            "Write generation: v2, or leave it out; and no from:",
        )
    return found


def load_any_layout(text: str, where: str) -> Layout | BrokerLayout | CellsV1Layout | TreeLayout:
    """Nova's cells of either generation, the way from one to the other (``from: v1``), or with ``rabbitmq:``
    a cluster's split.

    :raises BadInput: as :func:`load_layout`.
    """
    try:
        data = yaml.load(text, Loader=_OneOfEach)  # noqa: S506 (a SafeLoader with one more check)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise BadInput(f"{where}{line}: {problem}", "Correct the layout") from None
    if not isinstance(data, dict):
        raise BadInput(
            f"{where} is not a mapping of words to values",
            "Begin from the example that recell plan --example prints",
        )
    if "rabbitmq" in data and {"api", "cells"} & set(data):
        raise BadInput(
            f"{where} holds both Nova's cells and rabbitmq:, which are two conversions",
            "Keep one of them here, and give the other a directory of its own (--dir)",
        )
    kind: type[Layout | BrokerLayout | CellsV1Layout | TreeLayout] = Layout
    if "rabbitmq" in data:
        kind = BrokerLayout
    elif "from" in data:
        kind = TreeLayout
    elif data.get("generation") == "v1":
        kind = CellsV1Layout
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "top"
        raise BadInput(f"{where}: {place}: {first['msg']}", "Correct the layout") from None


EXAMPLE = """\
# The cells you want. Everything not said stays as it is; recell plan shows what that means.
generation: v2
api:
  broker:
    nodes: [mq4]          # inventory names of the API level's own RabbitMQ
cells:
  cell1:                  # the deployment as it runs today
    broker: keep
    database: keep        # or {host: db2}: a server of its own, moved to under load
    api_database: keep    # or remove: then no compute may need an upcall any more
#  cell2:                 # a further one: recell makes it, and moves hosts to it with their guests running
#    database: {host: db2}
#    broker: {nodes: [mq5]}
#    conductors: [ctl1, ctl2]
#    hosts: [cmp3, "cmp4*"]
#moving:                  # how many at once, when, and what stops them
#  wave: 2
#  canary: cmp3
#  window: "22:00-05:00"  # UTC
#  abort: {api_errors: 0}
services:
  metadata: api           # or cell
  consoles: cell
  notifications: keep     # go on where today's consumers listen; or follow
"""

RABBIT_EXAMPLE = """\
# One RabbitMQ cluster becomes two, while its clients work. recell scan --rabbitmq lists who is there.
rabbitmq:
  method: split                 # or fresh: a cluster of its own, and shovels while clients move
  keep:
    hosts: [mq1, mq2, mq3]      # the cluster as it is today
  new:
    hosts: [mq4, mq5, mq6]      # blank nodes; split: with the same Erlang cookie, fresh: with another
    clients:                    # who moves to them: unit@host; everybody else stays
      - "neutron-*@*"
      - "ceilometer-*@*"
#moving: {wave: 5}              # nova-computes, or agents of one kind, at once; else a tenth, ten at most
"""
