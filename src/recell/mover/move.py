"""One move, from the first look to the last: prepare, copy, follow, drain, reverse, finish."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Lost, Session, Sessions
from recell.errors import RecellError, StepFailed, Unreachable, VerifyFailed
from recell.model.moving import Pace
from recell.model.scope import Scope
from recell.mover.copy import Copier
from recell.mover.feed import Echo, Feed, ForeignWriter, Sentry, Start, known_at, start_of
from recell.mover.follow import Follower
from recell.mover.identity import check_server, continues, none_prepared
from recell.mover.journal import (
    Journal,
    Phase,
    State,
    fingerprint,
    make_tables,
    positions,
    same_scope,
    set_pace,
    state_of,
)
from recell.mover.members import Members, Work, select_members
from recell.mover.throttle import Limits, Throttle
from recell.mover.verify import Report, Verifier
from recell.mover.watch import Watch

__all__ = ["Drained", "Move", "Options", "Status"]

T = TypeVar("T")
_HERE = "Go on with the same move: what was done is kept"


@dataclass(frozen=True)
class Options:
    """``workers``: chunks copied at once. ``patience_s``: how long a server may be away. ``limits``:
    what the source must be spared. ``replicas``: of the source, whose lag counts. ``alone``: nobody else
    writes to these rows at the target; otherwise they are not watched, and can't be turned back. ``echo``:
    which of another's rows there are put right instead of stopping the move."""

    workers: int = 2
    patience_s: float = 60.0
    limits: Limits = field(default_factory=Limits)
    replicas: tuple[Endpoint, ...] = ()
    alone: bool = True
    echo: Echo = lambda table, key: False


@dataclass(frozen=True)
class Drained:
    """``position``: of the source, at which both sides were proven equal; ``keys``: looked at for
    that since the writers stopped; ``seconds``: it took."""

    position: str
    keys: int
    seconds: float


@dataclass(frozen=True)
class Status:
    """``rows``: copied so far, of about ``rows_total``; ``rate``: rows per second, of the copy or the
    verification; ``eta_s``: to the end of the copy; ``lag_s``: how long ago the source was as the target
    is now (None before rows are applied); ``dirty``: keys to be applied; ``unproven``: applied and not
    compared yet; ``applied``: keys in this run."""

    phase: Phase
    backward: bool
    rows: int
    rows_total: int
    rate: float
    eta_s: float | None
    lag_s: float | None
    dirty: int
    unproven: int
    applied: int
    paused: bool
    position: str


