"""One move of rows that is kept alive between calls, and begun again from the journals in the databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TypeVar

from recell.adapters.mysql.session import Busy, Lost
from recell.errors import RecellError, StepFailed, Unreachable, VerifyFailed
from recell.mover.move import Move, Status
from recell.mover.verify import Report

__all__ = ["KeptMove", "away", "found_equal", "told"]

T = TypeVar("T")

_NAMED = 10
_TELL_S = 2.0


class KeptMove:
    """Not for two threads at once.

    :param where: what doesn't answer when a server is away.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.move: Move | None = None

    @contextmanager
    def going(self, begin: Callable[[], Move]) -> Iterator[Move]:
        """The move, prepared; after an error it is left as it is in the databases.

        :param begin: makes it, where none is alive; an earlier run's is gone on with.
        """
        try:
            yield self._alive(begin)
        except (Lost, Busy) as lost:
            self.leave()
            raise away(self._where, lost) from None
        except BaseException:
            self.leave()
            raise

    def _alive(self, begin: Callable[[], Move]) -> Move:
        if self.move is None:
            move = begin()
            try:
                move.prepare()
            except BaseException:
                move.close()
                raise
            self.move = move
        return self.move

    def leave(self) -> None:
        move, self.move = self.move, None
        if move is not None:
            with suppress(RecellError, Lost, Busy):
                move.close()

    def follow(self, begin: Callable[[], Move], tell: Callable[[dict[str, float]], None]) -> str:
        with self.going(begin) as move:
            began = move.phase
            copied, report = told(move, copy_and_compare, tell)
            said = found_equal(report, "recell undo, and begin again")
            return f"{copied} rows copied, {said}" if began == "copying" else said

    def catch_up(
        self, begin: Callable[[], Move], limit_s: float, carry: Callable[[Move], None] | None = None
    ) -> float:
        """Seconds behind; rows are compared again where something passed that the log doesn't tell.

        :param carry: what no change tells, brought along first.
        """
        with self.going(begin) as move:
            move.follow()
            if carry is not None:
                carry(move)
            lag = move.catch_up(limit_s)
            if not move.sure:
                found_equal(move.verify(), "keep writers out, and mend these rows before going on")
                lag = move.catch_up(limit_s)
            return lag

    def drain(self, limit_s: float) -> str:
        if self.move is None:
            raise StepFailed("changes are not followed", "Catch up first")
        try:
            done = self.move.drain(limit_s)
        except (Lost, Busy) as lost:
            self.leave()
            raise StepFailed(f"a server broke off while it was drained ({lost})", "Try again") from None
        return f"proven equal at {done.position} ({done.keys} rows looked at in {done.seconds:.2f} s)"


def away(where: str, why: Exception) -> Unreachable:
    """A server that a run can be gone on with once it is back."""
    return Unreachable(f"{where} does not answer ({why})", "Make it reachable, then: recell resume")


def copy_and_compare(move: Move) -> tuple[int, Report]:
    copied = move.copy()
    move.follow()
    return copied, move.verify()


def told(move: Move, job: Callable[[Move], T], tell: Callable[[dict[str, float]], None]) -> T:
    """What a long job on the move returns; meanwhile its figures are told."""
    work: Future[T] = Future()

    def run() -> None:
        try:
            work.set_result(job(move))
        except BaseException as error:
            work.set_exception(error)

    # Whoever leaves here early doesn't wait for it: the next run's epoch shuts it out.
    Thread(target=run, name="rows", daemon=True).start()
    while not work.done():
        wait([work], _TELL_S)
        tell(figures(move.status()))
    return work.result()


def found_equal(report: Report, remedy: str) -> str:
    """:raises VerifyFailed: rows differ."""
    if report.equal:
        return f"{report.rows} rows compared, none differs"
    named = "; ".join(f"{d}" for d in report.differences[:_NAMED])
    raise VerifyFailed(f"{len(report.differences)} rows differ: {named}",
                       "Somebody else writes to the other server, or one has lost rows when it died: find out"
                       f" which, {remedy}")


def figures(status: Status) -> dict[str, float]:
    """What the live page shows of a step that copies."""
    # Once they are copied, rows are counted that are compared.
    copied = status.rows if status.phase == "copying" else None
    known = {"rows": copied, "rows_per_s": status.rate, "lag_s": status.lag_s, "eta_s": status.eta_s}
    return {name: round(float(value), 2) for name, value in known.items() if value is not None}
