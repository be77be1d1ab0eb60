"""A stand-in for OpenStack Block Storage (Cinder): as much of its API v3 as Nova 19 to 33 asks for.

Volumes are records and hold nothing. Who may attach one, and in which order, is kept as strictly as by
Cinder: that is what is to be seen. Up to microversion 3.59, which is Stein's.

A token is checked at Keystone by itself: whoever has one may ask about it, so no account is needed here.
State is one file, written whole before a change is answered; each request is a line of the journal beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NEWEST = (3, 59)
ATTACHMENTS, COMPLETE, SHARED_TARGETS = (3, 27), (3, 44), (3, 48)  # since which microversion
TOKEN_S = 300.0  # as long as the lab's other services believe a checked token
KEYSTONE_TIMEOUT = 30.0
STATE, JOURNAL = "state.json", "journal.jsonl"
ERRORS = {
    400: "badRequest", 401: "unauthorized", 404: "itemNotFound", 406: "notAcceptable",
    503: "serviceUnavailable",
}  # fmt: skip
Record = dict[str, Any]


class Refused(Exception):
    """An answer that is no success: HTTP status and words."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class User:
    """Whose token it is."""

    user: str
    project: str
    admin: bool


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000", time.gmtime())


class Volumes:
    """The volumes and their attachments, as strict as Cinder. All raise Refused.

    A volume is available, reserved (somebody means to attach it), attaching (a host has asked how), in-use or
    detaching.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / STATE
        self.volumes: dict[str, Record] = {}
        self.attachments: dict[str, Record] = {}
        with suppress(FileNotFoundError):
            kept = json.loads(self._path.read_text())
            self.volumes, self.attachments = kept["volumes"], kept["attachments"]

    def keep(self) -> None:
        """Whole or not at all."""
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"volumes": self.volumes, "attachments": self.attachments}))
        new.replace(self._path)

    # -- volumes -----------------------------------------------------------------------------------

    def create(self, user: User, asked: Mapping[str, Any], image: Record | None = None) -> Record:
        """A volume; image: Glance's record of what it is made of. What is created is there at once."""
        size = asked.get("size")
        if not isinstance(size, int) or size < 1:
            raise Refused(400, f"Invalid input received: volume size {size!r} must be a positive integer.")
        made: Record = {
            "id": str(uuid.uuid4()), "name": asked.get("name"), "description": asked.get("description"),
            "size": size, "status": "available", "created_at": _now(), "project": user.project,
            "user": user.user, "metadata": asked.get("metadata") or {}, "image": image or {},
            "bootable": bool(image),
        }  # fmt: skip
        self.volumes[made["id"]] = made
        return made

    def volume(self, user: User, name: str) -> Record:
        found = self.volumes.get(name)
        if found is None or not (user.admin or found["project"] == user.project):
            raise Refused(404, f"Volume {name} could not be found.")
        return found

    def delete(self, user: User, name: str) -> None:
        volume = self.volume(user, name)
        if volume["status"] not in ("available", "error") or self.of(name):
            raise Refused(400, "Invalid volume: Volume status must be available or error and must not be"
                               f" attached; it is {volume['status']}.")  # fmt: skip
        del self.volumes[name]

    def of(self, volume: str) -> list[Record]:
        """The attachments of a volume."""
        return [one for one in self.attachments.values() if one["volume"] == volume]

    @staticmethod
    def _must(volume: Record, *states: str) -> None:
        if volume["status"] not in states:
            raise Refused(400, f"Invalid volume: Volume {volume['id']} status must be {' or '.join(states)}"
                               f" but the current status is {volume['status']}.")  # fmt: skip

    # -- attachments, since 3.27 -------------------------------------------------------------------

    def attach(self, user: User, asked: Mapping[str, Any]) -> Record:
        """Reserve a volume, and say how to reach it where a connector comes along."""
        volume = self.volume(user, str(asked.get("volume_uuid")))
        instance, connector = asked.get("instance_uuid"), asked.get("connector")
        if connector:
            self._good(connector)
        others = self.of(volume["id"])
        # A guest that moves has two for a while, one for each host.
        mine = others and all(one["instance"] == instance for one in others)
        if not mine:
            self._must(volume, "available", "downloading")
            volume["status"] = "reserved"
        made = self._attachment(volume, instance, "reserved")
        if connector:
            self.connect(user, made["id"], connector)
        return made

    @staticmethod
    def _good(connector: Any) -> None:
        if not isinstance(connector, dict) or not connector:
            raise Refused(400, "Invalid input received: a connector says which host asks.")

    def _attachment(self, volume: Record, instance: Any, status: str) -> Record:
        made = {
            "id": str(uuid.uuid4()), "volume": volume["id"], "instance": instance, "status": status,
            "host": None, "device": None, "attached_at": "", "connector": None,
        }  # fmt: skip
        self.attachments[made["id"]] = made
        return made

    def attachment(self, user: User, name: str) -> Record:
        found = self.attachments.get(name)
        if found is None:
            raise Refused(404, f"Volume attachment could not be found with filter: attachment_id = {name}.")
        self.volume(user, found["volume"])
        return found

    def connect(self, user: User, name: str, connector: Any) -> Record:
        """A host has asked how to reach the volume."""
        found = self.attachment(user, name)
        self._good(connector)
        volume = self.volumes[found["volume"]]
        if volume["status"] == "reserved":
            volume["status"] = "attaching"
        if found["status"] != "attached":
            found["status"] = "attaching"
        found["connector"] = connector
        found["host"] = connector.get("host")
        found["device"] = connector.get("mountpoint") or found["device"]
        return found

    def complete(self, user: User, name: str) -> None:
        """The host has it. (Nova completes one without a connector for a guest that is on no host.)"""
        found = self.attachment(user, name)
        volume = self.volumes[found["volume"]]
        self._must(volume, "reserved", "attaching", "in-use")
        found["status"], found["attached_at"] = "attached", found["attached_at"] or _now()
        volume["status"] = "in-use"

    def detach(self, user: User, name: str) -> list[Record]:
        """An attachment ends; what is left of the volume's are returned."""
        found = self.attachment(user, name)
        del self.attachments[name]
        return self._settle(self.volumes[found["volume"]])

    def _settle(self, volume: Record) -> list[Record]:
        left = self.of(volume["id"])
        states = {one["status"] for one in left}
        after = (("attached", "in-use"), ("attaching", "attaching"), ("reserved", "reserved"))
        volume["status"] = next((status for state, status in after if state in states), "available")
        return left

    # -- as it was before 3.27 ---------------------------------------------------------------------

    def act(self, user: User, name: str, action: str, asked: Mapping[str, Any]) -> Record | None:
        """One of the old actions; the answer's body, if any."""
        volume = self.volume(user, name)
        match action:
            case "os-reserve":
                self._must(volume, "available")
                volume["status"] = "attaching"
            case "os-unreserve":
                self._must(volume, "attaching")
                self._settle(volume)
            case "os-begin_detaching":
                self._must(volume, "in-use")
                volume["status"] = "detaching"
            case "os-roll_detaching":
                self._must(volume, "detaching")
                volume["status"] = "in-use"
            case "os-attach":
                self._must(volume, "attaching")
                made = self._attachment(volume, asked.get("instance_uuid"), "attached")
                made.update(device=asked.get("mountpoint"), host=asked.get("host_name"), attached_at=_now())
                volume["status"] = "in-use"
            case "os-detach":
                self._must(volume, "in-use", "detaching")
                which = asked.get("attachment_id")
                if which and which not in {one["id"] for one in self.of(name)}:
                    raise Refused(404, f"Volume attachment {which} could not be found.")
                for one in self.of(name):
                    if which in (None, one["id"]):
                        del self.attachments[one["id"]]
                self._settle(volume)
            case "os-initialize_connection":
                self._good(asked.get("connector"))
                return {"connection_info": {"driver_volume_type": "local", "data": reach(volume)}}
            case "os-terminate_connection":
                pass
            case "os-set_bootable":
                volume["bootable"] = bool(asked.get("bootable"))
            case _:
                raise Refused(400, f"There is no such action: {action}")
        return None


