"""Hosts move between two cells: :class:`~recell.adapters.hosts_port.HostsPort` on real servers.

Rows of instances are the mover's; those of the hosts themselves are few and are copied by themselves while
no nova-compute writes them. In the moment only these hosts' instances are locked, not the cell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from recell.adapters.amqp import Amqp
from recell.adapters.courier import Courier, queues_of
from recell.adapters.mysql.binlog import BinlogLost
from recell.adapters.mysql.session import Busy, Lost
from recell.adapters.mysql.session import Session as Connection
from recell.adapters.mysql.sql import among, name
from recell.adapters.nova_db import SAY_UP
from recell.errors import RecellError, StalePlan, StepFailed, VerifyFailed
from recell.model.hosts import Carried, Following, HostsMove, Late
from recell.model.moving import Login
from recell.model.relay import Side, other
from recell.model.scope import Schema, Scope
from recell.model.violation import Violation
from recell.mover import host_rows, servers
from recell.mover.cell import SIDES, Host
from recell.mover.conflicts import find_conflicts
from recell.mover.hosts_made import CellMaking
from recell.mover.hosts_survey import busy, troubles
from recell.mover.journal import PREFIX, Journal, State
from recell.mover.kept import KeptMove, away
from recell.mover.late import LEFT, bring_late, give_tasks, keep_left, late_tasks, make_left
from recell.mover.members import Work
from recell.mover.move import Move, Options
from recell.planning.tables import guests_scope, hosts_scope

__all__ = ["CellHosts"]

REASON = "recell: this host moves to another cell"
FENCE = "updating_password"
"""A task that nova-compute's start leaves alone, and nova-api lets nothing else begin in."""
ASIDE = PREFIX + "aside"
_NAMED = 10
_TRIES = 5
_AT_ONCE = 500

OpenBroker = Callable[[Side], Amqp]


