"""Cinder's stand-in, spoken to over HTTP in the words of Nova's own client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from recell_lab.cloud import identity, layout, rest, topology
from recell_lab.cloud.inside import cinder_stand_in as cinder
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud

GUEST, OTHER = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
CONNECTOR = {"host": "cmp1", "ip": "10.0.0.1", "mountpoint": "/dev/vdb"}
MINE = "mine"
IMAGE = {"id": "img", "name": "guest", "disk_format": "raw", "min_disk": 1, "size": 9, "owner": None}


class Elsewhere(BaseHTTPRequestHandler):
    """Keystone and Glance: of the tokens and images that they know."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        token = self.headers["X-Auth-Token"]
        said: Any = None
        if self.path == "/v3/auth/tokens" and token == self.headers["X-Subject-Token"]:
            said = self.server.tokens.get(token)
        if self.path == "/v2/images/img" and token in self.server.tokens:
            said = IMAGE
        self.send_response(200 if said else 404)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, format: str, *args: object) -> None:
        return None


def _token(project: str, *roles: str) -> dict[str, Any]:
    named = [{"name": role} for role in roles]
    return {"token": {"user": {"id": f"u-{project}"}, "project": {"id": project}, "roles": named}}


@contextmanager
def _serving(server: Any) -> Iterator[Any]:
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.at = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    with _serving(HTTPServer(("127.0.0.1", 0), Elsewhere)) as server:
        server.asked = []
        server.tokens = {
            "mine": _token("demo", "member"), "theirs": _token("other", "member"),
            "admins": _token("service", "admin"),
        }  # fmt: skip
        yield server


@contextmanager
def _stand_in(directory: Path, elsewhere: Any) -> Iterator[Any]:
    others = cinder.Others(f"{elsewhere.at}/v3", elsewhere.at)
    with _serving(cinder.Service(("127.0.0.1", 0), directory, others)) as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, elsewhere: Any) -> Iterator[Any]:
    with _stand_in(tmp_path, elsewhere) as server:
        yield server


class Client:
    """As cinderclient asks. HAProxy brings names of headers in small letters."""

    def __init__(self, service: Any, token: str = MINE, version: str = "3.44", path: str = "/v3") -> None:
        self.url, self.token, self.version = f"{service.at}{path}", token, version

    def ask(self, method: str, path: str, data: Any = None) -> tuple[int, Any]:
        headers = {"openstack-api-version": f"volume {self.version}", "content-type": "application/json"}
        headers |= {"x-auth-token": self.token} if self.token else {}
        body = None if data is None else json.dumps(data).encode()
        answer = rest.request(method, f"{self.url}{path}", headers=headers, body=body)
        return answer.status, answer.json()

    def make(self, **more: Any) -> str:
        status, said = self.ask("POST", "/volumes", {"volume": {"size": 1, "name": "v", **more}})
        assert status == 202 and said["volume"]["status"] == "creating"
        return str(said["volume"]["id"])

    def show(self, volume: str) -> Any:
        return self.ask("GET", f"/volumes/{volume}")[1]["volume"]

    def act(self, volume: str, action: str, body: Any = None) -> int:
        return self.ask("POST", f"/volumes/{volume}/action", {action: body})[0]

    def attach(self, volume: str, guest: str = GUEST, connector: Any = None) -> tuple[int, Any]:
        body = {"volume_uuid": volume, "instance_uuid": guest, "connector": connector}
        return self.ask("POST", "/attachments", {"attachment": body})


def test_a_volume_is_attached_and_detached_as_nova_does_it(service: Any) -> None:
    client = Client(service)
    volume = client.make()
    status, made = client.attach(volume)
    one = made["attachment"]
    assert (status, one["status"], one["connection_info"]) == (200, "reserved", {})
    assert client.show(volume)["status"] == "reserved"
    at = f"/attachments/{one['id']}"
    status, told = client.ask("PUT", at, {"attachment": {"connector": CONNECTOR}})
    info = told["attachment"]["connection_info"]
    assert (status, info["driver_volume_type"], info["volume_id"]) == (200, "local", volume)
    assert info["encrypted"] is False  # else Nova asks how
    assert client.show(volume)["status"] == "attaching" and client.show(volume)["attachments"] == []
    assert client.ask("POST", f"{at}/action", {"os-complete": None})[0] == 204
    seen = client.show(volume)
    (attached,) = seen["attachments"]
    assert (seen["status"], attached["server_id"], attached["attachment_id"], attached["device"],
            attached["host_name"]) == ("in-use", GUEST, one["id"], "/dev/vdb", "cmp1")  # fmt: skip
    assert client.ask("GET", at)[1]["attachment"]["status"] == "attached"
    assert client.act(volume, "os-begin_detaching") == 202 and client.show(volume)["status"] == "detaching"
    assert client.act(volume, "os-roll_detaching") == 202 and client.show(volume)["status"] == "in-use"
    assert client.act(volume, "os-begin_detaching") == 202
    assert client.ask("DELETE", at) == (200, {"attachments": []})
    assert client.show(volume)["status"] == "available"
    assert client.ask("DELETE", f"/volumes/{volume}")[0] == 202
    assert client.ask("GET", f"/volumes/{volume}")[0] == 404


