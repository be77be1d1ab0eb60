"""One RabbitMQ node as such: its membership, its queues' homes, its cookie. RabbitMQ 3.8 to 3.12 on Mnesia.

Asked through ``rabbitmqctl eval`` on the node's own host: what a cluster's split is made of has no command
of its own. No secret stands in an expression; a cookie comes by a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

from recell.adapters import walls
from recell.adapters.broker import RABBIT_UNIT
from recell.adapters.containers import Inside
from recell.adapters.ports import Finished, HostPort, RabbitNodePort
from recell.adapters.rabbit_settings import SETTINGS
from recell.errors import RecellError, StepFailed, Unreachable, Unsupported
from recell.model.rabbit import NodeView, Policy, QueueHome
from recell.planning.handing_over import hand_over
from recell.planning.partition_handling import CHANNELS_THAT_DIFFER, put_in_force

_CTL = ("env", "ERL_AFLAGS=+S 1:1 +sbwt none", "rabbitmqctl", "-q")
_ACCOUNT = "rabbitmq"
_TIMEOUT = 600.0
_ARMED_S = 400
"""How long an armed node waits for the word before it forgets about it."""
_DOWN = re.compile(
    r"unable to (perform an operation on|connect to) node|nodedown|noproc|Authentication failed",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z0-9_.@-]+\Z")

# Every value is guarded by itself: of a node whose application is stopped some can still be told.
_VIEW = """
L = fun(X) -> [atom_to_binary(N, utf8) || N <- X] end,
T = fun(X) -> iolist_to_binary(io_lib:format("~w", [X])) end,
G = fun(F, D) -> try F() catch _:_ -> D end end,
K = G(fun() -> rabbit_khepri:is_enabled() end, false) == true,
H = G(fun() -> {ok, V} = application:get_env(rabbit, cluster_partition_handling), V end, unknown),
io:put_chars([rabbit_json:encode(#{
 name => atom_to_binary(node(), utf8),
 version => G(fun() -> list_to_binary(rabbit_misc:version()) end, <<>>),
 erlang => list_to_binary(erlang:system_info(otp_release)),
 khepri => K,
 members => case K of true -> G(fun() -> L(rabbit_nodes:list_members()) end, []);
   _ -> G(fun() -> L(mnesia:system_info(db_nodes)) end, []) end,
 on_disk => G(fun() -> {ok, [{A, _}]} = file:consult(
   filename:join(rabbit_mnesia:dir(), "cluster_nodes.config")), L(A) end, []),
 running => case K of true -> G(fun() -> L(rabbit_nodes:list_running()) end, []);
   _ -> G(fun() -> L(rabbit_mnesia:cluster_nodes(running)) end, []) end,
 up => G(fun() -> rabbit:is_running() end, false),
 linked => L(nodes()),
 partitions => G(fun() -> L(rabbit_node_monitor:partitions()) end, []),
 handling => T(H),
 unheeding => G(fun() -> UNHEEDING end, 0),
 coordinator => whereis(rabbit_stream_coordinator) =/= undefined,
 ticktime => G(fun() -> case net_kernel:get_net_ticktime() of
   {_, N} -> N; N when is_integer(N) -> N end end, 0),
 alarms => G(fun() -> [T(element(1, A)) || A <- rabbit_alarm:get_alarms()] end, []),
 queues => case K of true -> G(fun() -> length(rabbit_amqqueue:list()) end, 0);
   _ -> G(fun() -> mnesia:table_info(rabbit_queue, size) end, 0) end,
 vhosts => G(fun() -> length(rabbit_vhost:list_names()) end, 0),
 users => case K of true -> G(fun() -> length(rabbit_auth_backend_internal:list_users()) end, 0);
   _ -> G(fun() -> mnesia:table_info(rabbit_user, size) end, 0) end,
 policies => G(fun() -> length(rabbit_policy:list()) end, 0),
 home => G(fun() -> {ok, [[D]]} = init:get_argument(home), list_to_binary(D) end, <<>>),
 config => G(fun() -> [list_to_binary(F) || F <- rabbit_config:config_files()] end, []),
 port => G(fun() -> {ok, Es} = erl_epmd:names(), {value, {_, P}} =
   lists:keysearch(hd(string:tokens(atom_to_list(node()), "@")), 1, Es), P end, 0)
}), 10])
""".replace("UNHEEDING", CHANNELS_THAT_DIFFER)

_QUEUES = """
L = fun(X) -> [atom_to_binary(N, utf8) || N <- X] end,
K = fun(rabbit_classic_queue) -> classic; (rabbit_quorum_queue) -> quorum; (rabbit_stream_queue) -> stream;
  (X) -> X end,
