"""The children of the lab's tree of cells v1: which of them gets a boot, out of their own databases.

What decides is what the API cell's nova-cells knows of their room. It is told once a minute, so boots go to
one child until it hears that the other has more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from recell_lab import lab, state
from recell_lab.cloud import identity, ready, topology
from recell_lab.cloud.rest import Session
from recell_lab.cloud.second import CELL
from recell_lab.cloud.topology import public_url
from recell_lab.errors import LabError

FIRST = "cell1"
SERVERS = {FIRST: topology.DATABASE.name, CELL: topology.SECOND_DATABASE.name}
API_CELL = (topology.CELL_DATABASE.name, "nova_api_cell")
PATHS = {name: f"api!{name}" for name in SERVERS}
MICROVERSION = {"OpenStack-API-Version": "compute 2.68"}  # Stein's own lists fail from 2.69 on in cells v1
MEMORY_MB = "64"  # of the flavor that is booted
NEWER = "needs-newer"
"""An image that wants a newer hypervisor than the second child's capability promises."""
SURE = 5  # more than users change between a look and a boot
MORE = 12  # by so much a wave makes the other child the roomier one
ROUNDS = 8
FEW = 3
HEARD_S = 150.0  # nova-cells reads its room once a minute, and tells of it once a minute
BUILT_S = 420.0
BACK_S = 75.0
"""After so long a nova-cells that has begun has told its parent of itself, when it began and once more."""
POLL_S = 3.0


@dataclass(frozen=True)
class Wave:
    """Guests that were booted by one request, which goes to one child. rooms: what the API cell knew then, in
    guests of this size; expected: the child that they belong to, "" where that was too close to tell;
    found: by child, how many are active there and, as the API cell says, below its path."""

    name: str
    why: str
    asked: int
    rooms: Mapping[str, int]
    expected: str
    found: Mapping[str, int] = field(default_factory=dict)

    @property
    def went(self) -> str:
        """The child that has them; "" where they are in none or in several."""
        there = [child for child, count in self.found.items() if count]
        return there[0] if len(there) == 1 and self.found[there[0]] == self.asked else ""

    def wrong(self) -> str:
        """In words; "" when it is as it should be."""
        places = ", ".join(f"{count} in {child}" for child, count in self.found.items()) or "nowhere"
        if not self.went:
            return f"{self.name}: {self.asked} guests were asked for at once, and are {places}"
        if self.expected and self.went != self.expected:
            return f"{self.name} ({self.why}) belongs to {self.expected}, and is {places}"
        return ""


class Tree(Protocol):
    """What is asked of the lab."""

    def rooms(self) -> dict[str, int]: ...
    def boot(self, name: str, count: int, image: str) -> None: ...
    def found(self, name: str) -> dict[str, int]: ...
    def failed(self, name: str) -> int: ...
    def mute(self) -> None: ...
    def unmute(self) -> None: ...
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


def roomier(rooms: Mapping[str, int]) -> tuple[str, int]:
    """The child with the most room, and how much more it is."""
    first, second = sorted(rooms, key=lambda child: -rooms[child])[:2]
    return first, rooms[first] - rooms[second]


