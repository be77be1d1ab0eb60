"""Plain JSON over HTTP, enough to set a cloud up and to see that it answers."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from recell_lab.cloud.topology import public_url
from recell_lab.errors import LabError

TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's JSON; None when it is empty."""
        return json.loads(self.body) if self.body else None


def request(
    method: str,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = TIMEOUT,
) -> Answer:
    """One request on a connection of its own. Raises OSError or HTTPException without an answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, answer.read())
    finally:
        connection.close()


def answers(url: str, timeout: float = 5) -> bool:
    """Whether a service answers a GET with a status below 400."""
    try:
        return request("GET", url, timeout=timeout).status < 400
    except (OSError, http.client.HTTPException):
        return False


@dataclass
class Session:
    """A user's requests, with a token that is fetched when first needed."""

    user: str
    password: str = field(repr=False)
    project: str
    _token: str | None = field(default=None, repr=False)

    def token(self) -> str:
        """The token. Raises LabError when Keystone refuses."""
        if self._token is None:
            domain = {"id": "default"}
            who = {"name": self.user, "domain": domain, "password": self.password}
            auth = {
                "identity": {"methods": ["password"], "password": {"user": who}},
                "scope": {"project": {"name": self.project, "domain": domain}},
            }
            answer = request(
                "POST",
                public_url("keystone", "/v3/auth/tokens"),
                headers={"Content-Type": "application/json"},
                body=json.dumps({"auth": auth}).encode(),
            )
            if answer.status != 201:
                raise LabError(f"Keystone refuses {self.user} a token: HTTP {answer.status}")
            self._token = answer.headers["x-subject-token"]
        return self._token

    def call(
        self,
        method: str,
        url: str,
        data: Any = None,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        good: tuple[int, ...] = (200, 201, 202, 204),
    ) -> Any:
        """The JSON of the answer. Raises LabError for a status that is not good."""
        every = {"X-Auth-Token": self.token(), "OpenStack-API-Version": "compute latest"}
        if data is not None:
            body = json.dumps(data).encode()
            every["Content-Type"] = "application/json"
        answer = request(method, url, headers={**every, **(headers or {})}, body=body)
        if answer.status not in good:
            text = answer.body.decode(errors="replace")[:300]
            raise LabError(f"{method} {url}: HTTP {answer.status}: {text}")
        return answer.json() if "json" in answer.headers.get("content-type", "") else None
