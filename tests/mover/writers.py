"""Random writers, as a Nova and its operators would write."""

from __future__ import annotations

import random
import threading
import time
import uuid
from typing import Any

import pymysql

from tests.private_server import Server

HOSTS = tuple(f"cmp-{n}" for n in range(6))
TEXTS = (None, "", "NULL", "it's \\ \"q\" % %s", "größe 測試 ", "\0\n\r\x1a", "x" * 3000, "a,b),('c'")
NAMES = (None, "", "vm 🐧", "größe", "'; --", "名前")
_SESSION = "SET time_zone = '+00:00', sql_mode = '', foreign_key_checks = 0"


class Writer:
    """One session that changes rows at random, all of it reproducible from ``seed``.

    ``base``: where it numbers rows that get another number."""

    def __init__(self, server: Server, seed: int, base: int = 0) -> None:
        self.base = base
        self.random = random.Random(seed)
        self.connection = server.connect(init_command=_SESSION, autocommit=False)
        self.cursor = self.connection.cursor()
        self.changes = 0

    def close(self) -> None:
        self.connection.close()

    def step(self) -> None:
        """One transaction."""
        choose = self.random
        act = choose.choices(
            [self.report, self.update, self.born, self.action, self.moved, self.died, self.tag, self.rekeyed,
             self.device, self.exact, self.bulk, self.swap, self.node],
            weights=[10, 10, 6, 8, 6, 3, 6, 3, 3, 8, 1, 2, 2])[0]
        try:
            act()
            if choose.random() < 0.05:
                self.connection.rollback()
            else:
                self.connection.commit()
            self.changes += 1
        except pymysql.err.MySQLError as error:
            if error.args[0] not in (1062, 1213, 1205, 1451, 1452):
                raise
            self.connection.rollback()

    def do(self, sql: str, *args: Any) -> int:
        return int(self.cursor.execute(sql, args))

    def host(self) -> str | None:
        return self.random.choice((*HOSTS, None))

    def one(self, column: str = "uuid", table: str = "instances") -> Any:
        # Not RAND(): the same seed writes the same on every server.
        self.cursor.execute(f"SELECT {column} FROM {table} ORDER BY {column}")
        rows = self.cursor.fetchall()
        return self.random.choice(rows)[0] if rows else None

    def report(self) -> None:
        self.do("UPDATE services SET report_count = report_count + 1, last_seen_up = UTC_TIMESTAMP()"
                " WHERE host = %s", self.host())

    def update(self) -> None:
        self.do("UPDATE instances SET progress = %s, user_data = %s, display_name = %s, locked_by = %s,"
                " created_at = %s WHERE uuid = %s", self.random.choice((None, 1, 2)), self.random.choice(TEXTS),
                self.random.choice(NAMES), self.random.choice((None, "owner", "admin")),
                self.random.choice((None, "0000-00-00 00:00:00", "2012-02-29 23:59:59")), self.one())

    def born(self) -> None:
        choose = self.random
        name = str(uuid.UUID(int=choose.getrandbits(128)))
        children_first = choose.random() < 0.3
        if not children_first:
            self.do("INSERT INTO instances (uuid, host, display_name, deleted) VALUES (%s, %s, %s, 0)", name,
                    self.host(), choose.choice(NAMES))
        self.do("INSERT INTO instance_extra (instance_uuid, flavor) VALUES (%s, %s)", name,
                choose.choice(TEXTS))
        for number in range(choose.randrange(3)):
            self.do("INSERT INTO tags VALUES (%s, %s)", name, f"t{number}")
        if children_first:
            self.do("INSERT INTO instances (uuid, host, deleted) VALUES (%s, %s, 0)", name, self.host())

    def action(self) -> None:
        self.do("INSERT INTO instance_actions (instance_uuid, action) VALUES (%s, 'reboot')", self.one())
        number = self.cursor.lastrowid
        self.do("INSERT INTO instance_actions_events (event, action_id) VALUES ('e', %s)", number)
        self.do("UPDATE instance_actions_events SET finish_time = COALESCE(finish_time, '2020-01-01') + INTERVAL 1 SECOND"
                " WHERE action_id = %s",
                self.one("id", "instance_actions"))
        if self.random.random() < 0.1:
            self.do("UPDATE instance_actions SET instance_uuid = %s WHERE id = %s", self.one(), number)

    def moved(self) -> None:
        self.do("UPDATE instances SET host = %s WHERE uuid = %s", self.host(), self.one())

    def died(self) -> None:
        name = self.one()
        self.do("DELETE e FROM instance_actions_events e JOIN instance_actions a ON a.id = e.action_id"
                " WHERE a.instance_uuid = %s", name)
        for table, column in (("instance_actions", "instance_uuid"), ("instance_extra", "instance_uuid"),
                              ("tags", "resource_id"), ("instances", "uuid")):
            self.do(f"DELETE FROM {table} WHERE {column} = %s", name)

    def tag(self) -> None:
        choose = self.random
        name = self.one()
        self.do("REPLACE INTO tags VALUES (%s, %s)", name, choose.choice(("a", "A", "ß", "🐧", "t' \\", "")))
        self.do("UPDATE tags SET tag = %s WHERE resource_id = %s AND tag = 'a'", choose.choice("bA"), name)

    def rekeyed(self) -> None:
        """Primary keys change, also to one that another row had."""
        old = self.one("id", "instance_extra")
        self.do("UPDATE instance_extra SET id = %s WHERE id = %s", self.base + self.random.randrange(1, 3000), old)
        self.do("UPDATE every_type SET id = -id WHERE id = %s", self.random.randrange(-40, 40))

    def swap(self) -> None:
        """Two rows exchange the value of a unique key."""
        self.cursor.execute("SELECT id, address FROM pci_devices WHERE compute_node_id = %s ORDER BY id LIMIT 2",
                            (self.one("id", "compute_nodes"),))
        rows = self.cursor.fetchall()
        if len(rows) == 2:
            (a, one), (b, two) = rows
            self.do("UPDATE pci_devices SET address = '-' WHERE id = %s", a)
            self.do("UPDATE pci_devices SET address = %s WHERE id = %s", one, b)
            self.do("UPDATE pci_devices SET address = %s WHERE id = %s", two, a)

    def node(self) -> None:
        choose = self.random
        self.do("UPDATE compute_nodes SET host = %s, cpu_allocation_ratio = %s WHERE id = %s", self.host(),
                choose.choice((None, 1.2345678806304932, 1e-30, choose.random())), self.one("id", "compute_nodes"))
        if choose.random() < 0.3:
            self.do("INSERT INTO compute_nodes (host, stats, ram_allocation_ratio) VALUES (%s, %s, %s)",
                    self.host(), choose.choice(TEXTS), choose.random())

    def device(self) -> None:
        self.do("INSERT INTO pci_devices (compute_node_id, address) VALUES (%s, %s)",
                self.one("id", "compute_nodes"), f"0:{self.random.randrange(40)}")

    def bulk(self) -> None:
        self.do("UPDATE instances SET progress = progress + 1")
        self.do("INSERT INTO s3_images (uuid) SELECT uuid FROM instances ORDER BY uuid LIMIT 5")
        self.do("UPDATE instance_extra SET flavor = %s WHERE id %% 3 = 0", self.random.choice(TEXTS))

    def exact(self) -> None:
        choose = self.random
        number = choose.randrange(-40, 40)
        if choose.random() < 0.2:
            self.do("DELETE FROM every_type WHERE id = %s", number)
            return

        def blob(limit: int) -> bytes | None:
            return choose.choice((None, b"", choose.randbytes(choose.randrange(limit))))

        def text(limit: int) -> str | None:
            found = choose.choice(TEXTS)
            return found[:limit] if found else found

        self.do(
            "REPLACE INTO every_type (id, t, su, m, bu, f, d, n, b, y, da, ti, dt, dt6, ts, c, c2, v, v3, l1, tt, te,"
            " mt, bi, vb, tb, bl, lb, e, s) VALUES (" + ", ".join(["%s"] * 30) + ")",
            number, choose.choice((None, -128, 0, 127)), choose.choice((None, 0, 65535)),
            choose.choice((None, -8388608, 8388607)), choose.choice((None, 0, (1 << 64) - 1)),
            choose.choice((None, 0.1, 3.4e38, -1e-38, choose.uniform(-9, 9))),
            choose.choice((None, 0.1, 1e300, choose.uniform(-9, 9))), choose.choice((None, "123456789012345.12345", "-0.5")),
            choose.choice((None, 0, 4095)), choose.choice((None, 0, 1999)),
            choose.choice((None, "0000-00-00", "2020-00-10", "9999-12-31")),
            choose.choice((None, "-838:59:59.000", "00:00:00.001")),
            choose.choice((None, "0000-00-00 00:00:00", "1000-01-01 00:00:00")),
            choose.choice((None, "0000-00-00 00:00:00", "2000-01-01 00:00:00.000001")),
            choose.choice((None, "1970-01-01 00:00:01", "2038-01-19 03:14:07")),
            choose.choice((None, "", "a", "ab c ", "größe")), choose.choice((None, "", "🐧" * 20)),
            text(20), text(300), choose.choice((None, "", "größe", "\x80\xff")), text(100), text(1 << 15),
            choose.choice((None, "", "🐧'\\", "n" * 100_000)), blob(5), blob(300), blob(255), blob(9000),
            choose.choice((None, b"", choose.randbytes(100), choose.randbytes(choose.randrange(300_000)))),
            choose.choice((None, "a", "größe")), choose.choice((None, "", "x", "x,z", "x,y,z")))