N = fun(P) when is_pid(P) -> node(P); ({_, X}) -> X; (_) -> none end,
P = fun(Q) -> case rabbit_policy:name(Q) of none -> <<>>; X -> X end end,
M = fun(Q) -> case amqqueue:get_type(Q) of
   rabbit_classic_queue -> A = N(amqqueue:get_pid(Q)),
     [A | [node(X) || X <- amqqueue:get_slave_pids(Q)] -- [A]];
   rabbit_quorum_queue -> maps:get(nodes, amqqueue:get_type_state(Q), []);
   _ -> maps:get(nodes, amqqueue:get_type_state(Q), []) end end,
S = fun(Q) -> case amqqueue:get_type(Q) of
   rabbit_classic_queue -> [N(amqqueue:get_pid(Q)) | [node(X) || X <- amqqueue:get_sync_slave_pids(Q)]];
   _ -> M(Q) end end,
Qs = mnesia:dirty_match_object(rabbit_queue, amqqueue:pattern_match_all()),
io:put_chars([rabbit_json:encode([begin {resource, V, queue, Name} = amqqueue:get_name(Q), #{
  vhost => V, name => Name, kind => K(amqqueue:get_type(Q)), leader => N(amqqueue:get_pid(Q)),
  members => L(M(Q)), synced => L(S(Q)), durable => amqqueue:is_durable(Q),
  exclusive => amqqueue:get_exclusive_owner(Q) =/= none, policy => P(Q),
  auto_delete => amqqueue:is_auto_delete(Q)} end || Q <- Qs]), 10])
"""

# Since 3.12 a queue's record is deleted by the record, before that by the queue's name.
_DELETE = """
D = fun(V, Name) -> N = rabbit_misc:r(V, queue, Name),
 case code:ensure_loaded(rabbit_db_queue) of
  {module, _} -> case mnesia:dirty_read(rabbit_queue, N) ++ mnesia:dirty_read(rabbit_durable_queue, N) of
    [Q | _] -> rabbit_amqqueue:internal_delete(Q, <<"recell">>);
    [] -> ok end;
  _ -> rabbit_amqqueue:internal_delete(N, <<"recell">>) end end,