class Trial:
    """Boots, and where they went. ``waves`` and ``wrong`` grow."""

    def __init__(self, tree: Tree, say: Callable[[str], None]) -> None:
        self.tree = tree
        self.say = say
        self.waves: list[Wave] = []
        self.wrong: list[str] = []

    def spread(self) -> None:
        """Free memory decides: each wave makes the other child the roomier one, which gets the next."""
        for _ in range(ROUNDS):
            if self._spread_to() == {*SERVERS}:
                return
            rooms = self.tree.rooms()
            best, gap = roomier(rooms)
            wave = self._wave("free memory", gap + MORE, rooms, best if gap >= SURE else "")
            if not wave.went or not self._heard(wave):
                return
        if (sure := self._spread_to()) != {*SERVERS}:
            self.wrong.append(f"free memory was seen to lead to {', '.join(sure) or 'no child'} alone")

    def _spread_to(self) -> set[str]:
        return {w.went for w in self.waves if w.expected and w.why == "free memory"}

    def capability(self) -> None:
        """A child whose capabilities don't fit gets no boot, be it ever so roomy."""
        if self._make_room(CELL):
            self._wave(f"{CELL} promises an older hypervisor", FEW, self.tree.rooms(), FIRST, NEWER)

    def mute(self, interval_s: float) -> None:
        """A child that was not heard of for so long gets no boot, and gets them again when it is back."""
        if not self._make_room(CELL):
            return
        self.tree.mute()
        try:
            self.say(f"nova-cells of {CELL} is off; {interval_s:.0f} s, and it counts as mute")
            self.tree.sleep(interval_s + POLL_S)
            self._wave(f"{CELL} is mute", FEW, self.tree.rooms(), FIRST)
        finally:
            self.tree.unmute()
        self.say(f"nova-cells of {CELL} is on again")
        self.tree.sleep(BACK_S)
        if self._make_room(CELL):
            self._wave(f"{CELL} is heard again", FEW, self.tree.rooms(), CELL)

    def alone(self, child: str) -> None:
        """There is no other child: it gets all boots."""
        self._wave(f"{child} is the only child", FEW, {}, child)

    def _make_room(self, child: str) -> bool:
        """Whether the API cell knows this child as the roomier one, by far enough."""
        for _ in range(ROUNDS):
            best, gap = roomier(rooms := self.tree.rooms())
            if best == child and gap >= SURE:
                return True
            wave = self._wave("to make room", gap + MORE, rooms, best if gap >= SURE else "")
            if not wave.went or not self._heard(wave):
                return False
        self.wrong.append(f"{child} did not become the roomier child")
        return False

    def _heard(self, wave: Wave) -> bool:
        """Wait until the API cell knows what a wave has taken.

        Users' boots go to the roomier child, too: its advantage they may have used up.
        """
        began = self.tree.now()
        while True:
            best, gap = roomier(rooms := self.tree.rooms())
            if best != wave.went and gap >= SURE:
                return True
            if self.tree.now() - began > HEARD_S:
                if rooms[wave.went] < wave.rooms[wave.went]:
                    return True
                self.wrong.append(f"the API cell still knows of {rooms}, after a wave went to {wave.went}")
                return False
            self.tree.sleep(POLL_S)

    def _wave(
        self, why: str, count: int, rooms: Mapping[str, int], expected: str, image: str = identity.IMAGE
    ) -> Wave:
        wave = Wave(f"wave{len(self.waves)}-{int(self.tree.now()):x}-", why, count, rooms, expected)
        self.tree.boot(wave.name, count, image)
        began = self.tree.now()
        found = self.tree.found(wave.name)
        while sum(found.values()) < count and not self.tree.failed(wave.name):
            if self.tree.now() - began > BUILT_S:
                break
            self.tree.sleep(POLL_S)
            found = self.tree.found(wave.name)
        wave = Wave(wave.name, why, count, rooms, expected, found)
        self.waves.append(wave)
        known = "; room: " + ", ".join(f"{child} {room}" for child, room in rooms.items()) if rooms else ""
        places = ", ".join(f"{n} in {child}" for child, n in found.items())
        self.say(f"{count} guests ({why}{known}): {places}")
        if said := wave.wrong():
            self.wrong.append(said)
        return wave


def told(trial: Trial) -> dict[str, Any]:
    """All findings, for a file."""
    return {"waves": [asdict(wave) for wave in trial.waves], "counts": counts(), "wrong": trial.wrong}


def administrator() -> Session:
    """Of the lab there is."""
    secrets = json.loads((state.STATE_DIR / "secrets.json").read_text())
    return Session("admin", secrets["passwords"]["user_admin"], "admin")


def counts() -> dict[str, int]:
    """Live instances by child, out of their own databases."""
    sql = "SELECT COUNT(*) FROM nova.instances WHERE deleted = 0"
    return {child: int(ready.query(lab.host(server), sql)[0][0]) for child, server in SERVERS.items()}


