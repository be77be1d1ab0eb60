"""The lab as tests see it: commands, users, operations through its API."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import yaml

STATE = Path("/var/lib/recell-lab")
TOP = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BACKUP = ("--backup", "none is needed: the lab is raised anew in minutes")
"""What a human must say before recell writes to databases."""


def lab(*words: str, timeout: float = 900) -> str:
    """recell-lab; its output. A failure shows it."""
    ended = subprocess.run(
        [BIN / "recell-lab", *words], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert ended.returncode == 0, f"recell-lab {' '.join(words)}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def on(host: str, *argv: str, timeout: float = 180) -> str:
    return lab("ssh", host, shlex.join(argv), timeout=timeout)


def recell(
    *words: str, directory: Path, expect: int = 0, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """recell as an operator runs it; ``expect`` is its exit code."""
    return _run([str(BIN / "recell"), words[0], "--dir", str(directory), *words[1:]], expect, timeout)


def recell_killed(
    step: str, moment: str, *words: str, directory: Path, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """recell, dying by SIGKILL at that moment of that step."""
    argv = [sys.executable, "-m", "tests.real.killer", step, moment, "--", words[0], "--dir", str(directory)]
    return _run([*argv, *words[1:]], -signal.SIGKILL, timeout)


def _run(argv: Sequence[str], expect: int, timeout: float) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, cwd=TOP)
    assert ended.returncode == expect, (
        f"{' '.join(argv)} ended with {ended.returncode}, not {expect}:\n"
        f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    )
    return ended


@contextmanager
def users(out: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The probe at work; at the end it comes to rest, and its file is whole."""
    process = subprocess.Popen([BIN / "recell-lab", "load", "--out", str(out), "--duration", "3000", *words])
    try:
        wait_until("users are at work", lambda: out.exists() and '"phase":"run"' in out.read_text(), 300)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=300)


def wait_until(what: str, true: Callable[[], Any], limit: float, every: float = 0.5) -> Any:
    began = time.monotonic()
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() - began < limit, f"{what}: not within {limit:.0f} s"
        time.sleep(every)


class Api:
    """Nova's API as an administrator, through the load balancer. One attempt per call."""

    def __init__(self, cloud: str = "lab-admin") -> None:
        auth = yaml.safe_load((STATE / "clouds.yaml").read_text())["clouds"][cloud]["auth"]
        self._http = httpx2.Client(timeout=120)
        answer = self._http.post(
            f"{auth['auth_url']}/auth/tokens",
            json={
                "auth": {
                    "identity": {
                        "methods": ["password"],
                        "password": {
                            "user": {
                                "name": auth["username"],
                                "password": auth["password"],
                                "domain": {"name": auth.get("user_domain_name", "Default")},
                            }
                        },
                    },
                    "scope": {
                        "project": {
                            "name": auth["project_name"],
                            "domain": {"name": auth.get("project_domain_name", "Default")},
                        }
                    },
                }
            },
        )
        answer.raise_for_status()
        self._headers = {
            "X-Auth-Token": answer.headers["x-subject-token"],
            "X-OpenStack-Nova-API-Version": "2.90",
        }
        catalog = {s["type"]: s["endpoints"] for s in answer.json()["token"]["catalog"]}
        self._urls = {
            kind: next(e["url"] for e in ends if e["interface"] == "public").rstrip("/")
            for kind, ends in catalog.items()
        }

    def call(self, method: str, path: str, body: Any = None, service: str = "compute") -> Any:
        answer = self._http.request(method, self._urls[service] + path, json=body, headers=self._headers)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content and "json" in answer.headers.get("content-type", "") else None

    def boot(self, name: str, flavor: str = "m1.tiny", **more: Any) -> str:
        image = self.call("GET", "/v2/images", service="image")["images"][0]["id"]
        flavors = {f["name"]: f["id"] for f in self.call("GET", "/flavors")["flavors"]}
        hints = {"OS-SCH-HNT:scheduler_hints": more.pop("hints")} if "hints" in more else {}
        body = {
            "server": {
                "name": name,
                "flavorRef": flavors[flavor],
                "imageRef": image,
                "networks": "none",
                **more,
            },
            **hints,
        }
        return str(self.call("POST", "/servers", body)["server"]["id"])

    def show(self, uuid: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/servers/{uuid}")["server"]
        return found

    def act(self, uuid: str, action: str, body: Any = None) -> None:
        self.call("POST", f"/servers/{uuid}/action", {action: body})

    def settle(self, uuid: str, status: str, limit: float = 120) -> dict[str, Any]:
        """Wait for a status without a task; an instance in ERROR is a failure at once."""

        def there() -> dict[str, Any] | None:
            server = self.show(uuid)
            assert server["status"] != "ERROR" or status == "ERROR", f"{uuid}: {server.get('fault')}"
            return server if server["status"] == status and not server["OS-EXT-STS:task_state"] else None

        found: dict[str, Any] = wait_until(f"{uuid} is {status}", there, limit)
        return found

    def delete(self, *uuids: str) -> None:
        for uuid in uuids:
            self.call("DELETE", f"/servers/{uuid}")
        wait_until(
            "they are gone",
            lambda: not {s["id"] for s in self.call("GET", "/servers")["servers"]} & set(uuids),
            120,
        )


def report(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return content


def failures(found: dict[str, Any]) -> str:
    """What a report says of failed requests, one a line, and what the load balancer said meanwhile."""
    told = [
        f"{f['t0']:.3f} +{f['dur_s']:.3f} {f['kind']} {f['status']} {f['why']}"
        for f in found["api"]["failures"]
    ]
    # "Server nova-api/ctl2 is DOWN, reason: ...", and the requests that it answered with 5xx itself
    words = ["journalctl", "-o", "short-unix", "--no-pager", "-t", "haproxy", "-n", "40"]
    return "\n".join([*told, on("lb1", *words, "-g", r" is (UP|DOWN)| nova-api/\S+ \S+ 50[0-9] ")])


def is_root() -> bool:
    return os.geteuid() == 0
