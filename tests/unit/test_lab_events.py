"""Neutron's stand-in: what it posts and to whom, and what counts as a receipt."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from recell_lab import events, lab
from recell_lab.cloud.rest import Session
from recell_lab.commands import neutron_events
from recell_lab.events import Post

UNEXPECTED = (
    "2026-01-02 03:04:05.678 42 WARNING nova.compute.manager [req-1 nova service] [instance: {}] Received"
    " unexpected event network-vif-plugged-{} for instance with vm_state active and task_state None."
)


class NovaApi(BaseHTTPRequestHandler):
    """Takes events as nova-api does, and nova-compute's log is written where ``passes`` says so."""

    server: Any

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (event,) = body["events"]
        assert self.headers["X-Auth-Token"] == "t0ken"
        assert self.path.endswith("/v2.1/os-server-external-events")
        known = event["server_uuid"] != "unknown"
        if known and self.path.startswith("/child"):
            self.server.log.append(UNEXPECTED.format(event["server_uuid"], event["tag"]))
        answer = {"events": [{**event, "code": 200}]} if known else {"itemNotFound": {"code": 404}}
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def api() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), NovaApi)
    server.log = []
    server.at = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def session() -> Session:
    made = Session("nova", "pw", "service")
    made._token = "t0ken"
    return made


def test_of_each_host_the_oldest_and_the_newest_guest_is_asked_about() -> None:
    rows = [("cmp1", "a"), ("cmp2", "b"), ("cmp1", "c"), ("cmp1", "d")]
    assert events.oldest_and_newest(rows) == {"cmp1": ("a", "d"), "cmp2": ("b",)}


def test_what_comes_is_known_by_nova_computes_own_line(api: Any, session: Session) -> None:
    wanted = {"cmp1": ("a", "d"), "cmp2": ("b",)}
    sent = events.post(session, {"lb1": f"{api.at}/top/v2.1"}, wanted, expected=False)
    sent += events.post(session, {"ctl1": f"{api.at}/child/v2.1"}, wanted, expected=True)
    assert len({p.tag for p in sent}) == 6 and {p.code for p in sent} == {200}
    asked: list[tuple[str, int]] = []

    def read(host: str, tags: Sequence[str]) -> str:
        asked.append((host, len(tags)))
        return "\n".join(line for line in api.log if any(tag in line for tag in tags))

    found = events.received(sent, read, 0.0)
    assert sorted(asked) == [("cmp1", 4), ("cmp2", 2)]
    assert [(p.to, p.instance) for p in found if p.receipt] == [("ctl1", "a"), ("ctl1", "d"), ("ctl1", "b")]
    assert events.wrong(found) == []
    assert all("unexpected event" in p.receipt for p in found if p.receipt)


def test_what_is_refused_or_lost_or_comes_where_it_can_not_is_said(api: Any, session: Session) -> None:
    url = {"ctl1": f"{api.at}/child/v2.1"}
    (refused,) = events.post(session, url, {"cmp1": ["unknown"]}, expected=True)
    (sent,) = events.post(session, url, {"cmp1": ["a"]}, expected=True)
    # A line of another event, or one that only names the tag, is no receipt.
    (lost,) = events.received([sent], lambda host, tags: f"something else about {tags[0]}", 0.0)
    (came,) = events.received([sent], lambda host, tags: api.log[0], 0.0)
    said = events.wrong([refused, lost, came, replace(came, expected=False)])
    assert [line.rpartition(", ")[2] for line in said] == [
        "was refused (no word)", "never came to nova-compute",
        "came to nova-compute though an API cell passes none on",
    ]  # fmt: skip
    assert "posted to nova-api of ctl1" in said[0]
    (nobody,) = events.post(session, {"ctl1": "http://127.0.0.1:1/v2.1"}, {"cmp1": ["a"]}, expected=True)
    assert events.wrong([nobody])[0].endswith("was refused (no word)")


@pytest.mark.parametrize(("public", "reaches", "ends"), [
    (False, {"ctl1", "ctl2"}, 0), (False, {"ctl1"}, 1), (False, {"ctl1", "ctl2", "lb1"}, 1),
    (True, {"lb1"}, 0), (True, set(), 1),
])  # fmt: skip
def test_the_command_ends_well_only_when_all_came_where_they_should(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, public: bool, reaches: set[str], ends: int
) -> None:
    def post(session: object, urls: dict[str, str], wanted: object, *, expected: bool) -> list[Post]:
        return [Post(to, "cmp1", "a", f"{to}-tag", expected, codes.pop() if codes and expected else 200)
                for to in urls]

    codes = [404]  # of the first post alone: a guest that is deleted meanwhile

    def received(posts: list[Post]) -> list[Post]:
        return [replace(p, receipt="came" if p.to in reaches else "") for p in posts]

    class Host:
        def __init__(self, name: str, role: str) -> None:
            self.spec = type("Spec", (), {"name": name, "role": role, "ip": f"10.0.0.{name[-1]}"})

    monkeypatch.setattr(events, "neutron", lambda: None)
    monkeypatch.setattr(events, "guests", lambda: {"cmp1": ("a",)})
    monkeypatch.setattr(events, "post", post)
    monkeypatch.setattr(events, "received", received)
    hosts = [Host("ctl1", "controllers"), Host("ctl2", "controllers"), Host("cmp1", "computes")]
    monkeypatch.setattr(lab, "all_hosts", lambda: hosts)
    out = tmp_path / "events.json"
    said = CliRunner().invoke(neutron_events.command, ["--out", str(out), *(["--public"] if public else [])])
    assert said.exit_code == ends, said.output
    written = json.loads(out.read_text())
    assert bool(written["wrong"]) == bool(ends)
    assert [p["to"] for p in written["posts"]] == (["lb1"] if public else ["lb1", "ctl1", "ctl2"])
