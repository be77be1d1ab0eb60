"""Volumes, snapshots and consoles as users have them: asked for at the public addresses, seen on all sides.

What Nova says of a volume is held against what Cinder's stand-in says and against the file of the guest on
its host; a console against the name of the desktop that it leads to. Guests are its own. The probe's users
know those that were there when they began: begin this after them, and they leave these alone.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from recell_lab import console, lab, state
from recell_lab.cloud import identity
from recell_lab.cloud.rest import Session, request
from recell_lab.cloud.topology import public_url
from recell_lab.console import ConsoleError
from recell_lab.errors import LabError

NOVA, CINDER, GLANCE = "compute", "volumev3", "image"
FLAVOR = "1"
ANSWER_S = 90.0  # longer than nova-api waits for nova-compute
LIMIT_S = 180.0
LEFT_S = 10.0
POLL_S = 1.0
OLD_S = 480.0  # Nova's tokens are good for 600 s
GONE = 404
GUESTS = "var/lib/nova/guests"
VERSIONS = {NOVA: "compute 2.60", CINDER: "volume 3.44"}
"""Below 2.69: Stein's own lists fail from there on in cells v1. Newer ones serve it as well."""
Attached = Mapping[str, str]
"""Device by volume."""


class Failed(Exception):
    """What was asked for did not come about, in words."""


@dataclass(frozen=True)
class Reply:
    """status: of HTTP, 0 when there was none; why: then, and of a refusal."""

    status: int
    body: Any = None
    request_id: str = ""
    why: str = ""


class World(Protocol):
    """What is asked of the lab."""

    def ask(self, service: str, method: str, path: str, data: Any) -> Reply: ...
    def placed(self, guest: str) -> tuple[str, Attached] | None: ...
    def desktop(self, url: str) -> str: ...
    def write(self, line: Mapping[str, Any]) -> None: ...
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


@dataclass
class Counts:
    """Of a run. failed, lost: of requests and of operations, in words; reopened: consoles that opened with
    a second URL only; old: those that were opened with a URL of a round before; twice: volumes that cells v1
    had attached twice."""

    requests: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    consoles: int = 0
    old: int = 0
    reopened: int = 0
    twice: int = 0
    rounds: int = 0

    @property
    def bad(self) -> bool:
        return bool(self.failed or self.lost or not self.operations)


