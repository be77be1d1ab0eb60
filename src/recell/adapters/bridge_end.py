"""A RabbitMQ cluster as an end of a bridge, through ``rabbitmqctl``: queues, definitions, shovels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from recell.adapters.broker import RABBIT_UNIT, CommandHost, RabbitCluster
from recell.adapters.containers import Inside
from recell.adapters.ports import HostPort
from recell.errors import StepFailed
from recell.planning.bridge import PREFIX, Taken

_PLUGIN = "rabbitmq_shovel"
_AT_ONCE = 100
"""Names in one expression at most: it is an argument, whose length is limited."""
# Before 3.13 shovel_status tells of one node's shovels alone, and one that waits for credit is "flow" there.
_SHOVELS = """
{Rs, _} = rpc:multicall([node() | nodes()], rabbit_shovel_status, status, [], 10000),
Up = [element(1, S) || R <- Rs, is_list(R), S <- R, is_tuple(element(3, S)),
  element(1, element(3, S)) =:= running],
Id = fun(P) -> {proplists:get_value(vhost, P), proplists:get_value(name, P)} end,
io:put_chars([rabbit_json:encode([#{vhost => V, name => N, runs => lists:member({V, N}, Up)}
  || {V, N} <- [Id(P) || P <- rabbit_runtime_parameters:list_component(<<"shovel">>)]]), 10]).
"""

# A shovel that is ended sends again later what it has sent and not yet acknowledged. So it takes nothing
# more first, as one does that has moved as much as it was told to, and gets its confirmations.
_CLEAR = """
Names = NAMES,
All = try mirrored_supervisor:which_children(rabbit_shovel_dyn_worker_sup_sup) catch _:_ -> [] end,
Mine = [S || {Id, S, _, _} <- All, is_pid(S),
  lists:member(Id, Names) orelse lists:member(element(2, Id), Names)],
Work = lists:append([try [P || {_, P, _, _} <- supervisor2:which_children(S), is_pid(P)]
  catch _:_ -> [] end || S <- Mine]),
