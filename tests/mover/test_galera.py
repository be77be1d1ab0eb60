"""A two-node cluster as the source, written to at both nodes."""

from __future__ import annotations

import pytest

from recell.mover import Move, Options
from tests.mover import schema
from tests.mover.writers import HOSTS, Load, fill
from tests.private_server import Pair, galera_cluster


@pytest.mark.thorough
@pytest.mark.parametrize("hosts", [(), HOSTS[:3]], ids=["whole", "hosts"])
def test_there_and_back_from_a_cluster(clouds: Pair, hosts: tuple[str, ...]
                                       ) -> None:
    target = clouds[1]
    with galera_cluster(database="nova") as nodes:
        source, other = nodes
        schema.create(source)
        fill(source, 4)
        schema.gap(target)
        scope = schema.scope(schema.read(source), schema.BY_HOST if hosts else schema.WHOLE, hosts)
        move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=60))
        try:
            with Load(source, 4, writers=1), Load(other, 5, writers=1):
                move.prepare()
                move.copy()
                move.follow()
                move.catch_up(300, lag_s=10)
                assert move.verify().differences == ()
            # The caller's fence is on both nodes; what is under way between them has to arrive.
            other.sql("SET wsrep_sync_wait = 1", "SELECT 1 FROM services LIMIT 1")
            source.sql("SET wsrep_sync_wait = 1", "SELECT 1 FROM services LIMIT 1")
            move.drain(300)
            assert schema.differing(source, target, scope) == []
            assert schema.differing(other, target, scope) == []
            move.reverse()
            with Load(target, 60, base=schema.GAP):
                move.catch_up(300, lag_s=10)
                assert move.verify().differences == ()
            move.drain(300)
            other.sql("SET wsrep_sync_wait = 1", "SELECT 1 FROM services LIMIT 1")
            assert schema.differing(other, target, scope) == []
            move.finish()
        finally:
            move.close()
