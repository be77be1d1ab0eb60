"""One move, from the first look to the last: prepare, copy, follow, drain, reverse, finish."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Session
from recell.errors import RecellError, StepFailed, VerifyFailed
from recell.model.moving import Pace
from recell.model.scope import Scope
from recell.mover.begin import begin, resume
from recell.mover.copy import Copier
from recell.mover.feed import ForeignWriter, Start, known_at
from recell.mover.flow import Flow
from recell.mover.follow import Follower
from recell.mover.force import in_force
from recell.mover.journal import Journal, Phase, State, positions, same_scope, set_pace, state_of
from recell.mover.members import Members, Work
from recell.mover.options import Drained, Options, Status
from recell.mover.pair import Pair
from recell.mover.throttle import Throttle
from recell.mover.verify import Report, Verifier
from recell.mover.watch import Watch

__all__ = ["Drained", "Move", "Options", "Status"]

T = TypeVar("T")


class Move:
    """Not for two threads at once, but for :meth:`status`, :meth:`set_rate` and :meth:`stop`.

    Every method raises a RecellError that says what to do. After any of them, and after a kill, a new
    Move of the same two databases and the same scope goes on: ``prepare`` finds the journal.
    """

    def __init__(self, source: Endpoint, target: Endpoint, scope: Scope, options: Options | None = None
                 ) -> None:
        self.scope = scope
        self.options = options or Options()
        self._pair = Pair(source, target, self.options.patience_s)
        self.members = Members(scope)
        self.throttle = Throttle(limits=self.options.limits)
        self._state: State | None = None
        self._changing = threading.Lock()
        self._journal: Journal | None = None
        self._flow: Flow | None = None
        self._watch: Watch | None = None
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
        return self._pair.pinned(self._state)[0]

    @property
    def target(self) -> Endpoint:
        return self._pair.pinned(self._state)[1]

    @property
    def backward(self) -> bool:
        """Whether rows flow from the target to the source now."""
        return self._known.backward

    @property
    def _known(self) -> State:
        if self._state is None:
            raise StepFailed("this move has not been prepared", "Call prepare first")
        return self._state

    def prepare(self) -> Phase:
        """Begin, or find where an earlier run stood; from here on the source's changes are noted.

        :raises BinlogLost, ServerReplaced, JournalLost: an earlier run can't be gone on with.
        """
        self.close()
        self.throttle, self._clock = Throttle(limits=self.options.limits), []
        patiently = self._pair.patiently
        source, target = self._pair.ends
        theirs = patiently(lambda: state_of(target), target)
        state = in_force(self._pair.ends, patiently(lambda: state_of(source), source), theirs)
        if state is None:
            patiently(self._begin, target)
        else:
            same_scope(state, self.scope)
            patiently(lambda: self._resume(state), target)
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
                if self._flow is not None and self._flow.broken:
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
        self._undisturbed()
        if self.phase == "drained":
            self._write(phase="following")
        if self._flow is not None:
            self._flow.follower.start()
        # So that drain, while writers wait, has no connection to make.
        for endpoint in self._direction():
            self._pair.end_of(endpoint)

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
        self._undisturbed()
        began = time.monotonic()
        flow, end = self._flowing, self._source_end()
        if not flow.feed.reach(end, limit_s):
            raise StepFailed(f"the source's binlog was not read up to {end} in {limit_s:.0f} s",
                             "Let the writers go on, and look at the source's load")
        follower = flow.follower
        follower.stop()
        self._check()
        keys = 0
        while True:
            settled = follower.settle()
            keys += settled or 0
            if settled is not None and not follower.unproven_keys and not len(self.members.work):
                break
            self._be_sure()  # what a server lost when it died never gets equal
            if time.monotonic() - began > limit_s:
                raise self._not_equal(follower, end)
            time.sleep(0.005)
        self._watched(limit_s)
        now = self._source_end()
        if not flow.feed.reach(now, limit_s) or len(self.members.work):
            raise StepFailed("rows of the source still change", "Stop its writers before draining it")
        self._be_sure()
        self._write(phase="drained", position=str(end), gtid=follower.proven_gtid, **self._marks(end))
        return Drained(str(end), keys, time.monotonic() - began)

    def late(self, bring: Callable[[Work], T]) -> T | None:
        """After drain: hand over what has changed at the source since, once; None when nothing has.

        :raises Busy: ``bring`` did; it is handed over again.
        """
        if self.phase != "drained":
            raise StepFailed(f"the move is {self.phase}, not drained", "Drain it first")
        end = self._source_end()
        if not self._flowing.feed.reach(end, self.options.patience_s):
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
        self._write(position=str(work.position), proven=str(work.position), gtid=work.gtid,
                    begun=self._flowing.feed.begun(work.position))
        return found

    def let_in(self) -> None:
        """From now on others may write these rows at the target; until now nobody has.

        :raises ForeignWriter: somebody has. :raises VerifyFailed: not all rows were compared.
        :raises StepFailed: the move can be turned back, so nobody may.
        """
        if self.options.alone:
            raise StepFailed("nobody else may write what this move writes", "Turn it back, or finish it")
        if not self._guarded:
            return
        self._undisturbed()
        self._watched(self.options.patience_s)
        self._check()
        self._be_sure()  # from now on their writes are differences too
        self._write(guarded=False)
        self._flowing.let_in()

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
        if not self._flowing.feed.reach(end, self.options.patience_s) or len(self.members.work):
            raise ForeignWriter(f"rows of {here.where} changed after they were proven equal",
                                "Stop that writer, then drain again")
        before = replace(self._known, verified=self.sure)
        self._stop_flow()
        old, self._journal = self._kept, None
        back = Journal(here)
        back.create()
        back.take_over()
        start = self._pair.patiently(lambda: known_at(there, Position.parse(before.watched)), there)
        watched = self._pair.patiently(lambda: known_at(here, end), here)
        after = replace(
            before, generation=before.generation + 1, phase="following", position=str(start.position),
            proven=str(start.position), gtid=start.gtid, source=start.identity, target=watched.identity,
            watched=str(watched.position), first=str(start.position), begun=start.begun,
            watched_begun=watched.begun)
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
        for endpoint in self._pair.ends:
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
        self._stop_flow()
        self._pair.close()
        if self._journal is not None:
            self._journal.close()
        self._journal = None

    # -- while it runs ---------------------------------------------------------------------------

    def set_rate(self, rate: float, paused: bool = False) -> None:
        """Rows per second of copy and verification together; 0 is as fast as the source bears.

        Kept beside the journal, so any process may call it while another one moves.
        """
        set_pace(self._pair.ends, Pace(rate, paused))
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
        follower = self._flow.follower if self._flow is not None else None
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
        return self._pair.direction(self._state)

    @property
    def _kept(self) -> Journal:
        if self._journal is None:
            raise StepFailed("this move has been closed", "Call prepare first")
        return self._journal

    def _begin(self) -> None:
        self._journal = Journal(self._pair.ends[1])
        self._state = begin(self._pair, self.scope, self.members, self._journal)

    def _resume(self, state: State) -> None:
        self._state = state
        here, there = self._direction()
        self._journal = Journal(there)
        resume(here, there, state, self.members, self._journal, watched=self._guarded)

    def _start(self, start: Start | None = None, watched: Start | None = None) -> None:
        here, there = self._direction()
        state = self._known
        start = start or Start(positions(state)[1], state.gtid, state.source, state.begun)
        if watched is None and self._guarded:
            watched = Start(Position.parse(state.watched), "", state.target or {}, state.watched_begun)
        self._compared = 0
        self._flow = Flow(here, there, start, watched, self.members, self._kept, state, self.options,
                          self._note)
        if self._watch is None:
            self._watch = Watch(self.throttle, self._direction, self._applied_position,
                                self.options.replicas)

    # -- while it runs, inside --------------------------------------------------------------------

    def _note(self, session: Session, position: Position, proven: Position, gtid: str) -> None:
        unsure = {"verified": False} if self._doubt else {}
        self._change(session, position=str(position), gtid=gtid, **self._marks(proven), **unsure)

    def _marks(self, proven: Position) -> dict[str, str]:
        """From where a run that comes after a kill reads both binlogs, and what their files are known by."""
        flow = self._flowing
        marks = {"proven": str(proven), "begun": flow.feed.begun(proven)}
        if flow.sentry is not None:
            safe = flow.sentry.safe
            marks |= {"watched": str(safe), "watched_begun": flow.sentry.begun(safe)}
        return marks

    @property
    def _flowing(self) -> Flow:
        if self._flow is None:
            raise StepFailed("this move has been closed", "Call prepare first")
        return self._flow

    @property
    def sure(self) -> bool:
        """Whether all rows were compared since the copy, and since one of the servers died or ran unseen."""
        return self._known.verified and not self._doubt

    @property
    def _deaths(self) -> int:
        return self._flow.deaths if self._flow is not None else 0

    @property
    def _doubt(self) -> bool:
        return self._deaths > self._compared

    def _be_sure(self) -> None:
        if not self.sure:
            raise VerifyFailed("no full verification has ended well since the copy, or since one of the"
                               " servers died, or ran unseen between two restarts", "Verify first")

    def _stop_flow(self) -> None:
        if self._flow is not None:
            self._flow.stop()
        self._flow = None

    def _check(self) -> None:
        """:raises RecellError: what stopped a thread."""
        if self._flow is not None:
            self._flow.check()

    def _applied(self, end: Position, limit_s: float) -> bool:
        return self._flowing.applied(end, limit_s)

    def _applied_position(self) -> Position | None:
        flow = self._flow
        return flow.follower.position if flow is not None and flow.follower.running else None

    def _source_end(self) -> Position:
        return self._pair.end_of(self._direction()[0])

    @property
    def _guarded(self) -> bool:
        """Whether nobody else may write these rows at the target."""
        return self.options.alone or self._known.guarded

    def _undisturbed(self) -> None:
        """Before anything is applied after a beginning: nobody has written these rows at the target since it
        was looked there last. Else writers are there by now, and what the source has is older."""
        flow, there = self._flowing, self._direction()[1]
        if flow.sentry is None or flow.undisturbed:
            return
        end, before = self._pair.end_of(there), None
        while not flow.sentry.reach(end, self.options.patience_s):
            if flow.sentry.position == before:  # there may be much of it
                raise StepFailed(f"the binlog of {there.where} was not read up to {end}",
                                 "Look at that server's load, then go on with the same move")
            before = flow.sentry.position
        flow.undisturbed = True

    def _watched(self, limit_s: float) -> None:
        """The target's binlog up to now holds nobody's writes to our rows but ours."""
        there, sentry = self._direction()[1], self._flowing.sentry
        if sentry is None:
            return
        end = self._pair.end_of(there)
        if not sentry.reach(end, limit_s):
            raise StepFailed(f"the binlog of {there.where} was not read up to {end} in {limit_s:.0f} s",
                             "Look at that server's load, then drain again")

    def _not_equal(self, follower: Follower, end: Position) -> RecellError:
        if len(self.members.work):
            return StepFailed("rows of the source still change", "Stop its writers before draining it")
        named = [f"{table} {key}" for table, key in follower.unproven]
        return VerifyFailed(f"{len(named)} rows differ at {end}: {'; '.join(named[:10])}",
                            "Let the writers go on, and verify in full")

    def _write(self, **changes: object) -> None:
        self._change(None, **changes)

    def _change(self, session: Session | None, **changes: object) -> None:
        """In the transaction of ``session``, or in one of its own."""
        self._kept.change(session, **changes)
        with self._changing:
            self._state = replace(self._known, **changes)  # type: ignore[arg-type]
