"""Every job runs with exactly the rights that docs/grants.md lists, and not with less; over TLS too."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.session import Lost, Session
from recell.adapters.schema import read_schema
from recell.errors import RecellError
from recell.model.scope import Schema
from recell.mover import Move
from recell.mover.conflicts import find_conflicts
from recell.mover.fence import Hold
from recell.mover.gap import raise_counters
from recell.mover.server import read_server
from recell.mover.shut import prove_shut, reopen, shut, survey
from recell.mover.watch import replica_lag
from recell.planning.tables import hosts_scope
from recell_bench.schemas import TODAY, ddl, load
from tests.private_server import PrivateServer, free_ports
from tests.unit.care_cloud import CARE

DOCUMENT = Path(__file__).parents[2] / "docs" / "grants.md"
SCHEMA = load(TODAY)
DATABASES = ("nova", "nova_cell1")
HIGHER = itertools.count(5_000_000, 1_000_000)
OPTIONS = ("log-bin=bin", "binlog-format=ROW", "event-scheduler=ON")


def statements() -> list[str]:
    blocks = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.S)
    return [s.strip().replace("'...'", "'pw'").replace("'%'", "localhost")
            for block in blocks for s in block.split(";") if s.strip()]


def granted() -> list[tuple[str, str, str]]:
    """(account, rights, on what), one a right."""
    found = []
    for statement in statements():
        match = re.fullmatch(r"GRANT (.*) ON (\S+) TO (\w+)@localhost(?: WITH GRANT OPTION)?", statement)
        if match:
            found += [(match[3], right, match[2]) for right in match[1].split(", ")]
    return found


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PrivateServer, PrivateServer]]:
    made = (PrivateServer(*OPTIONS, "server-id=1"), PrivateServer(*OPTIONS, "server-id=2"))
    for server, database in zip(made, DATABASES, strict=True):
        server.create(database, ddl(SCHEMA))
    yield made
    for server in made:
        server.stop()


@pytest.fixture
def pair(servers: tuple[PrivateServer, PrivateServer]) -> tuple[PrivateServer, PrivateServer]:
    for server, database in zip(servers, DATABASES, strict=True):
        for (user,) in server.sql("SELECT user FROM mysql.user WHERE user LIKE 'recell%'"):
            server.sql(f"DROP USER {user}@localhost")
        allow(server)
        for (table,) in server.sql("SHOW TABLES LIKE 'recell%'", database=database):
            server.sql(f"DROP TABLE {table}", database=database)
        server.sql("DELETE FROM instance_extra", "DELETE FROM instances", database=database)
    servers[0].row("nova", "instances", id=1, uuid="u", host="cmp1", deleted=0)
    servers[0].row("nova", "instance_extra", id=1, instance_uuid="u", deleted=0)
    return servers


def allow(server: PrivateServer) -> None:
    server.sql(*statements())


def entry(server: PrivateServer, user: str, database: str = "nova") -> Endpoint:
    return server.endpoint(database, user, "pw")


def look(source: PrivateServer, target: PrivateServer) -> None:
    endpoint = entry(source, "recell_look")
    with closing(Session(endpoint)) as session:
        schema = read_schema(session.connection, "nova")
        source.sql("USE nova", "CREATE OR REPLACE TRIGGER t BEFORE DELETE ON tags FOR EACH ROW SET @a = 1",
                   "CREATE OR REPLACE EVENT e ON SCHEDULE EVERY 1 DAY STARTS NOW() + INTERVAL 1 DAY"
                   " DO SET @a = 1")
        found = read_server(session, schema)
        assert found.triggers and found.events and found.binlog_bytes
    scope = hosts_scope(schema, ["cmp1"])
    assert find_conflicts(endpoint, endpoint, scope).total == 0


def follow(source: PrivateServer, target: PrivateServer) -> None:
    moved(source, target, entry(source, "recell_source"), entry(target, "recell_target", "nova_cell1"))


def moved(source: PrivateServer, target: PrivateServer, here: Endpoint, there: Endpoint) -> None:
    scope = hosts_scope(SCHEMA, ["cmp1"])
    move = Move(here, there, scope)
    try:
        with closing(Session(there)) as session:
            raise_counters(session, Schema("nova_cell1", SCHEMA.tables), {"migrations": next(HIGHER)})
        move.prepare()
        move.copy()
        move.follow()
        source.row("nova", "instances", id=2, uuid="v", host="cmp1", deleted=0)
        source.sql("UPDATE nova.instances SET host = 'cmp1' WHERE id = 1")
        move.catch_up(20)
        assert move.verify().differences == ()
        move.drain(20)
        assert target.sql("SELECT COUNT(*) FROM nova_cell1.instances") == [(2,)]
        move.finish()
    finally:
        move.close()


def hold(source: PrivateServer, target: PrivateServer) -> None:
    with Hold(entry(source, "recell_hold")) as held:
        assert held.prove().refused


def replica(source: PrivateServer, target: PrivateServer) -> None:
    with closing(Session(replace(entry(source, "recell_replica"), database=""))) as session:
        assert replica_lag(session) == 0


def shut_it(source: PrivateServer, target: PrivateServer) -> None:
    source.sql("CREATE OR REPLACE USER nova@localhost IDENTIFIED BY 'n'",
               "GRANT ALL ON nova.* TO nova@localhost")
    with (closing(Session(entry(source, "recell_shut"))) as session,
          source.connect("nova", user="nova", password="n") as nova):
        grants = survey(session, "nova", ["recell_source", "recell_hold", "recell_audit"])
        assert [g.grantee for g in grants.grants] == ["'nova'@'localhost'"]
        shut([session], grants, lease_s=60)
        prove_shut([session], grants)
        with pytest.raises(pymysql.OperationalError), nova.cursor() as cursor:
            cursor.execute("DELETE FROM tags")
        reopen(session, grants)
        with source.connect("nova", user="nova", password="n") as again, again.cursor() as cursor:
            cursor.execute("DELETE FROM tags")


JOBS: dict[str, Callable[[PrivateServer, PrivateServer], None]] = {
    "recell_look": look, "recell_source": follow, "recell_target": follow, "recell_hold": hold,
    "recell_shut": shut_it, "recell_replica": replica,
}


@pytest.mark.parametrize("job", [look, follow, hold, shut_it, replica])
def test_the_documented_rights_are_enough(
    pair: tuple[PrivateServer, PrivateServer], job: Callable[[PrivateServer, PrivateServer], None]
) -> None:
    job(*pair)


def test_every_account_of_the_document_has_a_job() -> None:
    assert {account for account, _, _ in granted()} == {*JOBS, *CARE}


@pytest.mark.parametrize(("account", "right", "on"), [
    g for g in granted() if g[0] in JOBS])
def test_no_right_is_listed_that_is_not_needed(
    pair: tuple[PrivateServer, PrivateServer], account: str, right: str, on: str
) -> None:
    pair[account == "recell_target"].sql(f"REVOKE {right} ON {on} FROM {account}@localhost")
    with pytest.raises((RecellError, AssertionError, Lost, pytest.fail.Exception)):
        JOBS[account](*pair)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA of our own, and a server's key and certificate that it signed."""
    place = tmp_path_factory.mktemp("ca")
    place.chmod(0o755)
    (place / "names").write_text("subjectAltName=DNS:localhost\n")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-days", "2",
                "-subj", f"/CN={ca}", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "server.pem", "-days", "2", "-extfile", "names")
    return place


