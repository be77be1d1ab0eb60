"""One database of Nova's, reached from a controller so that grants by host match."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

import pymysql
from pymysql.constants import CR, ER
from pymysql.cursors import DictCursor

from recell.errors import Denied, RecellError, StepFailed, Unreachable, Unsupported
from recell.model.urls import Url

__all__ = ["Database", "Gateway"]

_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 60
_DENIED = {
    ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR, ER.HOST_NOT_PRIVILEGED, 1698,
}
_LOST = {
    CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, 0,
}
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


class _Broken(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _reason(error: Exception) -> str:
    text = str(error.args[1]) if len(error.args) > 1 else str(error) or type(error).__name__
    return text.replace("\n", " ")[:200].rstrip(".")