Stop = fun(_, #{source := S, dest := _} = M) when is_map(S) -> M#{source := S#{remaining_unacked => 0}};
  (F, T) when is_tuple(T) -> list_to_tuple([F(F, E) || E <- tuple_to_list(T)]);
  (_, T) -> T end,
Out = fun(_, #{source := _, dest := D}) when is_map(D) -> maps:size(maps:get(unacked, D, #{}));
  (F, T) when is_tuple(T) -> lists:sum([F(F, E) || E <- tuple_to_list(T)]);
  (_, _) -> 0 end,
Wait = fun(_, _, 0) -> late;
  (F, P, N) -> case Out(Out, sys:get_state(P, 2000)) of 0 -> done; _ -> timer:sleep(20), F(F, P, N - 1) end
  end,
Drain = fun(P) -> sys:replace_state(P, fun(T) -> Stop(Stop, T) end, 2000), Wait(Wait, P, 150) end,
Asked = [rpc:async_call(node(), erlang, apply, [Drain, [P]]) || P <- Work],
[rpc:yield(K) || K <- Asked],
timer:sleep(100),
[catch rabbit_runtime_parameters:clear(V, <<"shovel">>, N, <<"recell">>) || {V, N} <- Names],
[exit(P, kill) || P <- Work], ok.
"""

# Quorum queues and streams know no "if unused" and "if empty". Of a quorum queue that does not answer within
# a quarter of a second rabbit_amqqueue:stat says that it is empty.
_DROP = """
Stat = fun(rabbit_quorum_queue, Q) -> rabbit_fifo_client:stat(amqqueue:get_pid(Q), 10000);
  (_, Q) -> rabbit_amqqueue:stat(Q) end,
D = fun(Q) -> case amqqueue:get_type(Q) of
  rabbit_classic_queue -> rabbit_amqqueue:delete(Q, true, not FULL, <<"recell">>);
  T -> case Stat(T, Q) of
    {ok, M, 0} when M =:= 0 orelse FULL -> rabbit_amqqueue:delete(Q, false, false, <<"recell">>);
    X -> X end end end,
[case rabbit_amqqueue:lookup(rabbit_misc:r(V, queue, N)) of {ok, Q} -> catch D(Q); _ -> gone end
  || {V, N} <- NAMES], ok.
"""


class RabbitEnd(RabbitCluster):
    """:class:`~recell.adapters.bridge_port.BridgeEnd` on real hosts."""

    def __init__(self, hosts: Sequence[HostPort]) -> None:
        self._nodes: dict[str, CommandHost] = {h.name: Inside(h, RABBIT_UNIT) for h in hosts}
        super().__init__(hosts[0].name, list(self._nodes.values()))

    # Questions

    def definitions(self) -> dict[str, Any]:
        text = self._ask("export_definitions", "-")
        found: dict[str, Any] = json.loads(text[text.index("{") :])
        return found

    def taken(self, vhosts: Sequence[str], account: str) -> tuple[Taken, ...]:
        columns = ["name", "type", "messages_ready", "messages_unacknowledged", "owner_pid"]
        with ThreadPoolExecutor(1 + 2 * len(vhosts)) as pool:
            channels = pool.submit(self._list, "list_channels", ["pid", "user"])
            queues = [pool.submit(self._rows, "list_queues", "name\t", "-p", v, *columns) for v in vhosts]
            consumers = [
                pool.submit(self._rows, "list_consumers", "queue_name\t", "-p", v) for v in vhosts
            ]
        # A consumer whose channel is not listed came or went meanwhile; the next look tells.
        users = {row[0]: row[1] for row in channels.result()}
        out = []
        for vhost, listed, taking in zip(vhosts, queues, consumers, strict=True):
            takers: dict[str, int] = {}
            for row in taking.result():
                if len(row) > 1 and not users.get(row[1], account).startswith(account):
                    takers[row[0]] = takers.get(row[0], 0) + 1
            for row in listed.result():
                if len(row) >= 4 and not (len(row) > 4 and row[4]):
                    number = sum(int(n) for n in row[2:4] if n.isdigit())
                    out.append(Taken(vhost, row[0], row[1], takers.get(row[0], 0), number))
        return tuple(out)

    def shovels(self) -> dict[tuple[str, str], bool]:
        listed = self._json(self._ask("eval", _SHOVELS.strip()))
        return {
            (str(s["vhost"]), str(s["name"])): bool(s["runs"])
            for s in listed
            if str(s["name"]).startswith(PREFIX)
        }

    def plugged(self) -> tuple[str, ...]:
        return tuple(name for name in self._nodes if self._has_plugin(name))

    def _has_plugin(self, host: str) -> bool:
        done = self._nodes[host].query(["rabbitmq-plugins", "-q", "list", "-m", "-E"], timeout=120)
        if done.returncode != 0:
            raise StepFailed(f"rabbitmq-plugins list failed on {host}", "Look at it there by hand")
        return _PLUGIN in done.stdout.decode("utf-8", "replace").split()

    # Changes

    def load(self, definitions: Mapping[str, Any]) -> None:
        self._do("import_definitions", "--format", "json", text=json.dumps(definitions))

    def clear_shovels(self, names: Iterable[tuple[str, str]]) -> None:
        for part in _parts(names):
            self._do("eval", _CLEAR.strip().replace("NAMES", _pairs(part)))

    def drop_queues(self, names: Iterable[tuple[str, str]], *, full: bool = False) -> None:
        for part in _parts(names):
            self._do(
                "eval",
                _DROP.strip().replace("FULL", "true" if full else "false").replace("NAMES", _pairs(part)),
            )

    def plug(self, host: str, on: bool) -> None:
        words = ["rabbitmq-plugins", "-q", "enable" if on else "disable", _PLUGIN]
        done = self._nodes[host].run(words, timeout=300)
        if done.returncode != 0:
            reason = " ".join((done.stderr + done.stdout).decode("utf-8", "replace").split())[:200]
            raise StepFailed(f"{' '.join(words)} failed on {host} ({reason})", "Look at it there by hand")

    def set_account(self, name: str, password: str, vhosts: Sequence[str], declares: str = "^$") -> None:
        if name in self.users() and not self.password_works(name, password):
            self.delete_user(name)
        if name not in self.users():
            self.add_user(name, password)
        for vhost in vhosts:
            # A shovel declares a queue that it doesn't find: durable, without arguments, bound to nothing.
            # Its client would be refused it from then on. So it may not, and fails until the queue is there.
            self._do("set_permissions", "-p", vhost, name, declares, ".*", ".*")

    def drop_account(self, name: str) -> None:
        if name in self.users():
            self.delete_user(name)

    def _json(self, text: str) -> Any:
        start = min((i for i in (text.find("["), text.find("{")) if i >= 0), default=-1)
        if start < 0:
            raise StepFailed(f"RabbitMQ on {self.name} answers {text.strip()[:150]}", "See the broker's log")
        return json.JSONDecoder().raw_decode(text[start:])[0]


def _parts(names: Iterable[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    listed = sorted(names)
    return [listed[i : i + _AT_ONCE] for i in range(0, len(listed), _AT_ONCE)]


def _pairs(names: Sequence[tuple[str, str]]) -> str:
    """Any text as Erlang binaries, by its bytes."""
    return "[" + ",".join("{" + ",".join(_binary(word) for word in pair) + "}" for pair in names) + "]"


def _binary(text: str) -> str:
    return "<<" + ",".join(str(b) for b in text.encode()) + ">>"
