"""Which module serves which kind of step."""

from __future__ import annotations

from recell.errors import BadInput
from recell.model.plan import Plan
from recell.steps.apart import Apart
from recell.steps.base import BaseStep, Context
from recell.steps.broker_account import BrokerAccount
from recell.steps.canary import CanaryGuest, CanaryProof
from recell.steps.cell import CellSchema, CellThings, NewMapping, StartConsole
from recell.steps.containers import SiblingContainer
from recell.steps.crossing import BridgedRepoint, RepointWave
from recell.steps.database import DatabaseThings, FollowDatabase, Relayed, RelayStep
from recell.steps.exchange import KeepExchange
from recell.steps.files import CopyConfig, DropIn, EditConfig, SiblingUnit
from recell.steps.gate import WaveGate
from recell.steps.hosts import FlipHosts, FollowHosts, HostsComputes, HostsOpen
from recell.steps.mapping import LiteralMapping, MoveMapping, NodesMapping
from recell.steps.prove import Prove
from recell.steps.proxied import Proxied
from recell.steps.quiet import Quiet
from recell.steps.rabbit import Blank, Conf, Handling, Join, Policies, Rehome
from recell.steps.rabbit_bridge import Definitions, Span
from recell.steps.rabbit_part import OldCookie, Part
from recell.steps.records import RetireRecords
from recell.steps.recycle import RecycleCompute
from recell.steps.repoint import Repoint
from recell.steps.switch import SwitchDatabase
from recell.steps.units import RenewApi, RenewConsole, RenewRpc, RestartApi, RestartRpc, StartUnit
from recell.steps.v1 import V1Account, V1Config, V1Database, V1Record
from recell.steps.v1_child import V1ChildRecord, V1Empty, V1Flavors, V1Join, V1Weights
from recell.steps.v1_hold import V1ChildApi, V1Consoles, V1Retire, V1Servers
from recell.steps.v1_rows import V1Follow, V1Link, V1Prove, V1Sync
from recell.steps.v1_switch import V1Switch
from recell.steps.v1_v2 import V2Adopt, V2Mappings, V2Switch

KINDS: dict[str, type[BaseStep]] = {
    step.kind: step
    for step in (
        Apart,
        Blank,
        BridgedRepoint,
        BrokerAccount,
        CanaryGuest,
        CanaryProof,
        CellSchema,
        CellThings,
        Conf,
        CopyConfig,
        DatabaseThings,
        Definitions,
        DropIn,
        EditConfig,
        FlipHosts,
        FollowDatabase,
        FollowHosts,
        Handling,
        HostsComputes,
        HostsOpen,
        Join,
        KeepExchange,
        LiteralMapping,
        MoveMapping,
        NewMapping,
        NodesMapping,
        OldCookie,
        Part,
        Policies,
        Prove,
        Proxied,
        Quiet,
        RecycleCompute,
        Rehome,
        RelayStep,
        Relayed,
        RenewApi,
        RenewConsole,
        RenewRpc,
        Repoint,
        RepointWave,
        RestartApi,
        RestartRpc,
        RetireRecords,
        SiblingContainer,
        SiblingUnit,
        Span,
        StartConsole,
        StartUnit,
        SwitchDatabase,
        WaveGate,
        V1Account,
        V1ChildApi,
        V1ChildRecord,
        V1Config,
        V1Consoles,
        V1Database,
        V1Empty,
        V1Flavors,
        V1Follow,
        V1Join,
        V1Link,
        V1Prove,
        V1Record,
        V1Retire,
        V1Servers,
        V1Switch,
        V1Sync,
        V1Weights,
        V2Adopt,
        V2Mappings,
        V2Switch,
    )
}


def bind(plan: Plan, context: Context) -> tuple[BaseStep, ...]:
    """The plan's steps, ready to run. :raises BadInput: a kind that this recell doesn't have."""
    steps = []
    for spec in plan.steps:
        if spec.kind not in KINDS:
            raise BadInput(
                f"the plan has a step of kind {spec.kind}, which this recell doesn't know",
                "Use the recell that made the plan",
            )
        steps.append(KINDS[spec.kind](spec, context))
    return tuple(steps)