class Move:
    """Not for two threads at once, but for :meth:`status`, :meth:`set_rate` and :meth:`stop`.

    Every method raises a RecellError that says what to do. After any of them, and after a kill, a new
    Move of the same two databases and the same scope goes on: ``prepare`` finds the journal.
    """

    def __init__(self, source: Endpoint, target: Endpoint, scope: Scope, options: Options | None = None
                 ) -> None:
        self.scope = scope
        self.options = options or Options()
        self._ends = source, target
        self.members = Members(scope)
        self.throttle = Throttle(limits=self.options.limits)
        self._state: State | None = None
        self._changing = threading.Lock()
        self._journal: Journal | None = None
        self._feed: Feed | None = None
        self._sentry: Sentry | None = None
        self._follower: Follower | None = None
        self._watch: Watch | None = None
        self._asking = Sessions()
        self._rows = 0
        self._clock: list[tuple[float, int]] = []
        self._compared = 0

    # -- phases ----------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._known.phase

    @property
    def source(self) -> Endpoint:
        """Where rows came from at first."""
        return self._pinned()[0]

    @property
    def target(self) -> Endpoint:
        return self._pinned()[1]

    @property
    def backward(self) -> bool:
        """Whether rows flow from the target to the source now."""
        return self._known.generation % 2 == 1

    @property
    def _known(self) -> State:
        if self._state is None:
            raise StepFailed("this move has not been prepared", "Call prepare first")
        return self._state

    def prepare(self) -> Phase:
        """Begin, or find where an earlier run stood; from here on the source's changes are noted.

        :raises BinlogLost, ServerReplaced: an earlier run can't be gone on with.
        """
        self.close()
        self.throttle, self._clock = Throttle(limits=self.options.limits), []
        source, target = self._ends
        found = (self._patiently(lambda: state_of(target), target),
                 self._patiently(lambda: state_of(source), source))
        live = [s for s in found if s is not None and s.phase != "reversed"]
        if not live:
            self._patiently(self._begin, target)
        else:
            # Killed in the middle of reverse(): the earlier direction is still drained, and in force.
            state = min(live, key=lambda s: s.generation)
            same_scope(state, self.scope)
            self._patiently(lambda: self._resume(state), target)
        self._start()
        return self.phase

    def copy(self) -> int:
        """Copy what is not copied yet; how many rows have been copied in all."""
        if self.phase != "copying":
            return self._kept.copied()
        here, there = self._direction()
        journal = self._kept
        self._rows = journal.copied()
        copier = Copier(here, there, self.members, journal, self.throttle, self.options.workers,
                        self.options.patience_s)
        ended = threading.Event()

        def guard() -> None:
            while not ended.wait(0.5):
                if any(t is not None and t.failed is not None for t in (self._feed, self._sentry)):
                    copier.stop()
                    self.throttle.stop()

        threading.Thread(target=guard, name="guard", daemon=True).start()
        try:
            copier.run()
        finally:
            ended.set()
        self._check()
        self._write(phase="following")
        return journal.copied()

    def follow(self) -> None:
        """Apply changes from now on, in a thread of its own."""
        if self.phase == "copying":
            raise StepFailed("the copy is not done", "Call copy first")
        self._check()
        if self.phase == "drained":
            self._write(phase="following")
        if self._follower is not None:
            self._follower.start()
        # So that drain, while writers wait, has no connection to make.
        for endpoint in self._direction():
            self._end_of(endpoint)

    def catch_up(self, limit_s: float, lag_s: float = 1.0) -> float:
        """Wait until the target is at most ``lag_s`` behind. The lag, in seconds.

        :raises StepFailed: it is not after ``limit_s``.
        """
        until = time.monotonic() + limit_s
        self._watched(limit_s)  # whoever looks whether it is sure knows of both servers' deaths then
        while True:
            self._check()
            began = time.monotonic()
            if self._applied(self._source_end(), until - began):
                lag = time.monotonic() - began
                if lag <= lag_s:
                    return lag
            if time.monotonic() >= until:
                raise StepFailed(
                    f"the target is more than {lag_s:.1f} s behind after {limit_s:.0f} s",
                    "Wait for a calmer hour, or see what slows the target down",
                )

    def verify(self) -> Report:
        """Compare all rows of both sides while both are in use; goes on where it was interrupted."""
        here, there = self._direction()
        if self.phase == "copying":
            raise StepFailed("the copy is not done", "Call copy first")
        drained = self.phase == "drained"
        deaths = self._deaths

        def barrier() -> Position | None:
            if drained:
                return None
            end = self._source_end()
            if not self._applied(end, self.options.patience_s):
                raise StepFailed("the target does not follow the source", "Call follow first")
            return end

        journal = Journal(there)
        try:
            journal.epoch = self._kept.epoch
            report = Verifier(here, there, self.members, journal, self.throttle, barrier, self._check,
                              self.options.patience_s).run()
        finally:
            journal.close()
        if report.equal:
            self._compared = deaths
            if not self._known.verified and not self._doubt:
                self._write(verified=True)
        return report

    def drain(self, limit_s: float = 30.0) -> Drained:
        """With the source's writers stopped: apply what is left, and prove both sides equal.

        :raises StepFailed: somebody still writes, or it takes too long.
        :raises VerifyFailed: rows differ, or no full verification has ended well since the copy.
        """
        self._be_sure()
        began = time.monotonic()
        end = self._source_end()
        if self._feed is None or not self._feed.reach(end, limit_s):
            raise StepFailed(f"the source's binlog was not read up to {end} in {limit_s:.0f} s",
                             "Let the writers go on, and look at the source's load")
        follower = self._follower
        if follower is None:
            raise StepFailed("this move has been closed", "Call prepare first")
        follower.stop()
        self._check()
        keys = 0
        while True:
            settled = follower.settle()
            keys += settled or 0
            if settled is not None and not follower.unproven_keys and not len(self.members.work):
                break
            if time.monotonic() - began > limit_s:
                raise self._not_equal(follower, end)
            time.sleep(0.005)
        self._watched(limit_s)
        now = self._source_end()
        if not self._feed.reach(now, limit_s) or len(self.members.work):
            raise StepFailed("rows of the source still change", "Stop its writers before draining it")
        self._be_sure()
        watched = self._known.watched if self._sentry is None else str(self._sentry.safe)
        self._write(phase="drained", position=str(end), proven=str(end), gtid=follower.proven_gtid,
                    watched=watched)
        return Drained(str(end), keys, time.monotonic() - began)

    def late(self, bring: Callable[[Work], T]) -> T | None:
        """After drain: hand over what has changed at the source since, once; None when nothing has.

        :raises Busy: ``bring`` did; it is handed over again.
        """
        if self.phase != "drained":
            raise StepFailed(f"the move is {self.phase}, not drained", "Drain it first")
        end = self._source_end()
        if self._feed is None or not self._feed.reach(end, self.options.patience_s):
            raise StepFailed(f"the source's binlog was not read up to {end}", "Look at the source's load")
        work = self.members.take()
        if work.position is None or not len(work):
            return None
        try:
            found = bring(work)
        except BaseException:
            self.members.put_back(work)
            raise
        self.members.settled()
        self._write(position=str(work.position), proven=str(work.position), gtid=work.gtid)
        return found

    def reverse(self) -> None:
        """After drain: what has changed at the target since flows back to the source from now on.

        Writers may have begun at the target already: the other direction begins at the position at which
        both sides were proven equal. At the source nobody may write any more. Called again, after another
        drain, it turns back. When a server died since the drain, nothing is proven of what it kept: the next
        drain wants everything compared.
        """
        if not self.options.alone:
            raise StepFailed("others write at the target, so this move can't turn back", "Begin another one")
        if self.phase != "drained":
            raise StepFailed(f"the move is {self.phase}, not drained", "Stop the writers and drain first")
        here, there = self._direction()
        end = self._source_end()
        if self._feed is None or not self._feed.reach(end, self.options.patience_s) or len(self.members.work):
            raise ForeignWriter(f"rows of {here.where} changed after they were proven equal",
                                "Stop that writer, then drain again")
        before = replace(self._known, verified=self.sure)
        self._stop_threads()
        old, self._journal = self._kept, None
        back = Journal(here)
        back.create()
        back.take_over()
        start = self._patiently(lambda: known_at(there, Position.parse(before.watched)), there)
        watched = self._patiently(lambda: known_at(here, end), here)
        after = replace(
            before, generation=before.generation + 1, phase="following", position=str(start.position),
            proven=str(start.position), gtid=start.gtid, source=start.identity, target=watched.identity,
            watched=str(watched.position))
        with self.members.lock:
            # What left the scope meanwhile is the source's own again, not ours to delete there.
            self.members.ever = {link: set(values) for link, values in self.members.present.items()}
            back.begin(after, self.members.present)
        old.change(phase="reversed")
        old.close()
        self._journal, self._state = back, after
        self._start(start, watched)
        self.follow()

    def finish(self) -> None:
        """Nothing flows any more; the bookkeeping of both sides is removed."""
        self.close()
        for endpoint in self._ends:
            journal = Journal(endpoint)
            try:
                journal.drop()
            finally:
                journal.close()
        self._state = None

    def close(self) -> None:
        """Stop all threads and sessions; the journal stays, and another Move can go on."""
        if self._watch is not None:
            self._watch.close()
        self._watch = None
        self._stop_threads()
        self._asking.close()
        if self._journal is not None:
            self._journal.close()
        self._journal = None

    # -- while it runs ---------------------------------------------------------------------------

    def set_rate(self, rate: float, paused: bool = False) -> None:
        """Rows per second of copy and verification together; 0 is as fast as the source bears.

        Kept beside the journal, so any process may call it while another one moves.
        """
        set_pace(self._ends, Pace(rate, paused))
        self.throttle.set(rate, paused)

    def status(self) -> Status:
        state = self._known
        copied = self._rows + self.throttle.rows
        total = max(sum(t.table.rows for t in self.scope.moving), copied)
        now = time.monotonic()
        self._clock = [*[c for c in self._clock if now - c[0] < 30], (now, self.throttle.rows)]
        first = self._clock[0]
        rate = (self.throttle.rows - first[1]) / (now - first[0]) if now - first[0] > 0.5 else 0.0
        copying = state.phase == "copying"
        follower = self._follower
        return Status(
            state.phase, self.backward, copied if copying else total, total, rate,
            (total - copied) / rate if copying and rate > 0 else None,
            self._watch.lag_s if self._watch else None,
            len(self.members.work), follower.unproven_keys if follower else 0,
            follower.applied_keys if follower else 0, self.throttle.paused,
            str(follower.position) if follower else state.position,
        )

    # -- beginning -------------------------------------------------------------------------------

    def _direction(self) -> tuple[Endpoint, Endpoint]:
        """Where rows come from now, and where they go."""
        source, target = self._pinned()
        return (target, source) if self._state is not None and self.backward else (source, target)

    def _pinned(self) -> tuple[Endpoint, Endpoint]:
        """Both ends; once they are known, no session of theirs is with another server."""
        source, target = self._ends
        if self._state is None:
            return source, target
        mine, theirs = self._state.source, self._state.target or {}
        if self.backward:
            mine, theirs = theirs, mine
        return (replace(source, server=tuple(sorted(mine.items()))),
                replace(target, server=tuple(sorted(theirs.items()))))

    @property
    def _kept(self) -> Journal:
        if self._journal is None:
            raise StepFailed("this move has been closed", "Call prepare first")
        return self._journal

    def _begin(self) -> None:
        source, target = self._ends
        for endpoint in self._ends:
            with closing(Session(endpoint)) as session:
                check_server(session)
        self._journal = journal = Journal(target)
        journal.create()
        watched = self._look(target)
        journal.take_over()
        with closing(Session(source)) as session:
            if not session.tells_snapshots:
                make_tables(source)
            start = start_of(session)
            none_prepared(session)
            self.members.present = select_members(session, self.members)
        self.members.ever = {link: set(values) for link, values in self.members.present.items()}
        move, replica = State.new_ids()
        self._state = State(move, 0, "copying", fingerprint(self.scope), replica, start.identity,
                            str(start.position), str(start.position), start.gtid, watched.identity,
                            str(watched.position))
        journal.endpoint = self.target
        journal.begin(self._state, self.members.present)

    def _resume(self, state: State) -> None:
        self._state = state
        here, there = self._direction()
        self._journal = journal = Journal(there)
        journal.take_over()
        session = Session(here)
        try:
            continues(session, state.source, positions(state)[1], state.gtid)
            start_of(session)
            present = select_members(session, self.members)
        finally:
            session.close()
        session = Session(there)
        try:
            continues(session, state.target or {}, Position.parse(state.watched), "")
        finally:
            session.close()
        was, ever = journal.members()
        members = self.members
        with members.lock:
            members.present = present
            members.ever = {link: ever.get(link, set()) | values for link, values in present.items()}
            for link, values in present.items():
                before = was.get(link, set())
                members.work.joined[link] = values - before
                members.work.left[link] = before - values
                for value in values ^ before:
                    members.touch(link, value, members.work)

    def _look(self, endpoint: Endpoint) -> Start:
        def ask() -> Start:
            with closing(Session(endpoint)) as session:
                return start_of(session)

        return self._patiently(ask, endpoint)

    def _start(self, start: Start | None = None, watched: Start | None = None) -> None:
        here, there = self._direction()
        state = self._known
        start = start or Start(positions(state)[1], state.gtid, state.source)
        watched = watched or Start(Position.parse(state.watched), "", state.target or {})
        with self.members.lock:
            self.members.work.position, self.members.work.gtid = start.position, start.gtid
        patience, self._compared = self.options.patience_s, 0
        self._feed = Feed(here, start, self.members, state.replica_id, patience)
        if self.options.alone:
            self._sentry = Sentry(there, watched, self.members, state.replica_id + 1, patience,
                                  self.options.echo)
        self._feed.start()
        if self._sentry is not None:
            self._sentry.start()
        self._follower = Follower(here, there, self.members, self._kept, self._note,
                                  (start.position, start.gtid), patience)
        if self._watch is None:
            self._watch = Watch(self.throttle, self._direction, self._applied_position,
                                self.options.replicas)

    # -- while it runs, inside --------------------------------------------------------------------

    def _note(self, session: Session, position: Position, proven: Position, gtid: str) -> None:
        watched = str(self._sentry.safe) if self._sentry else self._known.watched
        unsure = {"verified": False} if self._doubt else {}
        self._change(session, position=str(position), proven=str(proven), gtid=gtid, watched=watched,
                     **unsure)

    @property
    def sure(self) -> bool:
        """Whether all rows were compared since the copy, and since one of the servers died or ran unseen."""
        return self._known.verified and not self._doubt

    @property
    def _deaths(self) -> int:
        # Of the server whose log may lack rows, and of the one that may lack what it was given.
        return sum(thread.deaths for thread in (self._feed, self._sentry) if thread is not None)

    @property
    def _doubt(self) -> bool:
        return self._deaths > self._compared

    def _be_sure(self) -> None:
        if not self.sure:
            raise VerifyFailed("no full verification has ended well since the copy, or since one of the"
                               " servers died, or ran unseen between two restarts", "Verify first")

    def _stop_threads(self) -> None:
        if self._follower is not None:
            self._follower.close()
        for thread in (self._feed, self._sentry):
            if thread is not None:
                thread.stop()
        self._feed = self._sentry = self._follower = None

    def _check(self) -> None:
        """:raises RecellError: what stopped a thread."""
        for thread in (self._feed, self._sentry):
            if thread is not None:
                thread.check()
        if self._follower is not None and self._follower.failed is not None:
            raise self._follower.failed

    def _applied(self, end: Position, limit_s: float) -> bool:
        until = time.monotonic() + limit_s
        while True:
            self._check()
            if self._follower is not None and self._follower.position >= end:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)

    def _applied_position(self) -> Position | None:
        follower = self._follower
        return follower.position if follower is not None and follower.running else None

    def _source_end(self) -> Position:
        return self._end_of(self._direction()[0])

    def _end_of(self, endpoint: Endpoint) -> Position:
        return self._patiently(lambda: self._asking.ask(endpoint, Session.binlog_end), endpoint)

    def _watched(self, limit_s: float) -> None:
        """The target's binlog up to now holds nobody's writes to our rows but ours."""
        if not self.options.alone:
            return
        there = self._direction()[1]
        end = self._end_of(there)
        if self._sentry is None or not self._sentry.reach(end, limit_s):
            raise StepFailed(f"the binlog of {there.where} was not read up to {end} in {limit_s:.0f} s",
                             "Look at that server's load, then drain again")

    def _not_equal(self, follower: Follower, end: Position) -> RecellError:
        if len(self.members.work):
            return StepFailed("rows of the source still change", "Stop its writers before draining it")
        named = [f"{table} {key}" for table, key in follower.unproven]
        return VerifyFailed(f"{len(named)} rows differ at {end}: {'; '.join(named[:10])}",
                            "Let the writers go on, and verify in full")

    def _patiently(self, act: Callable[[], T], endpoint: Endpoint) -> T:
        until = time.monotonic() + self.options.patience_s
        while True:
            try:
                return act()
            except (Lost, Busy) as error:
                if time.monotonic() > until:
                    raise Unreachable(f"{endpoint.where} does not answer ({error})", _HERE) from None
                time.sleep(0.3)

    def _write(self, **changes: object) -> None:
        self._change(None, **changes)

    def _change(self, session: Session | None, **changes: object) -> None:
        """In the transaction of ``session``, or in one of its own."""
        self._kept.change(session, **changes)
        with self._changing:
            self._state = replace(self._known, **changes)  # type: ignore[arg-type]
