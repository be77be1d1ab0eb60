"""Start, stop and restart units; a restart is done when the process is newer than what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recell.adapters.ports import UnitState, processes_of
from recell.errors import StepFailed
from recell.model.deployment import INIT_SCRIPTS
from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep

POLL_S = 1.0
WARM_S = 15.0
"""At most so long are a new nova-api's first requests recell's own."""


def at_rest() -> str:
    """Of a server that nobody sends anything more, and that would never end by itself: it has had the time to
    finish what it had read. nova-cells is one: its servers between cells are never told to stop."""
    return ""


class UnitStep(BaseStep):
    """Shared: which unit, what it reads, when it last began."""

    def unit(self) -> UnitState:
        return self.host.unit(str(self.param("unit")))

    def newest_input(self) -> float:
        """When the newest file that the unit reads at its start was written (seconds since 1970)."""
        unit = self.unit()
        paths = [*self.param("reads", []), unit.fragment, *unit.dropins]
        stats = [self.host.stat(p) for p in paths if p]
        return max((s.mtime for s in stats if s), default=0.0)

    def fresh(self) -> bool:
        """The main process began after everything it reads was written."""
        unit = self.unit()
        return unit.running and unit.started_at > self.newest_input()

    def consuming(self, broker: str, vhost: str, topics: list[str]) -> bool:
        """This unit's host is served by a consumer for every one of ``topics`` on that broker.

        oslo.messaging declares ``<topic>.<host>`` beside the topic's shared queue: its consumers
        are this host's. Asking the broker costs seconds; a process without a connection isn't asked for.
        """
        unit = self.unit()
        if not unit.running or self.is_lost(broker):
            return False
        pids = [p.pid for p in processes_of(unit, self.host.processes())]
        if not self.host.sockets(sorted(pids)):
            return False
        served = {q.name for q in self.world.broker(broker).queues(vhost) if q.consumers}
        return all(f"{topic}.{self.param('nova_host')}" in served for topic in topics)

    def end(self, toward: Direction, broker: str, vhost: str) -> None:
        """End the unit without losing a message that ``broker`` holds for it."""
        held = self.world.stop_rpc_server(
            self.spec.where,
            str(self.param("unit")),
            broker,
            vhost,
            self.limit("stop_s"),
            idle=at_rest if self.param("hangs", False) else None,
            lost=self.is_lost(broker),
        )
        if not self.param("hangs", False):  # to one that does nobody sends any more
            self.deliveries_held(toward, held)

    def await_consuming(self, broker: str, vhost: str, topics: list[str]) -> None:
        limit = self.limit("start_s")
        began = self.world.clock()
        while not self.consuming(broker, vhost, topics):
            unit = self.unit()
            if unit.active == "failed":
                raise StepFailed(
                    f"{unit.name} on {self.spec.where} failed to start",
                    f"See journalctl -u {unit.name} there, then: recell resume, or recell undo",
                )
            if self.world.clock() - began > limit:
                raise StepFailed(
                    f"{unit.name} on {self.spec.where} does not serve {', '.join(topics)} on {broker}"
                    f" after {limit:.0f} s",
                    f"See journalctl -u {unit.name} there, then: recell resume",
                )
            self.world.wait(POLL_S)

    def answers(self) -> Finding:
        """What it says where users ask it; ``url``."""
        unit = self.unit()
        status = self.host.http_status(str(self.param("url")), timeout=10)
        if 0 < status < 500:
            return Finding.done(f"{unit.name} answers {status}, newer than its configuration")
        return Finding.partial(f"{unit.name} runs and answers {status or 'nothing'} yet")

    def nobody_is_served(self) -> None:
        """A proxy that was reloaded meanwhile has forgotten the drain: don't restart under users."""
        for target in self.param("servers", []):
            for server in self.world.proxy(target["proxy"]).servers():
                if (server.backend, server.server) == (
                    target["backend"],
                    target["server"],
                ) and server.state.split()[0] in ("UP", "no"):
                    raise StepFailed(
                        f"{server.backend}/{server.server} on {target['proxy']} takes requests again",
                        "Somebody reloaded HAProxy or set it ready; then: recell resume drains it again",
                    )

    def warm(self) -> None:
        """A new nova-api's first requests are recell's own; nothing depends on them."""
        if self.param("warm", False):
            self.remember(
                "warmed", self.host.first_requests(str(self.param("url")), self.param("reads"), WARM_S)
            )


def named_files(argv: Sequence[str]) -> list[str]:
    """What a command line names with --config-file, in either spelling."""
    words: list[str] = []
    for word in argv:
        words += word.split("=", 1) if word.startswith("--config-file=") else [word]
    return [words[i + 1] for i, w in enumerate(words[:-1]) if w == "--config-file"]


