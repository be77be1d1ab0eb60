"""What a gate at HAProxy says: whether requests wait there, and where they go."""

from __future__ import annotations

from dataclasses import dataclass

from recell.model.relay import Side


@dataclass(frozen=True)
class GateServer:
    """A server of the new side's backend."""

    name: str
    address: str
    port: int


@dataclass(frozen=True)
class GateState:
    """``side``: where requests go, committed. ``toward``: the side to which a switch was under way when
    it is not "": then the fence decides. ``held``: a lease runs. ``waiting``: requests that wait now;
    ``waited``: those that did since the hold began; ``longest_s``: the longest of them.

    ``inside``: requests that are past the gate and not answered, of both sides. ``up``: sides with a
    server that takes requests. ``worker``: HAProxy's process; ``leaving``: older ones, left by a reload,
    whose requests can't be counted.
    """

    side: Side
    toward: Side | None = None
    held: bool = False
    waiting: int = 0
    waited: int = 0
    longest_s: float = 0.0
    inside: int = 0
    up: tuple[Side, ...] = ("old", "new")
    worker: int = 0
    leaving: int = 0
