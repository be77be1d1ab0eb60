"""What recell asks of a nova-cells: three of the RPC methods that nova-api itself uses.

oslo.messaging's envelope is JSON in JSON, the same from Icehouse on. Versions of the methods are those in
which each first came, so that every release with cells v1 takes them.
"""

from __future__ import annotations

import json
import re
import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

from recell.adapters.amqp import Amqp
from recell.adapters.courier import inner
from recell.errors import StepFailed

__all__ = ["CellsClient", "Envelope"]

TOPIC = "cells"
UNKNOWN_CELL = "CellNotFound"
_POLL_S = 0.1
_ANSWERS_MS = 300_000
_CONTENT_TYPE, _CONTENT_ENCODING, _DELIVERY_MODE = 0x8000, 0x4000, 0x1000
_PERSISTENT = 2
_OF_A_CELL = re.compile(r"[^\"\\\s@!]+(?:![^\"\\\s@!]+)+(?=@)")
"""``api!cell1`` in ``api!cell1@3``, as nova-cells marked services while they were plain dictionaries."""
_PATH = "cell_proxy.cell_path"
"""Beside the versioned object that a service is in later releases (seen in Stein)."""


class CellsClient:
    """Speaks to the nova-cells that serve on a broker; the connection stays the caller's.

    :param wait: how to wait; clock: seconds.
    """

    def __init__(
        self,
        broker: Amqp,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._wait, self._clock = wait, clock

    def services(self, limit_s: float) -> frozenset[str]:
        """Full paths of the cells whose services came back: each was asked through its own nova-cells."""
        answer = self._call("service_get_all", "1.2", {"filters": {}}, limit_s)
        services = answer if isinstance(answer, list) else []
        marked = {str(s[_PATH]) for s in services if isinstance(s, dict) and _PATH in s}
        return frozenset(marked | set(_OF_A_CELL.findall(json.dumps(answer))))

    def free_memory(self, cell: str, limit_s: float) -> int:
        """What it knows of a neighbour's free memory, MiB; -1 when it knows nothing.

        Of several nova-cells each reads its records for itself, once a minute: one may not know of the
        neighbour yet when another does."""
        try:
            answer = self._call("get_capacities", "1.9", {"cell_name": cell}, limit_s)
        except _Answered as error:
            if error.kind == UNKNOWN_CELL:
                return -1
            raise
        if not isinstance(answer, dict) or "ram_free" not in answer:
            return -1
        return int(answer["ram_free"].get("total_mb", 0))

    def sync(self, project: str | None, since: float) -> None:
        """Let children send every live instance of a project that was changed since then (seconds since the
        epoch): each is a message of its own, and all of them come at once."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
        self._send("sync_instances", "1.1", {"project_id": project, "updated_since": when, "deleted": False})

    def _send(self, method: str, version: str, args: dict[str, Any], reply: str = "") -> str:
        message = Envelope(method, version, args, reply)
        if not self._broker.publish("", TOPIC, _properties(), message.body):
            raise StepFailed(
                f"nobody serves {TOPIC} on the broker {self._broker.where}",
                "See that nova-cells runs there, then: recell resume",
            )
        return message.number

    def _call(self, method: str, version: str, args: dict[str, Any], limit_s: float) -> Any:
        """The answer; None when none came in time.

        :raises StepFailed: nova-cells answered with an error.
        """
        queue = f"reply_{uuid.uuid4().hex}"
        self._broker.declare_direct(queue, _ANSWERS_MS)
        try:
            number = self._send(method, version, args, queue)
            began = self._clock()
            result: Any = None
            while self._clock() - began < limit_s:
                found = self._broker.get(queue)
                if found is None:
                    self._wait(_POLL_S)
                    continue
                self._broker.ack(found)
                content = inner(found.body)
                if content.get("_msg_id") not in (None, number):
                    continue
                if content.get("failure"):
                    raise _Answered(self._broker.where, method, *_first(content["failure"]))
                result = content.get("result") if content.get("result") is not None else result
                if content.get("ending", True):
                    return result
            return None
        finally:
            self._broker.delete(queue)


class Envelope:
    """A request as oslo.messaging sends it. ``number``: by which its answer is known."""

    def __init__(self, method: str, version: str, args: dict[str, Any], reply: str = "") -> None:
        self.number = uuid.uuid4().hex
        content: dict[str, Any] = {"method": method, "version": version, "args": args}
        content |= {f"_context_{key}": value for key, value in _context().items()}
        content["_unique_id"] = uuid.uuid4().hex
        if reply:
            content |= {"_msg_id": self.number, "_reply_q": reply, "_timeout": None}
        self.body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(content)}).encode()


def _context() -> dict[str, Any]:
    """An administrator's, of nobody: what every release's RequestContext takes."""
    return {
        "user_id": None,
        "project_id": None,
        "is_admin": True,
        "read_deleted": "no",
        "roles": ["admin"],
        "request_id": f"req-{uuid.uuid4()}",
        "timestamp": None,
        "auth_token": None,
        "remote_address": None,
    }


def _properties() -> bytes:
    """As kombu writes them: it decodes a body by these."""
    flags = _CONTENT_TYPE | _CONTENT_ENCODING | _DELIVERY_MODE
    kind, encoding = b"application/json", b"utf-8"
    return (
        struct.pack(">H", flags)
        + bytes([len(kind)])
        + kind
        + bytes([len(encoding)])
        + encoding
        + bytes([_PERSISTENT])
    )


class _Answered(StepFailed):
    """nova-cells has answered with an error. ``kind``: the name of its class."""

    def __init__(self, where: str, method: str, kind: str, words: str) -> None:
        said = f"{kind}: {words}" if words else kind
        super().__init__(
            f"nova-cells on {where} could not {method}: {said}", "See its log, then: recell resume"
        )
        self.kind = kind


def _first(failure: object) -> tuple[str, str]:
    """The exception's class and own words, out of what oslo.messaging sends of it."""
    try:
        told = json.loads(str(failure))
        return str(told.get("class", "an error")), str(told.get("message", ""))[:200].rstrip(". ")
    except (ValueError, AttributeError):
        return "an error", ""
