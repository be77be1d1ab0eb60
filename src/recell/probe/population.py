"""What users know of their instances, what they may ask for now, whether an answer is right.

Pure bookkeeping, no I/O. An instance with an operation of ours in flight is left alone until a read
that was sent after the acknowledgement shows it at rest, so a 409 is never the users' own fault.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["building", "active", "stopped", "deleting", "gone", "error"]

# What a kind of change makes of an instance once it has settled.
_AFTER: Mapping[str, State] = {
    "boot": "active", "start": "active", "stop": "stopped", "reboot-soft": "active",
    "reboot-hard": "active",
}
UNSURE = "unsure"  # what an instance is doing after a change that was not acknowledged
_STATUS: Mapping[str, State] = {"ACTIVE": "active", "SHUTOFF": "stopped", "ERROR": "error"}
# How often each change is asked for, relative to the others, when it is legal.
WEIGHTS: Mapping[str, float] = {
    "metadata-set": 6, "metadata-delete": 2, "stop": 3, "start": 5, "reboot-soft": 2,
    "reboot-hard": 2, "boot": 2, "delete": 2,
}


@dataclass
class Known:
    """An instance that must exist. ``resident``: nothing is done to it but to its metadata."""

    uuid: str
    since: float
    resident: bool = False
    state: State = "building"
    doing: str = ""
    doing_since: float = 0.0
    delete_asked: float | None = None
    gone_since: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    host_id: str = ""

    @property
    def idle(self) -> bool:
        return not self.doing and self.state in ("active", "stopped") and self.delete_asked is None


@dataclass(frozen=True)
class Choice:
    """A request to be made: ``kind``, and the instance it is about ("" for boots and lists)."""

    kind: str
    instance: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


class Population:
    """Instances of one project, and the users who act on them.

    :param bounds: how many instances of their own the users keep, at least and at most.
    :param change_share: the share of requests that change something, met as closely as is legal.
    :param aim: hosts, by the hostId that the API gives them; aim_share: the share of changes that are
        about instances there, met as closely as is legal.
    """

    def __init__(
        self, *, bounds: tuple[int, int], change_share: float, rng: random.Random,
        aim: Collection[str] = (), aim_share: float = 0.0,
    ) -> None:
        self._bounds = bounds
        self._share = change_share
        self._aim = frozenset(aim)
        self._aim_share = aim_share
        self.aimed = 0
        self._rng = rng
        self._known: dict[str, Known] = {}
        self._booting = 0
        self._serial = 0
        self._asked = 0
        self._changes = 0
        self.changing = True

    # -- what there is -------------------------------------------------------------------------
    def tell(self, uuid: str, when: float) -> None:
        """An instance that is there already: watched, and left running as it is."""
        self._known.setdefault(uuid, Known(uuid, when, resident=True))

    def get(self, uuid: str) -> Known:
        return self._known[uuid]

    def uuids(self) -> tuple[str, ...]:
        return tuple(self._known)

    def required(self, since: float) -> set[str]:
        """Instances that an answer to a list sent at ``since`` must hold, if it came now."""
        return {k.uuid for k in self._known.values()
                if k.since <= since and k.delete_asked is None}

    def gone(self, before: float) -> set[str]:
        """Instances whose end was seen before ``before``: no answer may hold them any more."""
        return {k.uuid for k in self._known.values()
                if k.gone_since is not None and k.gone_since < before}

    def unsettled(self) -> tuple[Known, ...]:
        return tuple(k for k in self._known.values() if k.doing)

    @property
    def booting(self) -> int:
        """Boots that were sent and not yet answered."""
        return self._booting

    # -- choosing ------------------------------------------------------------------------------
    def choose(self) -> Choice:
        """The next request. Changes are chosen whenever their share has fallen behind."""
        self._asked += 1
        if self.changing and self._changes < self._share * self._asked:
            change = self._change()
            if change is not None:
                self._changes += 1
                self.aimed += bool(change.instance) and self._is_aimed(self._known[change.instance])
                return change
        return self._read()

    def boot(self) -> Choice:
        self._booting += 1
        self._serial += 1
        return Choice("boot", detail={"serial": str(self._serial)})

    def _is_aimed(self, known: Known) -> bool:
        return known.host_id in self._aim

    def _there(self, some: list[Known]) -> list[Known]:
        """Of these, those on the side whose share has fallen behind; all, when none is there."""
        if not self._aim:
            return some
        wanted = self.aimed <= self._aim_share * self._changes
        return [k for k in some if self._is_aimed(k) is wanted] or some

    def _change(self) -> Choice | None:
        own = [k for k in self._known.values() if not k.resident and k.state != "gone"]
        idle = self._there([k for k in own if k.idle])
        low, high = self._bounds
        deleting = sum(k.state == "deleting" for k in own)
        living = sum(k.state not in ("deleting", "error") for k in own) + self._booting
        if living < low and self._booting == 0:
            return self.boot()
        can: dict[str, list[Known]] = {
            # While all their own are busy, users write down something about the others.
            "metadata-set": idle or self._there(
                [k for k in self._known.values() if k.resident and k.idle]),
            "metadata-delete": [k for k in idle if k.metadata],
            "stop": [k for k in idle if k.state == "active"],
            "start": [k for k in idle if k.state == "stopped"],
            "reboot-soft": [k for k in idle if k.state == "active"],
            "reboot-hard": [k for k in idle if k.state == "active"],
            # Deletes that don't come to their end must not be followed by ever more boots.
            "delete": (idle if living > low and deleting < 3 else []) + [
                k for k in own
                if k.state == "error" and not k.doing and k.delete_asked is None],
        }
        kinds = [kind for kind, instances in can.items() if instances]
        if living < high and self._booting == 0:
            kinds.append("boot")
        if not kinds:
            return None
        kind = self._rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
        if kind == "boot":
            return self.boot()
        return self._begin(kind, self._rng.choice(can[kind]))

    def _begin(self, kind: str, known: Known) -> Choice:
        known.doing = kind
        known.doing_since = float("inf")  # until it is acknowledged no read can settle it
        detail: dict[str, str] = {}
        if kind == "metadata-set":
            self._serial += 1
            detail = {"key": f"probe{self._rng.randrange(3)}", "value": f"v{self._serial}"}
        elif kind == "metadata-delete":
            detail = {"key": self._rng.choice(sorted(known.metadata))}
        return Choice(kind, known.uuid, detail)

    def _read(self) -> Choice:
        # People look at one thing more often than at everything, and a list costs the API ten shows.
        roll = self._rng.random()
        if roll < 0.1:
            return Choice("list-detail")
        if roll < 0.25:
            return Choice("list")
        present = [k.uuid for k in self._known.values()
                   if k.delete_asked is None and k.state != "gone"]
        return Choice("show", self._rng.choice(present)) if present else Choice("list-detail")

    # -- what was answered ---------------------------------------------------------------------
    def asked_delete(self, uuid: str, when: float) -> None:
        """From the moment a delete is sent, lists may leave the instance out."""
        self._known[uuid].delete_asked = when

    def answered(self, choice: Choice, ok: bool, when: float, new: str = "") -> None:
        """A change was answered at ``when``; ``new``: the uuid that a boot was given."""
        if choice.kind == "boot":
            self._booting -= 1
            if ok:
                self._known[new] = Known(new, when, doing="boot", doing_since=when)
            return
        known = self._known[choice.instance]
        if not ok:
            # What became of it is unknown: the next read that shows it at rest frees it again.
            known.doing = UNSURE
            known.doing_since = when
            known.metadata.clear()
            return
        if choice.kind == "metadata-set":
            known.metadata[choice.detail["key"]] = choice.detail["value"]
        elif choice.kind == "metadata-delete":
            known.metadata.pop(choice.detail["key"], None)
        known.doing_since = when
        if choice.kind == "delete":
            known.state = "deleting"
        elif choice.kind.startswith("metadata"):
            known.doing = ""

    def seen(self, server: Mapping[str, Any], sent: float) -> None:
        """A read that was sent at ``sent`` showed this server (detailed, 2.1 keys and later)."""
        known = self._known.get(str(server.get("id")))
        if known is None or known.state == "gone" or "status" not in server:
            return
        known.host_id = str(server.get("hostId") or known.host_id)
        if server.get("OS-EXT-STS:task_state") is not None or sent <= known.doing_since:
            return
        state = _STATUS.get(str(server["status"]))
        if state is None or known.doing == "delete":
            return
        if state == "error" or known.doing in ("", UNSURE) or state == _AFTER.get(known.doing):
            known.state = state
            known.doing = ""
        elif known.state in ("active", "stopped") and sent > known.doing_since + 15:
            # At rest where it was before, long after: the change did not happen. The accounting
            # will say so; the users go on from what there is.
            known.state = state
            known.doing = ""

    def absent(self, uuid: str, sent: float, when: float) -> None:
        """A whole list or a 404, asked for at ``sent``, shows that an instance is no more."""
        known = self._known.get(uuid)
        if known and known.delete_asked is not None and known.delete_asked < sent \
                and (known.state == "deleting" or known.doing == UNSURE):
            known.state = "gone"
            known.doing = ""
            known.gone_since = when

    # -- judging -------------------------------------------------------------------------------
    def judge_list(self, servers: Sequence[Mapping[str, Any]], sent: float) -> str:
        """What is wrong with a list that was asked for at ``sent``; "" when it is right."""
        ids = [str(s.get("id")) for s in servers]
        missing = self.required(sent) - set(ids)
        if missing:
            return f"short: {len(missing)} of {len(self.required(sent))} missing: {_some(missing)}"
        if len(set(ids)) != len(ids):
            return f"named twice: {_some({i for i in ids if ids.count(i) > 1})}"
        ghosts = self.gone(sent) & set(ids)
        if ghosts:
            return f"holds what is gone: {_some(ghosts)}"
        unknown = [str(s.get("id")) for s in servers if s.get("status") == "UNKNOWN"]
        return f"status UNKNOWN: {_some(unknown)}" if unknown else ""

    def judge_show(self, server: Mapping[str, Any], uuid: str) -> str:
        """What is wrong with the answer to a show; "" when it is right."""
        if server.get("id") != uuid:
            return f"asked for {uuid}, got {server.get('id')}"
        return f"status UNKNOWN: {uuid}" if server.get("status") == "UNKNOWN" else ""


def _some(uuids: Iterable[str]) -> str:
    names = sorted(uuids)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