@dataclass(frozen=True)
class Kept:
    """What was left in place. hosts: of each guest; attached: device by volume, by guest; image: of one."""

    hosts: Mapping[str, str]
    attached: Mapping[str, Attached]
    image: str

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def of(cls, text: str) -> Kept:
        """Of what text() gave. Raises LabError for anything else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise LabError("that file is none that `recell-lab volumes --keep` wrote") from error


class Trial:
    """Rounds of what users do with volumes, snapshots and consoles."""

    def __init__(self, world: World, say: Callable[[str], None], name: str = "volumes") -> None:
        self.world, self.say, self.name = world, say, name
        self.counts = Counts()
        self._guests: list[str] = []
        self._left: dict[str, list[str]] = {"server": [], "volume": [], "image": []}
        self._urls: dict[str, tuple[float, str]] = {}
        self._image = ""
        self._named = 0

    # -- the whole ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Two guests of its own. Raises Failed."""
        for _ in range(2):
            self._guests.append(self._boot())

    def round(self) -> None:
        """Everything once, on one of the two guests."""
        guest = self._guests[self.counts.rounds % len(self._guests)]
        for act in (self._attach_and_detach, self._boot_from_volume, self._snapshot, self._consoles):
            # What an operation needed and did not get is its failure, and no reason to leave the others out.
            with self.tried():
                act(guest)
        self.counts.rounds += 1
        self.world.write({"kind": "round", "t0": self.world.now(), "number": self.counts.rounds})
        lost, failed = len(self.counts.lost), len(self.counts.failed)
        operations = sum(self.counts.operations.values())
        self.say(f"round {self.counts.rounds}: {operations} operations, {lost} lost;"
                 f" {self.counts.requests} requests, {failed} failed")  # fmt: skip

    def tidy(self) -> None:
        """Delete what is its own."""
        for server in list(self._left["server"]):
            with self.tried():
                self._delete_server(server)
        for volume in list(self._left["volume"]):
            with self.tried():
                self._delete_volume(volume)
        for image in list(self._left["image"]):
            with self.tried():
                self._delete_image(image)

    def keep(self) -> Kept:
        """A guest with two volumes, one booted from a volume, and a snapshot of the first. Raises Failed."""
        root = self._volume(bootable=True)
        first, second = self._boot(), self._boot(root)
        data = [self._volume() for _ in range(2)]
        attached = {
            first: {volume: self._attach(first, volume) for volume in data},
            second: {root: self._is_attached(second, root)},
        }
        image = self._image_of(first)
        return Kept({guest: self._host(guest) for guest in attached}, attached, image)

    def kept(self, was: Kept) -> Kept:
        """Look whether all is as it was, and whether users can go on with it. What is left is returned."""
        attached = {guest: dict(volumes) for guest, volumes in was.attached.items()}
        for guest, volumes in was.attached.items():
            with self.tried():
                self._as_it_was(guest, was.hosts[guest], volumes)
            with self.tried():
                self._open(guest, self._url(guest), again=False)
        with self.tried(), self._operation("image is there", was.image):
            self._active(was.image)
        guest = max(was.attached, key=lambda one: len(was.attached[one]))
        volume = list(was.attached[guest])[-1]
        with self.tried():
            self._detach(guest, volume)
            attached[guest][volume] = self._attach(guest, volume)
        return Kept(was.hosts, attached, was.image)

    # -- what is counted ---------------------------------------------------------------------------

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Failed ends here, and is counted."""
        try:
            yield
        except Failed as error:
            if str(error) not in self.counts.lost:  # of no operation, but needed for one
                self.counts.lost.append(str(error))

    @contextmanager
    def _operation(self, what: str, on: str) -> Iterator[None]:
        """One line in the file, with its outcome. Raises Failed with what and on before the words."""
        began, why = self.world.now(), ""
        try:
            yield
        except Failed as error:
            why = f"{what} ({on}): {error}"
            self.counts.lost.append(why)
            raise Failed(why) from error
        finally:
            self.counts.operations[what] = self.counts.operations.get(what, 0) + 1
            seconds = round(self.world.now() - began, 3)
            self.world.write({
                "kind": "operation", "t0": began, "dur_s": seconds, "what": what, "on": on, "ok": not why,
                "why": why,
            })  # fmt: skip

    def _ask(
        self, service: str, method: str, path: str, data: Any = None, *, good: Sequence[int] = (200,),
        kind: str = "volumes", instance: str = "",
    ) -> Reply:  # fmt: skip
        """One request, once. Raises Failed when it is not answered as it should."""
        began = self.world.now()
        reply = self.world.ask(service, method, path, data)
        ok = reply.status in good
        why = "" if ok else f"{method} {service} {path}: {reply.status or 'no answer'}: {reply.why}"
        self.counts.requests += 1
        if kind == "boot" and ok:
            instance = str(reply.body["server"]["id"])
        line = {
            "t0": began, "dur_s": round(self.world.now() - began, 4), "method": method,
            "status": reply.status, "ok": ok, "why": why,
        }  # fmt: skip
        if service == NOVA:  # as the probe writes its own, for the same report
            more = {"instance": instance, "req_id": reply.request_id, "phase": "run"}
            self.world.write({"kind": kind, **line, **more})
        else:
            self.world.write({"kind": "request", "to": service, "path": path, **line})
        if not ok:
            self.counts.failed.append(why)
            raise Failed(why)
        return reply

    def _until(self, seen: Callable[[], str]) -> None:
        """Wait until nothing is missing. seen: what is, in words. Raises Failed with them."""
        began = self.world.now()
        while missing := seen():
            if self.world.now() - began > LIMIT_S:
                raise Failed(f"after {LIMIT_S:.0f} s {missing}")
            self.world.sleep(POLL_S)

    # -- guests ------------------------------------------------------------------------------------

    def _boot(self, volume: str = "") -> str:
        self._named += 1
        asked: dict[str, Any] = {"name": f"{self.name}-{self._named}", "flavorRef": FLAVOR}
        asked["networks"] = "none"
        if volume:
            asked["block_device_mapping_v2"] = [{
                "boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume",
                "delete_on_termination": False,
            }]  # fmt: skip
        else:
            asked["imageRef"] = self._image_id()
        with self._operation("boot from a volume" if volume else "boot", volume or asked["name"]):
            made = self._ask(NOVA, "POST", "/servers", {"server": asked}, good=(202,), kind="boot")
            guest = str(made.body["server"]["id"])
            self._left["server"].append(guest)
            self._until(lambda: self._not_at_rest(guest))
            self._until(lambda: "" if self.world.placed(guest) else f"{guest} is on no host")
        return guest

    def _image_id(self) -> str:
        if not self._image:
            listed = self._ask(GLANCE, "GET", f"/v2/images?name={identity.IMAGE}").body["images"]
            self._image = str(listed[0]["id"])
        return self._image

    def _not_at_rest(self, guest: str) -> str:
        server = self._ask(NOVA, "GET", f"/servers/{guest}", kind="show", instance=guest).body["server"]
        status, task = server["status"], server.get("OS-EXT-STS:task_state")
        if status == "ERROR":
            raise Failed(f"{guest} is in ERROR: {server.get('fault', {}).get('message', 'no word why')}")
        return "" if (status, task) == ("ACTIVE", None) else f"{guest} is {status}, task {task}"

    def _host(self, guest: str) -> str:
        placed = self.world.placed(guest)
        if placed is None:
            raise Failed(f"{guest} is on no host")
        return placed[0]

    def _delete_server(self, guest: str) -> None:
        with self._operation("delete", guest):
            self._ask(NOVA, "DELETE", f"/servers/{guest}", good=(204,), kind="delete", instance=guest)
            path = f"/servers/{guest}"

            def seen() -> str:
                reply = self._ask(NOVA, "GET", path, good=(200, GONE), kind="show", instance=guest)
                if reply.status != GONE:
                    return f"nova-api still shows {guest}"
                placed = self.world.placed(guest)
                return f"{placed[0]} still has {guest}" if placed else ""

            self._until(seen)
            self._left["server"].remove(guest)

    # -- volumes -----------------------------------------------------------------------------------

    def _volume(self, *, bootable: bool = False) -> str:
        asked: dict[str, Any] = {"size": 1, "name": self.name}
        asked |= {"imageRef": self._image_id()} if bootable else {}
        made = self._ask(CINDER, "POST", "/volumes", {"volume": asked}, good=(202,)).body["volume"]["id"]
        self._left["volume"].append(str(made))
        self._until(lambda: self._not_available(str(made)))
        return str(made)

    def _cinder(self, volume: str) -> tuple[str, list[str]]:
        """(status, guests that it is attached to)."""
        found = self._ask(CINDER, "GET", f"/volumes/{volume}").body["volume"]
        return str(found["status"]), [str(one["server_id"]) for one in found["attachments"]]

    def _not_available(self, volume: str) -> str:
        status, guests = self._cinder(volume)
        return "" if (status, guests) == ("available", []) else f"Cinder's stand-in has {volume} {status}"

    def _nova(self, guest: str) -> dict[str, str]:
        path = f"/servers/{guest}/os-volume_attachments"
        told = self._ask(NOVA, "GET", path, kind="volume-list", instance=guest).body["volumeAttachments"]
        return {str(one["volumeId"]): str(one["device"]) for one in told}

    def _seen(self, guest: str, volume: str) -> tuple[str, str, str]:
        """Where nova-api says the volume is ("" for nowhere), Cinder's status of it ("" unless it is of this
        guest), and where the host's file says it is."""
        status, guests = self._cinder(volume)
        placed = self.world.placed(guest)
        there = placed[1].get(volume, "") if placed else ""
        return self._nova(guest).get(volume, ""), status if guests == [guest] else "", there

    def _missing(self, guest: str, volume: str) -> str:
        nova, cinder, host = self._seen(guest, volume)
        if nova and cinder == "in-use" and host == nova:
            return ""
        return (f"volume {volume} of {guest}: nova-api says {nova or 'nothing'}, Cinder's stand-in"
                f" {cinder or 'nothing'}, the host's file {host or 'nothing'}")  # fmt: skip

    def _still(self, guest: str, volume: str) -> str:
        found = self._seen(guest, volume)
        free = self._not_available(volume)
        return f"volume {volume} is not free of {guest}: {found}; {free}" if any(found) or free else ""

    def _is_attached(self, guest: str, volume: str) -> str:
        """Its device, once all three say so."""
        self._until(lambda: self._missing(guest, volume))
        return self._nova(guest)[volume]

    def _attach(self, guest: str, volume: str) -> str:
        path, asked = f"/servers/{guest}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}}
        with self._operation("attach", f"{volume} to {guest}"):
            self._ask(NOVA, "POST", path, asked, good=(200, 202), kind="volume-attach", instance=guest)
            return self._is_attached(guest, volume)

    def _detach(self, guest: str, volume: str) -> None:
        path = f"/servers/{guest}/os-volume_attachments/{volume}"
        with self._operation("detach", f"{volume} from {guest}"):
            self._ask(NOVA, "DELETE", path, good=(202,), kind="volume-detach", instance=guest)
            self._until(lambda: self._still(guest, volume))

    def _delete_volume(self, volume: str) -> None:
        with self._operation("delete volume", volume):
            self._ask(CINDER, "DELETE", f"/volumes/{volume}", good=(202,))
            gone = f"/volumes/{volume}"
            self._until(lambda: "" if self._ask(CINDER, "GET", gone, good=(200, GONE)).status == GONE
                        else f"Cinder's stand-in still has {volume}")  # fmt: skip
            self._left["volume"].remove(volume)

    def _attach_and_detach(self, guest: str) -> None:
        volume = self._volume()
        self._attach(guest, volume)
        self._detach(guest, volume)
        self._delete_volume(volume)

    def _boot_from_volume(self, _: str) -> None:
        volume = self._volume(bootable=True)
        guest = self._boot(volume)
        with self._operation("is its root", f"{volume} of {guest}"):
            self._is_attached(guest, volume)
        self._delete_server(guest)
        with self._operation("is free again", volume):
            began = self.world.now()
            self._until(lambda: self._not_free(guest, volume, began))
        self._delete_volume(volume)

    def _not_free(self, guest: str, volume: str, began: float) -> str:
        """Of a guest that is gone: in cells v1 two attachments are made at its boot. nova-api of the API cell
        makes one, and nova-cells of the child another, with which nova-compute goes on. Nobody ever ends the
        first (seen in Stein). It is ended here, as its owner would have to, and counted."""
        missing = self._not_available(volume)
        if missing and self.world.now() - began > LEFT_S:
            listed = self._ask(CINDER, "GET", f"/attachments?volume_id={volume}").body["attachments"]
            left = [one for one in listed if one["volume_id"] == volume]
            if [(one["instance"], one["status"]) for one in left] == [(guest, "reserved")]:
                self._ask(CINDER, "DELETE", f"/attachments/{left[0]['id']}")
                self.counts.twice += 1
        return missing

    def _as_it_was(self, guest: str, host: str, volumes: Attached) -> None:
        with self._operation("is as it was", guest):
            self._until(lambda: self._not_at_rest(guest))
            nova, placed = self._nova(guest), self.world.placed(guest)
            if nova != volumes:
                raise Failed(f"nova-api shows {nova}, and it was {dict(volumes)}")
            if placed is None or (placed[0], dict(placed[1])) != (host, volumes):
                raise Failed(f"its hosts' files say {placed}, and it was {dict(volumes)} on {host}")
            for volume in volumes:
                if (found := self._cinder(volume)) != ("in-use", [guest]):
                    raise Failed(f"Cinder's stand-in says of {volume} {found}")

    # -- snapshots ---------------------------------------------------------------------------------

    def _image_of(self, guest: str) -> str:
        with self._operation("snapshot", guest):
            asked = {"createImage": {"name": f"{self.name}-of-{guest}"}}
            path = f"/servers/{guest}/action"
            made = self._ask(NOVA, "POST", path, asked, good=(202,), kind="snapshot", instance=guest)
            image = str(made.body["image_id"])
            self._left["image"].append(image)
            self._until(lambda: self._not_active(image))
            self._until(lambda: self._not_at_rest(guest))
            content = self._ask(GLANCE, "GET", f"/v2/images/{image}/file").body
            if not isinstance(content, dict) or content.get("uuid") != guest:
                raise Failed(f"image {image} is not of {guest}")
        return image

    def _not_active(self, image: str) -> str:
        status = self._ask(GLANCE, "GET", f"/v2/images/{image}").body["status"]
        return "" if status == "active" else f"image {image} is {status}"

    def _active(self, image: str) -> None:
        if wrong := self._not_active(image):
            raise Failed(wrong)

    def _delete_image(self, image: str) -> None:
        with self._operation("delete image", image):
            self._ask(GLANCE, "DELETE", f"/v2/images/{image}", good=(204,))
            self._left["image"].remove(image)

    def _snapshot(self, guest: str) -> None:
        self._delete_image(self._image_of(guest))

    # -- consoles ----------------------------------------------------------------------------------

    def _consoles(self, guest: str) -> None:
        with self._operation("console output", guest):
            asked = {"os-getConsoleOutput": {"length": 5}}
            path = f"/servers/{guest}/action"
            told = self._ask(NOVA, "POST", path, asked, kind="console-output", instance=guest)
            if '"op"' not in str(told.body.get("output")):
                raise Failed("it is not the guest's journal")
        given, old = self._urls.get(guest, (0.0, ""))
        if old and self.world.now() - given < OLD_S:
            self.counts.old += 1
            self._open(guest, old)
        url = self._url(guest)
        self._urls[guest] = (self.world.now(), url)
        self._open(guest, url)

    def _url(self, guest: str) -> str:
        asked = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
        path = f"/servers/{guest}/remote-consoles"
        told = self._ask(NOVA, "POST", path, asked, kind="console-url", instance=guest)
        return str(told.body["remote_console"]["url"])

    def _open(self, guest: str, url: str, *, again: bool = True) -> None:
        """again: a token may have been given on the side that users were led away from meanwhile; then they
        ask for another one, once, and it is counted."""
        with self._operation("console", guest):
            self.counts.consoles += 1
            try:
                desktop = self.world.desktop(url)
            except ConsoleError as first:
                if not again:
                    raise Failed(str(first)) from first
                self.world.write({"kind": "reopened", "t0": self.world.now(), "on": guest, "why": str(first)})
                try:
                    desktop = self.world.desktop(self._url(guest))
                except ConsoleError as second:
                    raise Failed(f"{first}; with a new URL {second}") from second
                self.counts.reopened += 1
            if desktop != (host := self._host(guest)):
                raise Failed(f"it led to {desktop}, and the guest is on {host}")


