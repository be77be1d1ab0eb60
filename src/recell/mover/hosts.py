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
from recell.adapters.mysql.session import Busy, Lost
from recell.adapters.mysql.session import Session as Connection
from recell.adapters.mysql.sql import among, name
from recell.adapters.schema import compare_schemas, read_schema
from recell.errors import RecellError, StepFailed, VerifyFailed
from recell.model.hosts import Carried, Following, HostsMove
from recell.model.moving import Login, Thing
from recell.model.relay import Side, other
from recell.model.scope import Schema, Scope
from recell.model.violation import Violation
from recell.mover import host_rows, servers
from recell.mover.cell import SIDES, CellMove, Host, away, copy_and_compare, found_equal, told
from recell.mover.conflicts import find_conflicts
from recell.mover.gap import part_counters, plan_gap, raise_counters, read_counters
from recell.mover.hosts_survey import busy, troubles
from recell.mover.journal import PREFIX, Journal, State
from recell.mover.move import Move, Options
from recell.planning.tables import SEEDED_BY_SYNC, guests_scope, hosts_scope

__all__ = ["CellHosts"]

REASON = "recell: this host moves to another cell"
FENCE = "updating_password"
"""A task that nova-compute's start leaves alone, and nova-api lets nothing else begin in."""
ASIDE = PREFIX + "aside"
_NAMED = 10
_AT_ONCE = 500

OpenBroker = Callable[[Side], Amqp]