def begun_as_written(begun: Sequence[str], written: Sequence[str], reads: Sequence[str]) -> bool:
    """Whether a process reads the files that its unit names. An init script names them only when it runs: it
    has to be those that the step knows, ``reads``."""
    if written and written[0].startswith(INIT_SCRIPTS):
        return set(reads) <= set(named_files(begun))
    return named_files(begun) == named_files(written)


class StartUnit(UnitStep):
    """Start (and enable) a new RPC server beside the old ones; undo ends it without losing a message.

    ``hangs``: it does not end when it is asked to, and is killed when nothing is left to it.
    """

    kind: ClassVar[str] = "start-unit"

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        if toward == "backward":
            if not unit.exists or (unit.active in ("inactive", "failed") and not unit.enabled):
                return Finding.done(f"{unit.name} does not run")
            return Finding.not_done(f"{unit.name} is {unit.active}")
        if unit.enabled and self.fresh() and self._consumes():
            return Finding.done(
                f"{unit.name} serves {', '.join(self.param('topics'))} on {self.param('broker')}"
            )
        return Finding.partial(f"{unit.name} is {unit.active}") if unit.running else Finding.not_done()

    def _consumes(self) -> bool:
        return self.consuming(str(self.param("broker")), str(self.param("vhost")), self.param("topics"))

    def act(self, toward: Direction) -> None:
        name = str(self.param("unit"))
        unit = self.unit()
        if toward == "forward":
            if not unit.enabled:
                self.host.systemctl("enable", name)
            if not self.fresh():
                (self.restart_unit if unit.running else self.start_unit)(name)
            self.await_consuming(str(self.param("broker")), str(self.param("vhost")), self.param("topics"))
            return
        if unit.active not in ("inactive", "failed"):
            self.end(toward, str(self.param("broker")), str(self.param("vhost")))
        if unit.enabled:
            self.host.systemctl("disable", name)


class RestartRpc(UnitStep):
    """Restart an RPC server, onto another broker or on its own: what is sent meanwhile is not lost.

    ``old`` and ``new``: ``{broker, vhost}`` on the way forward; the way back goes from new to old.
    When both are the same, the restart is for the configuration's sake and its age counts.
    """

    kind: ClassVar[str] = "restart-rpc"

    def _ends(self, toward: Direction) -> tuple[dict[str, str], dict[str, str]]:
        old, new = self.param("old"), self.param("new")
        return (old, new) if toward == "forward" else (new, old)

    def look(self, toward: Direction) -> Finding:
        # Where it takes its messages from tells which configuration it runs with; the file's age
        # does not: put back by undo, it is younger than a process that never read the other one.
        _, target = self._ends(toward)
        unit = self.unit()
        topics = self.param("topics")
        stays = self.param("old") == self.param("new")
        if (self.fresh() or not stays) and self.consuming(target["broker"], target["vhost"], topics):
            return Finding.done(f"{unit.name} serves {', '.join(topics)} on {target['broker']}")
        if unit.running:
            return Finding.not_done(
                f"{unit.name} is older than its configuration"
                if stays
                else f"{unit.name} does not serve {', '.join(topics)} on {target['broker']}"
            )
        return Finding.partial(f"{unit.name} is {unit.active}")

    def act(self, toward: Direction) -> None:
        source, target = self._ends(toward)
        name = str(self.param("unit"))
        unit = self.unit()
        if unit.active not in ("inactive", "failed") and not self._just_begun():
            self.end(toward, source["broker"], source["vhost"])
        self.start_unit(name)
        self.await_consuming(target["broker"], target["vhost"], self.param("topics"))

    def _just_begun(self) -> bool:
        """Begun by a run that was killed before it saw the unit serve: it reads the new file already."""
        source = self.param("old"), self.param("new")
        serves = any(self.consuming(e["broker"], e["vhost"], self.param("topics")) for e in source)
        return self.fresh() and not serves