def told(counts: Counts) -> dict[str, Any]:
    """For a file."""
    return {"kind": "summary", **asdict(counts), "bad": counts.bad}


def in_words(counts: Counts) -> list[str]:
    """For a terminal."""
    each = ", ".join(f"{number} x {what}" for what, number in sorted(counts.operations.items()))
    return [
        f"{counts.requests:6} requests, {len(counts.failed)} failed",
        f"{sum(counts.operations.values()):6} operations, {len(counts.lost)} lost ({each})",
        f"{counts.consoles:6} consoles opened, {counts.old} of them with a URL of the round before;"
        f" {counts.reopened} with a second URL only",
        f"{counts.twice:6} volumes that a guest was booted from had been attached twice by cells v1",
        *(f"BAD  {why}" for why in (*counts.failed, *counts.lost)),
    ]


class RealWorld:
    """:class:`World`: the lab's, for the user of the project demo. out: lines are appended to it.

    Raises LabError when there is no lab."""

    def __init__(self, out: Path) -> None:
        hosts = [host for host in lab.all_hosts() if host.spec.role.startswith("computes")]
        secrets = json.loads((state.STATE_DIR / "secrets.json").read_text())
        self._session = Session("demo", secrets["passwords"]["user_demo"], identity.PROJECT)
        self._urls = {
            NOVA: public_url("nova-api", "/v2.1"), CINDER: public_url("cinder-stand-in", "/v3"),
            GLANCE: public_url("glance-api"),
        }  # fmt: skip
        self._guests = {host.spec.name: host.upper() / GUESTS for host in hosts}
        self._out = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def ask(self, service: str, method: str, path: str, data: Any) -> Reply:
        headers = {"X-Auth-Token": self._session.token(), "OpenStack-API-Version": VERSIONS.get(service, "")}
        if data is not None:
            headers["Content-Type"] = "application/json"
        body = None if data is None else json.dumps(data).encode()
        url = f"{self._urls[service]}{path}"
        try:
            answer = request(method, url, headers=headers, body=body, timeout=ANSWER_S)
        except (OSError, http.client.HTTPException) as error:
            return Reply(0, why=f"{type(error).__name__}: {error}")
        said: Any = None
        with suppress(ValueError):
            said = answer.json()
        named = answer.headers.get("x-openstack-request-id", "")
        return Reply(answer.status, said, named, answer.body.decode(errors="replace")[:200])

    def placed(self, guest: str) -> tuple[str, Attached] | None:
        for host, directory in self._guests.items():
            if (directory / f"{guest}.json").exists():
                attached: dict[str, str] = {}
                with suppress(FileNotFoundError):
                    attached = json.loads((directory / f"{guest}.volumes").read_text())
                return host, attached
        return None

    def desktop(self, url: str) -> str:
        return console.desktop(url)

    def write(self, line: Mapping[str, Any]) -> None:
        # One write for each: others may append to the same file.
        os.write(self._out, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
