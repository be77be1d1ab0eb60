"""What the lab's users do with volumes, snapshots and consoles, on a Nova that can go wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recell.model.measure import CHANGES
from recell.probe.record import read_requests
from recell_lab import lab, state, volumes
from recell_lab.cloud import rest
from recell_lab.cloud.inside import cinder_stand_in as cinder
from recell_lab.commands import volumes as volumes_command
from recell_lab.console import ConsoleError
from recell_lab.errors import LabError
from recell_lab.volumes import Attached, Kept, Reply, Trial

USER = cinder.User("u", "demo", False)
ADMIN = cinder.User("nova", "service", True)
IMAGE = {"image_id": "img"}


class Cloud:
    """A Nova of one host over the real stand-in's records. ``faults``: what goes wrong, by name."""

    def __init__(self, directory: Path, *faults: str) -> None:
        self.cinder = cinder.Volumes(directory)
        self.faults = set(faults)
        self.servers: dict[str, str] = {}
        self.files: dict[str, dict[str, str]] = {}
        self.nova: dict[str, dict[str, str]] = {}
        self.images: dict[str, str] = {"img": ""}
        self.lines: list[Mapping[str, Any]] = []
        self.opened: list[str] = []
        self.clock = 1000.0
        self._made = 0

    # -- World -------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def write(self, line: Mapping[str, Any]) -> None:
        self.lines.append(line)

    def placed(self, guest: str) -> tuple[str, Attached] | None:
        return ("cmp1", dict(self.files[guest])) if guest in self.files else None

    def desktop(self, url: str) -> str:
        self.opened.append(url)
        self.clock += 0.1
        if "no console" in self.faults:
            raise ConsoleError("at the version: the websocket was closed: no word")
        if "a switch" in self.faults:
            self.faults.remove("a switch")
            raise ConsoleError("at the connection: no websocket is opened: 503")
        return "cmp2" if "another's console" in self.faults else "cmp1"

    def ask(self, service: str, method: str, path: str, data: Any) -> Reply:
        self.clock += 0.1
        parts = [part for part in path.partition("?")[0].split("/") if part]
        if f"{method} {parts[-1]}" in self.faults:
            return Reply(503, why="busy")
        act = {volumes.CINDER: self._cinder, volumes.NOVA: self._nova, volumes.GLANCE: self._glance}[service]
        return act(method, parts, data or {})

    # -- services ----------------------------------------------------------------------------------

    def _cinder(self, method: str, parts: list[str], data: Any) -> Reply:
        image = IMAGE if data.get("volume", {}).get("imageRef") else None
        try:
            return Reply(*cinder.route(self.cinder, USER, method, parts, {}, data, (3, 44), image))
        except cinder.Refused as refused:
            return Reply(refused.status, why=str(refused))

    def _glance(self, method: str, parts: list[str], data: Any) -> Reply:
        match method, parts:
            case "GET", ["v2", "images"]:
                return Reply(200, {"images": [{"id": "img"}]})
            case "GET", ["v2", "images", name, "file"]:
                return Reply(200, {"uuid": self.images[name]})
            case "GET", ["v2", "images", name] if name in self.images:
                return Reply(200, {"status": "queued" if "no upload" in self.faults else "active"})
            case "DELETE", ["v2", "images", name]:
                del self.images[name]
                return Reply(204)
        return Reply(404)

    def _nova(self, method: str, parts: list[str], data: Any) -> Reply:
        match method, parts:
            case "POST", ["servers"]:
                return self._boot(data["server"])
            case _, ["servers", guest, *_] if guest not in self.servers:
                return Reply(404)
            case "GET", ["servers", guest]:
                return Reply(200, {"server": {"status": self.servers[guest], "OS-EXT-STS:task_state": None}})
            case "DELETE", ["servers", guest]:
                del self.servers[guest], self.files[guest]
                for volume in self.nova.pop(guest):
                    self._free(volume)
                return Reply(204)
            case "GET", ["servers", guest, "os-volume_attachments"]:
                told = [{"volumeId": v, "device": d} for v, d in self.nova[guest].items()]
                return Reply(200, {"volumeAttachments": told})
            case "POST", ["servers", guest, "os-volume_attachments"]:
                self._attach(guest, data["volumeAttachment"]["volumeId"])
                return Reply(200)
            case "DELETE", ["servers", guest, "os-volume_attachments", volume]:
                if "no detach" not in self.faults:
                    self.files[guest].pop(volume)
                    self._free(volume)
                    self.nova[guest].pop(volume)
                return Reply(202)
            case "POST", ["servers", guest, "remote-consoles"]:
                self._made += 1
                return Reply(200, {"remote_console": {"url": f"http://lb/{guest}/{self._made}"}})
            case "POST", ["servers", guest, "action"] if "createImage" in data:
                self._made += 1
                self.images[f"image{self._made}"] = guest
                return Reply(202, {"image_id": f"image{self._made}"})
            case "POST", ["servers", _, "action"]:
                return Reply(200, {"output": '{"time": 1, "op": "spawn"}'})
        raise AssertionError(parts)

    def _boot(self, asked: Any) -> Reply:
        self._made += 1
        guest = f"guest{self._made}"
        self.servers[guest] = "ERROR" if "no boot" in self.faults else "ACTIVE"
        self.files[guest], self.nova[guest] = {}, {}
        for disk in asked.get("block_device_mapping_v2", ()):
            assert self.cinder.volumes[disk["uuid"]]["bootable"]
            if "cells v1" in self.faults:
                self.cinder.attach(ADMIN, {"volume_uuid": disk["uuid"], "instance_uuid": guest})
            self._attach(guest, disk["uuid"])
        return Reply(202, {"server": {"id": guest}}, request_id=f"req-{self._made}")

    def _attach(self, guest: str, volume: str) -> None:
        one = self.cinder.attach(ADMIN, {"volume_uuid": volume, "instance_uuid": guest})["id"]
        device = f"/dev/vd{'abcdef'[len(self.nova[guest])]}"
        self.nova[guest][volume] = device
        if "no host" not in self.faults:
            self.files[guest][volume] = device
        self.cinder.connect(ADMIN, one, {"host": "cmp1", "mountpoint": device})
        self.cinder.complete(ADMIN, one)

    def _free(self, volume: str) -> None:
        for one in self.cinder.of(volume):
            if one["status"] == "attached" or "cells v1" not in self.faults:
                self.cinder.detach(ADMIN, one["id"])


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Cloud, Trial]]:
    def made(*faults: str) -> tuple[Cloud, Trial]:
        cloud = Cloud(tmp_path, *faults)
        return cloud, Trial(cloud, lambda line: None)

    return made