class RealTree:
    """:class:`Tree`: the lab's."""

    def __init__(self) -> None:
        self._admin = administrator()
        self._nova = public_url("nova-api", "/v2.1")
        self._images: dict[str, str] = {}

    def rooms(self) -> dict[str, int]:
        return {child: self._room(child) for child in SERVERS}

    def _room(self, child: str) -> int:
        told = self._admin.call("GET", f"{self._nova}/os-cells/{child}/capacities", headers=MICROVERSION)
        units = told["cell"]["capacities"].get("ram_free", {}).get("units_by_mb", {})
        return int(units.get(MEMORY_MB, 0))

    def boot(self, name: str, count: int, image: str) -> None:
        server = {"name": name, "imageRef": self._image(image), "flavorRef": "1", "networks": "none",
                  "min_count": count, "max_count": count}  # fmt: skip
        self._admin.call("POST", f"{self._nova}/servers", {"server": server}, headers=MICROVERSION)

    def _image(self, name: str) -> str:
        if name not in self._images:
            glance = public_url("glance-api", "/v2/images")
            listed = {one["name"]: one["id"] for one in self._admin.call("GET", glance)["images"]}
            if name not in listed:
                identity.make_image(self._admin, name, hypervisor_version_requires=">=2.0")
                return self._image(name)
            self._images[name] = listed[name]
        return self._images[name]

    def found(self, name: str) -> dict[str, int]:
        there = {child: self._uuids(server, "nova", name) for child, server in SERVERS.items()}
        seen = {
            child: self._uuids(*API_CELL, name, f" AND cell_name = '{path}'") for child, path in PATHS.items()
        }
        return {child: len(there[child] & seen[child]) for child in SERVERS}

    def _uuids(self, server: str, database: str, name: str, more: str = "") -> set[str]:
        sql = (
            f"SELECT uuid FROM {database}.instances WHERE deleted = 0 AND vm_state = 'active'"  # noqa: S608
            f" AND task_state IS NULL AND display_name LIKE '{name}%'{more}"
        )
        return {row[0] for row in ready.query(lab.host(server), sql)}

    def failed(self, name: str) -> int:
        sql = (
            f"SELECT COUNT(*) FROM {API_CELL[1]}.instances WHERE deleted = 0"  # noqa: S608
            f" AND vm_state = 'error' AND display_name LIKE '{name}%'"
        )
        return int(ready.query(lab.host(API_CELL[0]), sql)[0][0])

    def mute(self) -> None:
        for host in _controllers():
            # It doesn't end when it is asked to: systemd kills it a minute later.
            lab.host(host).run(["systemctl", "stop", "nova-cells"], timeout=120)

    def unmute(self) -> None:
        for host in _controllers():
            lab.host(host).run(["systemctl", "start", "nova-cells"], timeout=120)

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


_tree: type[Tree] = RealTree


def _controllers() -> list[str]:
    return [host.spec.name for host in lab.all_hosts() if host.spec.role == "controllers_cell2"]


def empty(say: Callable[[str], None]) -> None:
    """Delete what the second child has, as an administrator, and wait until it is gone on both sides.

    Raises LabError naming what is left.
    """
    admin, nova = administrator(), public_url("nova-api", "/v2.1")
    sql = "SELECT uuid FROM nova.instances WHERE deleted = 0"
    child, began = lab.host(SERVERS[CELL]), time.monotonic()
    asked: set[str] = set()
    while left := {row[0] for row in ready.query(child, sql)}:
        for uuid in sorted(left - asked):
            admin.call("DELETE", f"{nova}/servers/{uuid}", headers=MICROVERSION, good=(204, 404))
            asked.add(uuid)
        if time.monotonic() - began > BUILT_S:
            raise LabError(f"{len(left)} instances of {CELL} are not deleted: {', '.join(sorted(left)[:5])}")
        time.sleep(POLL_S)
    seen = f"SELECT COUNT(*) FROM {API_CELL[1]}.instances WHERE deleted = 0"  # noqa: S608
    seen += f" AND cell_name = '{PATHS[CELL]}'"
    ready.wait(
        f"the API cell has heard that {CELL} is empty",
        lambda: ready.query(lab.host(API_CELL[0]), seen) == [["0"]],
        BUILT_S,
    )
    say(f"{len(asked)} instances of {CELL} deleted; it is empty, and the API cell has heard of it")
