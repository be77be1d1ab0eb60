"""The cloud as a user meets it: a token from Keystone, Nova's public endpoint, single requests.

Nothing is ever tried twice: each request has a TCP connection of its own, and a connection that
fails is a request that failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from recell.errors import BadInput, Denied, RecellError, Unreachable

MICROVERSION = "2.90"
"""What users ask for; of an older Nova they ask for the newest that it has."""


@dataclass(frozen=True)
class Account:
    """A cloud of clouds.yaml. ``password`` is kept out of representations."""

    auth_url: str
    username: str
    password: str
    project: str
    user_domain: str = "Default"
    project_domain: str = "Default"
    region: str = ""
    interface: str = "public"
    verify: bool = True
    cacert: str = ""

    def __repr__(self) -> str:
        return f"Account({self.username} of {self.project} at {self.auth_url})"


@dataclass(frozen=True)
class Answer:
    """What came back. ``status`` 0: nothing did, and ``error`` says why. ``body``: parsed JSON."""

    status: int
    req_id: str
    body: Any
    error: str = ""


def read_account(cloud: str, clouds_yaml: Path | None) -> Account:
    """An account by its name in clouds.yaml, found where openstacksdk finds it unless given.

    :raises BadInput: no such cloud, or it does not log in with a password.
    """
    from openstack import config, exceptions

    files = [str(clouds_yaml)] if clouds_yaml else None
    try:
        region = config.OpenStackConfig(config_files=files, secure_files=[] if files else None) \
            .get_one(cloud)
    except exceptions.ConfigException as error:
        raise BadInput(f"no usable cloud {cloud!r} in clouds.yaml ({str(error).splitlines()[0]})",
                       "Name one of its clouds with --cloud") from None
    auth = region.config.get("auth", {})
    try:
        return Account(
            auth_url=auth["auth_url"].rstrip("/"), username=auth["username"],
            password=auth["password"], project=auth["project_name"],
            user_domain=auth.get("user_domain_name") or auth.get("user_domain_id") or "Default",
            project_domain=(auth.get("project_domain_name") or auth.get("project_domain_id")
                            or "Default"),
            region=region.region_name or "", interface=region.config.get("interface") or "public",
            verify=bool(region.config.get("verify", True)),
            cacert=region.config.get("cacert") or "",
        )
    except KeyError as missing:
        raise BadInput(f"cloud {cloud!r} in clouds.yaml has no {missing.args[0]}",
                       "The probe logs in with a user name, a password and a project") from None


class Cloud:
    """One user's connection. Use as an asynchronous context manager.

    :param timeout: how long a user waits for a whole answer, in seconds.
    """

    def __init__(self, account: Account, timeout: float = 60) -> None:
        self._account = account
        self._timeout = timeout
        self._token = ""
        self._project = ""
        self._expires = 0.0
        self._microversion = MICROVERSION
        self._endpoints: dict[str, str] = {}
        verify: ssl.SSLContext | bool = account.verify
        if account.cacert:
            verify = ssl.create_default_context(cafile=account.cacert)
        self._client = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(
                verify=verify, retries=0, trust_env=False,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0)),
            timeout=None, follow_redirects=False, trust_env=False,
        )
        self._refresher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Cloud:
        try:
            await self._authenticate()
        except BaseException:
            await self._client.aclose()
            raise
        self._refresher = asyncio.create_task(self._refresh())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._refresher:
            self._refresher.cancel()
        await self._client.aclose()

    async def _authenticate(self) -> None:
        account = self._account
        body = {"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": account.username, "password": account.password,
                "domain": _domain(account.user_domain)}}},
            "scope": {"project": {"name": account.project,
                                  "domain": _domain(account.project_domain)}},
        }}
        url = account.auth_url if account.auth_url.endswith("/v3") else f"{account.auth_url}/v3"
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._client.post(f"{url}/auth/tokens", json=body)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise Unreachable(f"Keystone at {url} does not answer ({type(error).__name__})",
                              "Check that it runs and that auth_url is right") from None
        if answer.status_code == 401:
            raise Denied(f"Keystone at {url} refused {account.username}",
                         "Correct the password in clouds.yaml")
        if answer.status_code != 201:
            raise RecellError(f"Keystone at {url} answered {answer.status_code} to a login",
                              "Look at its log")
        token = answer.json()["token"]
        self._endpoints = {
            service["type"]: endpoint["url"].rstrip("/")
            for service in token.get("catalog", ()) for endpoint in service["endpoints"]
            if endpoint["interface"] == account.interface
            and account.region in ("", endpoint.get("region_id"), endpoint.get("region"))
        }
        if "compute" not in self._endpoints:
            raise BadInput(f"the catalogue of {url} has no {account.interface} compute endpoint",
                           "Correct the region or the interface in clouds.yaml")
        self._token = answer.headers["x-subject-token"]
        self._project = str(token.get("project", {}).get("id", ""))
        self._expires = datetime.fromisoformat(token["expires_at"]).timestamp()

    async def _refresh(self) -> None:
        """Keep the token fresh beside the measured requests: at half its life, then every 10 s."""
        while True:
            left = self._expires - datetime.now().timestamp()
            await asyncio.sleep(max(10.0, left / 2))
            try:
                await self._authenticate()
            except RecellError:
                continue

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None,
                      service: str = "compute") -> Answer:
        """One request, once. Never raises for what the cloud does; ``Answer.error`` says it."""
        headers = {"x-auth-token": self._token, "accept": "application/json",
                   "openstack-api-version": f"compute {self._microversion}", "connection": "close"}
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.request(
                    method, self._endpoints[service] + path, headers=headers,
                    json=body)
        except TimeoutError:
            return Answer(0, "", None, f"no answer within {self._timeout:g} s")
        except httpx2.HTTPError as error:
            return Answer(0, "", None, f"{type(error).__name__}: {error}")
        req_id = response.headers.get("x-openstack-request-id", "")
        if not response.content:
            return Answer(response.status_code, req_id, None)
        try:
            return Answer(response.status_code, req_id, response.json())
        except ValueError:
            return Answer(response.status_code, req_id, None, "the answer is not JSON")

    def host_id(self, host: str) -> str:
        """What users are shown as an instance's ``hostId``: Nova's digest of their project and the host."""
        return hashlib.sha224((self._project + host).encode()).hexdigest()

    async def look_up(self, flavor: str, image: str) -> tuple[str, str]:
        """The ids of a flavor and an image by name or id. :raises BadInput: no such thing."""
        await self._negotiate()
        flavors = await self.request("GET", "/flavors")
        images = await self.request("GET", f"{self._image_prefix()}/images", service="image") \
            if "image" in self._endpoints else Answer(0, "", None, "no image endpoint")
        return (_by_name(flavors, "flavors", flavor), _by_name(images, "images", image))

    async def _negotiate(self) -> None:
        """Nova answers 406 to a microversion that it doesn't have, so ask for its newest first."""
        self._microversion = "2.1"
        answer = await self.request("GET", "/")
        version = answer.body.get("version") if isinstance(answer.body, dict) else None
        newest = str(version.get("version") or "") if isinstance(version, dict) else ""
        known = answer.status == 200 and newest.replace(".", "").isdigit()
        newest = min(newest if known else MICROVERSION, MICROVERSION, key=_numbers)
        # Stein's cells v1 answer every list of 2.69 and later with 500; its own newest is 2.72.
        self._microversion = "2.68" if _numbers("2.69") <= _numbers(newest) <= _numbers("2.72") else newest

    def _image_prefix(self) -> str:
        return "" if self._endpoints["image"].endswith("/v2") else "/v2"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split("."))


def _domain(name: str) -> dict[str, str]:
    """``default`` in lower case is the id of the domain that is named ``Default``."""
    return {"id": name} if name == "default" else {"name": name}


def _by_name(answer: Answer, key: str, wanted: str) -> str:
    if answer.status != 200 or not isinstance(answer.body, dict):
        raise Unreachable(f"the cloud does not list its {key} ({answer.status} {answer.error})",
                          "Check its endpoints")
    for item in answer.body.get(key, ()):
        if wanted in (item["id"], item["name"]):
            return str(item["id"])
    raise BadInput(f"the cloud has no {key[:-1]} {wanted!r}",
                   f"Name another one with --{key[:-1]}: "
                   + ", ".join(i["name"] for i in answer.body.get(key, ())))


def default_clouds_yaml() -> Path | None:
    """OS_CLIENT_CONFIG_FILE, when it is set."""
    named = os.environ.get("OS_CLIENT_CONFIG_FILE")
    return Path(named) if named else None