class CellHosts:
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
        self.move, self.ours, self.nova = move, ours, nova
        self._doors = CellMove(servers_, move.ends, ours, nova, permit)
        self._broker = broker
        self._permit = permit
        self._scope: Scope | None = None
        self._move: Move | None = None
        self._lock: Connection | None = None
        self._hidden = False

    # -- how servers are entered -------------------------------------------------------------------

    def _database(self, side: Side) -> str:
        return self.move.at(side).database

    @contextmanager
    def _root(self, side: Side, *, inside: bool = False) -> Iterator[Connection]:
        with self._doors.entered(side, root=True, database=self._database(side) if inside else "") as root:
            yield root

    @contextmanager
    def _entered(self, side: Side) -> Iterator[Connection]:
        with self._doors.entered(side, database=self._database(side)) as session:
            yield session

    def _endpoint(self, side: Side) -> Any:
        return self._doors.endpoint(side, database=self._database(side))

    def _schema(self, session: Connection, side: Side) -> Schema:
        schema = read_schema(session.connection, self._database(side))
        return Schema(schema.database, tuple(t for t in schema.tables if not t.name.startswith(PREFIX)))

    # -- the servers, as their root ----------------------------------------------------------------

    def there(self, side: Side) -> frozenset[str]:
        found: set[str] = set()
        database = self._database(side)
        with self._root(side) as root:
            if servers.has_database(root, database):
                found.add("database")
                if [t for t in servers.table_names(root, database) if not t.startswith(PREFIX)]:
                    found.add("tables")
            if servers.account_hosts(root, self.nova.user) and servers.rights_of(
                root, self.nova.user, database
            ):
                found.add("nova")
            if servers.rights_of(root, self.ours.user, database) and self._doors.enters(side, root):
                found.add("recell")
        return frozenset(found)

    def make(self, side: Side, thing: Thing) -> None:
        self._permit()
        end, database = self.move.at(side), self._database(side)
        with self._root(side) as root:
            if thing == "recell":
                hosts = ("localhost", "127.0.0.1", *end.ips)
                servers.make_account(root, self.ours, hosts)
                servers.grant_mover(root, self.ours.user, hosts, database)
            elif thing == "database":
                with self._root(other(side)) as model:
                    servers.make_database(model, self._database(other(side)), root, database)
            else:
                with self._root(other(side)) as model:
                    grants = servers.rights_of(model, self.nova.user, self._database(other(side)))
                    hosts = servers.account_hosts(model, self.nova.user)
                if not grants:
                    raise StepFailed(
                        f"{self.nova.user} has no rights on {self._database(other(side))} by itself that"
                        f" recell could give it on {database}",
                        "Give it rights on this database, then: recell resume",
                    )
                servers.make_account(root, self.nova, hosts)
                servers.give_rights(root, servers.rights_for(grants, database), database)

    def drop(self, side: Side, thing: Thing) -> None:
        self._permit()
        database = self._database(side)
        if thing == "recell":
            self.close()
        with self._root(side) as root:
            if thing == "recell":
                servers.drop_account(root, self.ours.user)
            elif thing == "nova":
                servers.take_rights(root, self.nova.user, database)
            else:
                servers.drop_database(root, database)

    def differences(self) -> tuple[str, ...]:
        with self._root("old", inside=True) as old, self._root("new", inside=True) as new:
            return compare_schemas(self._schema(old, "old"), self._schema(new, "new"))

    def part(self, toward: Side) -> None:
        self._permit()
        with self._entered(toward) as mine, self._entered(other(toward)) as theirs:
            schema, source = self._schema(mine, toward), self._schema(theirs, other(toward))
            here, there = read_counters(mine, schema), read_counters(theirs, source)
            if all(number > there.get(table, 0) for table, number in here.items()):
                return
            tables = ("instances", "services", "compute_nodes")
            used = any(mine.query(f"SELECT 1 FROM {name(t)} LIMIT 1") for t in tables)
            mine.rollback()
            if used:
                self._apart(mine, theirs, schema)
            else:
                raise_counters(mine, schema, plan_gap(schema, [there]), SEEDED_BY_SYNC)

    def _apart(self, mine: Connection, theirs: Connection, schema: Schema) -> None:
        for attempt in range(10):
            try:
                part_counters(mine, theirs, schema)
                return
            except Busy as busy_:
                if attempt == 9:
                    raise StepFailed(
                        f"the counters of {mine.endpoint.where} could not be raised ({busy_})",
                        "A long transaction uses a table; try again at a calmer hour",
                    ) from None

    def troubles(self) -> tuple[Violation, ...]:
        with self._root("new") as root:
            made = servers.has_database(root, self._database("new"))
        with self._root("old", inside=True) as old:
            schema = self._schema(old, "old")
            if not made:
                return tuple(troubles(old, None, self.move, schema))
            with self._root("new", inside=True) as new:
                found = list(troubles(old, new, self.move, schema))
                if any(v.severity == "stop" for v in found):
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

    def _alive(self, toward: Side) -> Move:
        """The move, prepared: an earlier run's is gone on with."""
        if self._move is not None:
            return self._move
        self._permit()
        source, target = self._endpoint(other(toward)), self._endpoint(toward)
        move = Move(source, target, guests_scope(self._whole()), Options(alone=False))
        try:
            move.prepare()
        except BaseException:
            move.close()
            raise
        self._move = move
        return move

    @contextmanager
    def _moving(self, toward: Side) -> Iterator[Move]:
        try:
            yield self._alive(toward)
        except (Lost, Busy) as lost:
            self._leave()
            raise away(f"a database of {self.move.old.name} or {self.move.new.name}", lost) from None
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        move, self._move = self._move, None
        if move is not None:
            with suppress(RecellError, Lost, Busy):
                move.close()

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
        with self._moving(toward) as move:
            began = move.phase
            copied, report = told(move, copy_and_compare, tell)
            said = found_equal(report, "recell undo, and begin again")
            return f"{copied} rows copied, {said}" if began == "copying" else said

    def _whole_schema(self) -> Schema:
        scope = self._whole()
        return Schema(scope.database, tuple(t.table for t in scope.tables))

    def bring_hosts(self, toward: Side) -> None:
        self._permit()
        with self._entered(other(toward)) as source, self._entered(toward) as target:
            host_rows.bring(source, target, self._whole())

    def alive(self, side: Side) -> None:
        with self._entered(side) as session:
            session.execute(
                "UPDATE services SET last_seen_up = UTC_TIMESTAMP(), report_count = report_count + 1"
                " WHERE deleted = 0 AND `binary` = 'nova-compute' AND host IN %s",
                (self._hosts(),),
            )

    def catch_up(self, toward: Side, limit_s: float) -> float:
        with self._moving(toward) as move:
            move.follow()
            return move.catch_up(limit_s)

    def instances(self, side: Side) -> tuple[str, ...]:
        with self._entered(side) as session:
            rows = session.query("SELECT uuid FROM instances WHERE host IN %s", (self._hosts(),))
        return tuple(str(r[0]) for r in rows)

    def forget(self) -> None:
        self._permit()
        self._leave()
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
            session.execute(f"DROP TABLE IF EXISTS {name(ASIDE)}")
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
        if self._move is None:
            raise StepFailed("changes are not followed", "Catch up first")
        try:
            done = self._move.drain(max(limit_s, 0.1))
        except (Lost, Busy) as lost:
            self._leave()
            raise StepFailed(f"a server broke off while it was drained ({lost})", "Try again") from None
        return f"proven equal at {done.position} ({done.keys} rows looked at in {done.seconds:.2f} s)"

    def prove_held(self) -> None:
        try:
            self._held().query("SELECT 1")
        except (Lost, Busy):
            self.let_go()
            raise VerifyFailed("the hold has ended by itself", "Try again") from None
        if self._move is None or len(self._move.members.work):
            raise VerifyFailed("rows of these hosts have changed since they were proven equal", "Try again")

    def let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(RecellError, Lost, Busy):
                lock.commit() if self._hidden else lock.rollback()
            lock.close()
        self._hidden = False

    def reveal(self, side: Side) -> None:
        lock = self._held()
        try:
            told = lock.query(
                "SELECT uuid, task_state, hidden FROM instances WHERE host IN %s"
                " AND (task_state IS NOT NULL OR hidden = 1)",
                (self._hosts(),),
            )
        except (Lost, Busy) as error:
            raise StepFailed(f"the hold broke off ({error})", "Try again") from None
        hidden = [str(uuid) for uuid, _, is_hidden in told if is_hidden]
        with self._entered(side) as session:
            session.execute(
                "UPDATE instances SET hidden = 0, task_state = NULL WHERE host IN %s", (self._hosts(),)
            )
            for task in sorted({str(t) for _, t, _ in told if t is not None}):
                some = [(str(uuid),) for uuid, t, _ in told if t == task]
                for at in range(0, len(some), _AT_ONCE):
                    where, values = among(("uuid",), some[at : at + _AT_ONCE])
                    session.execute(f"UPDATE instances SET task_state = %s WHERE {where}", (task, *values))
            for uuid in hidden:
                session.execute("UPDATE instances SET hidden = 1 WHERE uuid = %s", (uuid,))

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
            return Courier(source, target).carry(self.move.hosts, limit_s)

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
        self._leave()
        self._doors.close()


def _hide(session: Connection, hosts: Sequence[str]) -> int:
    count = session.execute(
        "UPDATE instances SET hidden = 1, task_state = %s WHERE host IN %s", (FENCE, list(hosts))
    )
    for table in ("services", "compute_nodes"):
        session.execute(
            f"UPDATE {name(table)} SET deleted = id, deleted_at = UTC_TIMESTAMP()"
            " WHERE host IN %s AND deleted = 0",
            (list(hosts),),
        )
    return count