Make = Callable[..., tuple[Cloud, Trial]]


def _ends(cloud: Cloud) -> tuple[int, int, int]:
    return len(cloud.servers), len(cloud.cinder.volumes), len(cloud.images) - 1


def test_rounds_do_everything_and_leave_nothing(make: Make) -> None:
    cloud, trial = make()
    trial.begin()
    for _ in range(3):
        trial.round()
    assert _ends(cloud) == (2, 0, 0)
    trial.tidy()
    assert _ends(cloud) == (0, 0, 0) and not cloud.files
    counts = trial.counts
    assert not counts.bad and (counts.failed, counts.lost, counts.reopened) == ([], [], 0)
    assert counts.operations["attach"] == counts.operations["detach"] == counts.operations["snapshot"] == 3
    assert counts.operations["boot from a volume"] == counts.operations["is its root"] == 3
    assert counts.operations["boot"] == 2 and counts.operations["delete"] == 5
    # The third round is on the first guest again: its old URL is opened as well.
    assert (counts.consoles, counts.old) == (4, 1)
    assert cloud.opened[0] == cloud.opened[2] != cloud.opened[3]


def test_the_attachment_that_cells_v1_leave_is_ended_and_counted_apart(make: Make) -> None:
    cloud, trial = make("cells v1")
    trial.begin()
    for _ in range(2):
        trial.round()
    trial.tidy()
    assert _ends(cloud) == (0, 0, 0) and not trial.counts.bad
    assert trial.counts.twice == 2
    assert any("2 volumes that a guest was booted from" in line for line in volumes.in_words(trial.counts))


