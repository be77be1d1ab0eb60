"""A simulated waiting room: what is sent to a nova-compute stays with recell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.world import SimWorld


class SimRoom:
    """WaitingRoom of a nova-compute; recell's death ends it as well."""

    def __init__(self, world: SimWorld, host: str, unit: str, queues: Sequence[str]) -> None:
        self.world, self.host, self.unit = world, host, unit
        if set(queues) - {f"compute-alt.{host}"} != {f"compute.{host}"}:
            world.complaints.append(f"a room for {', '.join(queues)}")

    def __enter__(self) -> SimRoom:
        return self

    def __exit__(self, *error: object) -> None:
        self.world.rooms.discard(self.host)

    def hold(self) -> None:
        self.world.point(f"before messages to nova-compute on {self.host} are held")
        self.world.rooms.add(self.host)
        self.world.point(f"messages to nova-compute on {self.host} are held")

    def others(self) -> bool:
        return self.world.hosts[self.host].units_[self.unit].active and self.world.serves(self.host)

    def release(self) -> None:
        self.world.point(f"before messages to nova-compute on {self.host} are let go")
        self.world.rooms.discard(self.host)
        self.world.point(f"messages to nova-compute on {self.host} are let go")
