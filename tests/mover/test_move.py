"""There and back, while random writers write."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from recell.adapters.mysql.session import Session
from recell.errors import StepFailed, Unsupported
from recell.model.scope import Rule
from recell.mover import Move, Options, copy, verify
from recell.mover.feed import ForeignWriter
from recell.mover.journal import Journal, State
from recell.mover.members import Interest
from tests.mover import schema
from tests.mover.writers import HOSTS, Load, Writer, fill
from tests.private_server import Pair, PrivateServer

MINE = HOSTS[:3]


@pytest.mark.parametrize(("rules", "hosts"), [(schema.WHOLE, ()), (schema.BY_HOST, MINE)],
                         ids=["whole", "hosts"])
@pytest.mark.parametrize("seed", [1])
def test_there_and_back(clouds: Pair, rules: dict[str, Rule], hosts: tuple[str, ...],
                        seed: int) -> None:
    source, target = clouds
    fill(source, seed)
    schema.gap(target)
    scope = schema.scope(schema.read(source), rules, hosts)
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    with Load(source, seed):
        assert move.prepare() == "copying"
        copied = move.copy()
        there = [target.sql(f"SELECT COUNT(*) FROM `{t.table.name}`")[0][0] for t in scope.moving]
        assert copied == sum(map(int, there)) == move.copy()
        move.follow()
        move.catch_up(120, lag_s=5)
        report = move.verify()
        assert report.differences == ()
        assert report.rows > 100
    drained = move.drain(120)
    print(drained, report, move.status())
    assert schema.differing(source, target, scope) == []
    move.reverse()
    with Load(target, seed + 50, base=schema.GAP):
        move.catch_up(120, lag_s=5)
        assert move.verify().equal
    print(move.drain(120))
    assert schema.differing(source, target, scope) == []
    move.finish()
    for server in clouds:
        assert not [t for (t,) in server.sql("SHOW TABLES") if t.startswith("recell_")]


_DO = st.lists(st.one_of(st.integers(1, 25), st.sampled_from(["follow", "new run", "verify", "rotate"])),
               min_size=3, max_size=8)


def _play(server: PrivateServer, other: PrivateServer, move: Move, seed: int, deeds: list[int | str],
          base: int = 0) -> Move:
    """Writes and the mover's own deeds, in this order. The move that went on at last."""
    writer = Writer(server, seed, base)
    try:
        for deed in deeds:
            if isinstance(deed, int):
                for _ in range(deed):
                    writer.step()
            elif deed == "follow":
                move.follow()
                move.catch_up(60, lag_s=30)
            elif deed == "rotate":
                server.sql("FLUSH BINARY LOGS")
                other.sql("FLUSH BINARY LOGS")
            elif deed == "verify":
                with suppress(StepFailed):  # nothing is applied before the first "follow"
                    assert move.verify().differences == ()
            else:
                ends = move.source, move.target
                move.close()
                move = Move(*ends, move.scope, Options(patience_s=2))
                move.prepare()
    finally:
        writer.close()
    return move


def _ends_well(move: Move, source: PrivateServer, target: PrivateServer) -> None:
    move.follow()
    move.catch_up(60, lag_s=30)
    assert move.verify().differences == ()
    move.drain(60)
    assert schema.differing(source, target, move.scope) == []


def _histories(clouds: Pair, seed: int, hosts: tuple[str, ...], there: list[int | str],
               back: list[int | str]) -> None:
    source, target = clouds
    for server in clouds:
        schema.create(server)
    fill(source, seed, 15)
    schema.gap(target)
    scope = schema.scope(schema.read(source), schema.BY_HOST if hosts else schema.WHOLE, hosts)
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=2))
    try:
        move.prepare()
        _play(source, target, move, seed, [d for d in there[:2] if isinstance(d, int)])
        move.copy()
        move = _play(source, target, move, seed + 1, there)
        _ends_well(move, source, target)
        move.reverse()
        move = _play(target, source, move, seed + 2, back, schema.GAP)
        _ends_well(move, source, target)
        move.finish()
    finally:
        move.close()


_SETTINGS = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate], derandomize=True,
                     suppress_health_check=list(HealthCheck))


