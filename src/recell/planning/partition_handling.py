"""RabbitMQ's cluster_partition_handling, put into force without a restart.

Setting it is not all. With pause_minority and pause_if_all_down a channel confirms nothing while its node
is in a minority, and it keeps for as long as it lives what it found out at its first confirm (3.8 to
3.13: rabbit_node_monitor:pause_partition_guard, in the process dictionary). So a channel that was open
before ``ignore`` was set would go on pausing: half of a cluster that is cut in two is no majority. Its
publisher would wait until its heartbeats were missed, and send the message a second time. So each channel
forgets it, and finds it out anew.
"""

from __future__ import annotations

_GUARD = "pause_partition_guard"


def put_in_force(word: str) -> str:
    """Erlang to evaluate on a node. ``word``: ignore, autoheal or pause_minority; checked by the caller."""
    # The state goes back as it came; only what is asked of it runs inside the channel.
    return (
        f"application:set_env(rabbit, cluster_partition_handling, {word}),"
        " [catch sys:replace_state(C, fun(S) ->"
        f" erlang:erase({_GUARD}), S end) || C <- rabbit_channel:list_local()], ok"
    )


CHANNELS_THAT_DIFFER = f"""
 length([C || C <- rabbit_channel:list_local(), {{dictionary, D}} <- [erlang:process_info(C, dictionary)],
   {{_, W}} <- [lists:keyfind({_GUARD}, 1, D)],
   (W == not_pause_mode) == (case H of pause_minority -> true; {{pause_if_all_down, _, _}} -> true;
     _ -> false end)])
""".strip()
"""Erlang: how many channels of a node go by another handling than ``H``, the node's."""
