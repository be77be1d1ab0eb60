"""Nova's databases, reached from a controller so that grants by host match.

Passwords live in memory only: URLs come from a service's own configuration at run time. Times in
these databases are UTC; sessions are set to it.
"""

from __future__ import annotations

import math
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

import pymysql
from pymysql.constants import CR, ER
from pymysql.cursors import DictCursor

from recell.adapters.ports import RawMapping, ServiceRow
from recell.errors import Denied, RecellError, StalePlan, StepFailed, Unreachable, Unsupported
from recell.model.urls import Url, parse_url
from recell.planning.templates import resolve_template

_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 60
_DENIED = {
    ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR, ER.HOST_NOT_PRIVILEGED, 1698,
}
_LOST = {
    CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, 0,
}
_MAPPING = ("SELECT uuid, name, transport_url, database_connection, disabled"
            " FROM cell_mappings ORDER BY id")
_T = TypeVar("_T")


class Gateway(Protocol):
    """The controller that databases are reached from: :class:`recell.adapters.ssh.SshHost`."""

    name: str

    def forward(self, host: str, port: int) -> Path: ...
    def unforward(self, local: Path, host: str, port: int) -> None: ...
    def read(self, path: str) -> bytes | None: ...


class Database:
    """One connection to one database, made when first needed and again when it was lost.

    Thread-safe: one statement or transaction at a time.

    :raises Denied: the account is refused. :raises Unreachable: no answer.
    """

    def __init__(self, via: Gateway, url: Url) -> None:
        if url.scheme.partition("+")[0] not in ("mysql", "mariadb"):
            raise Unsupported(f"a database URL that Nova uses on {via.name} begins with {url.scheme}",
                              "recell handles MySQL and MariaDB")
        if not url.endpoints or not url.endpoints[0].host or not url.path:
            raise Unsupported(f"a database URL that Nova uses on {via.name} names no host or no database",
                              "Write it as mysql+pymysql://user:password@host/database")
        self._via = via
        self._url = url
        self._options = {k: v[-1] for k, v in parse_qs(url.query).items()}
        self._endpoint = url.endpoints[0]
        self._port = self._endpoint.port or 3306
        self._lock = threading.RLock()
        self._local: Path | None = None
        self._connection: pymysql.Connection[DictCursor] | None = None

    @property
    def where(self) -> str:
        return f"the database {self._url.path} on {self._endpoint.host}"

    def read(self, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        """Rows of a statement, in a read-only transaction; asked once more if the session broke."""

        def ask(cursor: DictCursor) -> tuple[dict[str, Any], ...]:
            cursor.execute(sql, tuple(args) or None)
            return tuple(cursor.fetchall())

        with self._lock:
            try:
                return self._transaction("START TRANSACTION READ ONLY", ask)
            except _Broken:
                try:
                    return self._transaction("START TRANSACTION READ ONLY", ask)
                except _Broken as broken:
                    raise self._unreachable(broken.reason) from None

    def change(self, act: Callable[[DictCursor], _T]) -> _T:
        """Run ``act`` in one transaction. Never tried twice: a lost session raises Unreachable."""
        with self._lock:
            # An idle session may have been ended by the server: find out before, not within.
            self.read("SELECT 1")
            try:
                return self._transaction("START TRANSACTION", act)
            except _Broken:
                raise Unreachable(
                    f"the session to {self.where} broke in a change; it is unknown whether that"
                    " happened", "Make the database reachable, then: recell resume",
                ) from None

    def _transaction(self, begin: str, act: Callable[[DictCursor], _T]) -> _T:
        connection = self._connected()
        try:
            with connection.cursor() as cursor:
                cursor.execute(begin)
                result = act(cursor)
                connection.commit()
                return result
        except RecellError:
            with suppress(pymysql.Error, OSError):
                connection.rollback()
            raise
        except (pymysql.Error, OSError) as error:
            code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
            if isinstance(error, OSError | pymysql.InterfaceError) or code in _LOST:
                self.close()
                raise _Broken(_reason(error)) from None
            with suppress(pymysql.Error, OSError):
                connection.rollback()
            raise self._refused(error, code) from None

    def _refused(self, error: Exception, code: int) -> RecellError:
        account = self._endpoint.user
        if code in _DENIED:
            return Denied(
                f"{self.where} refuses the account {account} coming from {self._via.name}"
                f" ({_reason(error)})", "Correct the password or the grant",
            )
        if code == ER.BAD_DB_ERROR:
            return Unreachable(f"{self.where} does not exist", "Correct the URL or create it")
        return StepFailed(f"{self.where} refuses a statement ({_reason(error)})",
                          "Look at the database server's log")

    def _unreachable(self, reason: str) -> Unreachable:
        return Unreachable(
            f"{self.where} port {self._port} does not answer from {self._via.name} ({reason})",
            "Check that the database server runs and is reachable from there",
        )

    def _connected(self) -> pymysql.Connection[DictCursor]:
        if self._connection is not None:
            return self._connection
        local = self._local = self._via.forward(self._endpoint.host, self._port)
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection = pymysql.connect(
            host=self._endpoint.host, port=self._port, user=self._endpoint.user,
            password=self._endpoint.password, database=self._url.path,
            charset=self._options.get("charset", "utf8mb4").replace("utf8mb3", "utf8"),
            ssl=self._tls(), connect_timeout=_CONNECT_TIMEOUT, read_timeout=_READ_TIMEOUT,
            write_timeout=_READ_TIMEOUT, cursorclass=DictCursor, defer_connect=True,
            init_command="SET time_zone = '+00:00'",
        )
        try:
            client.settimeout(_CONNECT_TIMEOUT)
            client.connect(str(local))
            # A socket of our own rather than ``unix_socket``: PyMySQL would take that for a secure
            # channel to the server itself and send some passwords in clear.
            connection.connect(client)
        except (pymysql.Error, OSError) as error:
            client.close()
            self.close()
            code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
            if isinstance(error, pymysql.Error) and code not in _LOST:
                raise self._refused(error, code) from None
            raise self._unreachable(_reason(error)) from None
        self._connection = connection
        return connection

    def _tls(self) -> ssl.SSLContext | None:
        """As SQLAlchemy's PyMySQL dialect takes it from the URL; the files are the controller's."""
        wanted = {k: v for k, v in self._options.items() if k.startswith("ssl_")}
        if not wanted and self._options.get("ssl", "").lower() not in ("true", "1"):
            return None
        context = ssl.create_default_context()
        if "ssl_ca" in wanted:
            context = ssl.create_default_context(cadata=self._file(wanted["ssl_ca"]).decode())
        true = ("1", "true", "yes")
        checked = wanted.get("ssl_check_hostname", wanted.get("ssl_verify_identity", "true"))
        context.check_hostname = "ssl_ca" in wanted and checked.lower() in true
        if "ssl_ca" not in wanted or wanted.get("ssl_verify_cert", "true").lower() not in true:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "ssl_cert" in wanted:
            # The ssl module loads a certificate from files only: these are 0600 and gone at once.
            with (tempfile.NamedTemporaryFile() as certificate,
                  tempfile.NamedTemporaryFile() as key):
                certificate.write(self._file(wanted["ssl_cert"]))
                key.write(self._file(wanted.get("ssl_key", wanted["ssl_cert"])))
                certificate.flush()
                key.flush()
                context.load_cert_chain(certificate.name, key.name)
        return context

    def _file(self, path: str) -> bytes:
        content = self._via.read(path)
        if content is None:
            raise Unreachable(f"{path} is not on {self._via.name}, but the URL of {self.where}"
                              " names it", "Correct the URL")
        return content

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(pymysql.Error, OSError):
                    connection.close()
            local, self._local = self._local, None
            if local is not None:
                self._via.unforward(local, self._endpoint.host, self._port)


class NovaDatabases:
    """:class:`~recell.adapters.ports.NovaPort`.

    :param api: URL of the API database, with its password.
    :param own_transport, own_database: the URLs that the mappings' templates are filled from.
    :param permit: asked before every change; raises Locked when this run may change nothing any more.
        A database knows no owner file.
    """

    def __init__(
        self, via: Gateway, api: str, own_transport: str, own_database: str,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self._via = via
        self._permit = permit
        self._own_transport = own_transport
        self._own_database = own_database
        self._lock = threading.RLock()
        self._api = Database(via, parse_url(api))
        self._cells: dict[str, Database] = {}

    def mappings(self) -> tuple[RawMapping, ...]:
        return tuple(_mapping(row) for row in self._api.read(_MAPPING))

    def resolved(self, mapping: RawMapping) -> tuple[str, str]:
        """(transport URL, database URL) as the service sees them whose URLs are our own.

        With passwords: not for files or screens.
        """
        return (resolve_template(mapping.transport_url, self._own_transport),
                resolve_template(mapping.database_connection, self._own_database))

    def set_mapping(self, old: RawMapping, new: RawMapping) -> None:
        def act(cursor: DictCursor) -> None:
            cursor.execute(_MAPPING.replace(" ORDER BY id", " WHERE uuid = %s FOR UPDATE"),
                           (old.uuid,))
            row = cursor.fetchone()
            if row is None or _mapping(row) != old:
                raise StalePlan(f"the cell mapping {old.name} is not what the plan was made for",
                                "Make the plan again: recell scan, recell plan")
            cursor.execute(
                "UPDATE cell_mappings SET name = %s, transport_url = %s, database_connection = %s,"
                " disabled = %s, updated_at = UTC_TIMESTAMP() WHERE uuid = %s",
                (new.name, new.transport_url, new.database_connection, new.disabled, old.uuid),
            )

        self._permit()
        self._api.change(act)
        with self._lock:
            gone = self._cells.pop(old.uuid, None)
        if gone is not None:
            gone.close()

    def services(self, cell: str) -> tuple[ServiceRow, ...]:
        rows = self._cell(cell).read(
            "SELECT id, uuid, host, `binary`, version, disabled,"
            " TIMESTAMPDIFF(MICROSECOND, COALESCE(last_seen_up, created_at), UTC_TIMESTAMP(6))"
            " / 1e6 AS age FROM services WHERE deleted = 0 ORDER BY id"
        )
        return tuple(
            ServiceRow(r["id"], r["uuid"] or "", r["host"] or "", r["binary"] or "",
                       r["version"] or 0, bool(r["disabled"]), float(r["age"] or 0))
            for r in rows
        )

    def retire_service(self, cell: str, row: ServiceRow) -> None:
        if row.binary == "nova-compute":
            raise Unsupported(f"the service record of nova-compute on {row.host} has compute nodes",
                              "Delete it with: openstack compute service delete")

        def act(cursor: DictCursor) -> None:
            cursor.execute("SELECT host, `binary`, deleted FROM services WHERE id = %s FOR UPDATE",
                           (row.id,))
            found = cursor.fetchone()
            if found is None or (found["host"], found["binary"]) != (row.host, row.binary):
                raise StalePlan(f"the service record {row.id} is no longer {row.binary} of"
                                f" {row.host}", "Make the plan again: recell scan, recell plan")
            # Nova's own way: updated_at stays, deleted becomes the row's id.
            cursor.execute("UPDATE services SET deleted = id, deleted_at = UTC_TIMESTAMP(),"
                           " updated_at = updated_at WHERE id = %s AND deleted = 0", (row.id,))

        self._permit()
        self._cell(cell).change(act)

    def restore_service(self, cell: str, row_id: int) -> None:
        def act(cursor: DictCursor) -> None:
            try:
                cursor.execute("UPDATE services SET deleted = 0, deleted_at = NULL,"
                               " updated_at = updated_at WHERE id = %s AND deleted = id", (row_id,))
            except pymysql.IntegrityError:
                raise StepFailed(
                    f"the service record {row_id} can't be restored, its service made a new one",
                    "Stop that service and delete its new record, then: recell resume",
                ) from None

        self._permit()
        self._cell(cell).change(act)

    def busy(self, cell: str, before: float, since: float) -> tuple[str, ...]:
        # Columns of whole seconds, cut by MariaDB and rounded by MySQL: rather one too many.
        window = (_time(math.floor(since)), _time(math.ceil(before)))
        builds = self._api.read("SELECT instance_uuid, created_at FROM build_requests"
                                " WHERE created_at BETWEEN %s AND %s ORDER BY id", window)
        events = self._cell(cell).read(
            "SELECT e.event, e.start_time, a.instance_uuid, a.request_id"
            " FROM instance_actions_events e JOIN instance_actions a ON a.id = e.action_id"
            " WHERE e.event LIKE 'conductor\\_%%' AND e.finish_time IS NULL AND e.deleted = 0"
            " AND e.start_time BETWEEN %s AND %s ORDER BY e.id", window,
        )
        return (
            *(f"instance {r['instance_uuid']} is being built since {r['created_at']}"
              for r in builds),
            *(f"{r['event']} of instance {r['instance_uuid']} ({r['request_id']}) runs since"
              f" {r['start_time']}" for r in events),
        )

    def now(self) -> float:
        return float(self._api.read("SELECT UNIX_TIMESTAMP(NOW(6)) AS now")[0]["now"])

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        return self._cell(cell).read(sql, args)

    def close(self) -> None:
        with self._lock:
            for database in (self._api, *self._cells.values()):
                database.close()
            self._cells.clear()

    def _cell(self, cell: str) -> Database:
        if not cell:
            return self._api
        with self._lock:
            if cell not in self._cells:
                found = next((m for m in self.mappings() if m.uuid == cell), None)
                if found is None:
                    raise StalePlan(f"there is no cell mapping {cell}",
                                    "Make the plan again: recell scan, recell plan")
                self._cells[cell] = Database(self._via, parse_url(self.resolved(found)[1]))
            return self._cells[cell]


class _Broken(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _mapping(row: Mapping[str, Any]) -> RawMapping:
    return RawMapping(row["uuid"], row["name"] or "", row["transport_url"] or "",
                      row["database_connection"] or "", bool(row["disabled"]))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _reason(error: Exception) -> str:
    text = str(error.args[1]) if len(error.args) > 1 else str(error) or type(error).__name__
    return text.replace("\n", " ")[:200].rstrip(".")
