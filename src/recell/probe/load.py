"""The open-loop load itself: requests start on schedule, however long earlier ones take."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recell.errors import RecellError
from recell.model.measure import CHANGES, Phase, UserRequest
from recell.probe.cloud import Answer, Cloud
from recell.probe.population import Choice, Population
from recell.probe.record import Recorder

_ACKNOWLEDGED: Mapping[str, int] = {
    "boot": 202, "delete": 204, "stop": 202, "start": 202, "reboot-soft": 202, "reboot-hard": 202,
    "metadata-set": 200, "metadata-delete": 204,
}
_ACTIONS: Mapping[str, dict[str, Any]] = {
    "stop": {"os-stop": None}, "start": {"os-start": None},
    "reboot-soft": {"reboot": {"type": "SOFT"}}, "reboot-hard": {"reboot": {"type": "HARD"}},
}


@dataclass(frozen=True)
class LoadOptions:
    """``rate`` in requests/s; ``duration`` in seconds, None until told to stop; ``boot``: how many
    instances to boot first that are left running as they are; ``settle``: how long to wait at the end
    for changes in flight; ``bounds``: how many instances the users keep of their own;
    ``aim``: names of compute hosts, ``aim_share``: the share of changes about instances there;
    ``setup_limit``, ``poll``: how long and how often the first boots are looked at."""

    rate: float = 6.0
    duration: float | None = None
    boot: int = 0
    settle: float = 60.0
    bounds: tuple[int, int] = (6, 14)
    change_share: float = 0.36
    flavor: str = "m1.tiny"
    image: str = "guest"
    seed: int | None = None
    known: tuple[str, ...] = ()
    aim: tuple[str, ...] = ()
    aim_share: float = 0.5
    setup_limit: float = 300.0
    poll: float = 1.0


class Load:
    """Users of one cloud. :meth:`run` once; :meth:`stop` from a signal handler ends it softly."""

    def __init__(self, cloud: Cloud, recorder: Recorder, options: LoadOptions) -> None:
        self._cloud = cloud
        self._recorder = recorder
        self._options = options
        self._population = Population(
            bounds=options.bounds, change_share=options.change_share,
            rng=random.Random(options.seed),  # noqa: S311 (a dice, not a secret)
            aim=[cloud.host_id(host) for host in options.aim], aim_share=options.aim_share)
        self._stopping = asyncio.Event()
        self._phase: Phase = "setup"
        self._flavor = ""
        self._image = ""
        self._run = f"{int(time.time()):x}"
        self._counts = {"requests": 0, "changes": 0, "failed": 0}

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> dict[str, Any]:
        """Setup, run, settle. Gives the summary, which is also the file's last line.

        :raises RecellError: the cloud can't be used at all, or setup did not come to its end.
        """
        self._flavor, self._image = await self._cloud.look_up(
            self._options.flavor, self._options.image)
        await self._setup()
        self._phase = "run"
        began = time.time()
        self._recorder.mark({"kind": "begin", "t0": began, "rate": self._options.rate,
                             "known": list(self._population.uuids())})
        tasks: set[asyncio.Task[None]] = set()
        pace = asyncio.get_running_loop().time
        start = pace()
        ends = float("inf") if self._options.duration is None else start + self._options.duration
        settled_by = float("inf")
        number = 0
        while True:
            due = start + number / self._options.rate
            number += 1
            await self._until(due, interruptible=self._phase == "run")
            if self._phase == "run" and (self._stopping.is_set() or due >= ends):
                self._phase = "settle"
                self._population.changing = False
                settled_by = pace() + self._options.settle
            if self._phase == "settle" and (
                    pace() > settled_by
                    or not (self._population.unsettled() or self._population.booting)):
                break
            task = asyncio.create_task(self._one(self._population.choose(), pace() - due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        summary = {
            "kind": "summary", "t0": time.time(), "began": began, **self._counts,
            "aimed": self._population.aimed,
            "unsettled": [{"instance": k.uuid, "doing": k.doing}
                          for k in self._population.unsettled()],
        }
        self._recorder.mark(summary)
        return summary

    async def _until(self, due: float, *, interruptible: bool) -> None:
        left = due - asyncio.get_running_loop().time()
        if left <= 0:
            await asyncio.sleep(0)
        elif interruptible:
            try:
                await asyncio.wait_for(self._stopping.wait(), left)
            except TimeoutError:
                return
        else:
            await asyncio.sleep(left)

    # -- setup ---------------------------------------------------------------------------------
    async def _setup(self) -> None:
        """Learn what is there, and boot what is only watched later."""
        for uuid in self._options.known:
            self._population.tell(uuid, time.monotonic())
        listed = await self._cloud.request("GET", "/servers/detail")
        for server in _servers(listed):
            if server.get("status") != "ERROR":
                self._population.tell(str(server["id"]), time.monotonic())
        before = set(self._population.uuids())
        gate = asyncio.Semaphore(4)  # a start of many at once only makes each of them slower
        # The users' own too, so that from their first second on there is something to change.
        wanted = self._options.boot + self._options.bounds[0]

        async def boot() -> None:
            async with gate:
                await self._one(self._population.boot(), 0.0)

        await asyncio.gather(*(boot() for _ in range(wanted)))
        mine = [self._population.get(u) for u in self._population.uuids() if u not in before]
        if len(mine) < wanted:
            raise RecellError(
                f"only {len(mine)} of {wanted} first boots were accepted",
                "Look at the probe's file for the answers")
        limit = time.monotonic() + self._options.setup_limit
        while any(k.doing for k in mine):
            if self._stopping.is_set():
                return
            if time.monotonic() > limit:
                raise RecellError(
                    f"{sum(bool(k.doing) for k in mine)} of {len(mine)} first instances are not "
                    f"active after {self._options.setup_limit:g} s", "Look at nova-compute's logs")
            await self._one(Choice("list-detail"), 0.0)
            await asyncio.sleep(self._options.poll)
        bad = [k.uuid for k in mine if k.state == "error"]
        if bad:
            raise RecellError(f"{len(bad)} of {len(mine)} first instances went to ERROR",
                              f"Look at: openstack server show {bad[0]}")
        for known in mine[:self._options.boot]:
            known.resident = True

    # -- one request ---------------------------------------------------------------------------
    async def _one(self, choice: Choice, late: float) -> None:
        phase = self._phase
        wall, sent = time.time(), time.monotonic()
        method, path, body = self._wire(choice)
        if choice.kind == "delete":
            self._population.asked_delete(choice.instance, sent)
        answer = await self._cloud.request(method, path, body)
        done = time.monotonic()
        instance, why = choice.instance, ""
        if choice.kind in CHANGES:
            why, instance = self._judge_change(choice, answer)
            self._population.answered(choice, not why, done, instance)
        elif choice.kind == "show":
            why = self._judge_show(choice, answer, sent, done)
        else:
            why = self._judge_list(choice, answer, sent, done)
        if phase != "setup":
            self._counts["requests"] += 1
            self._counts["changes"] += choice.kind in CHANGES
            self._counts["failed"] += bool(why)
        self._recorder.request(UserRequest(
            t0=wall, dur_s=round(done - sent, 4), kind=choice.kind, method=method,
            instance=instance, status=answer.status, req_id=answer.req_id, ok=not why, why=why,
            phase=phase, late_s=round(late, 4), detail=choice.detail))

    def _wire(self, choice: Choice) -> tuple[str, str, dict[str, Any] | None]:
        server = f"/servers/{choice.instance}"
        match choice.kind:
            case "list":
                return "GET", "/servers", None
            case "list-detail":
                return "GET", "/servers/detail", None
            case "show":
                return "GET", server, None
            case "delete":
                return "DELETE", server, None
            case "metadata-set":
                pair = {choice.detail["key"]: choice.detail["value"]}
                return "POST", f"{server}/metadata", {"metadata": pair}
            case "metadata-delete":
                return "DELETE", f"{server}/metadata/{choice.detail['key']}", None
            case "boot":
                name = f"probe-{self._run}-{choice.detail['serial']}"
                return "POST", "/servers", {"server": {
                    "name": name, "flavorRef": self._flavor, "imageRef": self._image,
                    "networks": "none"}}
            case _:
                return "POST", f"{server}/action", _ACTIONS[choice.kind]

    def _judge_change(self, choice: Choice, answer: Answer) -> tuple[str, str]:
        why = _no_answer(answer, _ACKNOWLEDGED[choice.kind])
        if choice.kind != "boot" or why:
            return why, choice.instance
        server = answer.body.get("server") if isinstance(answer.body, dict) else None
        if not isinstance(server, dict) or not server.get("id"):
            return "a boot was acknowledged without an id", ""
        return "", str(server["id"])

    def _judge_show(self, choice: Choice, answer: Answer, sent: float, done: float) -> str:
        asked = self._population.get(choice.instance).delete_asked
        if answer.status == 404 and asked is not None:
            self._population.absent(choice.instance, sent, done)
            return ""
        why = _no_answer(answer, 200)
        if why:
            return why
        server = answer.body.get("server") if isinstance(answer.body, dict) else None
        if not isinstance(server, dict):
            return "the answer holds no server"
        why = self._population.judge_show(server, choice.instance)
        if not why:
            self._population.seen(server, sent)
        return why

    def _judge_list(self, choice: Choice, answer: Answer, sent: float, done: float) -> str:
        why = _no_answer(answer, 200)
        if why:
            return why
        if not isinstance(answer.body, dict) or not isinstance(answer.body.get("servers"), list):
            return "the answer holds no list of servers"
        servers = _servers(answer)
        why = self._population.judge_list(servers, sent)
        for server in servers:
            self._population.seen(server, sent)
        if not why:
            self._absent(servers, sent, done)  # only a whole list proves an absence
        return why

    def _absent(self, servers: Iterable[Mapping[str, Any]], sent: float, done: float) -> None:
        listed = {str(s.get("id")) for s in servers}
        for uuid in self._population.uuids():
            if uuid not in listed:
                self._population.absent(uuid, sent, done)


def _no_answer(answer: Answer, expected: int) -> str:
    if answer.error:
        return answer.error
    if answer.status == expected:
        return ""
    said = ""
    if isinstance(answer.body, dict):
        said = next((str(v.get("message", "")) for v in answer.body.values()
                     if isinstance(v, dict)), "")
    return f"status {answer.status} instead of {expected}{': ' + said[:200] if said else ''}"


def _servers(answer: Answer) -> list[Mapping[str, Any]]:
    if isinstance(answer.body, dict):
        return [s for s in answer.body.get("servers", ()) if isinstance(s, dict)]
    return []
