"""Which messages shovels bring from one RabbitMQ cluster to another while clients move between them. No I/O.

One rule: a queue that clients of one side alone take from has a namesake on the other side, bound alike, and
what arrives there is brought over. It serves topics, replies and fanouts: each process's fanout queue has a
namesake of its own, so nothing goes in circles. Where both sides have takers, each serves its own callers.

A stream is read by all its takers, so each side that has some gets everything that the other side publishes:
from a helper queue that is bound as the stream is. The shovel writes to the stream itself and not to the
exchange, so nothing goes in circles here either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recell.model.rabbit import NO_HOME_OF_ITS_OWN

Side = Literal["keep", "new"]
PREFIX = "recell-bridge"
"""Shovels, helper queues and the accounts of recell's own begin so."""
FERRY = f"{PREFIX}-ferry"
"""recell's account for requests that it carries over itself: it may declare queues of this pattern."""
ANSWERS = "^reply_"


@dataclass(frozen=True)
class Taken:
    """A queue of one cluster. ``takers``: consumers but for shovels; ``waiting``: messages in it."""

    vhost: str
    name: str
    kind: str
    takers: int
    waiting: int = 0


@dataclass(frozen=True)
class Lane:
    """What arrives in ``source`` on the one side is brought to ``queue`` on the side ``toward``."""

    vhost: str
    queue: str
    toward: Side
    source: str

    @property
    def name(self) -> str:
        """Of the shovel."""
        text = json.dumps([self.vhost, self.queue, self.toward])
        return f"{PREFIX}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


    @property
    def asks(self) -> bool:
        """Whether requests come this way: no answers, fanouts, streams or notifications."""
        apart = NO_HOME_OF_ITS_OWN.match(self.queue) or "notifications" in self.queue
        return self.source == self.queue and not apart


@dataclass(frozen=True)
class Shores:
    """Both clusters as recell reaches them: nodes as (host, end); an end as shovels have it."""

    keep: tuple[tuple[str, str], ...]
    new: tuple[tuple[str, str], ...]
    vhosts: tuple[str, ...]

    def at(self, side: Side) -> tuple[tuple[str, str], ...]:
        return self.keep if side == "keep" else self.new


def other(side: Side) -> Side:
    return "new" if side == "keep" else "keep"


def lanes(
    keep: Sequence[Taken],
    new: Sequence[Taken],
    coming: Mapping[tuple[str, str], Side] | None = None,
    rising: Mapping[tuple[str, str], Side] | None = None,
    leaving: Mapping[tuple[str, str, Side], int] | None = None,
) -> frozenset[Lane]:
    """:param coming: queues ``(vhost, name)`` that somebody is about to take from on a side.
    :param rising: queues of servers that begin on a side and are to get nothing before they have: what is
        sent there waits on the other side, whether they take already or not.
    :param leaving: by queue and side, how many of its takers are about to end. Where the other side has
        some, it gets what is sent from then on, and nobody waits for whoever comes."""
    found: dict[tuple[str, str], dict[Side, int]] = {}
    kinds: dict[tuple[str, str], str] = {}
    sides: tuple[tuple[Side, Sequence[Taken]], ...] = (("keep", keep), ("new", new))
    for side, queues in sides:
        for queue in queues:
            if bridged(queue.name):
                key = (queue.vhost, queue.name)
                found.setdefault(key, {"keep": 0, "new": 0})[side] = queue.takers
                kinds[key] = queue.kind
    for (vhost, name, side), number in (leaving or {}).items():
        takers = found.get((vhost, name), {})
        if takers.get(other(side)) and kinds[vhost, name] != "stream":
            takers[side] = max(0, takers[side] - number)
    for key, side in (coming or {}).items():
        if key in found:
            found[key][side] += 1
    for key, side in (rising or {}).items():
        if key in found:
            found[key] = {"keep": int(side == "new"), "new": int(side == "keep")}
    out = set()
    for (vhost, name), takers in found.items():
        if kinds[vhost, name] == "stream":
            out |= {Lane(vhost, name, side, helper(name)) for side, _ in sides if takers[side]}
        elif bool(takers["keep"]) != bool(takers["new"]):
            out.add(Lane(vhost, name, "keep" if takers["keep"] else "new", name))
    return frozenset(out)


def helper(stream: str) -> str:
    return f"{PREFIX}.{stream}"


def bridged(name: str) -> bool:
    """Queues whose names the broker makes up are nobody's address."""
    return not name.startswith(("amq.", f"{PREFIX}."))


