"""What is known of a RabbitMQ cluster that becomes two, and of what is to become of it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout
from recell.model.rabbit import RabbitClient, RabbitNode

Reason = tuple[str, str, str]
"""(where, what, remedy)"""


@dataclass(frozen=True)
class RabbitFacts:
    """What deployment and layout come to."""

    deployment: Deployment
    layout: BrokerLayout
    keep: tuple[RabbitNode, ...]
    new: tuple[RabbitNode, ...]
    moving: tuple[RabbitClient, ...]
    staying: tuple[RabbitClient, ...]

    @property
    def fresh(self) -> bool:
        return self.layout.rabbitmq.method == "fresh"

    @property
    def nodes(self) -> tuple[RabbitNode, ...]:
        return (*self.keep, *self.new)
