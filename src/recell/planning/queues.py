"""Where queues belong when a RabbitMQ cluster becomes two, and what brings them there. No I/O.

A queue belongs to the side whose clients take from it. Names tell nothing: oslo.messaging's carry no service.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recell.model.rabbit import NO_HOME_OF_ITS_OWN, Policy, QueueHome

Side = Literal["keep", "new"]
PREFIX = "recell-split"
"""Policies of recell's own begin so."""
_A_POLICY = 50
"""Names in one policy's pattern at most."""


def own_queues(nova_host: str, queues: Iterable[str]) -> tuple[str, ...]:
    """By whose names a nova-compute alone is reached. ``nova_host``: what Nova calls its host. ``queues``:
    all that it takes from."""
    mine = f".{nova_host}"
    return tuple(sorted({f"compute{mine}", *(q for q in queues if q.endswith(mine))}))


def queues_of_compute(nova_host: str) -> tuple[str, ...]:
    """:func:`own_queues` of one whose connections were not looked at; not every release has all of them."""
    return own_queues(nova_host, [f"compute-alt.{nova_host}"])


@dataclass(frozen=True)
class Sides:
    """Node names of both sides. ``patterns``: of queues that nobody takes from and the new one gets."""

    keep: tuple[str, ...]
    new: tuple[str, ...]
    patterns: tuple[str, ...] = ()

    def nodes(self, side: Side) -> tuple[str, ...]:
        return self.keep if side == "keep" else self.new


def side_of(queue: QueueHome, sides: Sides) -> Side | None:
    """None: both sides take from it."""
    takers = set(queue.takers)
    on_new, on_keep = bool(takers & set(sides.new)), bool(takers & set(sides.keep))
    if on_new and on_keep:
        return None
    if on_new or on_keep:
        return "new" if on_new else "keep"
    if queue.of_a_process:
        return "new" if queue.leader in sides.new else "keep"
    return "new" if any(fnmatch.fnmatchcase(queue.name, p) for p in sides.patterns) else "keep"


def shared(queues: Sequence[QueueHome], sides: Sides) -> tuple[QueueHome, ...]:
    """Queues that clients of both sides take from: no cut can do them justice."""
    return tuple(q for q in queues if side_of(q, sides) is None)


def misplaced(queues: Sequence[QueueHome], sides: Sides) -> tuple[QueueHome, ...]:
    """Queues with their leader or a member on the side that they don't belong to, or without a whole copy
    on their own."""
    out = []
    for queue in queues:
        side = side_of(queue, sides)
        home = set(sides.nodes(side)) if side else set()
        away = not {queue.leader, *queue.members} <= home
        if away or set(queue.members) - set(queue.synced):
            out.append(queue)
    return tuple(out)


def foreign(queues: Sequence[QueueHome], own: Sequence[str]) -> tuple[QueueHome, ...]:
    """Records of queues that live on other nodes than these."""
    return tuple(q for q in queues if q.leader not in own)


def quorum_homes(queue: QueueHome, nodes: Sequence[str]) -> tuple[str, ...]:
    """As many members as it has, as far as there are nodes; those that hold it already first."""
    wanted = max(1, min(len(queue.members), len(nodes)))
    first = [n for n in nodes if n in queue.members]
    return tuple([*first, *(n for n in nodes if n not in first)][:wanted])


def movers(
    queues: Sequence[QueueHome],
    policies: Sequence[Policy],
    sides: Sides,
    step: int = 0,
    let_go: Collection[tuple[str, str]] = (),
) -> tuple[Policy, ...]:
    """Policies under which misplaced classic queues move to their own side: mirrors are made there beside the
    leader; once that has handed over (:func:`heirs`), the old home is not among the nodes any more.

    What else each queue's present policy says stays. ``step`` numbers the policies of repeated calls.

    :param let_go: ``(vhost, name)`` of queues whose leader has handed over, or can't: then RabbitMQ ends it
        as soon as a mirror holds everything.
    """
    known = {(p.vhost, p.name): p for p in policies}
    groups: dict[tuple[str, str], list[str]] = {}
    for queue, targets, base in _moving(queues, known, sides):
        stays = queue.leader in targets or (queue.vhost, queue.name) in let_go
        text = _moved(base, targets if stays else (queue.leader, *targets))
        if text != _text(base):  # else RabbitMQ is at it; a policy anew would make it begin again
            groups.setdefault((queue.vhost, text), []).append(queue.name)
    top = max((p.priority for p in policies), default=0)
    out = []
    for number, ((vhost, text), names) in enumerate(sorted(groups.items())):
        for part in range(0, len(names), _A_POLICY):
            pattern = "^(" + "|".join(escaped(n) for n in sorted(names)[part : part + _A_POLICY]) + ")$"
            name = f"{PREFIX}-{step}-{number}-{part}"
            out.append(Policy(vhost, name, pattern, "queues", top + 10, text))
    return tuple(out)


