"""How full queues are, answered by the broker itself within milliseconds.

``rabbitmqctl`` starts an Erlang of its own for each question, which takes a second of a processor. So one
call of it, beforehand, leaves a process in the broker that listens at a unix socket and asks the queues for
just what ``rabbitmqctl list_queues`` asks them for: also for what was delivered and is not acknowledged,
which no AMQP client is told. A queue that ends meanwhile is left out. The process ends when it is told to, or
when nobody has asked for a while; the socket is the broker account's and goes with it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Protocol

from recell.adapters.ports import Finished, QueueInfo
from recell.errors import StepFailed, Unreachable

__all__ = ["DoorHost", "QueueDoor"]

_CTL = ("env", "ERL_AFLAGS=+S 1:1 +sbwt none", "rabbitmqctl", "-q")
_OPEN_S = 60.0
_ASK_S = 5.0
_LAST = "recell"
"""The answer's last line: without it the answer was cut off."""
_COLUMNS = "messages_ready, messages_unacknowledged, consumers, durable"
# A socket that a broker has left which was killed meanwhile goes first. All queues are asked at once: one
# after the other, each on another node would cost users a way there and back. A quorum queue is asked on its
# leader's node, as only that knows its counts; its process is a pair of a name and this node. One that is
# there and doesn't answer is not taken for empty: then rabbitmqctl is asked.
_LISTEN = """
D = try rabbit:data_dir() catch _:_ -> rabbit_mnesia:dir() end,
[file:delete(X) || X <- filelib:wildcard(filename:join(D, "recell-queues-*"))],
P = filename:join(D, "recell-queues-@NAME@"),
V = list_to_binary([@VHOST@]),
N = fun(X) when is_integer(X) -> integer_to_binary(X); (X) when is_atom(X) -> atom_to_binary(X, utf8);
  (_) -> <<>> end,
C = [@COLUMNS@],
I = fun(Q) -> case element(7, Q) of
  {_, Node} when Node =/= node() -> rpc:call(Node, rabbit_amqqueue, info, [Q, C], 4000);
  _ -> rabbit_amqqueue:info(Q, C) end end,
T = fun() ->
  Asked = [{element(2, Q), spawn_monitor(fun() -> exit({told, I(Q)}) end)}
    || Q <- rabbit_amqqueue:list(V)],
  [receive {'DOWN', R, process, W, {told, K}} when is_list(K) ->
      [element(4, Name), [[9, N(proplists:get_value(A, K))] || A <- C], 10];
    {'DOWN', R, process, W, _} -> case rabbit_amqqueue:lookup(Name) of
      {error, not_found} -> [];
      _ -> throw(late) end
    after 4500 -> throw(late) end || {Name, {W, R}} <- Asked] end,
{ok, L} = gen_tcp:listen(0, [binary, {packet, line}, {active, false}, {ifaddr, {local, P}}]),
ok = file:change_mode(P, 8#600),
F = fun G() -> case gen_tcp:accept(L, @IDLE_MS@) of
  {ok, S} -> case gen_tcp:recv(S, 0, 5000) of
    {ok, <<"end", _/binary>>} -> gen_tcp:close(S);
    {ok, _} -> gen_tcp:send(S, try [T(), "@LAST@", 10] catch _:_ -> [] end), gen_tcp:close(S), G();
    _ -> gen_tcp:close(S), G() end;
  _ -> ok end end,
W = spawn(fun() -> receive go -> ok after 60000 -> ok end, F(), gen_tcp:close(L), file:delete(P) end),
ok = gen_tcp:controlling_process(L, W), W ! go, io:put_chars(["door ", P, 10]).
"""


class DoorHost(Protocol):
    """What is needed of a node's host; its container's, where RabbitMQ is in one."""

    name: str

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None,
    ) -> Finished: ...
    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes: ...


class QueueDoor:
    """Made by :meth:`open`. Thread-safe."""

    def __init__(self, host: DoorHost, path: str) -> None:
        self._host = host
        self._path = path

    @classmethod
    def open(cls, host: DoorHost, vhost: str, idle_s: float, account: str) -> QueueDoor:
        """:param idle_s: it ends by itself when nobody has asked for so long. account: the broker's.

        :raises RecellError: it can't be had here: RabbitMQ does not run, its Erlang is older than 19, or
            its files are not reached from the host.
        """
        text = _LISTEN
        for name, value in (
            ("NAME", secrets.token_hex(4)), ("VHOST", ", ".join(str(b) for b in vhost.encode())),
            ("COLUMNS", _COLUMNS), ("IDLE_MS", str(round(idle_s * 1000))), ("LAST", _LAST),
        ):
            text = text.replace(f"@{name}@", value)
        done = host.run([*_CTL, "eval", text.strip()], timeout=_OPEN_S, user=account)
        found = re.search(r"^door (/.+)$", done.stdout.decode("utf-8", "replace"), re.MULTILINE)
        if done.returncode != 0 or found is None:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[:200]
            raise StepFailed(f"RabbitMQ on {host.name} opens no socket ({said})", "See its log")
        door = cls(host, found[1])
        door.queues()
        return door

    def queues(self) -> tuple[QueueInfo, ...]:
        """:raises RecellError: it doesn't answer any more."""
        answer = self._host.unix_query(self._path, b"queues\n", timeout=_ASK_S).decode("utf-8", "replace")
        lines = answer.splitlines()
        if lines[-1:] != [_LAST]:
            raise Unreachable(f"RabbitMQ on {self._host.name} does not tell of its queues", "See its log")
        return tuple(_queue(line) for line in lines[:-1])

    def close(self) -> None:
        """The process in the broker ends. :raises RecellError: it was gone already."""
        self._host.unix_query(self._path, b"end\n", timeout=_ASK_S)


def _queue(line: str) -> QueueInfo:
    name, *numbers, durable = line.rsplit("\t", 4)
    ready, unacknowledged, consumers = (int(n) if n.isdigit() else 0 for n in numbers)
    return QueueInfo(name, ready, unacknowledged, consumers, durable == "true")