[D(V, Name) || {V, Name} <- NAMES], ok
""".strip()
_FRESH = {"queues": 0, "vhosts": 1, "users": 1, "policies": 0}
"""How many of each a blank node has."""
_AT_ONCE = 100
"""Names in one expression at most: it is an argument, whose length is limited. Each rabbitmqctl takes
seconds, and walls stand while records are dropped."""
_TRIES = 20
"""A quorum queue takes no change of its members for a moment, after it has got another leader above all."""


class RabbitNode:
    """:class:`~recell.adapters.rabbit_port.RabbitNodePort` on a real host."""

    def __init__(self, host: HostPort) -> None:
        self.host = host.name
        self._host = host
        self._inside = Inside(host, RABBIT_UNIT)

    # Questions

    def raw(self) -> dict[str, Any]:
        """All that the node tells of itself, for discovery.

        :raises Unreachable: it is just starting, and doesn't know yet what it holds.
        """
        told = dict(self._json(_VIEW))
        if not all(isinstance(told[key], int) for key in _FRESH):
            raise Unreachable(f"RabbitMQ on {self.host} is still starting", "Wait until it has started")
        return told

    def settings(self) -> dict[str, Any]:
        """How it was started, for discovery."""
        return dict(self._json(SETTINGS))

    def view(self) -> NodeView:
        told = self.raw()
        return NodeView(
            name=told["name"],
            members=tuple(sorted(told["members"])),
            on_disk=tuple(sorted(told["on_disk"])),
            running=tuple(sorted(told["running"])) if told["up"] else (),
            linked=tuple(sorted(told["linked"])),
            partitions=tuple(sorted(told["partitions"])),
            handling=handling_word(told["handling"]),
            alarms=tuple(told["alarms"]),
            used=used(told),
            ticktime_s=float(told["ticktime"]),
            unheeding=int(told["unheeding"]),
            coordinator=bool(told["coordinator"]),
        )

    def queues(self) -> tuple[QueueHome, ...]:
        takers: dict[tuple[str, str], list[str]] = {}
        found = self._json(_QUEUES)
        for vhost in sorted({q["vhost"] for q in found}):
            for name, node in self._takers(vhost):
                takers.setdefault((vhost, name), []).append(node)
        return tuple(
            sorted(
                (
                    QueueHome(
                        vhost=q["vhost"],
                        name=q["name"],
                        kind=q["kind"],
                        leader=q["leader"],
                        members=tuple(sorted(q["members"])),
                        synced=tuple(sorted(q["synced"])),
                        durable=q["durable"],
                        exclusive=q["exclusive"],
                        policy=q["policy"],
                        auto_delete=q["auto_delete"],
                        takers=tuple(sorted(takers.get((q["vhost"], q["name"]), ()))),
                    )
                    for q in found
                ),
                key=lambda q: (q.vhost, q.name),
            )
        )

    def _takers(self, vhost: str) -> list[tuple[str, str]]:
        """(queue, node of the consumer's channel)."""
        text = self._ask("list_consumers", "-p", vhost, "queue_name", "channel_pid")
        rows = [line.split("\t") for line in text.splitlines()]
        return [
            (row[0], node[1])
            for row in rows
            if len(row) >= 2 and (node := re.match(r"<'?(.+?)'?\.\d+\.\d+\.\d+>", row[1]))
        ]

    def policies(self) -> tuple[Policy, ...]:
        code = (
            "D = fun(V) when is_map(V) -> V; (V) -> maps:from_list(V) end,"
            " io:put_chars([rabbit_json:encode([maps:from_list([{K, case K of definition ->"
            " iolist_to_binary(rabbit_json:encode(D(V))); _ -> V end} || {K, V} <- P])"
            " || P <- rabbit_policy:list()]), 10])"
        )
        return tuple(
            sorted(
                (
                    Policy(
                        p["vhost"],
                        p["name"],
                        p["pattern"],
                        p["apply-to"],
                        int(p["priority"]),
                        json.dumps(json.loads(p["definition"]), sort_keys=True),
                    )
                    for p in self._json(code)
                ),
                key=lambda p: (p.vhost, p.name),
            )
        )

    def cookie(self) -> str:
        content = self._host.read(self._cookie_path())
        return hashlib.sha256((content or b"").strip()).hexdigest()

    def _cookie_path(self) -> str:
        done = self._host.query(["getent", "passwd", _ACCOUNT])
        fields = done.stdout.decode().strip().split(":")
        if len(fields) < 6:
            raise Unsupported(
                f"there is no account {_ACCOUNT} on {self.host}", "Is RabbitMQ installed there?"
            )
        return f"{fields[5]}/.erlang.cookie"

    # Changes

    def join(self, peer: str) -> None:
        self._do("stop_app")
        self._do("join_cluster", _atom(peer))
        self._do("start_app")

    def leave(self) -> None:
        self._do("stop_app")
        self._do("reset")
        # A blank node joins by itself whom it was told of when it was started, be it told so no more.
        self._eval("application:set_env(rabbit, cluster_nodes, {[], disc})")
        self._do("start_app")

    def start(self) -> None:
        self._do("start_app")

    def set_handling(self, word: str) -> None:
        if word not in ("ignore", "autoheal", "pause_minority"):
            raise Unsupported(f"cluster_partition_handling {word} can't be set live", "Use another one")
        self._eval(put_in_force(word))

    def set_policy(self, policy: Policy) -> None:
        words = ["-p", policy.vhost, "--priority", str(policy.priority), "--apply-to", policy.apply_to]
        self._do("set_policy", *words, policy.name, policy.pattern, policy.definition)

    def clear_policy(self, vhost: str, name: str) -> None:
        self._do("clear_policy", "-p", vhost, name)

    def move_quorum(self, queue: QueueHome, to: Sequence[str]) -> None:
        name = f"{_binary(queue.vhost)}, {_binary(queue.name)}"
        for node in to:
            if node not in queue.members:
                self._okay(
                    f"rabbit_quorum_queue:add_member({name}, '{_atom(node)}', 15000)",
                    f"{queue.name} gets no member on {node}",
                )
        away = [n for n in queue.members if n not in to]
        if queue.leader in away:
            self._eval(
                f"{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r({_binary(queue.vhost)}, queue,"
                f" {_binary(queue.name)})), rabbit_quorum_queue:transfer_leadership(Q, '{_atom(to[0])}')"
            )
        for node in away:
            self._okay(
                f"rabbit_quorum_queue:delete_member({name}, '{_atom(node)}')",
                f"{queue.name} keeps its member on {node}",
            )

    def hand_over(
        self, queues: Sequence[tuple[QueueHome, Sequence[str]]], limit_s: float
    ) -> tuple[QueueHome, ...]:
        left = set()
        for at in range(0, len(queues), _AT_ONCE):
            told = [
                (_binary(q.vhost), _binary(q.name), [f"'{_atom(n)}'" for n in nodes])
                for q, nodes in queues[at : at + _AT_ONCE]
            ]
            answer = self._json(hand_over(told, round(limit_s * 1000)), change=True)
            left |= {(q["vhost"], q["name"]) for q in answer}
        return tuple(q for q, _ in queues if (q.vhost, q.name) in left)

    def purge(self, queues: Sequence[QueueHome]) -> None:
        for at in range(0, len(queues), _AT_ONCE):
            part = queues[at : at + _AT_ONCE]
            names = ",".join(f"{{{_binary(q.vhost)},{_binary(q.name)}}}" for q in part)
            self._eval(_DELETE.replace("NAMES", f"[{names}]"))

    def forget(self, node: str) -> None:
        self._do("forget_cluster_node", _atom(node))

    def keep_cookie(self, plan: str, *, new: bool) -> str:
        if new:
            return self._host.keep(plan, secrets.token_hex(20).upper().encode())
        content = (self._host.read(self._cookie_path()) or b"").strip()
        return self._host.keep(plan, content)

    def kept_cookie(self, plan: str, sha256: str) -> bytes:
        return self._host.kept(plan, sha256)

    def take_cookie(self, plan: str, source: RabbitNodePort, sha256: str) -> None:
        path = self._cookie_path()
        stat = self._host.stat(path)
        if stat is None:
            raise Unsupported(f"{path} is not on {self.host}", "RabbitMQ keeps its cookie elsewhere there")
        if self.cookie() == sha256:
            return
        value = source.kept_cookie(plan, sha256)
        spare = f"{path}.recell"
        there = self._host.stat(spare)
        self._host.write(
            spare,
            value,
            mode=0o400,
            owner=stat.owner,
            group=stat.group,
            expect=there.sha256 if there else None,
        )
        # The node itself puts it into use and in its place: from then on this host's rabbitmqctl, which
        # reads the file, can speak to it again; between the two there is no moment for recell to die in.
        self._eval(
            f'{{ok, C}} = file:read_file("{spare}"), ok = file:rename("{spare}", "{path}"),'
            " erlang:set_cookie(node(), binary_to_atom(C, utf8))"
        )

    # The wall on the host

    def walled(self) -> str:
        return walls.state(self._host)

    def wall(self, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None:
        walls.up(self._host, kind, addresses, ports)

    def unwall(self) -> None:
        walls.down(self._host)

    def apart(self, other: str) -> bool:
        return walls.apart(self._host, other)

    # The cut

    def arm(self, opposite: Sequence[str], word: str) -> tuple[str, ...]:
        """Wait in the node for the word, then end every Erlang connection to ``opposite``; blocks until then.

        Returns the nodes that are linked afterwards. :raises StepFailed: no word came.
        """
        base = self._word_path(word)
        nodes = ", ".join(f"'{_atom(n)}'" for n in opposite)
        code = f"""
W = "{base}", file:write_file(W ++ ".armed", <<>>),
F = fun(_, 0) -> expired; (G, N) -> case file:read_file(W) of
  {{ok, <<"no">>}} -> called_off;
  {{ok, _}} -> [erlang:disconnect_node(X) || X <- [{nodes}]], done;
  _ -> timer:sleep(20), G(G, N - 1) end end,
R = F(F, {_ARMED_S * 50}), timer:sleep(100), file:delete(W ++ ".armed"), file:delete(W),
io:put_chars([rabbit_json:encode([atom_to_binary(R, utf8) | [atom_to_binary(N, utf8) || N <- nodes()]]), 10])
"""
        said = self._json(code, change=True)
        if said[0] != "done":
            raise StepFailed(
                f"the node on {self.host} was not told to cut in {_ARMED_S} s", "Then: recell resume"
            )
        return tuple(said[1:])

    def armed(self, word: str) -> bool:
        return self._host.stat(f"{self._word_path(word)}.armed") is not None

    def give_word(self, word: str, *, go: bool = True) -> None:
        """``go`` false: never mind; the node stays linked and stops waiting."""
        path = self._word_path(word)
        if self._host.stat(path) is None:
            content = b"" if go else b"no"
            self._host.write(path, content, mode=0o640, owner=_ACCOUNT, group=_ACCOUNT, expect=None)

    def _word_path(self, word: str) -> str:
        return f"{self._cookie_path().rpartition('/')[0]}/recell-cut-{_atom(word)}"

    # rabbitmqctl

    def _run(self, words: Sequence[str], *, change: bool) -> Finished:
        ask = self._inside.run if change else self._inside.query
        return ask([*_CTL, *words], timeout=_TIMEOUT, user=_ACCOUNT)

    def _ask(self, *words: str, change: bool = False) -> str:
        done = self._run(words, change=change)
        if done.returncode != 0:
            raise self._failed(words[0], done)
        return done.stdout.decode("utf-8", "replace")

    def _do(self, *words: str) -> str:
        return self._ask(*words, change=True)

    def _eval(self, code: str) -> str:
        return self._do("eval", code + ".").strip()

    def _okay(self, code: str, trouble: str) -> None:
        for _ in range(_TRIES):
            said = self._eval(code)
            if "cluster_change_not_permitted" not in said:
                break
        if said != "ok":
            raise StepFailed(f"{trouble} ({said[:150]})", "See the broker's log, then: recell resume")

    def _json(self, code: str, *, change: bool = False) -> Any:
        text = self._ask("eval", code.strip() + ".", change=change)
        for line in text.splitlines():
            if line[:1] in "[{":
                return json.loads(line)
        raise StepFailed(f"RabbitMQ on {self.host} answers {text.strip()[:150]}", "See the broker's log")

    def _failed(self, command: str, done: Finished) -> RecellError:
        text = (done.stderr + done.stdout).decode("utf-8", "replace")
        if done.returncode == 69 or _DOWN.search(text):
            return Unreachable(
                f"RabbitMQ does not answer on {self.host}", "Check that it runs: rabbitmqctl status"
            )
        reason = " ".join(line.strip() for line in text.splitlines() if line.strip() != "Error:")[:200]
        return StepFailed(f"rabbitmqctl {command} failed on {self.host} ({reason})", "See the broker's log")


def handling_word(text: str) -> str:
    """``ignore``, ``autoheal``, ``pause_minority``; of a longer term its first word."""
    return text if re.fullmatch(r"\w+", text) else text.strip("{").partition(",")[0]


def used(told: dict[str, Any]) -> tuple[str, ...]:
    """What makes a node not blank."""
    out = [f"{told[key]} {key}" for key, number in _FRESH.items() if told[key] > number]
    return tuple(out + ([f"a cluster of {len(told['members'])}"] if len(told["members"]) > 1 else []))


def _atom(text: str) -> str:
    """A node's name, safe in an expression. :raises Unsupported."""
    if not _WORD.match(text):
        raise Unsupported(
            f"{text!r} is no name of a RabbitMQ node", "Name it with letters, digits and . _ - @"
        )
    return text


def _binary(text: str) -> str:
    """Any text as an Erlang binary, by its bytes."""
    return "<<" + ",".join(str(b) for b in text.encode()) + ">>"
