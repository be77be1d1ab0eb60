"""There and back, while random writers write."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from recell.adapters.mysql.session import Session
from recell.errors import StepFailed
from recell.model.scope import Rule
from recell.mover import Move, Options, copy, verify
from recell.mover.members import Interest
from tests.mover import schema
from tests.mover.servers import Server
from tests.mover.writers import HOSTS, Load, Writer, fill

MINE = HOSTS[:3]


@pytest.mark.parametrize(("rules", "hosts"), [(schema.WHOLE, ()), (schema.BY_HOST, MINE)],
                         ids=["whole", "hosts"])
@pytest.mark.parametrize("seed", [1])
def test_there_and_back(clouds: tuple[Server, Server], rules: dict[str, Rule], hosts: tuple[str, ...],
                        seed: int) -> None:
    source, target = clouds
    fill(source, seed)
    scope = schema.scope(schema.read(source), rules, hosts)
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    with Load(source, seed):
        assert move.prepare() == "copying"
        move.copy()
        move.follow()
        move.catch_up(120, lag_s=5)
        report = move.verify()
        assert report.differences == ()
        assert report.rows > 100
    drained = move.drain(120)
    print(drained, report, move.status())
    assert schema.differing(source, target, scope) == []
    move.reverse()
    with Load(target, seed + 50):
        move.catch_up(120, lag_s=5)
        assert move.verify().equal
    print(move.drain(120))
    assert schema.differing(source, target, scope) == []
    move.finish()
    for server in clouds:
        assert not [t for (t,) in server.sql("SHOW TABLES") if t.startswith("recell_")]


_DO = st.lists(st.one_of(st.integers(1, 25), st.sampled_from(["follow", "new run", "verify", "rotate"])),
               min_size=3, max_size=8)


def _play(server: Server, other: Server, move: Move, seed: int, deeds: list[int | str]) -> Move:
    """Writes and the mover's own deeds, in this order. The move that went on at last."""
    writer = Writer(server, seed)
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


def _ends_well(move: Move, source: Server, target: Server) -> None:
    move.follow()
    move.catch_up(60, lag_s=30)
    assert move.verify().differences == ()
    move.drain(60)
    assert schema.differing(source, target, move.scope) == []


def _histories(clouds: tuple[Server, Server], seed: int, hosts: tuple[str, ...], there: list[int | str],
               back: list[int | str]) -> None:
    source, target = clouds
    for server in clouds:
        schema.create(server)
    fill(source, seed, 15)
    scope = schema.scope(schema.read(source), schema.BY_HOST if hosts else schema.WHOLE, hosts)
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=2))
    try:
        move.prepare()
        _play(source, target, move, seed, [d for d in there[:2] if isinstance(d, int)])
        move.copy()
        move = _play(source, target, move, seed + 1, there)
        _ends_well(move, source, target)
        move.reverse()
        move = _play(target, source, move, seed + 2, back)
        _ends_well(move, source, target)
        move.finish()
    finally:
        move.close()


_SETTINGS = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate], derandomize=True,
                     suppress_health_check=list(HealthCheck))


def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and batches so small that even these tables have many."""
    def few(session: Session, interest: Interest) -> int:
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


def test_any_history(clouds: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    settings(_SETTINGS, max_examples=3)(given(**_GIVEN)(
        lambda seed, hosts, there, back: _histories(clouds, seed, hosts, there, back)))()


@pytest.mark.thorough
def test_any_of_many_histories(clouds: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    settings(_SETTINGS, max_examples=200, derandomize=False)(given(**_GIVEN)(
        lambda seed, hosts, there, back: _histories(clouds, seed, hosts, there, back)))()