# -- as Cinder shows them --------------------------------------------------------------------------


def reach(volume: Mapping[str, Any]) -> Record:
    """How a host would reach a volume."""
    return {"volume_id": volume["id"], "target": "stand-in", "access_mode": "rw", "encrypted": False,
            "qos_specs": None}  # fmt: skip


def volume_view(store: Volumes, volume: Mapping[str, Any], version: tuple[int, int]) -> Record:
    """In a microversion."""
    attached = [one for one in store.of(volume["id"]) if one["status"] == "attached"]
    image = {"volume_image_metadata": volume["image"]} if volume["image"] else {}
    shared = {"shared_targets": False, "service_uuid": None} if version >= SHARED_TARGETS else {}
    return {
        **{key: volume[key] for key in ("id", "name", "description", "size", "status", "created_at")},
        "metadata": volume["metadata"],
        "updated_at": None, "availability_zone": "nova", "volume_type": None, "snapshot_id": None,
        "source_volid": None, "encrypted": False, "multiattach": False, "replication_status": None,
        "consistencygroup_id": None, "user_id": volume["user"], "links": [],
        "os-vol-tenant-attr:tenant_id": volume["project"],
        "bootable": str(volume["bootable"]).lower(),
        "attachments": [
            {"id": volume["id"], "volume_id": volume["id"], "attachment_id": one["id"],
             "server_id": one["instance"], "host_name": one["host"], "device": one["device"],
             "attached_at": one["attached_at"]} for one in attached],
        **image, **shared,
    }  # fmt: skip