def fill(server: Server, seed: int, instances: int = 40) -> None:
    """A database that has been in use."""
    writer = Writer(server, seed)
    try:
        _fill(writer, instances)
    finally:
        writer.close()


def _fill(writer: Writer, instances: int) -> None:
    for number, host in enumerate(HOSTS):
        writer.do("INSERT INTO services (host, `binary`, report_count, deleted) VALUES (%s, 'nova-compute', 0, 0),"
                  " (%s, 'nova-other', 0, 0)", host, host)
        writer.do("INSERT INTO compute_nodes (host, cpu_allocation_ratio) VALUES (%s, %s)", host, 1 / (number + 3))
    writer.do("INSERT INTO tags VALUES ('', '')")
    writer.do("INSERT INTO services (host, `binary`, deleted) VALUES (NULL, 'nova-compute', 0)")
    writer.connection.commit()
    for _ in range(instances):
        writer.born()
    for _ in range(instances * 2):
        writer.step()
    writer.do("SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")
    writer.do("INSERT INTO s3_images VALUES (0, 'zero'), (2000000000, 'far away')")
    writer.connection.commit()


class Load:
    """Writers at work, in threads, until stopped. As a context it begins and ends with it."""

    def __init__(self, server: Server, seed: int, writers: int = 2, pause: float = 0.004, base: int = 0
                 ) -> None:
        self._server, self._pause, self._base = server, pause, base
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        self.changes = 0
        self._threads = [threading.Thread(target=self._run, args=(seed * 100 + i,)) for i in range(writers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No statement of theirs is under way afterwards. :raises Exception: what ended a writer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _run(self, seed: int) -> None:
        writer: Writer | None = None
        while not self._stop.is_set():
            try:
                writer = writer or Writer(self._server, seed, self._base)
                writer.step()
                self.changes += 1
                time.sleep(self._pause)
            except (pymysql.OperationalError, pymysql.InterfaceError):
                # The server is away: a Nova tries again too, with a new session.
                seed += 7
                writer = None
                time.sleep(0.05)
            except BaseException as error:
                self.errors.append(error)
                return
        if writer is not None:
            writer.close()
