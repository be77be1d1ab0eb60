"""A throw-away guest, through Nova's API: :class:`~recell.adapters.guests_port.GuestsPort`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote

from recell.adapters.guests_port import GuestState, GuestVerb
from recell.errors import Denied, RecellError, StepFailed, Unreachable
from recell.probe.cloud import Account, Answer, Cloud, default_clouds_yaml, read_account

__all__ = ["CloudGuests", "guests_of"]

T = TypeVar("T")

_ACTIONS: dict[GuestVerb, dict[str, Any]] = {
    "stop": {"os-stop": None},
    "start": {"os-start": None},
    "reboot": {"reboot": {"type": "HARD"}},
}
_ACKNOWLEDGED = (202, 204)


def guests_of(cloud: str) -> CloudGuests:
    """:raises BadInput: clouds.yaml has no such cloud."""
    return CloudGuests(read_account(cloud, default_clouds_yaml()))


class CloudGuests:
    """Each question has a login and a connection of its own: minutes lie between them."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def _within(self, act: Callable[[Cloud], Awaitable[T]]) -> T:
        async def run() -> T:
            async with Cloud(self._account) as cloud:
                return await act(cloud)

        return asyncio.run(run())

    def troubles(self, flavor: str, image: str) -> tuple[str, ...]:
        try:
            self._within(lambda cloud: cloud.look_up(flavor, image))
        except RecellError as error:
            return (error.sentence,)
        return ()

    def find(self, name: str) -> str:
        async def act(cloud: Cloud) -> str:
            answer = await cloud.request("GET", f"/servers?name={quote(f'^{name}$')}")
            found = _said(answer, 200, "list the guests of its project").get("servers", ())
            return next((str(s["id"]) for s in found if s.get("name") == name), "")

        return self._within(act)

    def boot(self, name: str, host: str, flavor: str, image: str, network: str) -> str:
        async def act(cloud: Cloud) -> str:
            flavor_id, image_id = await cloud.look_up(flavor, image)
            networks: Any = network if network in ("none", "auto") else [{"uuid": network}]
            body = {"server": {"name": name, "flavorRef": flavor_id, "imageRef": image_id,
                               "networks": networks, "host": host}}  # fmt: skip
            answer = await cloud.request("POST", "/servers", body)
            return str(_said(answer, 202, f"boot a guest on {host}")["server"]["id"])

        return self._within(act)

    def look(self, uuid: str) -> GuestState | None:
        async def act(cloud: Cloud) -> GuestState | None:
            answer = await cloud.request("GET", f"/servers/{uuid}")
            if answer.status == 404:
                return None
            server = _said(answer, 200, f"show the guest {uuid}")["server"]
            return GuestState(
                str(server.get("status") or ""),
                str(server.get("OS-EXT-STS:task_state") or ""),
                str(server.get("OS-EXT-SRV-ATTR:host") or ""),
                str((server.get("fault") or {}).get("message") or ""),
            )

        return self._within(act)

    def ask(self, uuid: str, verb: GuestVerb) -> None:
        async def act(cloud: Cloud) -> None:
            if verb == "delete":
                answer = await cloud.request("DELETE", f"/servers/{uuid}")
                if answer.status == 404:
                    return
            else:
                answer = await cloud.request("POST", f"/servers/{uuid}/action", _ACTIONS[verb])
            if answer.status not in _ACKNOWLEDGED:
                _said(answer, 202, f"{verb} the guest {uuid}")

        self._within(act)


def _said(answer: Answer, wanted: int, what: str) -> dict[str, Any]:
    """The body of an answer that is as it should be."""
    if answer.status == wanted and isinstance(answer.body, dict):
        return answer.body
    said = ""
    if isinstance(answer.body, dict):
        said = next((str(v.get("message", "")) for v in answer.body.values() if isinstance(v, dict)), "")
    why = said[:200] or answer.error or "no reason given"
    if answer.status == 0:
        raise Unreachable(f"Nova did not {what} ({why})", "See that its API answers, then: recell resume")
    if answer.status == 403:
        raise Denied(f"Nova does not let this account {what} ({why})", "Name an administrator's cloud")
    raise StepFailed(f"Nova did not {what}: {answer.status} ({why})", "See its log, then: recell resume")