def attachment_view(store: Volumes, one: Mapping[str, Any], *, how: bool = True) -> Record:
    """how: with what a host needs to reach the volume."""
    seen = {
        "id": one["id"], "status": one["status"], "instance": one["instance"], "volume_id": one["volume"],
    }  # fmt: skip
    if not how:
        return seen
    info = {}
    if one["connector"]:
        found = reach(store.volumes[one["volume"]])
        info = {"driver_volume_type": "local", "attachment_id": one["id"], **found}
    times = {"attached_at": one["attached_at"], "detached_at": "", "attach_mode": "rw"}
    return {**seen, **times, "connection_info": info}


def versions(at: str) -> Record:
    """The document at the root: which API there is."""
    return {"versions": [{
        "id": "v3.0", "status": "CURRENT", "version": f"{NEWEST[0]}.{NEWEST[1]}", "min_version": "3.0",
        "updated": "2026-01-01T00:00:00Z", "links": [{"rel": "self", "href": f"{at}/v3/"}], "media-types": [],
    }]}  # fmt: skip


def asked_version(header: str) -> tuple[int, int]:
    """Of ``OpenStack-API-Version: volume 3.44``; 3.0 without it."""
    word = next((part.split()[1] for part in header.split(",") if part.split()[:1] == ["volume"]), "3.0")
    major, _, minor = (f"{NEWEST[0]}.{NEWEST[1]}" if word == "latest" else word).partition(".")
    if not (major == "3" and minor.isdigit() and (3, int(minor)) <= NEWEST):
        raise Refused(406, f"Version {word} is not supported by the API. Minimum is 3.0 and maximum is 3.59.")
    return 3, int(minor)


# -- others that are asked -------------------------------------------------------------------------


class Others:
    """Keystone and Glance. token: to be asked with."""

    def __init__(self, keystone: str, glance: str) -> None:
        self._keystone, self._glance = keystone, glance
        self._known: dict[str, tuple[float, User]] = {}

    def user(self, token: str) -> User:
        """Whose token it is; it is believed for TOKEN_S once it was seen to be good."""
        key = hashlib.sha256(token.encode()).hexdigest()
        checked, user = self._known.get(key, (0.0, None))
        if user is not None and time.monotonic() - checked < TOKEN_S:
            return user
        try:
            told = self._get(f"{self._keystone}/auth/tokens", token, {"X-Subject-Token": token})["token"]
        except urllib.error.HTTPError as error:
            if error.code in (401, 404):
                raise Refused(401, "The request you have made requires authentication.") from error
            raise Refused(503, f"Keystone says {error.code}") from error
        except OSError as error:
            raise Refused(503, f"Keystone says nothing: {error}") from error
        roles = {role["name"] for role in told.get("roles", ())}
        user = User(told["user"]["id"], told.get("project", {}).get("id", ""), "admin" in roles)
        self._known[key] = (time.monotonic(), user)
        return user

    def image(self, token: str, name: str) -> Record:
        """What Cinder notes of an image that a volume is made of."""
        try:
            told = self._get(f"{self._glance}/v2/images/{name}", token, {})
        except OSError as error:
            raise Refused(400, f"Invalid image identifier or unable to access it: {error}") from error
        wanted = ("disk_format", "container_format", "min_disk", "min_ram", "size", "checksum")
        found = {key: str(told[key]) for key in wanted if told.get(key) is not None}
        return {"image_id": name, "image_name": str(told.get("name")), **found}

    @staticmethod
    def _get(url: str, token: str, headers: Mapping[str, str]) -> Any:
        request = urllib.request.Request(url, headers={"X-Auth-Token": token, **headers})  # noqa: S310
        with urllib.request.urlopen(request, timeout=KEYSTONE_TIMEOUT) as answer:  # noqa: S310  # our own URL
            return json.load(answer)


