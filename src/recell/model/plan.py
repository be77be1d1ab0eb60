"""A plan: what will be done, step by step, each with its way back. plan.json.

A plan is data. It holds no secret (values that contain one are described, "the same account on
mq4", and computed on the spot), it carries its inverse (every step says which way it acts), and it
is sealed: its digest covers every byte that matters, so an edited plan is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from recell.errors import BadInput, StalePlan

Acts = Literal["both", "forward", "backward"]


@dataclass(frozen=True)
class PlanStep:
    """One step.

    ``kind`` names the module in recell.steps; ``params`` is plain JSON for it. ``acts``: a step that
    acts only ``backward`` stands where undo needs it (a restart after a file is put back) and does
    nothing on the way forward, and the other way round. ``estimate_s``: for the ETA only.
    ``safe_point``: the last step, at or before this one, after which the plan can be left for long.
    """

    id: str
    kind: str
    where: str
    title: str
    notice: str
    undone: str
    until: str = "finish"
    acts: Acts = "both"
    estimate_s: float = 1.0
    params: dict[str, Any] = field(default_factory=dict)
    safe_point: str = ""


@dataclass(frozen=True)
class ExpectedChange:
    """A row that the plan changes or creates by itself; measured rows may differ just there."""

    database: str  # "api" or a cell's name
    table: str
    key: str  # column=value; * for any row; "moves" for rows that may go to a database that says it too
    why: str


MOVES = "moves"
"""The key of an :class:`ExpectedChange` under which a row may be in another database, and be no other row."""


@dataclass(frozen=True)
class Fingerprint:
    """A file that must be as it was when the plan was made; sha256 "" means: must not exist."""

    host: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Plan:
    """``digest`` is over everything else; ``state`` is the deployment's state_digest()."""

    format: int
    kind: str
    made_at: float
    state: str
    layout: str
    steps: tuple[PlanStep, ...]
    fingerprints: tuple[Fingerprint, ...]
    expected_changes: tuple[ExpectedChange, ...] = ()
    remarks: tuple[str, ...] = ()
    topology_before: dict[str, Any] = field(default_factory=dict)
    topology_after: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def id(self) -> str:
        """A short name for journals and for the directories on hosts that keep old values."""
        return self.digest[:16]

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases that it writes to: "api" or a cell's name."""
        return tuple(sorted({c.database for c in self.expected_changes}))

    def sealed(self) -> Plan:
        """The same plan as it will be read back from its file (1 and 1.0 differ there), with its digest."""
        read_back = _ADAPTER.validate_json(_ADAPTER.dump_json(self))
        return replace(read_back, digest=read_back._computed())

    def _computed(self) -> str:
        content = asdict(self)
        del content["digest"]
        for step in content["steps"]:
            if not step["safe_point"]:
                del step["safe_point"]  # a plan from before it was named keeps its digest
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_ADAPTER = TypeAdapter(Plan)


def dump_plan(plan: Plan) -> bytes:
    return _ADAPTER.dump_json(plan, indent=1) + b"\n"


def load_plan(data: bytes, where: str) -> Plan:
    """:raises BadInput: not a plan. :raises StalePlan: it was edited after it was made."""
    try:
        plan = _ADAPTER.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise BadInput(
            f"{where} is not a plan ({place}: {first['msg']})", "Make it again with: recell plan"
        ) from None
    if plan.format != 1:
        raise BadInput(
            f"{where} has format {plan.format}, this recell reads 1", "Make it again with: recell plan"
        )
    if plan.digest != plan._computed():
        raise StalePlan(
            f"{where} was edited after it was made", "Change layout.yaml instead and run: recell plan"
        )
    ids = [s.id for s in plan.steps]
    if len(set(ids)) != len(ids):
        raise BadInput(f"{where} names a step twice", "Make it again with: recell plan")
    return plan
