"""What the steps may ask of a throw-away guest, through Nova's API as a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["GuestState", "GuestVerb", "GuestsPort"]

GuestVerb = Literal["stop", "start", "reboot", "delete"]


@dataclass(frozen=True)
class GuestState:
    """``status``: as the API says it (BUILD, ACTIVE, SHUTOFF, ERROR, ...); ``task``: empty at rest; ``host``:
    as Nova names it; ``fault``: what Nova says went wrong."""

    status: str
    task: str = ""
    host: str = ""
    fault: str = ""

    def __str__(self) -> str:
        task = f", {self.task}" if self.task else ""
        return f"{self.status}{task}" + (f" ({self.fault})" if self.fault else "")


class GuestsPort(Protocol):
    """One account of clouds.yaml. Got from :meth:`World.guests`.

    :raises Unreachable: Keystone or Nova doesn't answer. Denied: the account is refused. BadInput: there is
        no such cloud. StepFailed: Nova refuses what is asked (from every method).
    """

    def troubles(self, flavor: str, image: str) -> tuple[str, ...]:
        """Why no guest could be booted, a sentence each."""
        ...

    def find(self, name: str) -> str:
        """The uuid of the account's guest of this name; empty when there is none."""
        ...

    def boot(self, name: str, host: str, flavor: str, image: str, network: str) -> str:
        """On this host and no other; its uuid, before it is built. ``network``: a uuid, auto or none."""
        ...

    def look(self, uuid: str) -> GuestState | None:
        """None: there is none (any more)."""
        ...

    def ask(self, uuid: str, verb: GuestVerb) -> None:
        """Returns when Nova has acknowledged it. A reboot is a hard one."""
        ...
