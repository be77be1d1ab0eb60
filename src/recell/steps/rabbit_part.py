"""The moment at which one RabbitMQ cluster becomes two."""

from __future__ import annotations

from typing import ClassVar

from recell.adapters.ports import CutNode
from recell.errors import StepFailed, VerifyFailed
from recell.model.step import Direction, Finding
from recell.planning import queues as homes
from recell.planning.rabbit_reasons import END_COORDINATOR
from recell.steps.rabbit import POLL_S, REMEDY, RabbitStep, at_once


class Part(RabbitStep):
    """Wall, cut, purge, forget, new cookie, settle, walls away: one step, for between these there is no way
    back that is better than on. ``addresses``: of each host; ``ports``: the Erlang distribution's.

    Begun, it is carried to its end even by undo, which then leads the new side's clients back to the old one.
    """

    kind: ClassVar[str] = "rabbit-part"

    # What is there

    def _walls(self) -> dict[str, str]:
        return at_once(self.hosts(), lambda host: self.node(host).walled())

    def _side(self, host: str) -> str:
        return "keep" if host in self.hosts("keep") else "new"

    def _opposite(self, host: str) -> str:
        return "new" if self._side(host) == "keep" else "keep"

    def look(self, toward: Direction) -> Finding:
        views, walls = self.views(), self._walls()
        walled = [host for host, kind in walls.items() if kind]
        apart = [h for h, v in views.items() if not set(v.members) & set(self.names(self._opposite(h)))]
        if not walled and not apart:
            if toward == "backward":
                return Finding.done("the cluster is one")
            wrong = self.whole(views, self.names())
            return Finding.unknown("; ".join(wrong)) if wrong else Finding.not_done("the cluster is one")
        if walled or len(apart) < len(views) or not self._cookies_apart():
            return Finding.partial(f"begun: walls on {', '.join(walled) or 'no host'}")
        met = [h for h, v in views.items() if set(v.linked) & set(self.names(self._opposite(h)))]
        if met:
            return Finding.unknown(
                f"{', '.join(met)} is linked to the other side again: see whose .erlang.cookie was copied"
            )
        return Finding.done("the clusters are two")

    def _cookies_apart(self) -> bool:
        cookies = at_once(self.hosts(), lambda host: self.node(host).cookie())
        sides = [{cookies[h] for h in self.hosts(side)} for side in ("keep", "new")]
        return len(sides[1]) == 1 and not sides[0] & sides[1]

    # What is done

    def act(self, toward: Direction) -> None:
        if toward == "backward" and self.look("backward").truth.value == "done":
            return
        if not self._cut():
            self._last_look()
            self._do_cut()
        self._reject()
        self._purge_and_forget()
        self._new_cookie()
        self._settle()
        for host in self.hosts():
            self.node(host).unwall()

    def _cut(self) -> bool:
        """Whether no node is linked to the other side any more, and can't be again."""
        walls, views = self._walls(), self.views()
        if self._cookies_apart():
            return True
        linked = [h for h, v in views.items() if set(v.linked) & set(self.names(self._opposite(h)))]
        return all(walls.values()) and not linked

    def _last_look(self) -> None:
        """:raises StepFailed: a cut now would harm somebody; nothing was touched."""
        if any(self._walls().values()):
            return  # an earlier run's walls stand: the sides don't hear each other, and must be told
        views = self.views()
        wrong = self.whole(views, self.names())
        wrong += [
            f"{h} has cluster_partition_handling {v.handling}"
            for h, v in views.items()
            if v.handling != "ignore"
        ]
        wrong += [
            f"{v.unheeding} channels of {h} go by another partition handling"
            for h, v in views.items()
            if v.unheeding
        ]
        wrong += [
            f"{h} keeps a coordinator of streams, which ends by {END_COORDINATOR}"
            for h, v in views.items()
            if v.coordinator
        ][:1]
        wrong += [f"{h} has an alarm: {a}" for h, v in views.items() for a in v.alarms]
        away = homes.misplaced(self.node(self.hosts("keep")[0]).queues(), self.sides)
        wrong += [f"{q.name} is on {', '.join(q.members)}" for q in away[:5]]
        if wrong:
            raise StepFailed(f"not ready to be cut: {'; '.join(wrong)}", REMEDY)

    def _do_cut(self) -> None:
        addresses = self.param("addresses")
        nodes = [
            CutNode(
                host,
                tuple(self.names(self._opposite(host))),
                tuple(a for other in self.hosts(self._opposite(host)) for a in addresses[other]),
            )
            for host in self.hosts()
        ]
        ticktime = min(v.ticktime_s for v in self.views().values())
        spent = self.world.cut_rabbit(nodes, self.param("ports"), ticktime / 4)
        self.remember("cut", [spent, ticktime])
        self.held("forward", spent)

    def _reject(self) -> None:
        """Attempts to connect fail at once, instead of after the kernel's patience."""
        for host, kind in self._walls().items():
            if kind == "drop":
                found = [a for o in self.hosts(self._opposite(host)) for a in self.param("addresses")[o]]
                self.node(host).wall("reject", found, self.param("ports"))

    def _purge_and_forget(self) -> None:
        # Records of the other side's queues first: to forget a node that leads them takes half a minute each.
        for side in ("keep", "new"):
            own, other = self.names(side), "new" if side == "keep" else "keep"
            node = self.node(self.hosts(side)[0])
            node.purge(homes.foreign(node.queues(), own))
            for name in self.names(other):
                if name in node.view().members:
                    node.forget(name)
            wrong = self.whole(self.views(side), own)
            if wrong:
                raise StepFailed(f"the {side} side is not whole: {'; '.join(wrong)}", REMEDY)

    def _new_cookie(self) -> None:
        """Two clusters with one cookie would become one again by a single ping between them."""
        plan, first = self.context.keep, self.node(self.hosts("new")[0])
        if self.recall("old-cookie") is None:
            self.remember("old-cookie", first.keep_cookie(plan, new=False))
        if self.recall("cookie") is None:
            self.remember("cookie", first.keep_cookie(plan, new=True))
        for host in self.hosts("new"):
            self.node(host).take_cookie(plan, first, str(self.recall("cookie")))
        if not self._cookies_apart():
            raise StepFailed("the sides still share an Erlang cookie", REMEDY)

    def _settle(self) -> None:
        """Nodes that try to reach each other for some seconds more must fail while the wall stands."""
        began = self.world.clock()
        while self.world.clock() - began < float(self.param("settle_s")):
            self.world.wait(POLL_S)

    def prove(self, toward: Direction) -> str:
        if toward == "backward" and not self._walls_or_two():
            return "the cluster is one"
        wrong = [w for side in ("keep", "new") for w in self.whole(self.views(side), self.names(side))]
        wrong += [f"recell's wall is still on {h}" for h, kind in self._walls().items() if kind]
        for host, view in self.views().items():
            if set(view.linked) & set(self.names(self._opposite(host))):
                wrong.append(f"{host} is linked to the other side")
            if set(view.on_disk) - set(self.names(self._side(host))):
                wrong.append(f"{host} would look for {', '.join(view.on_disk)} when it starts")
        if not self._cookies_apart():
            wrong.append("the sides share an Erlang cookie")
        if wrong:
            raise VerifyFailed(f"{self.id}: {'; '.join(wrong)}", REMEDY)
        spent, ticktime = self.recall("cut") or (0.0, 0.0)
        told = f"; cut in {spent:.2f} s of net_ticktime {ticktime:.0f}" if ticktime else ""
        return f"two clusters of {len(self.hosts('keep'))} and {len(self.hosts('new'))} nodes{told}"

    def _walls_or_two(self) -> bool:
        return self.parted() or any(self._walls().values())


class OldCookie(RabbitStep):
    """Acts on undo only, and last: the new side's nodes, blank again, get their former cookie."""

    kind: ClassVar[str] = "rabbit-cookie"

    def _old(self) -> str:
        return str(self.context.journal.recall(str(self.param("of")), "old-cookie") or "")

    def look(self, toward: Direction) -> Finding:
        old = self._old()
        if not old or all(self.node(h).cookie() == old for h in self.hosts("new")):
            return Finding.done("the former cookie")
        return Finding.not_done("the cookie of the cut")

    def act(self, toward: Direction) -> None:
        first = self.node(self.hosts("new")[0])
        for host in self.hosts("new"):
            self.node(host).take_cookie(self.context.keep, first, self._old())