def test_a_volume_is_attached_and_detached_as_old_releases_do_it(service: Any) -> None:
    client = Client(service, version="3.0", path="/v3/demo")
    volume = client.make()
    assert client.act(volume, "os-reserve") == 202 and client.show(volume)["status"] == "attaching"
    assert client.act(volume, "os-reserve") == 400
    assert client.act(volume, "os-unreserve") == 202 and client.show(volume)["status"] == "available"
    assert client.act(volume, "os-attach", {"instance_uuid": GUEST, "mountpoint": "/dev/vdb"}) == 400
    assert client.act(volume, "os-reserve") == 202
    how = {"os-initialize_connection": {"connector": CONNECTOR}}
    status, told = client.ask("POST", f"/volumes/{volume}/action", how)
    assert status == 200 and told["connection_info"]["data"]["volume_id"] == volume
    assert client.act(volume, "os-attach", {"instance_uuid": GUEST, "mountpoint": "/dev/vdb"}) == 202
    (attached,) = client.show(volume)["attachments"]
    assert (client.show(volume)["status"], attached["server_id"], attached["device"]) == (
        "in-use", GUEST, "/dev/vdb")  # fmt: skip
    assert client.act(volume, "os-begin_detaching") == 202
    assert client.act(volume, "os-terminate_connection", {"connector": CONNECTOR}) == 202
    assert client.act(volume, "os-detach", {"attachment_id": OTHER}) == 404
    assert client.act(volume, "os-detach", {"attachment_id": None}) == 202
    assert client.show(volume)["status"] == "available" and client.show(volume)["attachments"] == []


def test_a_volume_that_somebody_has_is_nobody_elses(service: Any) -> None:
    client = Client(service)
    volume = client.make()
    status, made = client.attach(volume, connector=CONNECTOR)
    assert status == 200 and client.show(volume)["status"] == "attaching"
    status, said = client.attach(volume, OTHER)
    assert status == 400 and "attaching" in said["badRequest"]["message"]
    assert client.ask("DELETE", f"/volumes/{volume}")[0] == 400
    assert client.act(volume, "os-begin_detaching") == 400  # nobody has it whole yet
    first = made["attachment"]["id"]
    assert client.ask("POST", f"/attachments/{first}/action", {"os-complete": None})[0] == 204
    # The same guest, on its way to another host, may.
    status, second = client.attach(volume, GUEST, {**CONNECTOR, "host": "cmp2"})
    assert status == 200 and client.show(volume)["status"] == "in-use"
    status, left = client.ask("DELETE", f"/attachments/{second['attachment']['id']}")
    assert [one["id"] for one in left["attachments"]] == [first] and client.show(volume)["status"] == "in-use"
    assert client.ask("GET", f"/attachments?instance_id={GUEST}")[1]["attachments"][0]["id"] == first
    assert client.ask("GET", f"/attachments?instance_id={OTHER}")[1] == {"attachments": []}


@pytest.mark.parametrize(("method", "path", "data", "status"), [
    ("POST", "/attachments", {"attachment": {"volume_uuid": OTHER, "instance_uuid": GUEST}}, 404),
    ("GET", f"/attachments/{OTHER}", None, 404), ("DELETE", f"/attachments/{OTHER}", None, 404),
    ("POST", f"/attachments/{OTHER}/action", {"os-complete": None}, 404),
    ("DELETE", f"/volumes/{OTHER}", None, 404), ("POST", "/volumes", {"volume": {"size": 0}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "imageRef": "none"}}, 400), ("GET", "/nothing", None, 400),
    ("POST", "/volumes", [], 400),
])  # fmt: skip
def test_what_can_not_be_is_refused_as_cinder_refuses(
    service: Any, method: str, path: str, data: Any, status: int
) -> None:
    assert Client(service).ask(method, path, data)[0] == status
    assert service.store.volumes == service.store.attachments == {}


def test_a_connector_that_is_none_leaves_the_volume_alone(service: Any) -> None:
    client = Client(service)
    volume = client.make()
    assert client.attach(volume, connector="cmp1")[0] == 400
    assert client.show(volume)["status"] == "available"