class RestartApi(UnitStep):
    """Restart a WSGI service (nova-api, metadata) that takes no requests now; wait until it answers.

    ``by_files``: a process that was begun with other files than its unit names now is restarted as well. A
    drop-in that was taken away leaves nothing whose age would tell.
    """

    kind: ClassVar[str] = "restart-api"

    def fresh(self) -> bool:
        return super().fresh() and (not self.param("by_files") or self._begun_as_written())

    def _begun_as_written(self) -> bool:
        unit = self.unit()
        begun = [p.argv for p in self.host.processes() if p.pid == unit.main_pid]
        return not begun or begun_as_written(begun[0], unit.exec_start, self.param("reads", []))

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        if not self.fresh():
            return Finding.not_done(f"{unit.name} is {unit.active}, older than its configuration")
        return self.answers()

    def act(self, toward: Direction) -> None:
        self.nobody_is_served()
        if not self.fresh():
            self.restart_unit(str(self.param("unit")))
        self.await_answer()

    def await_answer(self) -> None:
        began = self.world.clock()
        while not 0 < self.host.http_status(str(self.param("url")), timeout=30) < 500:
            if self.unit().active == "failed" or self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{self.param('unit')} on {self.spec.where} does not answer at {self.param('url')}",
                    f"See journalctl -u {self.param('unit')} there, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)
        self.warm()


class Renewed(UnitStep):
    """The process that ran when this step began has to go: what it reads at its start (a cell mapping
    in the database, too, whose age no file tells) has changed.

    It is known by its pid and its start. A later restart by anybody else counts as well. ``because``: the
    step that writes the mapping; each time it has, a process has to go anew. Where it acts both ways, undo
    only sees to it that the unit runs: a run may have been killed while it was down. The restart that undo
    needs comes later in its way, when the address was taken back.
    """

    def only_runs(self, toward: Direction) -> bool:
        return toward == "backward" and self.spec.acts == "both"

    def _turn(self) -> int:
        """How often the mapping was written; 0: never, so every process is right."""
        return int(self.context.journal.recall(str(self.param("because")), "turn", 0))

    def renewed(self, toward: Direction) -> bool:
        if self.only_runs(toward):
            return self.unit().running
        turn, unit = self._turn(), self.unit()
        known = self.recall("before", {})
        if not unit.running or not self.fresh():
            return False
        if not turn:
            return True
        if known.get("turn") != turn:
            return False
        return bool(unit.main_pid != known["pid"] or unit.started_at > known["began"] + 1.0)

    def note_old(self) -> None:
        """Before anything is restarted."""
        if self.recall("before", {}).get("turn") != self._turn():
            unit = self.unit()
            self.remember("before", {"turn": self._turn(), "pid": unit.main_pid, "began": unit.started_at})


class RenewApi(Renewed, RestartApi):
    """Restart a WSGI service for a changed cell mapping."""

    kind: ClassVar[str] = "renew-api"

    def look(self, toward: Direction) -> Finding:
        if not self.renewed(toward):
            return Finding.not_done(f"{self.param('unit')} is older than the cell's new address")
        return self.answers()

    def act(self, toward: Direction) -> None:
        if self.only_runs(toward):
            self.start_unit(str(self.param("unit")))
        else:
            self.note_old()
            self.nobody_is_served()
            if not self.renewed(toward):
                self.restart_unit(str(self.param("unit")))
        self.await_answer()


class RenewRpc(Renewed, RestartRpc):
    """Restart an RPC server where it is, for a changed cell mapping or configuration."""

    kind: ClassVar[str] = "renew-rpc"

    def look(self, toward: Direction) -> Finding:
        if not self.renewed(toward):
            return Finding.not_done(f"{self.param('unit')} is older than the cell's new address")
        end, topics = self.param("old"), self.param("topics")
        if self.consuming(end["broker"], end["vhost"], topics):
            return Finding.done(f"{self.param('unit')} serves {', '.join(topics)} on {end['broker']}")
        return Finding.partial(f"{self.param('unit')} runs and does not serve {', '.join(topics)} yet")

    def act(self, toward: Direction) -> None:
        end = self.param("old")
        if not self.only_runs(toward):
            self.note_old()
            if not self.renewed(toward) and self.unit().active not in ("inactive", "failed"):
                self.end(toward, end["broker"], end["vhost"])
        self.start_unit(str(self.param("unit")))
        self.await_consuming(end["broker"], end["vhost"], self.param("topics"))


class RenewConsole(Renewed):
    """Restart a console proxy. Open consoles end with it; users open them again."""

    kind: ClassVar[str] = "renew-console"

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        if not self.renewed(toward):
            return Finding.not_done(f"{unit.name} is older than its configuration")
        return Finding.done(f"{unit.name} is newer than its configuration")

    def act(self, toward: Direction) -> None:
        self.note_old()
        if not self.renewed(toward):
            (self.start_unit if self.only_runs(toward) else self.restart_unit)(str(self.param("unit")))
        began = self.world.clock()
        while not self.unit().running:
            if self.unit().active == "failed" or self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{self.param('unit')} on {self.spec.where} does not start",
                    f"See journalctl -u {self.param('unit')} there, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)
