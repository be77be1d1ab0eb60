"""Waiting rooms for what is sent to a nova-compute that restarts: had once, before anybody does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from recell.adapters.ports import World
from recell.errors import RecellError, Unreachable
from recell.model.plan import Plan
from recell.model.violation import Violation
from recell.planning.queues import own_queues, queues_of_compute

_AT_ONCE = 16


def check(world: World, plan: Plan) -> Iterator[Violation]:
    """recell takes from a nova-compute's queues as that one does, from its host, by a forward of SSH's."""
    wanted = dict(_wanted(plan))
    if not wanted:
        return
    with ThreadPoolExecutor(min(_AT_ONCE, len(wanted))) as pool:
        told = {place: pool.submit(_trouble, world, *place, queues) for place, queues in wanted.items()}
    for (where, unit), answer in told.items():
        if (error := answer.result()) is not None:
            remedy = error.remedy
            if isinstance(error, Unreachable):
                remedy = "Let sshd there forward connections (AllowTcpForwarding); see that RabbitMQ answers"
            yield Violation(
                f"room:{where}",
                "stop",
                where,
                f"recell can't keep what is sent to {unit} while it restarts: {error.sentence}",
                remedy,
            )


def _wanted(plan: Plan) -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    """(host, unit) and its queues. Where a bridge stands messages wait at the other cluster."""
    for step in plan.steps:
        if "bridge" in step.params:
            continue
        if step.kind == "recycle-compute":
            yield (step.where, str(step.params["unit"])), queues_of_compute(str(step.params["nova_host"]))
        if step.kind == "repoint":
            yield from _one(step.where, step.params)
        if step.kind == "repoint-wave":
            for move in step.params["moves"]:
                yield from _one(str(move["host"]), move)


def _one(where: str, told: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    if told.get("cell") is not None:
        yield (where, str(told["unit"])), own_queues(str(told["nova_host"]), told["queues"])


def _trouble(world: World, where: str, unit: str, queues: tuple[str, ...]) -> RecellError | None:
    try:
        with world.waiting_room(where, unit, queues):
            return None
    except RecellError as error:
        return error
