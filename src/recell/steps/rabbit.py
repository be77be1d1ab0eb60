"""RabbitMQ nodes: joined and made blank again, their partition handling, their configuration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, TypeVar

from recell.adapters.ports import RabbitNodePort
from recell.adapters.together import together
from recell.errors import StepFailed, Unreachable, VerifyFailed
from recell.model.rabbit import NO_HOME_OF_ITS_OWN, NodeView, QueueHome
from recell.model.step import Direction, Finding
from recell.planning import queues as homes
from recell.planning.queues import Sides
from recell.planning.rabbit_conf import edit
from recell.steps.base import BaseStep
from recell.steps.files import FileStep

T = TypeVar("T")
POLL_S = 1.0
REST_S = 5.0
"""For a queue of which nothing is unacknowledged for a moment: a server acknowledges within milliseconds."""
REMEDY = "Look at rabbitmqctl cluster_status there, then: recell resume, or recell undo"


class RabbitStep(BaseStep):
    """``keep``, ``new``: ``[[host, node], ...]``; ``queues``: patterns of queues that the new side gets."""

    def hosts(self, *sides: str) -> list[str]:
        return [str(host) for side in sides or ("keep", "new") for host, _ in self.param(side)]

    def names(self, *sides: str) -> list[str]:
        return [str(name) for side in sides or ("keep", "new") for _, name in self.param(side)]

    def node(self, host: str) -> RabbitNodePort:
        return self.world.rabbit(host)

    @property
    def sides(self) -> Sides:
        patterns = tuple(self.param("queues", []))
        return Sides(tuple(self.names("keep")), tuple(self.names("new")), patterns)

    def views(self, *sides: str) -> dict[str, NodeView]:
        """By host; all are asked at once, since one answer takes seconds."""
        return at_once(self.hosts(*sides), lambda host: self.node(host).view())

    def parted(self) -> bool:
        """Whether the two are clusters of their own by now: each forgot the other."""
        first = {s: set(self.node(self.hosts(s)[0]).view().members) for s in ("keep", "new")}
        return not first["keep"] & set(self.names("new")) and not first["new"] & set(self.names("keep"))

    def whole(self, views: dict[str, NodeView], expected: Iterable[str]) -> list[str]:
        """What is wrong with a cluster of exactly these nodes, as each of them sees it."""
        want = tuple(sorted(expected))
        wrong = []
        for host, view in views.items():
            if view.members != want:
                wrong.append(f"{host} knows {', '.join(view.members) or 'nobody'}")
            elif view.running != want:
                wrong.append(f"{host} sees {', '.join(view.running) or 'nobody'} running")
            if view.partitions:
                wrong.append(f"{host} sees a partition from {', '.join(view.partitions)}")
        return wrong


def at_once(hosts: list[str], ask: Callable[[str], T]) -> dict[str, T]:
    return dict(zip(hosts, together([partial(ask, host) for host in hosts]), strict=True))


class Join(RabbitStep):
    """A blank node becomes a member of the cluster; undo makes it blank again. ``name``: the node's.

    ``keep`` and ``new`` name those that are in the cluster once this one has joined. ``fresh``: it is a
    cluster of new nodes alone, all of which undo makes blank.
    """

    kind: ClassVar[str] = "rabbit-join"

    @property
    def lasting(self) -> bool:
        return False  # the cut ends it

    def look(self, toward: Direction) -> Finding:
        name = str(self.param("name"))
        here = self.node(self.spec.where).view()
        others = [m for m in here.members if m != name]
        if toward == "backward":
            if others or any("queues" in word for word in here.used):
                return Finding.not_done(f"{name} is in a cluster with {', '.join(others) or 'nobody'}")
            return (
                Finding.done(f"{name} is by itself")
                if here.running
                else Finding.partial(f"{name} is stopped")
            )
        if set(self.names("keep")) <= set(others):
            wrong = self.whole({self.spec.where: here}, [*others, name])
            return Finding.done(f"{name} is in") if not wrong else Finding.partial("; ".join(wrong))
        if others:
            return Finding.unknown(f"{name} is in another cluster, with {', '.join(others)}")
        if here.used:
            return Finding.unknown(f"{name} is not blank: {', '.join(here.used)}")
        return Finding.not_done(f"{name} is by itself")

    def act(self, toward: Direction) -> None:
        node, name = self.node(self.spec.where), str(self.param("name"))
        view = node.view()
        if toward == "forward":
            if len(view.members) == 1:
                node.join(self.names("keep")[0])
            elif not view.running:
                node.start()
            self._await(
                lambda: self.look("forward").truth.value == "done", f"{name} does not come up in the cluster"
            )
            return
        if view.running:  # else an earlier run has looked, and stopped it
            self._nothing_lives_here(node, name)
        node.leave()
        self._await(lambda: self.look("backward").truth.value == "done", f"{name} does not come up blank")

    def _nothing_lives_here(self, node: RabbitNodePort, name: str) -> None:
        """What was declared since the queues went home may have a member here again."""
        peers = [n for n in self.names("keep") if n in node.view().members]
        if self.param("fresh") or self.names("keep")[0] not in peers:
            self._nothing_waits_here()
            return
        for queue in node.queues():
            if name in queue.members and queue.kind == "quorum":
                node.move_quorum(queue, homes.quorum_homes(queue, peers))
            elif queue.leader == name and (queue.takers or not queue.of_a_process):
                raise StepFailed(
                    f"the queue {queue.name} is on {name}, which is to leave", "Then: recell undo"
                )

    def _nothing_waits_here(self) -> None:
        """Of a cluster of its own, what nobody has taken yet would be lost with it."""
        broker = self.world.broker(self.spec.where)
        waiting = [
            f"{q.messages_ready + q.messages_unacknowledged} in {q.name}"
            for vhost in broker.vhosts()
            for q in broker.queues(vhost)
            if q.messages_ready + q.messages_unacknowledged and not NO_HOME_OF_ITS_OWN.match(q.name)
        ]
        if waiting:
            raise StepFailed(
                f"messages that nobody took wait on {self.spec.where}'s cluster: {', '.join(waiting[:5])}",
                "Start a service there that takes them, or purge these queues; then: recell resume",
            )

    def _await(self, done: Callable[[], bool], trouble: str) -> None:
        began = self.world.clock()
        while True:
            try:
                if done():
                    return
            except Unreachable:
                pass  # for some seconds while it starts
            if self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(trouble, REMEDY)
            self.world.wait(POLL_S)

    def prove(self, toward: Direction) -> str:
        if toward == "backward":
            return super().prove(toward)
        # rc 0 is no proof: each member must see it, itself too.
        members = [*self.names("keep"), *self.names("new")]
        wrong = self.whole(self.views(), members)
        if wrong:
            raise VerifyFailed(f"{self.id}: {'; '.join(wrong)}", REMEDY)
        return f"{len(members)} nodes each see {len(members)} running, no partition"


class Blank(Join):
    """The first node of a fresh cluster joins nobody; undo makes it blank as the others."""

    kind: ClassVar[str] = "rabbit-blank"

    def look(self, toward: Direction) -> Finding:
        here = self.node(self.spec.where).view()
        if here.used:
            return Finding.not_done(f"{here.name} holds {', '.join(here.used)}")
        return Finding.done(f"{here.name} is blank") if here.running else Finding.partial("it is stopped")


class Handling(RabbitStep):
    """cluster_partition_handling, live. ``words``: ``[forward, backward]`` for each host."""

    kind: ClassVar[str] = "rabbit-handling"

    def look(self, toward: Direction) -> Finding:
        views = self._views()
        wrong = [f"{h} has {v.handling}" for h, v in views.items() if v.handling != self._word(h, toward)]
        wrong += [f"{v.unheeding} channels of {h} go by another" for h, v in views.items() if v.unheeding]
        return Finding.not_done("; ".join(wrong)) if wrong else Finding.done("set on every node")

    def _views(self) -> dict[str, NodeView]:
        return at_once(list(self.param("words")), lambda host: self.node(host).view())

    def _word(self, host: str, toward: Direction) -> str:
        return str(self.param("words")[host][0 if toward == "forward" else 1])

    @property
    def lasting(self) -> bool:
        return bool(self.param("lasting"))

    def act(self, toward: Direction) -> None:
        for host, view in self._views().items():
            if view.handling != self._word(host, toward) or view.unheeding:
                self.node(host).set_handling(self._word(host, toward))


class Conf(FileStep):
    """Keys of rabbitmq.conf, for the node's next start. ``settings``: key -> value, or null to remove it.
    ``lasting``: they are to stand when all is done."""

    kind: ClassVar[str] = "rabbit-conf"

    @property
    def lasting(self) -> bool:
        return bool(self.param("lasting"))

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        mode, owner, group = self.recall("stat") or (0o644, "root", "root")
        return edit(before.decode(), self.param("settings")).encode(), mode, owner, group


class Rehome(RabbitStep):
    """Every queue to the side that takes from it; undo, while there is one cluster: all to the old nodes."""

    kind: ClassVar[str] = "rabbit-rehome"

    @property
    def lasting(self) -> bool:
        return False  # queues come and go; the cut looks again right before it begins

    def _asked(self, toward: Direction) -> Sides:
        sides = self.sides
        return sides if toward == "forward" else Sides(sides.keep, (), ())

    def _queues(self) -> tuple[QueueHome, ...]:
        return self.node(self.hosts("keep")[0]).queues()

    def _wrong(self, toward: Direction) -> tuple[QueueHome, ...]:
        found = self._queues()
        if toward == "forward":
            return homes.misplaced(found, self.sides)
        new = set(self.names("new"))
        # What one process made for itself goes with the process, when its client goes back.
        return tuple(q for q in found if new & {q.leader, *q.members} and not q.of_a_process)

    def _ours(self) -> list[tuple[str, str]]:
        policies = self.node(self.hosts("keep")[0]).policies()
        return [(p.vhost, p.name) for p in policies if p.name.startswith(homes.PREFIX)]

    def look(self, toward: Direction) -> Finding:
        wrong = () if self.parted() else self._wrong(toward)
        if not wrong and toward == "backward" and self._ours():
            return Finding.partial("recell's policies are there")
        if wrong:
            return Finding.not_done(_listed(wrong))
        again = self.recall("restless") or ()
        said = f"; what was under way in {', '.join(again[:5])} came again" if again else ""
        return Finding.done(f"every queue is at home{said}")

    def act(self, toward: Direction) -> None:
        node = self.node(self.hosts("keep")[0])
        if toward == "forward":
            for policy in homes.own_policies(node.policies()):
                node.set_policy(policy)
        began = self.world.clock()
        restless: set[tuple[str, str]] = set()
        apart = self.parted()
        while wrong := () if apart else self._wrong(toward):
            both = homes.shared(wrong, self.sides) if toward == "forward" else ()
            stuck = [q for q in wrong if q.exclusive or q.kind == "stream"]
            if both or stuck:
                raise StepFailed(
                    f"these queues can't be brought to one side: {_listed((*both, *stuck))}",
                    "See rabbitmqctl list_consumers; then: recell resume, or recell undo",
                )
            self._move(node, wrong, toward, restless)
            if self.world.clock() - began > self.limit("quiet_s"):
                raise StepFailed(f"not at home after {self.limit('quiet_s'):.0f} s: {_listed(wrong)}", REMEDY)
            self.world.wait(POLL_S)
        if toward == "backward":
            for vhost, name in self._ours():
                node.clear_policy(vhost, name)

    def _move(
        self,
        node: RabbitNodePort,
        wrong: tuple[QueueHome, ...],
        toward: Direction,
        restless: set[tuple[str, str]],
    ) -> None:
        sides = self._asked(toward)
        for queue in wrong:
            side = homes.side_of(queue, sides) if toward == "forward" else "keep"
            if queue.kind == "quorum" and side:
                node.move_quorum(queue, homes.quorum_homes(queue, sides.nodes(side)))
        if toward == "backward":
            wrong = tuple(_taken_on(q, sides.keep) for q in wrong)
        known = node.policies()
        ready = homes.heirs(wrong, known, sides)
        restless |= self._hand_over(ready, restless)
        let_go = restless | {(q.vhost, q.name) for q, _ in ready}
        for policy in homes.movers(wrong, known, sides, homes.next_step(known), let_go):
            node.set_policy(policy)

    def _hand_over(
        self, ready: Sequence[tuple[QueueHome, tuple[str, ...]]], restless: Collection[tuple[str, str]]
    ) -> set[tuple[str, str]]:
        """By the leaders' own nodes. Who is never at rest: RabbitMQ moves those, and what was under way comes
        again."""
        by_node: dict[str, list[tuple[QueueHome, tuple[str, ...]]]] = {}
        for queue, nodes in ready:
            if (queue.vhost, queue.name) not in restless:
                by_node.setdefault(queue.leader, []).append((queue, nodes))
        hosts = dict(zip(self.names(), self.hosts(), strict=True))
        left = at_once(list(by_node), lambda name: self.node(hosts[name]).hand_over(by_node[name], REST_S))
        found = {(q.vhost, q.name) for queues in left.values() for q in queues}
        if found:
            self.remember("restless", sorted({*(self.recall("restless") or ()), *(n for _, n in found)}))
        return found


class Policies(RabbitStep):
    """Recell's policies go from both clusters: a queue stays where it is without them."""

    kind: ClassVar[str] = "rabbit-policies"

    def _left(self) -> list[tuple[str, str, str]]:
        hosts = [self.hosts(side)[0] for side in ("keep", "new")]
        return [
            (h, p.vhost, p.name)
            for h in hosts
            for p in self.node(h).policies()
            if p.name.startswith(homes.PREFIX)
        ]

    def look(self, toward: Direction) -> Finding:
        left = self._left()
        return Finding.not_done(f"{len(left)} policies") if left else Finding.done("no policy of recell's")

    def act(self, toward: Direction) -> None:
        for host, vhost, name in self._left():
            self.node(host).clear_policy(vhost, name)


def _taken_on(queue: QueueHome, nodes: tuple[str, ...]) -> QueueHome:
    return replace(queue, takers=tuple(n for n in queue.takers if n in nodes))


def _listed(queues: Iterable[QueueHome]) -> str:
    found = [f"{q.name} ({q.kind}, on {', '.join(dict.fromkeys((q.leader, *q.members)))})" for q in queues]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
