"""The fence by accounts on a real two-node cluster: rights go on both nodes, sessions end on both."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pymysql
import pytest

from recell.adapters.mysql.session import Session
from recell.errors import Unsupported, VerifyFailed
from recell.model.scope import Schema
from recell.mover.fence import Hold
from recell.mover.preflight import find_galera
from recell.mover.server import read_server
from recell.mover.shut import keep_shut, prove_shut, reopen, shut, survey
from tests.private_server import PrivateServer, galera_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[PrivateServer, PrivateServer]]:
    with galera_cluster() as nodes:
        nodes[0].create("nova", ["CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, n INT)"])
        nodes[0].sql("CREATE USER nova@localhost IDENTIFIED BY 'n'", "GRANT ALL ON nova.* TO nova@localhost")
        yield nodes


class Writer:
    """One pooled connection to one node."""

    def __init__(self, node: PrivateServer) -> None:
        self.node = node
        self.written = 0
        self.refused: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection: pymysql.Connection[Any] | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self.node.connect("nova", user="nova", password="n")
                with closing(connection.cursor()) as cursor:
                    cursor.execute("INSERT INTO t (n) VALUES (1)")
                self.written += 1
            except pymysql.Error as error:
                if isinstance(error.args[0], int):
                    self.refused.add(error.args[0])
                if connection is not None:
                    with suppress(pymysql.Error):
                        connection.close()
                connection = None
            time.sleep(0.005)

    def moves(self, within: float = 120.0) -> bool:
        before, until = self.written, time.monotonic() + within
        while time.monotonic() < until:
            if self.written > before + 2:
                return True
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)


def test_both_nodes_are_shut_and_opened(cluster: tuple[PrivateServer, PrivateServer]) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(closing(Session(node.endpoint("nova")))) for node in cluster]
        schema = Schema("nova", ())
        looks = [read_server(session, schema) for session in nodes]
        assert all(look.galera and look.status["wsrep_cluster_size"] == "2" for look in looks)
        with pytest.raises(Unsupported, match="Galera"):
            Hold(cluster[0].endpoint("nova")).begin()
        # One of the two was forgotten: its writers would go unseen.
        assert "galera-nodes" in " ".join(v.id for v in find_galera(looks[:1], 1))
        writers = [Writer(node) for node in cluster]
        try:
            assert all(w.moves() for w in writers), [(w.refused, w.written) for w in writers]
            grants = survey(nodes[0], "nova")
            # Rights alone, and sessions of one node: the other node's writer goes on.
            shut(nodes[:1], grants)
            assert writers[1].moves()
            with pytest.raises(VerifyFailed, match="has sessions"):
                prove_shut(nodes, grants)
            seconds = shut(nodes, grants, lease_s=30)
            prove_shut(nodes, grants)
            keep_shut(nodes[0], grants)
            assert not any(w.moves(0.3) for w in writers)
            until = time.monotonic() + 120
            while not all(1044 in w.refused for w in writers):  # when they connect again
                assert time.monotonic() < until, [w.refused for w in writers]
                time.sleep(0.05)
            counts = {node.sql("SET wsrep_sync_wait = 1", "SELECT COUNT(*) FROM nova.t")[0][0]
                      for node in cluster}
            assert len(counts) == 1
            reopen(nodes[1], grants)
            assert all(w.moves() for w in writers)
            print(f"two nodes shut in {seconds * 1e3:.0f} ms")
        finally:
            for writer in writers:
                writer.stop()


def test_the_lease_of_a_cluster(cluster: tuple[PrivateServer, PrivateServer]) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(closing(Session(node.endpoint("nova")))) for node in cluster]
        grants = survey(nodes[0], "nova")
        shut(nodes, grants, lease_s=30)  # the proof has to come within it
        prove_shut(nodes, grants)
        until = time.monotonic() + 120
        while True:
            try:
                assert survey(nodes[1], "nova") == grants
                break
            except Unsupported:
                assert time.monotonic() < until
                time.sleep(0.1)
