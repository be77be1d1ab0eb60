"""Brokers that a plan leads services to, asked from the hosts that will ask them, as a client asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from recell.adapters.conf import Config, parse_config, transport_url_of
from recell.adapters.ports import World
from recell.model.hosts import HostsMove
from recell.model.plan import Plan, PlanStep
from recell.model.urls import parse_url
from recell.model.v1 import Conversion
from recell.model.violation import Violation

_TRUE = ("1", "true", "yes", "on")
_PYTHON = ("python3", "-I", "-c")
# On the host itself: names, routes and firewalls are those that Nova meets there. Python 3.6 has all of it.
_KNOCK = """
import json, socket, ssl, sys

def knock(host, port, tls):
    try:
        with socket.create_connection((host, port), 5) as raw:
            raw.settimeout(5)
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                try:
                    context.wrap_socket(raw, server_hostname=host).close()
                except ssl.SSLError as error:
                    text = str(error).lower().replace("_", " ")
                    if "wrong version number" in text or "record layer" in text or "eof" in text:
                        return "it speaks no TLS"
                return ""
            raw.sendall(b"AMQP\\0\\0\\x09\\x01")
            said = raw.recv(8)
            return "" if said[:1] in (b"\\x01", b"A") else "it does not speak AMQP in the clear"
    except OSError as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__

json.dump([knock(h, p, t) for h, p, t in json.loads(sys.argv[1])], sys.stdout)
"""


def check(world: World, plan: Plan) -> Iterator[Violation]:
    yield from _reached(world, plan)
    yield from _accounts(world, plan)


def _moves(step: PlanStep) -> dict[str, Any] | None:
    """The change of a step that leads a service's RPC to other nodes."""
    if step.kind not in ("edit-config", "copy-config"):
        return None
    return next(
        (c for c in step.params["changes"]
         if (c["section"], c["option"], c["op"]) == ("DEFAULT", "transport_url", "nodes")),
        None,
    )  # fmt: skip


def _config(world: World, step: PlanStep) -> Config:
    path = str(step.params.get("source") or step.params["path"])
    return parse_config([(f"{path} on {step.where}", world.host(step.where).read(path) or b"")])


def _reached(world: World, plan: Plan) -> Iterator[Violation]:
    wanted: dict[str, dict[tuple[str, int, bool], None]] = {}
    for step in plan.steps:
        if change := _moves(step):
            config = _config(world, step)
            tls = _speaks_tls(config)
            for host, port in change["nodes"]:
                wanted.setdefault(step.where, {})[str(host), int(port), tls] = None
        if step.kind == "v1-link":
            for where, node, tls in _across(world, step):
                wanted.setdefault(where, {})[node[0], node[1], tls] = None
    for where, doors in wanted.items():
        asked = list(doors)
        ended = world.host(where).query([*_PYTHON, _KNOCK, json.dumps(asked)], timeout=20 + 11 * len(asked))
        said = json.loads(ended.stdout) if ended.returncode == 0 and ended.stdout else []
        for (host, port, tls), trouble in zip(asked, said, strict=False):
            if trouble:
                yield Violation(
                    f"unreached:{where}:{host}:{port}",
                    "stop",
                    where,
                    f"RabbitMQ does not answer {where} at {host}:{port}"
                    f"{' with TLS' if tls else ''} ({trouble})",
                    "Correct the name, the firewall, the listener, or the broker's port in the layout",
                    may_accept=True,
                )


def _across(world: World, step: PlanStep) -> Iterator[tuple[str, tuple[str, int], bool]]:
    """nova-cells of each side publishes on the other's broker; the API cell has its own, too."""
    conversion = Conversion.from_json(step.params["conversion"])
    host, path = conversion.config
    tls = _speaks_tls(parse_config([(f"{path} on {host}", world.host(host).read(path) or b"")]))
    sides = {"api": (*conversion.new_nodes, *conversion.old_nodes), "child": conversion.new_nodes}
    for side, nodes in sides.items():
        for where in dict.fromkeys(str(s[0]) for s in step.params[side]):
            yield from ((where, node, tls) for node in nodes)


def _speaks_tls(config: Config) -> bool:
    words = parse_url(transport_url_of(config) or "none:///").query.split("&")
    asked = dict(w.partition("=")[::2] for w in words).get("ssl", "")
    for option in ("ssl", "rabbit_use_ssl"):
        asked = asked or config.get("oslo_messaging_rabbit", option)
    asked = asked or config.get("DEFAULT", "rabbit_use_ssl")  # Juno's
    return asked.lower() in _TRUE


def _accounts(world: World, plan: Plan) -> Iterator[Violation]:
    """A nova-compute that moves keeps its account, which its new cell's broker has to know."""
    made = {
        (str(s.params["broker"]), str(s.params["vhost"]), str(s.params["user"]))
        for s in plan.steps
        if s.kind == "broker-account"
    }
    ends = {
        str(s.params["wave"]): HostsMove.from_json(s.params["move"]).new
        for s in plan.steps
        if s.kind == "hosts-computes"
    }
    judged: dict[tuple[str, str, str, str], str] = {}
    for step in plan.steps:
        end = ends.get(str(step.params.get("wave", "")))
        if end is None or not _moves(step):
            continue
        nodes = parse_url(transport_url_of(_config(world, step)) or "none:///").endpoints
        if not nodes or (end.broker, end.vhost, nodes[0].user) in made:
            continue
        key = (end.broker, end.vhost, nodes[0].user, nodes[0].password)
        if key not in judged:
            broker = world.broker(end.broker)
            works = broker.password_works(nodes[0].user, nodes[0].password)
            may = works and all(broker.permissions(end.vhost).get(nodes[0].user, ("",)))
            judged[key] = "" if may else f"may not use the vhost {end.vhost}" if works else "can't log in"
        if judged[key]:
            yield Violation(
                f"account:{step.where}:{end.broker}",
                "stop",
                step.where,
                f"the RabbitMQ account {nodes[0].user} of nova-compute on {step.where} {judged[key]} on"
                f" {end.broker}, {end.name}'s broker",
                "Make it there with the same password and all permissions on that vhost (rabbitmqctl"
                " add_user, set_permissions)",
            )
