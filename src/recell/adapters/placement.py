"""Placement's API, asked from a controller with Nova's own account. Read-only.

Keystone and placement are reached through the controller's SSH session, as the databases are: they
need not be reachable from here, and no password leaves the session.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from recell.adapters.conf import Config
from recell.errors import Denied, Unreachable, Unsupported
from recell.model.health import Placement, Provider

_TIMEOUT = 30.0
_VERSION = "placement 1.14"
_SHARING = "MISC_SHARES_VIA_AGGREGATE"
_REMEDY = "See [placement] in nova.conf, and Keystone's and placement's logs"


class Gateway(Protocol):
    """The controller that is asked from: :class:`recell.adapters.ssh.SshHost`."""

    name: str

    def forward(self, host: str, port: int) -> Path: ...
    def unforward(self, local: Path, host: str, port: int) -> None: ...
    def read(self, path: str) -> bytes | None: ...


class PlacementApi:
    """One account's view. :raises Unreachable, Denied, Unsupported: from every method."""

    def __init__(self, via: Gateway, config: Config) -> None:
        self._via = via
        self._config = config
        self._doors: dict[tuple[str, int], Path] = {}
        self._url = ""
        self._token = ""
        self._context: ssl.SSLContext | bool | None = None

    def look(self, suspicious: Callable[[str, str], bool] = lambda uuid, name: False) -> Placement:
        """Every root provider with its consumers; traits are asked of suspicious ones only."""
        self._log_in()
        listed = self._get("/resource_providers")["resource_providers"]
        roots = [p for p in listed if p.get("root_provider_uuid", p["uuid"]) == p["uuid"]]
        below: dict[str, list[str]] = {}
        for p in listed:
            below.setdefault(p.get("root_provider_uuid", p["uuid"]), []).append(p["uuid"])

        def one(p: dict[str, Any]) -> Provider:
            consumers: set[str] = set()
            for uuid in below[p["uuid"]]:
                consumers |= set(self._get(f"/resource_providers/{uuid}/allocations")["allocations"])
            shared = (
                suspicious(p["uuid"], p["name"])
                and _SHARING in self._get(f"/resource_providers/{p['uuid']}/traits")["traits"]
            )
            return Provider(p["uuid"], p["name"], shared, frozenset(consumers))

        with ThreadPoolExecutor(4) as pool:
            return Placement(tuple(pool.map(one, roots)))

    def close(self) -> None:
        for (host, port), door in self._doors.items():
            self._via.unforward(door, host, port)
        self._doors.clear()

    def _log_in(self) -> None:
        def own(option: str, default: str = "") -> str:
            return self._config.get("placement", option, default)

        auth = own("auth_url").rstrip("/")
        if not auth or not own("username"):
            raise Unsupported(
                f"nova.conf on {self._via.name} has no [placement] auth_url and username",
                "recell asks placement with an account of type password",
            )
        if not auth.endswith("/v3"):
            auth += "/v3"
        user = {
            "name": own("username"),
            "password": own("password"),
            "domain": _domain(own("user_domain_id"), own("user_domain_name", "Default")),
        }
        project = {
            "name": own("project_name", "service"),
            "domain": _domain(own("project_domain_id"), own("project_domain_name", "Default")),
        }
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": project},
            }
        }
        answer = self._ask("POST", f"{auth}/auth/tokens", json=body)
        self._token = answer.headers.get("X-Subject-Token", "")
        self._url = own("endpoint_override").rstrip("/") or self._endpoint(answer.json(), own)

    def _endpoint(self, token: Any, own: Callable[..., str]) -> str:
        wanted = [w.strip() for w in own("valid_interfaces", "internal,public").split(",")]
        ends = [
            e
            for s in token["token"].get("catalog", [])
            if s["type"] == "placement"
            for e in s["endpoints"]
            if own("region_name") in ("", e["region"])
        ]
        for interface in wanted:
            for end in ends:
                if end["interface"] == interface:
                    return str(end["url"]).rstrip("/")
        raise Unsupported(
            "Keystone's catalog has no placement endpoint for Nova",
            "Add it, or set [placement] endpoint_override",
        )

    def _get(self, path: str) -> Any:
        headers = {"X-Auth-Token": self._token, "OpenStack-API-Version": _VERSION}
        return self._ask("GET", self._url + path, headers=headers).json()

    def _ask(self, method: str, url: str, **more: Any) -> httpx2.Response:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        where = f"{host}:{port}"
        try:
            verify = parts.scheme == "https" and self._tls()
            transport = httpx2.HTTPTransport(uds=str(self._door(host, port)), verify=verify)
            with httpx2.Client(transport=transport, timeout=_TIMEOUT) as client:
                answer = client.request(method, url, **more)
        except (httpx2.HTTPError, OSError) as error:
            raise Unreachable(
                f"{where} does not answer from {self._via.name} ({type(error).__name__})", _REMEDY
            ) from None
        if answer.status_code in (401, 403):
            raise Denied(f"{where} refuses Nova's account for placement ({answer.status_code})", _REMEDY)
        if answer.status_code >= 400:
            raise Unreachable(f"{where} answers {answer.status_code} to {method} {parts.path}", _REMEDY)
        return answer

    def _door(self, host: str, port: int) -> Path:
        if (host, port) not in self._doors:
            self._doors[host, port] = self._via.forward(host, port)
        return self._doors[host, port]

    def _tls(self) -> ssl.SSLContext | bool:
        """As nova.conf says; loading certificates takes long, so once."""
        if self._context is None:
            self._context = self._new_context()
        return self._context

    def _new_context(self) -> ssl.SSLContext | bool:
        if self._config.get("placement", "insecure").lower() in ("true", "1", "yes"):
            return False
        path = self._config.get("placement", "cafile")
        content = self._via.read(path) if path else None
        return ssl.create_default_context(cadata=content.decode() if content else None)


def _domain(by_id: str, by_name: str) -> dict[str, str]:
    return {"id": by_id} if by_id else {"name": by_name}
