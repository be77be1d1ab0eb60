"""The load against a small Nova that misbehaves on purpose: each fault is one failure, named."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import pytest

from recell.errors import BadInput, Denied, RecellError
from recell.model.measure import UserRequest
from recell.probe.__main__ import parse_bounds, read_known
from recell.probe.cloud import Account, Cloud, read_account
from recell.probe.load import Load, LoadOptions
from recell.probe.record import Recorder, read_requests, read_summary

Fault = Callable[["FakeNova", str, str, int, Any], tuple[int, Any] | None]


class FakeNova(AbstractAsyncContextManager["FakeNova"]):
    """Keystone, Glance and Nova in one HTTP server on loopback, as little of them as users need.

    ``fault`` may replace any answer of Nova's, or hang up by raising ConnectionResetError.
    """

    def __init__(self, fault: Fault | None = None, delay: float = 0.0) -> None:
        self.fault = fault
        self.delay = delay
        self.servers: dict[str, dict[str, Any]] = {}
        self.logins = 0
        self.requests: list[tuple[float, str, str]] = []
        self.token_life = 3600.0
        self.newest = "2.100"
        self.microversions: list[str] = []

    async def __aenter__(self) -> FakeNova:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        self._server.close()

    def account(self, password: str = "right") -> Account:  # noqa: S107
        return Account(f"http://127.0.0.1:{self.port}/v3", "demo", password, "demo")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ")
            length = next((int(h.split(":")[1]) for h in head if h.lower().startswith(
                "content-length:")), 0)
            body = json.loads(await reader.readexactly(length)) if length else None
            asked = [h.partition(": ")[2] for h in head if h.lower().startswith("openstack-api-version:")]
            if path.startswith("/compute/"):
                self.microversions += asked
            status, answer, extra = await self._answer(method, path, body)
            data = b"" if answer is None else (
                answer if isinstance(answer, bytes) else json.dumps(answer).encode())
            lines = [f"HTTP/1.1 {status} x", f"content-length: {len(data)}", "connection: close",
                     f"x-openstack-request-id: req-{uuid4()}", *extra]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            await writer.drain()
        except ConnectionResetError:
            writer.transport.abort()
        finally:
            writer.close()

    async def _answer(self, method: str, path: str, body: Any) -> tuple[int, Any, list[str]]:
        if path == "/v3/auth/tokens":
            self.logins += 1
            if body["auth"]["identity"]["password"]["user"]["password"] != "right":
                return 401, {"error": {}}, []
            expires = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z",
                                    time.gmtime(time.time() + self.token_life))
            url = f"http://127.0.0.1:{self.port}"
            catalog = [{"type": t, "endpoints": [{"interface": "public", "url": f"{url}/{t}",
                                                  "region": "R", "region_id": "R"}]}
                       for t in ("compute", "image")]
            return 201, {"token": {"expires_at": expires, "catalog": catalog}}, \
                ["x-subject-token: t"]
        if path == "/image/v2/images":
            return 200, {"images": [{"id": "img", "name": "guest"}]}, []
        path = path.removeprefix("/compute")
        if path == "/":
            return (200, {"version": {"version": self.newest}}, []) if self.newest else (404, None, [])
        if path == "/flavors":
            return 200, {"flavors": [{"id": "1", "name": "m1.tiny"}]}, []
        self.requests.append((time.monotonic(), method, path))
        status, answer = self._nova(method, path, body)
        await asyncio.sleep(self.delay)
        if self.fault:
            status, answer = self.fault(self, method, path, status, answer) or (status, answer)
        return status, answer, []

    def _nova(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        now = time.monotonic()
        path = path.partition("?")[0]
        for uuid, server in list(self.servers.items()):
            if server["due"] <= now and server["OS-EXT-STS:task_state"]:
                server["OS-EXT-STS:task_state"] = None
                server["status"] = server["next"]
                if server["next"] == "DELETED":
                    del self.servers[uuid]
        parts = path.strip("/").split("/")
        if method == "GET" and path in ("/servers", "/servers/detail"):
            return 200, {"servers": list(self.servers.values())}
        if method == "POST" and path == "/servers":
            assert body["server"]["networks"] == "none"
            uuid = str(uuid4())
            self.servers[uuid] = {"id": uuid, "status": "BUILD", "metadata": {},
                                  "name": body["server"]["name"],
                                  "OS-EXT-SRV-ATTR:host": body["server"].get("host", ""),
                                  "OS-EXT-STS:task_state": "spawning", "due": now + 0.1,
                                  "next": "ACTIVE"}
            return 202, {"server": {"id": uuid}}
        server = self.servers.get(parts[1], {})
        if not server:
            return 404, {"itemNotFound": {"message": "no such server"}}
        if method == "GET":
            return 200, {"server": server}
        if server["OS-EXT-STS:task_state"]:
            return 409, {"conflictingRequest": {"message": "busy"}}
        if parts[2:3] == ["metadata"]:
            if method == "POST":
                server["metadata"].update(body["metadata"])
                return 200, {"metadata": server["metadata"]}
            return (204, None) if server["metadata"].pop(parts[3], None) else (404, {})
        action = "delete" if method == "DELETE" else next(iter(body))
        wanted = {"os-start": "SHUTOFF", "os-stop": "ACTIVE", "reboot": "ACTIVE"}.get(action)
        if wanted and server["status"] != wanted:
            return 409, {"conflictingRequest": {"message": f"it is {server['status']}"}}
        server["OS-EXT-STS:task_state"] = action
        server["due"] = now + 0.1
        server["next"] = {"delete": "DELETED", "os-stop": "SHUTOFF"}.get(action, "ACTIVE")
        return (204, None) if action == "delete" else (202, None)


def _load(
    tmp_path: Path, fault: Fault | None = None, *, delay: float = 0.0, timeout: float = 60.0,
    **options: Any,
) -> tuple[list[UserRequest], dict[str, Any], FakeNova]:
    out = tmp_path / "load.jsonl"
    chosen = LoadOptions(**{"rate": 120.0, "duration": 1.25, "seed": 4, "settle": 3.0,
                            "poll": 0.05, **options})

    async def run() -> tuple[dict[str, Any], FakeNova]:
        async with FakeNova(fault, delay) as nova:
            with Recorder(out) as recorder:
                async with Cloud(nova.account(), timeout) as cloud:
                    return await Load(cloud, recorder, chosen).run(), nova

    summary, nova = asyncio.run(run())
    assert read_summary(out) == summary
    return [r for r in read_requests(out) if r.phase != "setup"], summary, nova


def _once(condition: Callable[[str, str, int], bool],
          make: Callable[[FakeNova, Any], tuple[int, Any]], after: int = 40) -> Fault:
    """A fault that strikes once, at the first fitting request after the first so many."""
    struck: list[str] = []

    def fault(nova: FakeNova, method: str, path: str, status: int, answer: Any,
              ) -> tuple[int, Any] | None:
        if struck or len(nova.requests) < after or not condition(method, path, status):
            return None
        struck.append(path)
        return make(nova, answer)

    return fault


def _is_list(method: str, path: str, status: int) -> bool:
    return method == "GET" and path.startswith("/servers") and path.count("/") <= 2 \
        and (path == "/servers" or path.endswith("detail"))


def _is_show(method: str, path: str, status: int) -> bool:
    return method == "GET" and path.count("/") == 2 and not path.endswith("detail") \
        and status == 200


def _reset(nova: FakeNova, answer: Any) -> tuple[int, Any]:
    raise ConnectionResetError


def test_a_cloud_that_works_shows_no_failure_and_enough_changes(tmp_path: Path) -> None:
    requests, summary, _ = _load(tmp_path, boot=3)
    assert [r for r in requests if not r.ok] == []
    assert summary["failed"] == 0 and summary["unsettled"] == []
    running = [r for r in requests if r.phase == "run"]
    assert 145 <= len(running) <= 151
    assert sum(r.changes for r in running) >= 0.3 * len(running)
    kinds = {r.kind for r in requests}
    assert {"boot", "list", "list-detail", "show", "metadata-set", "stop"} <= kinds
    assert all(r.req_id.startswith("req-") for r in requests)


@pytest.mark.parametrize(("fault", "why"), [
    (_once(_is_list, lambda n, a: (200, {"servers": a["servers"][1:]})), "short: 1 of"),
    (_once(_is_list, lambda n, a: (200, {"servers": [{**s, "status": "UNKNOWN"} for s in a[
        "servers"]]})), "UNKNOWN"),
    (_once(_is_list, lambda n, a: (200, {"servers": a["servers"] + a["servers"][:1]})), "twice"),
    (_once(_is_list, lambda n, a: (200, {})), "no list"),
    (_once(_is_list, lambda n, a: (200, b"<html>")), "not JSON"),
    (_once(_is_list, lambda n, a: (500, {"computeFault": {"message": "MessagingTimeout"}})),
     "status 500 instead of 200: MessagingTimeout"),
    (_once(_is_list, _reset), "Error"),
    (_once(_is_show, lambda n, a: (200, {"server": {**a["server"], "id": "other"}})), "got other"),
    (_once(_is_show, lambda n, a: (200, {"server": {**a["server"], "status": "UNKNOWN"}})),
     "UNKNOWN"),
    (_once(_is_show, lambda n, a: (404, {"itemNotFound": {"message": "gone"}})), "status 404"),
    (_once(lambda m, p, s: s == 202, lambda n, a: (503, b"")), "status 503"),
])
def test_each_fault_is_one_failure(tmp_path: Path, fault: Fault, why: str) -> None:
    requests, summary, nova = _load(tmp_path, fault, boot=3)
    failed = [r for r in requests if not r.ok]
    assert len(failed) == 1, failed
    assert why in failed[0].why
    assert summary["failed"] == 1
    # Nothing was tried twice: what the cloud saw is what was written down.
    assert len(nova.requests) <= len(requests) + 40


def test_slow_answers_hold_nobody_else_back(tmp_path: Path) -> None:
    requests, _, _ = _load(tmp_path, delay=2.0, rate=20.0, duration=3.0, settle=10.0)
    running = [r for r in requests if r.phase == "run"]
    assert len(running) >= 58
    assert min(r.dur_s for r in running) >= 2.0
    assert running[19].t0 < running[0].t0 + running[0].dur_s, "twenty were under way at once"


def test_an_answer_that_never_comes_is_a_failure(tmp_path: Path) -> None:
    requests, _, _ = _load(tmp_path, delay=30, timeout=1.0, rate=5.0, duration=1.0, settle=0.0,
                           known=("a",), bounds=(0, 0))
    assert requests and all(r.why == "no answer within 1 s" and r.status == 0 for r in requests)


def test_told_instances_must_be_in_every_list(tmp_path: Path) -> None:
    requests, _, _ = _load(tmp_path, known=("not-there",), duration=0.5)
    lists = [r for r in requests if r.kind.startswith("list")]
    assert lists and all("not-there" in r.why for r in lists)


def test_stop_is_soft_and_changes_settle(tmp_path: Path) -> None:
    out = tmp_path / "load.jsonl"

    async def run() -> None:
        async with FakeNova() as nova:
            with Recorder(out) as recorder:
                async with Cloud(nova.account(), 5) as cloud:
                    load = Load(cloud, recorder, LoadOptions(rate=60, seed=1))
                    asyncio.get_running_loop().call_later(1.0, load.stop)
                    async with asyncio.timeout(10):
                        await load.run()

    asyncio.run(run())
    summary = read_summary(out)
    assert summary is not None and summary["unsettled"] == [] and summary["failed"] == 0
    assert not any(r.changes for r in read_requests(out) if r.phase == "settle")


def test_wrong_password_and_missing_image_are_one_sentence(tmp_path: Path) -> None:
    async def login() -> None:
        async with FakeNova() as nova, Cloud(nova.account("wrong"), 5):
            pass

    async def image() -> None:
        async with FakeNova() as nova, Cloud(nova.account(), 5) as cloud:
            await cloud.look_up("m1.tiny", "windows")

    with pytest.raises(Denied, match="refused demo"):
        asyncio.run(login())
    with pytest.raises(BadInput, match="no image 'windows'"):
        asyncio.run(image())


def test_first_boots_that_are_refused_end_the_run(tmp_path: Path) -> None:
    def refuse(nova: FakeNova, method: str, path: str, status: int, answer: Any,
               ) -> tuple[int, Any] | None:
        return (403, {"forbidden": {"message": "quota"}}) if method == "POST" else None

    with pytest.raises(RecellError, match="only 0 of 8 first boots"):
        _load(tmp_path, refuse, boot=2)


def test_account_comes_from_clouds_yaml(tmp_path: Path) -> None:
    path = tmp_path / "clouds.yaml"
    path.write_text("clouds:\n  c:\n    auth: {auth_url: 'http://k:5000/v3', username: u, "
                    "password: p, project_name: x, user_domain_name: D}\n    region_name: R\n")
    account = read_account("c", path)
    assert (account.auth_url, account.username, account.password, account.project) == \
        ("http://k:5000/v3", "u", "p", "x")
    assert account.user_domain == "D" and account.region == "R"
    assert "p'" not in repr(account)
    with pytest.raises(BadInput, match="no usable cloud 'd'"):
        read_account("d", path)


def test_options(tmp_path: Path) -> None:
    assert parse_bounds("3:9") == (3, 9)
    for bad in ("9:3", "x", "3"):
        with pytest.raises(BadInput):
            parse_bounds(bad)
    known = tmp_path / "known"
    known.write_text("# told\na\n\n b \n")
    assert read_known(known) == ("a", "b")


def test_a_file_cut_off_by_a_crash_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    out = tmp_path / "f"
    with Recorder(out) as recorder:
        recorder.request(UserRequest(2.0, 0.1, "list", "GET", "", 200, "r2", True))
        recorder.request(UserRequest(1.0, 0.1, "list", "GET", "", 200, "r1", True))
    with out.open("ab") as file:
        file.write(b'{"t0": 3')
    assert [r.req_id for r in read_requests(out)] == ["r1", "r2"]
    assert read_summary(out) is None
    with out.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(BadInput, match="line 3"):
        read_requests(out)
    assert read_requests(tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("newest", "asked"),
    [("2.100", "2.90"), ("2.73", "2.73"), ("2.72", "2.68"), ("2.68", "2.68"), ("2.9", "2.9"), ("", "2.90")],
)
def test_an_older_nova_is_asked_for_the_newest_that_it_has(newest: str, asked: str) -> None:
    async def go() -> list[str]:
        async with FakeNova() as nova:
            nova.newest = newest
            async with Cloud(nova.account()) as cloud:
                await cloud.look_up("m1.tiny", "guest")
                await cloud.request("GET", "/servers")
            return nova.microversions

    assert asyncio.run(go()) == ["compute 2.1", f"compute {asked}", f"compute {asked}"]
