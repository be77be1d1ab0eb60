"""What a person would do by hand to take a tree of cells v1 to cells v2, or back."""

from __future__ import annotations

from recell.model.plan import PlanStep
from recell.planning.gate_text import new_backend
from recell.planning.runbook_hosts import Lines, _sh
from recell.planning.runbook_rabbit import Told


def _adopt(step: PlanStep, undo: bool, path: str) -> Lines:
    if undo:
        return [(step.where, "See that both cells have the same instances.", ())]
    return [(step.where, "See that both cells have the same instances, in the same states.", ())]


def _mappings(step: PlanStep, undo: bool, path: str) -> Lines:
    cell = str(step.params["conversion"]["old"]["cell"])
    command = _sh("nova-manage", "cell_v2", "map_instances", "--cell_uuid", cell)
    words = (
        "Map what has no mapping. It leaves those alone whose mapping names no cell (failed builds): give"
        " them the child's number in instance_mappings.cell_id."
    )
    return [(str(step.params["conversion"]["config"][0]), words, (command,))]


def _switch(step: PlanStep, undo: bool, path: str) -> Lines:
    params = step.params
    out: Lines = [
        (
            step.where,
            "By hand users are refused meanwhile: let HAProxy answer 503, then wait until no request is"
            " inside, no instance has a task, no build request is there, and no queue of Nova has messages.",
            (),
        )
    ]
    if undo:
        words = "Copy all that the API cell reads from the child's database anew, with the child's path."
        out.append((step.where, words, ()))
    else:
        words = (
            "Copy builds that only the API cell has to cell0, map them there, and remove their build"
            " requests."
        )
        out.append((step.where, words, ()))
    came = params["start"] + params["cells"] if undo else params["stop"]
    went = params["stop"] if undo else params["start"] + params["cells"]
    started = [
        (str(host), "It belongs to where users are from now on.", (_sh("systemctl", "start", str(unit)),))
        for host, unit, *_ in came
    ]
    ended = [
        (str(host), "Wait until it has nothing to do.", (_sh("systemctl", "stop", str(unit)),))
        for host, unit, *_ in went
    ]
    led: Lines = []
    for proxy, backend in dict.fromkeys((str(g["proxy"]), str(g["backend"])) for g in params["gates"]):
        where = backend if undo else new_backend(backend)
        led.append((proxy, f"Let the frontends lead to {where}, and reload HAProxy.", ()))
    return [*out, *started, *led, *ended]


KINDS: dict[str, Told] = {
    "v2-adopt": _adopt,
    "v2-mappings": _mappings,
    "v2-switch": _switch,
}