def test_all_of_it_is_written_and_a_report_reads_what_is_novas(make: Make, tmp_path: Path) -> None:
    cloud, trial = make()
    trial.begin()
    trial.round()
    written = [line for line in cloud.lines if "status" in line]
    assert len(written) == trial.counts.requests
    operations = [line for line in cloud.lines if line["kind"] == "operation"]
    assert len(operations) == sum(trial.counts.operations.values())
    assert all(line["ok"] and line["dur_s"] > 0 for line in operations)
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in cloud.lines if "phase" in line))
    read = read_requests(path)
    changes = [(one.kind, one.instance, one.req_id) for one in read if one.acknowledged]
    assert [kind for kind, _, _ in changes] == ["boot", "boot", "boot", "delete"]
    assert changes[2][:2] == ("boot", changes[3][1]) and changes[2][2].startswith("req-")
    # What isn't the probe's own kind must be nothing that the accounting looks for.
    assert {one.kind for one in read} & CHANGES == {"boot", "delete"}


@pytest.mark.parametrize(("fault", "said"), [
    ("no host", r"attach \(.*\): after 180 s volume .* nova-api says /dev/vda, .* in-use, .* file nothing"),
    ("no detach", r"detach \(.*\): after 180 s volume .* is not free of guest1"),
    ("no upload", r"snapshot \(guest1\): after 180 s image image\d+ is queued"),
    ("no console", r"console \(guest1\): at the version: .*; with a new URL at the version: "),
    ("another's console", r"console \(guest1\): it led to cmp2, and the guest is on cmp1"),
    ("POST os-volume_attachments", r"attach \(.*\): POST compute .*: 503: busy"),
    ("POST remote-consoles", r"POST compute /servers/guest1/remote-consoles: 503: busy"),
    ("POST volumes", r"POST volumev3 /volumes: 503: busy"),
])  # fmt: skip
def test_what_does_not_come_about_is_lost_and_the_rest_goes_on(make: Make, fault: str, said: str) -> None:
    cloud, trial = make()
    trial.begin()
    cloud.faults.add(fault)
    trial.round()
    assert trial.counts.bad and any(re.search(said, one) for one in trial.counts.lost)
    assert trial.counts.operations["console output"] == 1  # the last of them
    assert len(set(trial.counts.lost)) == len(trial.counts.lost)
    assert bool(trial.counts.failed) is fault.startswith("POST")
    cloud.faults.clear()
    trial.tidy()
    assert len(cloud.servers) == 0 and len(cloud.images) == 1


def test_a_guest_in_error_is_no_guest(make: Make) -> None:
    _, trial = make("no boot")
    with pytest.raises(volumes.Failed, match="guest1 is in ERROR"):
        trial.begin()
    assert trial.counts.bad


def test_a_console_that_opens_with_a_second_url_is_counted_apart(make: Make) -> None:
    cloud, trial = make()
    trial.begin()
    cloud.faults.add("a switch")
    trial.round()
    assert not trial.counts.bad and (trial.counts.reopened, trial.counts.consoles) == (1, 1)
    (line,) = [line for line in cloud.lines if line["kind"] == "reopened"]
    assert line["why"].endswith("503") and len(set(cloud.opened)) == 2


def test_what_was_left_is_found_again_and_users_go_on_with_it(make: Make) -> None:
    cloud, trial = make()
    kept = Kept.of(trial.keep().text())
    sizes = sorted(len(attached) for attached in kept.attached.values())
    assert sizes == [1, 2] and set(kept.hosts.values()) == {"cmp1"} and cloud.images[kept.image]
    for _ in range(2):  # after the conversion, and after its undoing
        later = Trial(cloud, lambda line: None)
        kept = later.kept(kept)
        assert not later.counts.bad, later.counts.lost
        assert later.counts.operations["is as it was"] == later.counts.operations["console"] == 2
        assert later.counts.operations["attach"] == later.counts.operations["detach"] == 1
    assert _ends(cloud) == (2, 3, 1)


