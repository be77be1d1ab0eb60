"""What layouts of more than one kind are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """An unknown word is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiBroker(Strict):
    """The API level's own RabbitMQ: inventory names of its hosts, port, vhost.

    The account is the one that Nova uses today; recell makes it there when it is missing.
    """

    nodes: Annotated[tuple[str, ...], Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 5672
    vhost: str = ""  # empty: the same as today's


class Limits(Strict):
    """How long to wait before a step gives up (seconds). Nothing is lost when one does."""

    drain_s: Annotated[float, Field(gt=0)] = 120
    quiet_s: Annotated[float, Field(gt=0)] = 300
    stop_s: Annotated[float, Field(gt=0)] = 120
    start_s: Annotated[float, Field(gt=0)] = 180
