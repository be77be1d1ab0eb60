"""How a RabbitMQ node was started, as far as plans depend on it; asked once, by a scan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recell.model.rabbit import NodeSettings

# Every value is guarded by itself: releases differ in what they know.
SETTINGS = """
B = fun(X) when is_atom(X) -> atom_to_binary(X, utf8); (X) -> iolist_to_binary(io_lib:format("~s", [X])) end,
G = fun(F, D) -> try F() catch _:_ -> D end end,
D = fun(V) when is_map(V) -> maps:to_list(V); (V) -> V end,
C = G(fun() -> M = rabbit_prelaunch:get_context(), true = is_map(M), M end, #{}),
P = G(fun() -> rabbit_policy:list() end, []),
io:put_chars([rabbit_json:encode(#{
 given => init:get_argument(setcookie) =/= error orelse maps:get(erlang_cookie, C, undefined) =/= undefined
   orelse os:getenv("RABBITMQ_ERLANG_COOKIE") =/= false,
 discovery => G(fun() -> B(rabbit_peer_discovery:backend()) end, <<>>),
 peers => G(fun() -> {ok, {Ns, _}} = application:get_env(rabbit, cluster_nodes), [B(N) || N <- Ns] end, []),
 main => G(fun() -> B(maps:get(main_config_file, C)) end, <<>>),
 listeners => G(fun() -> [[B(element(3, L)), B(inet:ntoa(element(5, L))), element(6, L)]
   || L <- rabbit_networking:node_listeners(node())] end, []),
 parameters => G(fun() -> [[proplists:get_value(component, X), proplists:get_value(name, X)]
   || X <- rabbit_runtime_parameters:list(), is_list(X)] end, []),
 shovels => G(fun() -> {ok, Ss} = application:get_env(rabbitmq_shovel, shovels),
   [B(element(1, S)) || S <- Ss] end, []),
 naming => G(fun() -> [[proplists:get_value(vhost, X), proplists:get_value(name, X)] || X <- P,
   proplists:get_value(<<"ha-mode">>, D(proplists:get_value(definition, X))) == <<"nodes">>] end, []),
 transient => G(fun() -> rabbit_deprecated_features:is_permitted(transient_nonexcl_queues) end,
   true) =/= false,
 epmd => G(fun() -> {ok, [[N | _] | _]} = init:get_argument(epmd_port), list_to_integer(N) end, 4369)
}), 10])
"""

_CLASSIC = "rabbit_peer_discovery_classic_config"
_MOVERS = ("shovel", "federation-upstream")


def settings_of(told: Mapping[str, Any], name: str) -> NodeSettings:
    """Of what :data:`SETTINGS` answers; ``name``: the node's."""
    backend = str(told["discovery"])
    peers = [str(p) for p in told["peers"] if p != name]
    if backend not in ("", _CLASSIC):
        peers.append(backend)
    movers = [f"{component} {of}" for component, of in told["parameters"] if component in _MOVERS]
    return NodeSettings(
        cookie_given=bool(told["given"]),
        joins=tuple(sorted(peers)),
        listeners=tuple((str(kind), str(at), int(port)) for kind, at, port in told["listeners"]),
        movers=tuple(sorted([*movers, *(f"shovel {s}" for s in told["shovels"])])),
        node_policies=tuple(sorted(f"{of} of {vhost}" for vhost, of in told["naming"])),
        transient=bool(told.get("transient", True)),
        epmd_port=int(told["epmd"]),
        limited=any(component == "vhost-limits" for component, _ in told["parameters"]),
    )


def main_file(told: Mapping[str, Any]) -> str:
    """The sysctl-style file that a node without one would read; "": not known."""
    path = str(told["main"])
    if not path.startswith("/"):
        return ""
    return path if path.endswith(".conf") else f"{path}.conf"