def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and batches so small that even these tables have many."""
    def few(interest: Interest, sizes: object) -> int:
        return 4

    monkeypatch.setattr(copy, "chunk_rows", few)
    monkeypatch.setattr(copy, "MEMBERS_A_CHUNK", 3)
    monkeypatch.setattr(copy, "HOSTS_A_CHUNK", 1)
    monkeypatch.setattr(verify, "CHUNK_ROWS", 7)
    monkeypatch.setattr(verify, "MEMBERS_A_CHUNK", 2)
    monkeypatch.setattr("recell.mover.apply.BATCH", 5)
    monkeypatch.setattr("recell.mover.apply._TRANSACTION_KEYS", 10)


_GIVEN = {"seed": st.integers(0, 1 << 20), "hosts": st.sampled_from([(), MINE, HOSTS]),
          "there": _DO, "back": _DO}


def test_any_history(clouds: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    settings(_SETTINGS, max_examples=3)(given(**_GIVEN)(
        lambda seed, hosts, there, back: _histories(clouds, seed, hosts, there, back)))()


@pytest.mark.thorough
def test_any_of_many_histories(clouds: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    settings(_SETTINGS, max_examples=200, derandomize=False)(given(**_GIVEN)(
        lambda seed, hosts, there, back: _histories(clouds, seed, hosts, there, back)))()


def test_what_the_server_takes_for_the_same_host_or_uuid(
        clouds: Pair) -> None:
    """Its collation knows no case; a move that did would leave these rows behind, or not follow them."""
    source, target = clouds
    one, two = "aaaaaaaa-0000-4000-8000-00000000000A", "bbbbbbbb-0000-4000-8000-00000000000B"
    source.sql(
        f"INSERT INTO instances (id, uuid, host) VALUES (1, '{one}', 'CMP-0'), (2, '{two}', 'cmp-9')",
        f"INSERT INTO instance_extra (id, instance_uuid) VALUES (1, '{one.lower()}'), (2, '{two.lower()}')",
        "INSERT INTO services (id, host, `binary`) VALUES (1, 'cmp-0 ', 'Nova-Compute')")
    scope = schema.scope(schema.read(source), schema.BY_HOST, HOSTS[:1])
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    try:
        move.prepare()
        move.copy()
        move.follow()
        source.sql(f"INSERT INTO tags VALUES ('{one.upper()}', 'a'), ('{two.upper()}', 'b')",
                   "UPDATE instances SET host = 'Cmp-0' WHERE id = 2",
                   "UPDATE services SET report_count = 5")
        move.catch_up(60, lag_s=10)
        assert move.verify().differences == ()
        move.drain(60)
        for table, rows in (("instances", 2), ("instance_extra", 2), ("tags", 2), ("services", 1)):
            sql = f"SELECT * FROM {table} ORDER BY 1"
            assert target.sql(sql) == source.sql(sql), table
            assert len(target.sql(sql)) == rows
        move.follow()
        source.sql("UPDATE instances SET host = 'elsewhere' WHERE id = 1", "UPDATE services SET host = 'x'")
        move.catch_up(60, lag_s=10)
        assert target.sql("SELECT id FROM instances") == [(2,)]
        assert target.sql("SELECT id FROM instance_extra") == [(2,)]
        assert target.sql("SELECT id FROM services") == []
    finally:
        move.close()


def test_columns_that_compare_text_differently(clouds: Pair) -> None:
    clouds[0].sql("ALTER TABLE tags MODIFY resource_id VARCHAR(36) COLLATE utf8mb4_bin NOT NULL")
    scope = schema.scope(schema.read(clouds[0]), schema.BY_HOST, HOSTS[:1])
    with pytest.raises(Unsupported, match=r"tags.resource_id \(utf8mb4_bin\) and instances.uuid"):
        Move(clouds[0].endpoint(), clouds[1].endpoint(), scope)


def test_a_number_that_both_have_handed_out(clouds: Pair) -> None:
    """Without a wide gap between the two AUTO_INCREMENTs: a stranger's row is never overwritten."""
    source, target = clouds
    fill(source, 3, 5)
    scope = schema.scope(schema.read(source), schema.BY_HOST, MINE)
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    try:
        move.prepare()
        move.copy()
        target.sql("INSERT INTO instances (id, uuid, host) VALUES (70000, 'theirs', 'far-1')")
        move.follow()
        source.sql("INSERT INTO instances (id, uuid, host) VALUES (70000, 'ours', 'cmp-0')")
        with pytest.raises(ForeignWriter, match="has a row of its own under instances id=70000"):
            move.catch_up(60)
        assert target.sql("SELECT uuid FROM instances WHERE id = 70000") == [("theirs",)]
        # Once it is out of the way, the same move goes on.
        target.sql("DELETE FROM instances WHERE id = 70000")
        move.prepare()
        move.copy()
        move.follow()
        move.catch_up(60, lag_s=10)
        assert move.verify().differences == ()
        move.drain(60)
        assert schema.differing(source, target, scope) == []
    finally:
        move.close()


def test_what_two_threads_tell_the_journal_at_once_stays_both(
    clouds: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The applier tells how far it is, while a comparison ends well: neither takes back the other's word."""
    source, target = clouds
    fill(source, 1)
    scope = schema.scope(schema.read(source), schema.WHOLE, ())
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    move.prepare()
    move.copy()
    begun = _journal(target)
    change, compared = Journal.change, threading.Event()

    def meanwhile(self: Journal, session: Session | None = None, **changes: object) -> None:
        if session is not None and not compared.is_set():
            compared.set()
            # Just before the applier writes: from here on its knowledge of the state is too old.
            move._write(verified=True)
        change(self, session, **changes)

    monkeypatch.setattr(Journal, "change", meanwhile)
    with Load(source, 1):
        move.follow()
        move.catch_up(120, lag_s=5)
        assert compared.wait(60)
    move.catch_up(120, lag_s=5)
    now = _journal(target)
    assert now.verified and now.position != begun.position and now.phase == "following"
    monkeypatch.undo()
    assert move.drain(120), "also what is known of it in memory"
    move.finish()


def _journal(server: PrivateServer) -> State:
    journal = Journal(server.endpoint())
    try:
        state = journal.state()
        assert state is not None
        return state
    finally:
        journal.close()