def namesakes(
    wanted: Iterable[Lane], there: Collection[tuple[str, str]], definitions: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """What the side where messages arrive lacks: queues, their exchanges and bindings, as definitions.

    :param there: ``(vhost, name)`` of the queues that it has.
    :param definitions: of the side where the takers are.
    """
    queues: list[dict[str, Any]] = []
    exchanges: list[dict[str, Any]] = []
    bindings: list[dict[str, Any]] = []
    known = {(q["vhost"], q["name"]): q for q in definitions.get("queues", [])}
    for lane in sorted(set(wanted), key=lambda lane: (lane.vhost, lane.queue)):
        model = known.get((lane.vhost, lane.queue))
        if model is None or (lane.vhost, lane.source) in there:
            continue
        if lane.source != lane.queue:
            # A helper lasts no longer than what fills it: if it is left behind, it ends by itself.
            model = {"durable": True, "auto_delete": False, "arguments": {"x-expires": 1_800_000}}
        queues.append({**model, "vhost": lane.vhost, "name": lane.source})
        for binding in definitions.get("bindings", []):
            at = (binding["vhost"], binding["destination"], binding["destination_type"])
            if at == (lane.vhost, lane.queue, "queue") and binding["source"]:
                bindings.append({**binding, "destination": lane.source})
    named = {(b["vhost"], b["source"]) for b in bindings}
    exchanges += [e for e in definitions.get("exchanges", []) if (e["vhost"], e["name"]) in named]
    return {"exchanges": exchanges, "queues": queues, "bindings": bindings}


def shovels(
    wanted: Iterable[Lane], uris: Mapping[Side, Mapping[str, Sequence[str]]], version: str = ""
) -> list[dict[str, Any]]:
    """Runtime parameters of the new cluster. ``uris``: by side and vhost; they hold a password.

    ``version``: the new cluster's RabbitMQ. From 3.9 on shovels go before other takers of their queue: a
    server that begins is to get nothing yet."""
    first: dict[str, Any] = {}
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) >= (3, 9):
        first = {"src-consumer-args": {"x-priority": 1}}
    return [
        {
            "vhost": lane.vhost,
            "component": "shovel",
            "name": lane.name,
            "value": {
                "src-protocol": "amqp091",
                "src-uri": list(uris[other(lane.toward)][lane.vhost]),
                "src-queue": lane.source,
                **first,
                "dest-protocol": "amqp091",
                "dest-uri": list(uris[lane.toward][lane.vhost]),
                "dest-queue": lane.queue,
                "ack-mode": "on-confirm",
                # A shovel that dies sends these again; oslo.messaging knows a server's last 16 messages.
                "src-prefetch-count": 10,
                "reconnect-delay": 1,
            },
        }
        for lane in sorted(wanted, key=lambda lane: lane.name)
    ]


def uri(end: str, login: str, vhost: str) -> str:
    """Of a shovel. Over TLS a broker is proven by nobody, as by Nova's services without a CA: which of a
    host's certificates would prove it is not known here."""
    scheme, _, place = end.rpartition("://")
    return f"{scheme or 'amqp'}://{login}@{place}/{vhost}" + ("?verify=verify_none" if scheme else "")


@dataclass(frozen=True)
class Copied:
    """Definitions that clients need to log in and work, without queues. JSON lists; password hashes too."""

    parts: tuple[tuple[str, tuple[str, ...]], ...]

    def definitions(self) -> dict[str, Any]:
        return {name: [json.loads(row) for row in rows] for name, rows in self.parts}


_PARTS = {
    "vhosts": "vhost",
    "users": "user",
    "permissions": "permission of",
    "topic_permissions": "topic permission of",
    "policies": "policy",
    "parameters": "operator policy",
}


def copied(definitions: Mapping[str, Any], version: str) -> Copied:
    """Of the old cluster, for a new one of this RabbitMQ version: 4.0 and newer have no mirrors."""
    mirrors = int(version.split(".")[0] or 0) < 4
    parts = []
    for part in _PARTS:
        rows = []
        for row in definitions.get(part, []):
            if str(row.get("name", row.get("user", ""))).startswith(PREFIX):
                continue
            if part == "parameters" and row["component"] != "operator_policy":
                continue
            if part == "policies" and not mirrors:
                row = {**row, "definition": _unmirrored(row["definition"])}
                if not row["definition"]:
                    continue
            if part == "parameters":
                # Some releases write a definition here as a list of pairs, and don't read it so.
                definition = dict(row["value"]["definition"])
                definition = definition if mirrors else _unmirrored(definition)
                if not definition:
                    continue
                row = {**row, "value": {**row["value"], "definition": definition}}
            if part == "vhosts":
                row = _vhost(row)
            rows.append(json.dumps(row, sort_keys=True))
        parts.append((part, tuple(rows)))
    return Copied(tuple(parts))


def _unmirrored(definition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in definition.items() if not key.startswith("ha-")}


def _vhost(row: Mapping[str, Any]) -> dict[str, Any]:
    """A vhost's default queue type is the type of what clients declare without one: with another, they would
    be refused the queues that a bridge has made for them."""
    default = (row.get("metadata") or {}).get("default_queue_type")
    if default in (None, "undefined"):
        return {"name": row["name"]}
    return {"name": row["name"], "metadata": {"default_queue_type": default}}


def _said(part: str, row: str) -> str:
    """What a release says in other words than another one: no limits, no tags; and before 3.9 a user's tags
    as one text."""
    told = {key: value for key, value in json.loads(row).items() if value not in ({}, [], None, "")}
    if part == "users" and told.get("tags"):
        tags = told["tags"].split(",") if isinstance(told["tags"], str) else told["tags"]
        told["tags"] = sorted(tag.strip() for tag in tags)
    return json.dumps(told, sort_keys=True)


def lacking(wanted: Copied, there: Copied) -> tuple[str, ...]:
    """What of it is not there, in words without secrets."""
    have = {name: {_said(name, row) for row in rows} for name, rows in there.parts}
    # 4.0 and newer give every vhost a default queue type.
    have["vhosts"] = {*have.get("vhosts", set()), *(_named(row) for row in have.get("vhosts", set()))}
    out = []
    for part, rows in wanted.parts:
        missing = [json.loads(row) for row in rows if _said(part, row) not in have.get(part, set())]
        out += [f"{_PARTS[part]} {row.get('name', row.get('user', ''))}" for row in missing]
    return tuple(out)


def _named(vhost: str) -> str:
    return json.dumps({"name": json.loads(vhost)["name"]})