def test_sessions_are_encrypted_and_the_server_is_checked(authority: Path) -> None:
    port = free_ports(1)[0]
    keys = Path("/dev/shm") / f"recell-keys-{port}" if Path("/dev/shm").is_dir() else authority / "keys"
    keys.mkdir(mode=0o755)
    try:
        for name in ("ca.pem", "server.pem", "server.key"):
            (keys / name).write_bytes((authority / name).read_bytes())
            (keys / name).chmod(0o644)
        server = PrivateServer(*OPTIONS, f"ssl-ca={keys}/ca.pem", f"ssl-cert={keys}/server.pem",
                               f"ssl-key={keys}/server.key", port=port)
        try:
            server.create("nova", ddl(SCHEMA))
            allow(server)
            server.sql(*(f"ALTER USER {account}@localhost REQUIRE SSL" for account in JOBS))
            plain = Endpoint("localhost", "recell_look", "pw", "nova", port)
            with pytest.raises(pymysql.OperationalError, match="Access denied"):
                pymysql.connect(host="127.0.0.1", port=port, user="recell_look", password="pw",
                                ssl_disabled=True)
            with closing(Session(replace(plain, ca=str(authority / "ca.pem")))) as session:
                assert session.query("SHOW STATUS LIKE 'Ssl_cipher'")[0][1]
                assert len(read_schema(session.connection, "nova").tables) == len(SCHEMA.tables)
            for wrong in (replace(plain, ca=str(authority / "stranger.pem")),
                          replace(plain, ca=str(authority / "ca.pem"), host="127.0.0.1")):
                with pytest.raises((RecellError, Lost), match="certificate"):
                    Session(wrong)
            held = Hold(Endpoint("localhost", "recell_hold", "pw", "nova", port,
                                 ca=str(authority / "ca.pem")))
            held.begin()
            assert held.prove().refused
            held.end()
            # A whole move: sessions, both binlogs' readers, the watch.
            server.create("nova_cell1", ddl(SCHEMA))
            server.row("nova", "instances", id=1, uuid="u", host="cmp1", deleted=0)
            moved(server, server, *(
                Endpoint("localhost", user, "pw", database, port, ca=str(authority / "ca.pem"))
                for user, database in (("recell_source", "nova"), ("recell_target", "nova_cell1"))))
        finally:
            server.stop()
    finally:
        for file in keys.iterdir():
            file.unlink()
        keys.rmdir()