def heirs(
    queues: Sequence[QueueHome], policies: Sequence[Policy], sides: Sides
) -> tuple[tuple[QueueHome, tuple[str, ...]], ...]:
    """Queues that nothing keeps away but their leader, each with the nodes of its own side that hold all of
    it, and nobody else does."""
    known = {(p.vhost, p.name): p for p in policies}
    return tuple(
        (queue, targets)
        for queue, targets, _ in _moving(queues, known, sides)
        if queue.leader not in targets and set(queue.members) == set(queue.synced) == {queue.leader, *targets}
    )


def _moving(
    queues: Sequence[QueueHome], known: Mapping[tuple[str, str], Policy], sides: Sides
) -> Iterator[tuple[QueueHome, tuple[str, ...], dict[str, Any]]]:
    """Misplaced classic queues, the nodes where each belongs, and what its policy says."""
    for queue in misplaced(queues, sides):
        side = side_of(queue, sides)
        if side is None or queue.kind != "classic" or queue.exclusive:
            continue
        base = _definition(known.get((queue.vhost, queue.policy)))
        yield queue, _targets(queue, sides.nodes(side), base), base


def next_step(policies: Sequence[Policy]) -> int:
    """A number for :func:`movers` that no policy of an earlier run has: to take a name again would take from
    its queues what keeps them where they are."""
    found = [re.match(rf"{PREFIX}-(\d+)-", p.name) for p in policies]
    return 1 + max((int(m[1]) for m in found if m), default=-1)


def own_policies(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """Where mirroring reaches queues of single processes, policies that leave them where they are made."""
    out = []
    for vhost in sorted({p.vhost for p in policies}):
        there = [p for p in policies if p.vhost == vhost and not p.name.startswith(PREFIX)]
        top = max(p.priority for p in there) if there else 0
        for word, pattern, sample in (
            ("reply", "^(amq\\.|reply_)", "reply_0"),
            ("fanout", "_fanout_", "x_fanout_0"),
        ):
            matching = [p for p in there if p.apply_to != "exchanges" and _matches(p.pattern, sample)]
            base = _definition(max(matching, key=lambda p: p.priority, default=None))
            if "ha-mode" in base:
                rest = {k: v for k, v in base.items() if not k.startswith("ha-")}
                text = json.dumps({**rest, "queue-master-locator": "client-local"}, sort_keys=True)
                out.append(Policy(vhost, f"{PREFIX}-{word}", pattern, "queues", top + 5, text))
    return tuple(out)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # Erlang's patterns are PCRE's; what Python can't read is taken to match
        return True


def _definition(policy: Policy | None) -> dict[str, Any]:
    return dict(json.loads(policy.definition)) if policy else {}


def _targets(queue: QueueHome, nodes: Sequence[str], base: dict[str, Any]) -> tuple[str, ...]:
    """One node where nothing is mirrored, by preference the one where it is taken from."""
    chosen = [n for n in base.get("ha-params", ()) if n in nodes] if queue.policy.startswith(PREFIX) else []
    if chosen:
        return tuple(chosen)
    taken = [n for n, _ in Counter(n for n in queue.takers if n in nodes).most_common()]
    order = [*dict.fromkeys([*(n for n in queue.members if n in nodes), *taken, *nodes])]
    mode = base.get("ha-mode")
    if NO_HOME_OF_ITS_OWN.match(queue.name) or mode is None:
        return (order[0],)
    count = len(nodes)
    if mode == "exactly":
        count = int(base.get("ha-params", 2))
    elif mode == "nodes":
        count = min(count, len(base.get("ha-params", nodes)))
    return tuple(sorted(order[: max(1, count)]))


def _moved(base: dict[str, Any], targets: Sequence[str]) -> str:
    rest = {k: v for k, v in base.items() if not k.startswith("ha-")}
    rest |= {"ha-mode": "nodes", "ha-params": list(targets), "ha-sync-mode": "automatic"}
    return _text(rest)


def _text(definition: Mapping[str, Any]) -> str:
    return json.dumps(definition, sort_keys=True)


def escaped(name: str) -> str:
    """A name as PCRE reads it literally."""
    return "".join(c if c.isalnum() or c == "_" else f"\\{c}" for c in name)