class CellHosts(CellMaking):
    """Not for two threads at once.

    :param servers_: hosts of both database servers. broker: connects to a side's broker, as Nova does.
    :param nova: Nova's account in databases, the old cell's. permit: asked before every change.
    """

    def __init__(
        self,
        servers_: Mapping[Side, Host],
        move: HostsMove,
        ours: Login,
        nova: Login,
        broker: OpenBroker,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(servers_, move, ours, nova, permit)
        self.move = move
        self._broker = broker
        self._scope: Scope | None = None
        self._kept = KeptMove(f"a database of {move.old.name} or {move.new.name}")
        self._lock: Connection | None = None
        self._keeper: Connection | None = None
        self._hidden = False
        self._late = Late()

    def troubles(self) -> tuple[Violation, ...]:
        return (*self._row_troubles(), *self._broker_troubles())

    def _broker_troubles(self) -> Iterator[Violation]:
        """Both brokers let us in as Nova's account, or one could not be asked for requests that wait."""
        for side in SIDES:
            try:
                self._broker(side).close()
            except StalePlan:
                continue  # the cell is not mapped yet
            except RecellError as error:
                name_ = self.move.at(side).broker
                yield Violation(f"hosts:broker:{name_}", "stop", name_, error.sentence, error.remedy)

    def _row_troubles(self) -> tuple[Violation, ...]:
        with self._root("new") as root:
            tables = servers.table_names(root, self._database("new"))
        made = any(not t.startswith(PREFIX) for t in tables)
        inside = self._database("new") if made else ""
        with self._root("old", self._database("old")) as old, self._root("new", inside) as new:
            schema = self._schema(old, "old")
            found = list(troubles(old, new, self.move, schema, self.nova.user, made))
            if not made or any(v.severity == "stop" for v in found):
                return tuple(found)
            conflicts = find_conflicts(old.endpoint, new.endpoint, hosts_scope(schema, self.move.hosts))
        where = self.move.new.where
        return (
            *found,
            *(
                Violation(f"hosts:in-the-way:{c.table}:{'-'.join(map(str, c.target))}", "stop", where, str(c),
                          "recell renumbers nothing: remove the row that nobody uses")
                for c in conflicts.named[:_NAMED]
            ),
        )  # fmt: skip

    # -- what is under way there -------------------------------------------------------------------

    def _hosts(self) -> list[str]:
        return list(self.move.hosts)

    def busy(self, side: Side) -> dict[str, str]:
        with self._entered(side) as session:
            return busy(session, self.move.hosts)

    def closed(self, side: Side) -> frozenset[str]:
        with self._entered(side) as session:
            rows = session.query(
                "SELECT host FROM services WHERE deleted = 0 AND `binary` = 'nova-compute' AND disabled = 1"
                " AND disabled_reason = %s AND host IN %s",
                (REASON, self._hosts()),
            )
        return frozenset(str(r[0]) for r in rows)

    def shut_out(self, side: Side, hosts: Collection[str]) -> None:
        self._disable(side, hosts, 1, None, 0, REASON)

    def let_in(self, side: Side, hosts: Collection[str]) -> None:
        self._disable(side, hosts, 0, REASON, 1, None)

    def _disable(
        self, side: Side, hosts: Collection[str], to: int, was: str | None, now: int, reason: str | None
    ) -> None:
        if not hosts:
            return
        self._permit()
        with self._entered(side) as session:
            session.execute(
                "UPDATE services SET disabled = %s, disabled_reason = %s WHERE deleted = 0"
                " AND `binary` = 'nova-compute' AND COALESCE(disabled, 0) = %s"
                " AND (%s IS NULL OR disabled_reason = %s) AND host IN %s",
                (to, reason, now, was, was, list(hosts)),
            )

    # -- rows --------------------------------------------------------------------------------------

    def _whole(self) -> Scope:
        """Rows of the hosts and of their instances, by the old cell's schema."""
        if self._scope is None:
            with self._entered("old") as session:
                self._scope = hosts_scope(self._schema(session, "old"), self.move.hosts)
        return self._scope

    def following(self) -> Following:
        for side in SIDES:
            state = self._state(side)
            if state is not None and state.phase != "reversed":
                phase: Any = state.phase if state.phase != "preparing" else "copying"
                return Following(phase, side, state.verified)
        return Following("none")

    def _state(self, side: Side) -> State | None:
        journal = Journal(self._endpoint(side))
        try:
            return journal.state()
        except (Lost, Busy) as error:
            raise away(self.move.at(side).where, error) from None
        finally:
            journal.close()

    def _begin(self, toward: Side) -> Move:
        self._permit()
        source, target = self._endpoint(other(toward)), self._endpoint(toward)
        return Move(source, target, guests_scope(self._whole()), Options(alone=False))

    def follow(self, toward: Side, tell: Callable[[dict[str, float]], None]) -> str:
        now = self.following()
        if now.phase == "none" or now.toward != toward:
            self.forget()
            self.clear(toward)
            conflicts = find_conflicts(
                self._endpoint(other(toward)),
                self._endpoint(toward),
                hosts_scope(self._whole_schema(), self.move.hosts),
            )
            if conflicts.total:
                raise VerifyFailed(
                    f"{conflicts.total} rows of {self.move.at(toward).name} are in the way:"
                    f" {'; '.join(map(str, conflicts.named[:_NAMED]))}",
                    "recell renumbers nothing: remove those that nobody uses, then: recell resume",
                )
            self.part(toward)
        return self._kept.follow(lambda: self._begin(toward), tell)

    def _whole_schema(self) -> Schema:
        scope = self._whole()
        return Schema(scope.database, tuple(t.table for t in scope.tables))

    def bring_hosts(self, toward: Side) -> None:
        self._permit()
        state = self._state(toward)
        if state is not None and state.guarded:
            # nova-compute starts there next, and writes its instances' rows by itself.
            with self._kept.going(lambda: self._begin(toward)) as move:
                move.let_in()
        with self._entered(other(toward)) as source, self._entered(toward) as target:
            host_rows.bring(source, target, self._whole())

    def alive(self, side: Side) -> None:
        with self._entered(side) as session:
            session.execute(SAY_UP, (self._hosts(),))

    def catch_up(self, toward: Side, limit_s: float) -> float:
        return self._kept.catch_up(lambda: self._begin(toward), limit_s)

    def instances(self, side: Side) -> tuple[str, ...]:
        with self._entered(side) as session:
            rows = session.query("SELECT uuid FROM instances WHERE host IN %s", (self._hosts(),))
        return tuple(str(r[0]) for r in rows)

    def forget(self) -> None:
        self._permit()
        self._kept.leave()
        for side in SIDES:
            journal = Journal(self._endpoint(side))
            try:
                journal.drop()
            except (Lost, Busy) as error:
                raise away(self.move.at(side).where, error) from None
            finally:
                journal.close()

    def clear(self, side: Side) -> str:
        self._permit()
        with self._entered(side) as session:
            count = host_rows.clear(session, self._whole())
            for table in (ASIDE, LEFT):
                session.execute(f"DROP TABLE IF EXISTS {name(table)}")
        return f"{count} rows deleted"

    def left(self, side: Side) -> int:
        with self._entered(side) as session:
            return host_rows.left(session, self.move.hosts)

    # -- the moment --------------------------------------------------------------------------------

    def prepare_hold(self, side: Side, limit_s: float) -> None:
        self.let_go()
        try:
            lock = Connection(self._endpoint(side))
            lock.execute(
                "SET SESSION innodb_lock_wait_timeout = %s, SESSION wait_timeout = 15",
                (max(1, round(limit_s)),),
            )
            lock.rollback()
            self._keeper = Connection(self._endpoint(side))
            make_left(self._keeper)
        except (Lost, Busy) as error:
            raise away(self.move.at(side).where, error) from None
        self._lock = lock

    def hold(self, side: Side) -> float:
        lock = self._held()
        try:
            # Their children's inserts wait too, for the foreign key looks at the instance.
            lock.query("SELECT id FROM instances WHERE host IN %s FOR UPDATE", (self._hosts(),))
        except (Lost, Busy) as error:
            self.let_go()
            raise StepFailed(
                f"instances of {', '.join(self.move.hosts)} could not be held ({error})",
                "Nobody is held; try again",
            ) from None
        return 0.0

    def _held(self) -> Connection:
        if self._lock is None:
            raise StepFailed("no hold was prepared", "Prepare it first")
        return self._lock

    def drain(self, limit_s: float) -> str:
        return self._kept.drain(max(limit_s, 0.1))

    def prove_held(self) -> None:
        try:
            self._held().query("SELECT 1")
        except (Lost, Busy):
            self.let_go()
            raise VerifyFailed("the hold has ended by itself", "Try again") from None
        if self._kept.move is None or len(self._kept.move.members.work):
            raise VerifyFailed("rows of these hosts have changed since they were proven equal", "Try again")

    def let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(RecellError, Lost, Busy):
                lock.commit() if self._hidden else lock.rollback()
            lock.close()
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        self._hidden = False

    def reveal(self, side: Side) -> None:
        lock = self._held()
        try:
            if self._keeper is not None:
                keep_left(self._keeper, self._hosts())
            told = lock.query(
                "SELECT uuid, task_state, hidden FROM instances WHERE host IN %s"
                " AND (task_state IS NOT NULL OR NOT hidden <=> 0)",
                (self._hosts(),),
            )
        except (Lost, Busy) as error:
            raise StepFailed(f"the hold broke off ({error})", "Try again") from None
        with self._entered(side) as session:
            session.execute(
                "UPDATE instances SET hidden = 0, task_state = NULL WHERE host IN %s", (self._hosts(),)
            )
            for task in sorted({str(t) for _, t, _ in told if t is not None}):
                _give(session, "task_state", task, [uuid for uuid, t, _ in told if t == task])
            # NULL in rows that are older than the column: Nova shows those.
            _give(session, "hidden", 1, [uuid for uuid, _, hidden in told if hidden])
            _give(session, "hidden", None, [uuid for uuid, _, hidden in told if hidden is None])

    def hide(self, side: Side) -> int:
        lock = self._lock
        if lock is not None:
            # In the transaction that holds them: a late writer that waits there sees it at once.
            try:
                count = _hide(lock, self._hosts())
            except (Lost, Busy) as error:
                self.let_go()
                raise StepFailed(
                    f"the hold broke off ({error})", "recell resume hides what is left"
                ) from None
            self._hidden = True
            return count
        with self._entered(side) as session:
            # A run died in the moment, and nobody was held or fenced until now: tasks that were begun since
            # go to the other cell, where the requests that they belong to are carried.
            begun = late_tasks(session, self._database(side), self._hosts(), FENCE)
            with self._entered(other(side)) as there:
                give_tasks(there, begun)
            return _hide(session, self._hosts())

    # -- a start in the cell to which the hosts belong ---------------------------------------------

    def set_aside(self, side: Side) -> None:
        self._permit()
        table = name(ASIDE)
        with self._entered(side) as session:
            session.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (PRIMARY KEY (uuid))"
                " SELECT uuid, task_state FROM instances WHERE FALSE"
            )
            session.query("SELECT id FROM instances WHERE host IN %s FOR UPDATE", (self._hosts(),))
            session.execute(
                f"INSERT IGNORE INTO {table} SELECT uuid, task_state FROM instances"
                " WHERE host IN %s AND deleted = 0 AND COALESCE(task_state, '') <> %s",
                (self._hosts(), FENCE),
            )
            session.execute(
                "UPDATE instances SET task_state = %s WHERE host IN %s AND deleted = 0",
                (FENCE, self._hosts()),
            )
        with self._brokers(side, side) as (broker, same):
            Courier(broker, same).set_aside(self.move.hosts)

    def put_back(self, side: Side) -> int:
        self._permit()
        table = name(ASIDE)
        with self._entered(side) as session:
            if ASIDE in servers.table_names(session, self._database(side)):
                session.execute(
                    f"UPDATE instances i JOIN {table} a ON a.uuid = i.uuid"
                    " SET i.task_state = a.task_state WHERE i.task_state = %s",
                    (FENCE,),
                )
                session.commit()
                session.execute(f"DROP TABLE IF EXISTS {table}")
        with self._brokers(side, side) as (broker, same):
            return Courier(broker, same).put_back(self.move.hosts)

    # -- messages ----------------------------------------------------------------------------------

    def served(self, side: Side) -> frozenset[str]:
        broker = self._broker(side)
        try:
            found = {host: broker.look(f"compute.{host}") for host in self.move.hosts}
        finally:
            broker.close()
        return frozenset(host for host, queue in found.items() if queue is not None and queue.consumers)

    def waiting(self, side: Side) -> int:
        count = 0
        broker = self._broker(side)
        try:
            for queue in queues_of(self.move.hosts):
                found = broker.look(queue)
                count += found.messages if found is not None and not found.consumers else 0
        finally:
            broker.close()
        return count

    def carry(self, toward: Side, limit_s: float) -> Carried:
        self._permit()
        with self._brokers(other(toward), toward) as (source, target):
            # A request's rows are written before it is sent: whoever serves it must find them.
            before = (lambda: self._bring_late(toward)) if self._left_for(toward) else None
            return Courier(source, target).carry(self.move.hosts, limit_s, before)

    # -- late writers ------------------------------------------------------------------------------

    def late(self, side: Side) -> Late:
        if self._left_for(other(side)):
            self._bring_late(other(side))
        found, self._late = self._late, Late()
        return found

    def _left_for(self, toward: Side) -> bool:
        """Whether both sides were proven equal, and nothing has been followed since."""
        now = self.following()
        return now.phase == "drained" and now.toward == toward

    def _bring_late(self, toward: Side) -> None:
        left = other(toward)
        try:
            with self._kept.going(lambda: self._begin(toward)) as move:
                self._late += _once_more(lambda: move.late(lambda work: self._bring(left, move, work)))
        except BinlogLost as gone:
            words = f"what was written late to {self.move.at(left).name} can't be known: {gone.sentence}"
            self._late += Late(lost=(words,))

    def _bring(self, left: Side, move: Move, work: Work) -> Late:
        here, there = Connection(self._endpoint(left)), None
        try:
            there = Connection(self._endpoint(other(left)))
            return bring_late(here, there, move.members, work, self.move.at(left).name)
        finally:
            here.close()
            if there is not None:
                there.close()

    @contextmanager
    def _brokers(self, source: Side, target: Side) -> Iterator[tuple[Amqp, Amqp]]:
        first = self._broker(source)
        try:
            second = self._broker(target)
            try:
                yield first, second
            finally:
                second.close()
        finally:
            first.close()

    def close(self) -> None:
        self.let_go()
        self._kept.leave()
        super().close()


def _give(session: Connection, column: str, value: str | int | None, uuids: Sequence[Any]) -> None:
    for at in range(0, len(uuids), _AT_ONCE):
        where, values = among(("uuid",), [(str(uuid),) for uuid in uuids[at : at + _AT_ONCE]])
        session.execute(f"UPDATE instances SET {name(column)} = %s WHERE {where}", (value, *values))


def _hide(session: Connection, hosts: Sequence[str]) -> int:
    """The service records stay, and say that they are up: nova-api takes an instance of a host without
    one, which somebody deletes late, off its rows by itself, and the guest would go on."""
    count = session.execute(
        "UPDATE instances SET hidden = 1, task_state = %s WHERE host IN %s", (FENCE, list(hosts))
    )
    session.execute(SAY_UP, (list(hosts),))
    session.execute(
        "UPDATE compute_nodes SET deleted = id, deleted_at = UTC_TIMESTAMP()"
        " WHERE host IN %s AND deleted = 0",
        (list(hosts),),
    )
    return count


def _once_more(act: Callable[[], Late | None]) -> Late:
    """Rows of the new cell are in use: of two transactions that wait for each other one is ended."""
    for _ in range(_TRIES):
        try:
            return act() or Late()
        except Busy:
            continue
    return act() or Late()