# -- HTTP ------------------------------------------------------------------------------------------

Answer = tuple[int, Any]


class Service(ThreadingHTTPServer):
    """One request at a time is looked at, so that no two have the same volume."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], directory: Path, others: Others) -> None:
        super().__init__(address, Handler)
        directory.mkdir(parents=True, exist_ok=True)
        self.store = Volumes(directory)
        self.others = others
        self.lock = threading.Lock()
        self._journal = (directory / JOURNAL).open("a", buffering=1)

    def server_close(self) -> None:
        super().server_close()
        self._journal.close()

    def note(self, line: Mapping[str, Any]) -> None:
        """For receipts."""
        self._journal.write(json.dumps(line) + "\n")

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Health checks and clients in a hurry hang up.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def answer(
        self, method: str, url: str, headers: Message, body: Mapping[str, Any]
    ) -> tuple[int, Any, str]:
        """(status, body, who asked). Names of headers come in any case. Raises Refused."""
        split = urlsplit(url)
        parts = [part for part in split.path.split("/") if part]
        at = f"http://{headers.get('Host', '')}"
        if not parts or parts == ["v3"]:
            return (200 if parts else 300), versions(at), ""
        if parts[0] != "v3":
            raise Refused(404, "The resource could not be found.")
        token = headers.get("X-Auth-Token") or ""
        if not token:
            raise Refused(401, "The request you have made requires authentication.")
        user = self.others.user(token)
        version = asked_version(headers.get("OpenStack-API-Version") or "")
        parts = parts[1:]
        if parts[0] not in ("volumes", "attachments", "limits", "types", "snapshots"):  # a project's own path
            if parts[0] != user.project and not user.admin:
                raise Refused(400, "Malformed request url")
            parts = parts[1:]
        image = None
        if method == "POST" and parts == ["volumes"] and (wanted := body.get("volume", {}).get("imageRef")):
            image = self.others.image(token, str(wanted))
        with self.lock:
            status, said = route(self.store, user, method, parts, parse_qs(split.query), body, version, image)
            if method != "GET":
                self.store.keep()
        return status, said, user.user


def route(
    store: Volumes, user: User, method: str, parts: list[str], query: Mapping[str, list[str]],
    body: Mapping[str, Any], version: tuple[int, int], image: Record | None = None,
) -> Answer:  # fmt: skip
    """What is asked for below /v3/ and the project."""
    match method, parts:
        case "POST", ["volumes"]:
            made = store.create(user, body.get("volume") or {}, image)
            return 202, {"volume": {**volume_view(store, made, version), "status": "creating"}}
        case "GET", ["volumes"] | ["volumes", "detail"]:
            mine = [v for v in store.volumes.values()
                    if v["project"] == user.project or (user.admin and "all_tenants" in query)]  # fmt: skip
            return 200, {"volumes": [volume_view(store, volume, version) for volume in mine]}
        case "GET", ["volumes", name]:
            return 200, {"volume": volume_view(store, store.volume(user, name), version)}
        case "GET", ["volumes", name, "encryption"]:
            store.volume(user, name)
            return 200, {"encryption_key_id": None}
        case "DELETE", ["volumes", name]:
            store.delete(user, name)
            return 202, None
        case "POST", ["volumes", name, "action"] if len(body) == 1:
            ((action, asked),) = body.items()
            said = store.act(user, name, action, asked or {})
            return (200 if said else 202), said
        case "GET", ["snapshots"] | ["snapshots", "detail"]:
            return 200, {"snapshots": []}
        case "GET", ["types"]:
            return 200, {"volume_types": []}
        case "GET", ["limits"]:
            none = {"maxTotalSnapshots": -1, "totalSnapshotsUsed": 0}
            return 200, {"limits": {"rate": [], "absolute": none}}
        case _, ["attachments", *rest] if version >= ATTACHMENTS:
            return _attachments(store, user, method, rest, query, body, version)
    raise Refused(404, "The resource could not be found.")


def _attachments(
    store: Volumes, user: User, method: str, parts: list[str], query: Mapping[str, list[str]],
    body: Mapping[str, Any], version: tuple[int, int],
) -> Answer:  # fmt: skip
    asked = body.get("attachment") or {}
    match method, parts:
        case "POST", []:
            return 200, {"attachment": attachment_view(store, store.attach(user, asked))}
        case "GET", [] | ["detail"]:
            found = [
                one for one in store.attachments.values()
                if user.admin or store.volumes[one["volume"]]["project"] == user.project
            ]  # fmt: skip
            for key, name in (("instance_id", "instance"), ("volume_id", "volume")):
                found = [one for one in found if key not in query or one[name] in query[key]]
            return 200, {"attachments": [attachment_view(store, one, how=bool(parts)) for one in found]}
        case "GET", [name]:
            return 200, {"attachment": attachment_view(store, store.attachment(user, name))}
        case "PUT", [name]:
            found_one = store.connect(user, name, asked.get("connector"))
            return 200, {"attachment": attachment_view(store, found_one)}
        case "POST", [name, "action"] if version >= COMPLETE and "os-complete" in body:
            store.complete(user, name)
            return 204, None
        case "DELETE", [name]:
            left = store.detach(user, name)
            return 200, {"attachments": [attachment_view(store, one, how=False) for one in left]}
    raise Refused(404, "The resource could not be found.")


class Handler(BaseHTTPRequestHandler):
    """One request for each connection, as the lab's other services have it."""

    server: Service
    server_version = "cinder-stand-in"

    def _do(self) -> None:
        began, said, who, why = time.time(), None, "", ""
        request_id = f"req-{uuid.uuid4()}"
        body: Any = {}
        try:
            length = int(self.headers.get("Content-Length") or 0)
            with suppress(ValueError):
                body = json.loads(self.rfile.read(length) or b"{}")
            if not isinstance(body, dict):
                raise Refused(400, "The server could not comply with the request: malformed body")
            status, said, who = self.server.answer(self.command, self.path, self.headers, body)
        except Refused as refused:
            status, why = refused.status, str(refused)
            said = {ERRORS[status]: {"code": status, "message": why}}
        if not self.path.strip("/"):
            request_id = ""  # who looks whether it is there is no news
        else:
            self.server.note({
                "time": began, "method": self.command, "path": self.path, "what": next(iter(body), ""),
                "status": status, "why": why, "user": who, "request_id": request_id,
                "caused_by": self.headers.get("X-OpenStack-Request-ID"),
            })  # fmt: skip
        data = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("OpenStack-API-Version", self.headers.get("OpenStack-API-Version") or "volume 3.0")
        if request_id:
            self.send_header("X-Openstack-Request-Id", request_id)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _do

    def log_message(self, format: str, *args: Any) -> None:
        """The journal has it."""


def main() -> int:
    """Listen until killed: there is nothing to bring to an end."""
    parser = argparse.ArgumentParser(description="A stand-in for OpenStack Block Storage.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True, help="a directory")
    parser.add_argument("--keystone", required=True, help="its URL, with /v3")
    parser.add_argument("--glance", required=True, help="its URL")
    given = parser.parse_args()
    others = Others(given.keystone, given.glance)
    with Service(("0.0.0.0", given.port), given.state, others) as service:  # noqa: S104  # as a service does
        service.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