@pytest.mark.parametrize(("harm", "said"), [
    ("file", "its hosts' files say"), ("nova", "nova-api shows"), ("cinder", "Cinder's stand-in says of"),
    ("image", "GET image"), ("console", "console"), ("console once", "503"), ("host", "was .* on cmp3"),
])  # fmt: skip
def test_what_is_not_as_it_was_is_said(make: Make, harm: str, said: str) -> None:
    cloud, trial = make()
    kept = trial.keep()
    guest, attached = next(iter(kept.attached.items()))
    volume = next(iter(attached))
    match harm:
        case "file":
            cloud.files[guest][volume] = "/dev/vdz"
        case "nova":
            cloud.nova[guest]["more"] = "/dev/vdy"
        case "cinder":
            cloud.cinder.volumes[volume]["status"] = "detaching"
        case "image":
            del cloud.images[kept.image]
        case "console":
            cloud.faults.add("no console")
        case "console once":  # nobody is led anywhere then
            cloud.faults.add("a switch")
        case "host":
            kept = Kept({**kept.hosts, guest: "cmp3"}, kept.attached, kept.image)
    later = Trial(cloud, lambda line: None)
    later.kept(kept)
    assert later.counts.bad
    assert any(re.search(said, one) for one in later.counts.lost), later.counts.lost


def test_the_command_keeps_looks_and_goes_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud(tmp_path)
    monkeypatch.setattr(volumes_command, "RealWorld", lambda out: cloud)
    kept, summary = tmp_path / "kept.json", tmp_path / "summary.json"

    def run(*words: str) -> Any:
        given = ["--out", str(tmp_path / "o"), "--summary", str(summary), *words]
        return CliRunner().invoke(volumes_command.command, given)

    assert run("--keep", str(kept)).exit_code == 0
    assert run("--kept", str(kept)).exit_code == 0
    assert json.loads(summary.read_text())["operations"]["is as it was"] == 2
    assert run().exit_code == 0 and _ends(cloud) == (2, 3, 1)
    assert run("--keep", str(kept), "--until-stopped").exit_code == 2
    (tmp_path / "else.json").write_text("[]")
    said = run("--kept", str(tmp_path / "else.json"))
    assert isinstance(said.exception, LabError) and "--keep" in str(said.exception)
    assert run("--kept", str(tmp_path / "none.json")).exit_code == 2
    cloud.faults.add("no host")
    said = run()
    assert said.exit_code == 1 and "BAD  attach" in said.output and json.loads(summary.read_text())["bad"]
    assert cloud.lines[-1]["kind"] == "summary"


def test_a_real_reply_is_read_at_the_public_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps({"passwords": {"user_demo": "pw"}}))
    upper = tmp_path / "cmp1"
    guests = upper / volumes.GUESTS
    guests.mkdir(parents=True)

    class Host:
        spec = type("Spec", (), {"name": "cmp1", "role": "computes"})

        def upper(self) -> Path:
            return upper

    asked: list[tuple[str, str, dict[str, str]]] = []

    def request(method: str, url: str, *, headers: dict[str, str], **more: Any) -> rest.Answer:
        asked.append((method, url, headers))
        return rest.Answer(202, {"x-openstack-request-id": "req-7"}, b'{"a": 1}')

    monkeypatch.setattr(state, "STATE_DIR", tmp_path)
    monkeypatch.setattr(lab, "all_hosts", lambda: [Host()])
    monkeypatch.setattr(rest.Session, "token", lambda self: "t0ken")
    monkeypatch.setattr(volumes, "request", request)
    world = volumes.RealWorld(tmp_path / "out.jsonl")
    assert world.ask(volumes.NOVA, "GET", "/servers", None) == Reply(202, {"a": 1}, "req-7", '{"a": 1}')
    method, url, headers = asked[0]
    assert (method, url) == ("GET", "http://10.77.0.5:8774/v2.1/servers")
    version = headers["OpenStack-API-Version"].removeprefix("compute 2.")
    assert 45 <= int(version) < 69  # an image's id in the answer; and below what Stein's cells v1 can't list
    assert world.placed("g") is None
    (guests / "g.json").write_text("{}")
    assert world.placed("g") == ("cmp1", {})
    (guests / "g.volumes").write_text('{"v": "/dev/vdb"}')
    assert world.placed("g") == ("cmp1", {"v": "/dev/vdb"})
    world.write({"kind": "x"})
    assert (tmp_path / "out.jsonl").read_text() == '{"kind":"x"}\n'
