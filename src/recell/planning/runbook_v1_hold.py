"""What a person would do by hand when users change over to an API cell, or back."""

from __future__ import annotations

from recell.model.plan import PlanStep
from recell.planning.gate_text import new_backend
from recell.planning.runbook_hosts import Lines, _sh
from recell.planning.runbook_rabbit import Told


def _servers(step: PlanStep, undo: bool, path: str) -> Lines:
    backend = str(step.params["backend"])
    if undo:
        words = (
            f"Take the lines that end in '# recell {backend}' and the parts between 'recell: begin {backend}'"
            f" and 'recell: end {backend}' out of HAProxy's configuration, then its .lua and .lease files."
        )
    else:
        servers = ", ".join(f"{n} {a}:{p}" for n, a, p in step.params["added"])
        words = (
            f"Put a backend {new_backend(backend)} with {servers} beside {backend}, with the same settings;"
            " nobody is sent there yet."
        )
    check = _sh("haproxy", "-c", "-f", "/etc/haproxy/haproxy.cfg")
    return [(step.where, words, (check, _sh("systemctl", "reload", "haproxy")))]


def _switch(step: PlanStep, undo: bool, path: str) -> Lines:
    params = step.params
    came, went = ("start", "stop") if not undo else ("stop", "start")
    out: Lines = [
        (
            step.where,
            "By hand users are refused meanwhile: let HAProxy answer 503, then wait until no request is"
            " inside, no instance has a task, no build request is there, and no queue of Nova has messages.",
            (),
        )
    ]
    out += [
        (str(host), "Wait until it has nothing to do.", (_sh("systemctl", "stop", str(unit)),))
        for host, unit, *_ in params[went]
    ]
    if not undo:
        out.append((step.where, "Copy the rows once more, as above: they have changed since.", ()))
    out += [
        (str(host), "It serves the child from now on.", (_sh("systemctl", "start", str(unit)),))
        for host, unit, *_ in params[came]
    ]
    verb = "stop" if undo else "start"
    out += [
        (str(host), "nova-cells of the API cell.", (_sh("systemctl", verb, str(unit)),))
        for host, unit, *_ in params["cells"]
    ]
    for proxy, backend in dict.fromkeys((str(g["proxy"]), str(g["backend"])) for g in params["gates"]):
        where = backend if undo else new_backend(backend)
        out.append((proxy, f"Let the frontends lead to {where}, and reload HAProxy.", ()))
    return out


def _retire(step: PlanStep, undo: bool, path: str) -> Lines:
    unit = str(step.params["unit"])
    if undo:
        words = "As it was found: enabled, and running unless the moment has stopped it."
        return [(step.where, words, (_sh("systemctl", "enable", unit), _sh("systemctl", "start", unit)))]
    return [(step.where, "Off, also after a reboot.", (_sh("systemctl", "disable", "--now", unit),))]


def _consoles(step: PlanStep, undo: bool, path: str) -> Lines:
    backend = str(step.params["backend"])
    where = backend if undo else new_backend(backend)
    words = f"Let the frontends of {backend}, which is for consoles, lead to {where}, and reload HAProxy."
    return [(step.where, words, (_sh("systemctl", "reload", "haproxy"),))]


KINDS: dict[str, Told] = {
    "v1-servers": _servers,
    "v1-consoles": _consoles,
    "v1-switch": _switch,
    "v1-retire": _retire,
}
