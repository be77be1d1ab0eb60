"""A guest that would be booted: nothing is asked of Nova but whether it could."""

from __future__ import annotations

from recell.adapters.dry_record import Record
from recell.adapters.guests_port import GuestsPort, GuestState, GuestVerb


class DryGuests:
    """:class:`~recell.adapters.guests_port.GuestsPort` that boots none."""

    def __init__(self, real: GuestsPort, record: Record) -> None:
        self._real = real
        self._record = record
        self._names: dict[str, str] = {}
        self._status: dict[str, GuestState | None] = {}

    def troubles(self, flavor: str, image: str) -> tuple[str, ...]:
        return self._real.troubles(flavor, image)

    def find(self, name: str) -> str:
        return self._names.get(name, "") or self._real.find(name)

    def boot(self, name: str, host: str, flavor: str, image: str, network: str) -> str:
        self._record.add(host, f"boot the guest {name} ({flavor}, {image})")
        self._names[name] = name
        self._status[name] = GuestState("ACTIVE", host=host)
        return name

    def look(self, uuid: str) -> GuestState | None:
        return self._status[uuid] if uuid in self._status else self._real.look(uuid)

    def ask(self, uuid: str, verb: GuestVerb) -> None:
        self._record.add("nova", f"{verb} the guest {uuid}")
        now = {"stop": GuestState("SHUTOFF"), "delete": None}
        self._status[uuid] = now.get(verb, GuestState("ACTIVE"))
        if verb == "delete":
            self._names = {n: u for n, u in self._names.items() if u != uuid}