def test_microversions_are_told_and_kept(service: Any) -> None:
    answer = rest.request("GET", f"{service.at}/")
    (version,) = answer.json()["versions"]
    assert (answer.status, version["version"], version["min_version"]) == (300, "3.59", "3.0")
    volume = Client(service).make()
    assert "shared_targets" not in Client(service).show(volume)
    assert Client(service, version="3.48").show(volume)["shared_targets"] is False
    assert Client(service, version="3.60").ask("GET", "/volumes")[0] == 406
    assert Client(service, version="3.26").attach(volume)[0] == 404
    made = Client(service, version="3.43").attach(volume)[1]["attachment"]["id"]
    done = f"/attachments/{made}/action"
    assert Client(service, version="3.43").ask("POST", done, {"os-complete": None})[0] == 404
    assert Client(service, version="3.44").ask("POST", done, {"os-complete": None})[0] == 204


def test_a_volume_made_of_an_image_can_be_booted_from(service: Any) -> None:
    client = Client(service)
    plain, bootable = client.make(), client.make(imageRef="img")
    assert client.show(plain)["bootable"] == "false"
    seen = client.show(bootable)
    assert seen["bootable"] == "true"
    assert seen["volume_image_metadata"] == {
        "image_id": "img", "image_name": "guest", "disk_format": "raw", "min_disk": "1", "size": "9",
    }  # fmt: skip


def test_a_token_is_good_when_keystone_says_so_and_only_for_its_project(service: Any, elsewhere: Any) -> None:
    assert Client(service, "").ask("GET", "/volumes")[0] == 401
    assert Client(service, "forged").ask("GET", "/volumes")[0] == 401
    mine = Client(service)
    volume = mine.make()
    mine.show(volume)
    assert elsewhere.asked.count("/v3/auth/tokens") == 2  # the forged one, and mine once
    theirs = Client(service, "theirs")
    assert theirs.ask("GET", f"/volumes/{volume}")[0] == 404 and theirs.attach(volume)[0] == 404
    assert theirs.ask("GET", "/volumes/detail")[1] == {"volumes": []}
    assert Client(service, "theirs", path="/v3/demo").ask("GET", "/volumes")[0] == 400
    # nova-compute's own account sees to what no user asks for.
    attached = mine.attach(volume)[1]["attachment"]["id"]
    admins = Client(service, "admins", path="/v3/service")
    assert admins.ask("DELETE", f"/attachments/{attached}")[0] == 200


def test_without_keystone_nobody_is_believed(tmp_path: Path, elsewhere: Any) -> None:
    with _stand_in(tmp_path, elsewhere) as service:
        service.others = cinder.Others("http://127.0.0.1:1/v3", elsewhere.at)
        assert Client(service).ask("GET", "/volumes")[0] == 503


def test_state_outlives_a_restart_and_the_journal_tells_of_it(tmp_path: Path, elsewhere: Any) -> None:
    with _stand_in(tmp_path, elsewhere) as service:
        client = Client(service)
        volume = client.make()
        client.attach(volume, connector=CONNECTOR)
        before = client.show(volume)
        assert client.attach(volume, OTHER)[0] == 400
    with _stand_in(tmp_path, elsewhere) as service:
        assert Client(service).show(volume) == before
        assert Client(service).attach(volume, OTHER)[0] == 400
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [(line["method"], line["what"], line["status"]) for line in lines if line["method"] != "GET"] == [
        ("POST", "volume", 202), ("POST", "attachment", 200), ("POST", "attachment", 400),
        ("POST", "attachment", 400),
    ]  # fmt: skip
    assert {line["user"] for line in lines if line["status"] < 400} == {"u-demo"}
    assert "mine" not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize("nova", ["19.3.2", "33.0.2"])
def test_the_cloud_has_it_behind_haproxy_and_in_keystones_catalogue(nova: str) -> None:
    cloud, passwords = Cloud.of(nova, 2, 3), Passwords.random()
    part = layout.part_of(topology.SERVICES, cloud, passwords)
    files = {file.path: (file.content or b"").decode() for file in part.files if file.path.endswith("ice")}
    unit = files["/etc/systemd/system/cinder-stand-in.service"]
    assert "cinder-stand-in" in part.units
    assert "Description=Stand-in for OpenStack Block Storage" in unit
    port = topology.PORTS["cinder-stand-in"]
    assert f"--port={port} " in unit and f"--keystone={topology.public_url('keystone', '/v3')}" in unit
    (balancer,) = layout.part_of(topology.LOAD_BALANCER, cloud, passwords).files
    assert f"server svc1 {topology.SERVICES.ip}:{port} check" in (balancer.content or b"").decode()
    service, path, user = identity.SERVICES["volumev3"]
    assert (service, path, user) == ("cinder-stand-in", "/v3", "")
    assert "stand-in" in identity.CATALOGUED["volumev3"][1]
    for host, has in ((cloud.computes[0], True), (cloud.controllers[0], False)):
        files_of = layout.part_of(host, cloud, passwords).files
        conf = next(file for file in files_of if file.path == "/etc/nova/nova.conf")
        assert (b"\n[cinder]\n" in (conf.content or b"")) is has
