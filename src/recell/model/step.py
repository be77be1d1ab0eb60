"""What the engine asks of a step, and the words in which a step answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, Protocol

Direction = Literal["forward", "backward"]

__all__ = ["Direction", "Finding", "Step", "Truth"]


class Truth(enum.Enum):
    """How far the world is from where a direction leads.

    DONE: it is there, nothing to act on. PARTIAL: begun; acting again ends well. UNKNOWN: what is
    there was made neither by this step nor before it, or can't be seen: a human must look.
    """

    NOT_DONE = "not done"
    DONE = "done"
    PARTIAL = "partial"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """A truth and the observation behind it, for the journal and the operator."""

    truth: Truth
    why: str = ""

    @classmethod
    def done(cls, why: str = "") -> Finding:
        return cls(Truth.DONE, why)

    @classmethod
    def not_done(cls, why: str = "") -> Finding:
        return cls(Truth.NOT_DONE, why)

    @classmethod
    def partial(cls, why: str) -> Finding:
        return cls(Truth.PARTIAL, why)

    @classmethod
    def unknown(cls, why: str) -> Finding:
        return cls(Truth.UNKNOWN, why)


class Step(Protocol):
    """One idea, there and back.

    ``do`` and ``undo`` may be called again after having been killed at any point inside them, and
    after the other one was. They return when the effect is there; ``verify`` then proves it by
    looking, and returns the proof in words.
    """

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def estimate_s(self) -> float: ...
    @property
    def lasting(self) -> bool:
        """Whether its effect stands when the run is over (a drained server does not)."""
        ...

    @property
    def group(self) -> str:
        """Steps that belong together have the same one."""
        ...

    @property
    def retreat(self) -> str:
        """Asked when the way forward failed here: a group whose begun steps are to be undone at once."""
        ...

    def guard(self, toward: Direction) -> None:
        """:raises StalePlan: what the step builds on was changed by somebody else."""
        ...

    def check(self, toward: Direction) -> Finding: ...
    def do(self) -> None: ...
    def undo(self) -> None: ...
    def verify(self, toward: Direction) -> str:
        """:raises VerifyFailed: the effect is not there."""
        ...
