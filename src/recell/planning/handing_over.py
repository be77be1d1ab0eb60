"""How a classic queue's leader goes to a mirror so that no message comes a second time. No I/O.

When a leader goes, RabbitMQ delivers again what was delivered and is not acknowledged as far as the new
leader knows. That one hears of acknowledgements up to 25 ms later: the leader's group messages wait so long
for more, and what waits goes with the leader. So the leader ends itself, in one turn of its own process: when
nothing is unacknowledged, and once a message that mirrors ignore, sent after all others, has come to every
one of them.

Source: rabbit_mirror_queue_master, gm and rabbit_amqqueue:run_backing_queue, alike in 3.8.2 to 3.12.
"""

from __future__ import annotations

from collections.abc import Sequence

# A third element of the leader's state is its group's process. A queue that is not mirrored runs nothing.
_HAND_OVER = """
Until = erlang:monotonic_time(millisecond) + LIMIT_MS,
Turn = fun(Me, Ref, Name, Nodes) -> fun(M, S) ->
  {ok, Q} = rabbit_amqqueue:lookup(Name),
  Synced = [node(P) || P <- amqqueue:get_sync_slave_pids(Q)],
  case Nodes -- Synced =:= [] andalso M:len(S) =:= M:depth(S) of
    true -> ok = gm:confirmed_broadcast(element(3, S), hibernate_heartbeat), exit({shutdown, dropped});
    false -> Me ! {Ref, busy}, S end end end,
Try = fun F(Pid, Mon, Name, Nodes) ->
  Ref = make_ref(),
  rabbit_amqqueue:run_backing_queue(Pid, rabbit_mirror_queue_master, Turn(self(), Ref, Name, Nodes)),
  Ended = receive {'DOWN', Mon, _, _, _} -> true; {Ref, busy} -> false after 1000 -> false end,
  case Ended orelse erlang:monotonic_time(millisecond) > Until of
    true -> Ended;
    false -> timer:sleep(5), F(Pid, Mon, Name, Nodes) end end,
One = fun({V, N, Nodes}) ->
  Name = rabbit_misc:r(V, queue, N),
  case rabbit_amqqueue:lookup(Name) of
    {ok, Q} -> Pid = amqqueue:get_pid(Q),
      node(Pid) =/= node() orelse Try(Pid, erlang:monitor(process, Pid), Name, Nodes);
    _ -> true end end,
Asked = [{Queue, rpc:async_call(node(), erlang, apply, [One, [Queue]])} || Queue <- QUEUES],
Left = [#{vhost => V, name => N} || {{V, N, _}, Key} <- Asked, rpc:yield(Key) =/= true],
io:put_chars([rabbit_json:encode(Left), 10])
""".strip()


def hand_over(queues: Sequence[tuple[str, str, Sequence[str]]], limit_ms: int) -> str:
    """Of queues that this node leads; writes those that were never at rest, as ``[{vhost, name}, ...]``.

    :param queues: (vhost, name, nodes that must hold all of it), as Erlang terms.
    """
    listed = ",".join(f"{{{vhost},{name},[{','.join(nodes)}]}}" for vhost, name, nodes in queues)
    return _HAND_OVER.replace("LIMIT_MS", str(limit_ms)).replace("QUEUES", f"[{listed}]")
