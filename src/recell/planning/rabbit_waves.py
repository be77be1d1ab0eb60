"""In which order clients of RabbitMQ move, and which of them at the same time. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from recell.model.rabbit import RabbitClient
from recell.planning import rabbit_nova
from recell.planning.rabbit_facts import RabbitFacts

AT_ONCE = 10
"""Unless the layout says otherwise at most so many of one kind move at once. A nova-compute asks its
conductor one thing after another while it starts, so ten are ten questions at a time, for conductors that
hear of hundreds; an agent of Neutron's asks neutron-server as much. RabbitMQ gets some dozens of queues and
shovels a minute."""
SHARE = 10
"""And of few hosts only each so manieth at once: what is asked of one waits until it is back."""


def in_order(clients: tuple[RabbitClient, ...]) -> tuple[RabbitClient, ...]:
    """Servers before those that only call, conductors first of all: others ask them while they start. A
    unit with connections to several vhosts stands once."""
    units: dict[tuple[str, str], RabbitClient] = {}
    for client in sorted(clients, key=lambda c: (_rank(c), c.unit, c.host)):
        units.setdefault((client.host, client.unit), client)
    return tuple(units.values())


def _rank(client: RabbitClient) -> int:
    if not client.queues:
        return 3 if rabbit_nova.is_web(client) else 2
    return 0 if "conductor" in client.queues else 1


def of_its_host(client: RabbitClient) -> bool:
    """Whether it serves its own host alone, so that nobody stands in for it: several may be away at once.
    Of conductors, schedulers and neutron-servers those that stay serve for the one that is away."""
    agent = client.program.startswith("neutron-") and client.program.endswith("-agent")
    return client.role == "compute" or (agent and bool(client.queues))


def waves(facts: RabbitFacts) -> tuple[tuple[str, tuple[RabbitClient, ...]], ...]:
    """Who moves with whom, in order, and what the wave is called; "" for one that moves by itself."""
    asked, number = facts.layout.moving.wave, 0
    out: list[tuple[str, tuple[RabbitClient, ...]]] = []
    for key, found in groupby(
        in_order(facts.moving), lambda c: (c.unit, c.role == "compute") if of_its_host(c) else None
    ):
        alike = tuple(found)
        size = asked or max(1, min(AT_ONCE, len(alike) // SHARE))
        if key is None or size == 1:
            out += [("", (client,)) for client in alike]
            continue
        for at in range(0, len(alike), size):
            number += 1
            out.append((f"wave{number}", alike[at : at + size]))
    return tuple(out)


def of_waves(facts: RabbitFacts) -> Iterator[str]:
    """What the operator must know of them."""
    found = [(mark, clients) for mark, clients in waves(facts) if mark]
    for unit, mine in groupby(found, lambda wave: wave[1][0].unit):
        sizes = [len(clients) for _, clients in mine]
        if len(sizes) > 1 or sizes[0] > 1:
            yield (
                f"{unit} moves on {sum(sizes)} hosts, up to {max(sizes)} at a time, in {len(sizes)}"
                f" wave{'s' if len(sizes) > 1 else ''}. One that does not come back stops the run, when the"
                " others of its wave have moved."
            )
