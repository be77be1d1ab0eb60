"""The cut: a RabbitMQ cluster's two sides lose each other on all hosts at one moment.

Cut host by host, a node that is still linked to both tells each what the other doesn't see any more, and
RabbitMQ ends links inside a side ("Partial partition detected"). So every node is armed beforehand (an
expression in it waits for a word, a file), walls come up on all hosts, and only when all stand the word is
given: each node ends its links within some tens of milliseconds, long before net_ticktime would.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from recell.adapters.ports import CutNode
from recell.adapters.rabbit_node import RabbitNode
from recell.errors import RecellError, StepFailed

_POLL = 0.1
_ARM_S = 300.0
"""An armed node forgets about it after 400 s; by then it must have been told."""


def cut(
    nodes: Sequence[tuple[RabbitNode, CutNode]],
    ports: Sequence[int],
    within: float,
    *,
    wait: Callable[[float], None],
    clock: Callable[[], float],
) -> float:
    """See :meth:`recell.adapters.ports.World.cut_rabbit`."""
    # A word of its own each time: one that an earlier run left must not make a node cut before the
    # walls stand.
    word = secrets.token_hex(8)
    with ThreadPoolExecutor(2 * len(nodes)) as pool:
        # Walls of an earlier run stay whatever comes: some node may have cut behind them already.
        stood = any(pool.map(lambda pair: bool(pair[0].walled()), nodes))
        armed = [pool.submit(node.arm, one.opposite, word) for node, one in nodes]
        try:
            _await_arms(nodes, armed, word, wait, clock)
            began = clock()
            list(pool.map(lambda pair: pair[0].wall("drop", pair[1].addresses, ports), nodes))
            if clock() - began > within:
                raise StepFailed(
                    f"the walls took {clock() - began:.1f} s, more than {within:.0f}",
                    "Try when the hosts are less busy: recell resume",
                )
        except RecellError:
            for node, _ in nodes:
                if not stood:
                    with contextlib.suppress(RecellError):
                        node.unwall()
                with contextlib.suppress(RecellError):
                    node.give_word(word, go=False)
            raise
        list(pool.map(lambda pair: pair[0].give_word(word), nodes))
        linked = [future.result() for future in armed]
        spent = clock() - began
        # From here on attempts to meet again fail at once, instead of holding up who makes them.
        list(pool.map(lambda pair: pair[0].wall("reject", pair[1].addresses, ports), nodes))
    left = [
        f"{node.host} to {', '.join(sorted(set(now) & set(one.opposite)))}"
        for (node, one), now in zip(nodes, linked, strict=True)
        if set(now) & set(one.opposite)
    ]
    if left:
        raise StepFailed(
            f"still linked after the cut: {'; '.join(left)}", "The walls stand; then: recell resume"
        )
    return spent


def _await_arms(
    nodes: Sequence[tuple[RabbitNode, CutNode]],
    armed: Sequence[Future[tuple[str, ...]]],
    word: str,
    wait: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    began = clock()
    left = [node for node, _ in nodes]
    while left:
        for future in armed:
            if future.done():
                future.result()
                raise StepFailed(
                    "a node cut before it was told to", "See the brokers' logs, then: recell resume"
                )
        left = [node for node in left if not node.armed(word)]
        if left and clock() - began > _ARM_S:
            raise StepFailed(
                f"the node on {left[0].host} can't be armed in {_ARM_S:.0f} s",
                "Try when the hosts are less busy: recell resume",
            )
        if left:
            wait(_POLL)
