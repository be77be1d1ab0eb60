"""What a person would do by hand to split a RabbitMQ cluster, or to put it together again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from recell.model.plan import PlanStep
from recell.planning.partition_handling import put_in_force

Told = Callable[[PlanStep, bool, str], list[tuple[str, str, Sequence[str]]]]
"""(step, undo, path of what is kept or "") -> [(where, words, commands)]"""


def _sh(*argv: str) -> str:
    return shlex.join(argv)


def _hosts(step: PlanStep, *sides: str) -> list[str]:
    return [str(host) for side in sides for host, _ in step.params[side]]


def _join(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    if undo:
        return [
            (
                step.where,
                "Only when no client is connected to it and no queue lives on it.",
                ("rabbitmqctl stop_app", "rabbitmqctl reset", "rabbitmqctl start_app"),
            )
        ]
    peer = str(step.params["keep"][0][1])
    return [
        (
            step.where,
            "Then look at cluster_status on every node: all running, no partition.",
            (
                "rabbitmqctl stop_app",
                _sh("rabbitmqctl", "join_cluster", peer),
                "rabbitmqctl start_app",
                "rabbitmqctl cluster_status",
            ),
        )
    ]


def _handling(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    out: list[tuple[str, str, Sequence[str]]] = []
    for host, words in step.params["words"].items():
        code = put_in_force(words[1 if undo else 0]) + "."
        why = "At once, without a restart, and for channels that are open."
        out.append((host, why, (_sh("rabbitmqctl", "eval", code),)))
    return out


def _conf(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    target = str(step.params["path"])
    if undo:
        words = "The old content is kept on the host; without one the file was not there before."
        return [(step.where, words, (_sh("cp", "--", path, target),) if path else (_sh("rm", "-f", target),))]
    lines = [f"{k} = {v}" if v is not None else f"remove {k}" for k, v in step.params["settings"].items()]
    return [(step.where, f"In {target}: {'; '.join(lines)}. Read at the node's next start.", ())]


def _rehome(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    host = _hosts(step, "keep")[0]
    if undo:
        return [
            (
                host,
                "Bring queues back to the old nodes (a policy ha-mode: nodes for classic ones, add_member"
                " and delete_member for quorum), then clear the policies that begin with recell-split.",
                ("rabbitmqctl list_policies",),
            )
        ]
    return [
        (
            host,
            "Queues follow the clients that take from them: classic ones by a policy ha-mode: nodes with"
            " ha-sync-mode: automatic, quorum queues by add_member, transfer of the leader, delete_member.",
            ("rabbitmqctl list_consumers", "rabbitmqctl list_queues name type pid slave_pids members leader"),
        )
    ]


def _part(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    if undo:
        return [
            (
                step.where,
                "Two clusters stay two: carry a cut that was begun to its end as below, then lead"
                " the moved clients back to the old cluster.",
                (),
            )
        ]
    out: list[tuple[str, str, Sequence[str]]] = []
    for side, other in (("keep", "new"), ("new", "keep")):
        there = [str(name) for _, name in step.params[other]]
        listed = ", ".join(f"'{n}'" for n in there)
        addresses = [a for h in _hosts(step, other) for a in step.params["addresses"][h]]
        ports = ", ".join(str(p) for p in step.params["ports"])
        for host in _hosts(step, side):
            out.append(
                (
                    host,
                    f"On all hosts, before anything else: drop TCP to and from {', '.join(addresses)},"
                    f" ports {ports}, both as source and destination. Then, within seconds, on all:",
                    (_sh("rabbitmqctl", "eval", f"[erlang:disconnect_node(N) || N <- [{listed}]]."),),
                )
            )
        out.append(
            (
                _hosts(step, side)[0],
                "Then forget the others, give the new side another Erlang cookie (file"
                " and erlang:set_cookie), wait ten seconds, and remove the rules.",
                tuple(_sh("rabbitmqctl", "forget_cluster_node", n) for n in there),
            )
        )
    return out


def _policies(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    return [
        (h, "Clear those that begin with recell-split.", ("rabbitmqctl list_policies",))
        for h in (_hosts(step, "keep")[0], _hosts(step, "new")[0])
    ]


def _cookie(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    return [
        (
            h,
            "When the node is blank: stop it, put the old cookie into .erlang.cookie of its account (mode"
            " 400), start it.",
            ("systemctl stop rabbitmq-server", "systemctl start rabbitmq-server"),
        )
        for h in _hosts(step, "new")
    ]


def _repoint(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    unit = str(step.params["unit"])
    words = "A plain restart may lose what it has taken and not begun: when its callers are quiet."
    if step.params.get("cell") is not None:
        words = "When no instance of the host has a task; guests go on. " + words
    if url := str(step.params.get("url", "")):
        words = f"While no proxy sends it requests; then wait until {url} answers."
    return [(step.where, words, (_sh("systemctl", "restart", unit),))]


def _wave(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    common = {k: v for k, v in step.params.items() if k != "moves"}
    return [
        hand
        for own in step.params["moves"]
        for hand in _repoint(replace(step, where=own["host"], params={**common, **own}), undo, path)
    ]


def _blank(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    return _join(step, True, path)


def _definitions(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    old, new = (_hosts(step, side)[0] for side in ("keep", "new"))
    words = "Of the old cluster's definitions the new one gets vhosts, users, permissions and policies."
    return [
        (old, words + " The file holds password hashes.", ("rabbitmqctl export_definitions FILE",)),
        (new, "Leave out queues, exchanges, bindings, parameters.", ("rabbitmqctl import_definitions FILE",)),
    ]


def _span(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    out: list[tuple[str, str, Sequence[str]]] = []
    new = _hosts(step, "new")
    if step.params["parted"]:
        out.append((new[0], "Only when the two are clusters of their own by now.", ()))
    if step.params["backward" if undo else "forward"] == "open":
        enable = "rabbitmq-plugins enable rabbitmq_shovel"
        out += [(host, "On every new node.", (enable,)) for host in new]
        words = (
            "Every queue that clients of one cluster alone take from gets a namesake on the other one, bound"
            " as it is, and a shovel from there to it, with an account of its own on both. Again after each"
            " client that moved."
        )
        out.append((new[0], words, ("rabbitmqctl list_consumers", "rabbitmqctl shovel_status")))
        return out
    words = (
        "When no shovel's queue holds a message: clear the shovels recell-bridge-*, drop the namesakes that"
        " nobody takes from, and the accounts recell-bridge* on both clusters."
    )
    listed = ("rabbitmqctl list_queues name messages consumers", "rabbitmqctl list_parameters")
    return [*out, (new[0], words, listed)]


def _apart(step: PlanStep, undo: bool, path: str) -> list[tuple[str, str, Sequence[str]]]:
    unit, target = str(step.params["unit"]), str(step.params["path"])
    if undo:
        off = _sh("systemctl", "disable", "--now", unit)
        gone = (off, _sh("rm", "-f", target), "systemctl daemon-reload")
        return [(step.where, "Its rules go with it.", gone)]
    force = ("systemctl daemon-reload", _sh("systemctl", "enable", "--now", unit))
    return [(step.where, f"Write {target} as the plan has it (params.text of this step).", force)]


KINDS: dict[str, Told] = {
    "rabbit-join": _join,
    "rabbit-handling": _handling,
    "rabbit-conf": _conf,
    "rabbit-rehome": _rehome,
    "rabbit-part": _part,
    "rabbit-policies": _policies,
    "rabbit-cookie": _cookie,
    "repoint": _repoint,
    "repoint-bridged": _repoint,
    "repoint-wave": _wave,
    "rabbit-blank": _blank,
    "rabbit-definitions": _definitions,
    "rabbit-bridge": _span,
    "rabbit-apart": _apart,
}
