"""A throw-away guest on the first host that moves: it goes along, and must obey in the new cell."""

from __future__ import annotations

from typing import Any, ClassVar

from recell.adapters.guests_port import GuestsPort, GuestState, GuestVerb
from recell.errors import StepFailed
from recell.model.step import Direction, Finding
from recell.steps.hosts import POLL_S, HostsStep

ORDER: tuple[tuple[GuestVerb, str], ...] = (("stop", "SHUTOFF"), ("start", "ACTIVE"), ("reboot", "ACTIVE"))


class GuestStep(HostsStep):
    """``guest``: cloud, flavor, image, network; ``host``: where it is born, as Nova names it."""

    @property
    def lasting(self) -> bool:
        return False

    def guests(self) -> GuestsPort:
        return self.world.guests(str(self.param("guest")["cloud"]))

    def name(self) -> str:
        return f"recell-canary-{self.context.keep}"

    def rest(self, uuid: str, wanted: str, doing: str) -> GuestState:
        """Wait until it is so. :raises StepFailed: it fails, or isn't in time."""
        guests, began = self.guests(), self.world.clock()
        while True:
            state = guests.look(uuid)
            if state is not None and state.status == wanted and not state.task:
                return state
            late = self.world.clock() - began > self.limit("start_s")
            if state is None or state.status == "ERROR" or late:
                waited = f" after {self.limit('start_s'):.0f} s" if late else ""
                raise StepFailed(
                    f"the canary guest {uuid} on {self.param('host')} does not {doing}:"
                    f" {state or 'it is gone'}{waited}",
                    "See nova-compute's log there, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)

    def remove(self, uuid: str) -> None:
        guests, began = self.guests(), self.world.clock()
        guests.ask(uuid, "delete")
        while (state := guests.look(uuid)) is not None:
            if self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"the canary guest {uuid} on {self.param('host')} is not deleted: {state}",
                    "Delete it, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)


class CanaryGuest(GuestStep):
    """It is booted; on the way back it is deleted, wherever it is."""

    kind: ClassVar[str] = "canary-guest"

    def look(self, toward: Direction) -> Finding:
        uuid = self.guests().find(self.name())
        if toward == "backward":
            return Finding.not_done(f"the guest {uuid} is there") if uuid else Finding.done("it is gone")
        if not uuid:
            return Finding.not_done()
        state = self.guests().look(uuid)
        if state is None or state.status != "ACTIVE" or state.task:
            return Finding.partial(str(state or "it is going"))
        return Finding.done(f"the guest {uuid} is active on {self.param('host')}")

    def act(self, toward: Direction) -> None:
        guests, uuid = self.guests(), self.guests().find(self.name())
        if toward == "backward":
            if uuid:
                self.remove(uuid)
            return
        said: dict[str, Any] = self.param("guest")
        host = str(self.param("host"))
        if not uuid:
            uuid = guests.boot(self.name(), host, said["flavor"], said["image"], said["network"])
        state = self.rest(uuid, "ACTIVE", "become active")
        if state.host and state.host != host:
            raise StepFailed(
                f"the canary guest {uuid} was born on {state.host}, not on {host}",
                "Let an administrator's cloud boot it (moving: canary_guest: cloud)",
            )


class CanaryProof(GuestStep):
    """It is stopped, started, rebooted and deleted in the new cell, each seen to happen."""

    kind: ClassVar[str] = "canary-proof"

    def look(self, toward: Direction) -> Finding:
        proved = bool(self.recall("proved"))
        if toward == "backward":
            return Finding.not_done() if proved or self.recall("obeyed") else Finding.done()
        return Finding.done("it obeyed, and is deleted") if proved else Finding.not_done()

    def act(self, toward: Direction) -> None:
        if toward == "backward":
            self.remember("obeyed", [])
            self.remember("proved", False)
            return
        if not self.move().hosts:
            self.remember("proved", True)
            return
        guests, uuid = self.guests(), self.guests().find(self.name())
        obeyed: list[str] = self.recall("obeyed", [])
        if not uuid and len(obeyed) < len(ORDER):
            raise StepFailed(
                f"the canary guest on {self.param('host')} is gone from {self.move().new.name}",
                "See who deleted it; recell undo goes back",
            )
        for verb, wanted in ORDER:
            if verb in obeyed:
                continue
            state = guests.look(uuid)
            # A run that died here may have asked already.
            if verb == "reboot" or state is None or state.status != wanted:
                guests.ask(uuid, verb)
            self.rest(uuid, wanted, verb)
            obeyed = [*obeyed, verb]
            self.remember("obeyed", obeyed)
        if uuid:
            self.remove(uuid)
        self.remember("proved", True)
