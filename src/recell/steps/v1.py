"""A standard Nova becomes the child of an API cell: accounts, configuration, database, records."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

from recell.adapters.conf import database_url_of, parse_config, transport_url_of
from recell.adapters.v1_port import V1Port
from recell.errors import StepFailed, Unknowable, Unsupported
from recell.model.moving import Thing
from recell.model.relay import Side
from recell.model.step import Direction, Finding
from recell.model.urls import parse_url
from recell.model.v1 import Conversion, Neighbour
from recell.planning import ini
from recell.planning.changes import apply_changes
from recell.steps.base import BaseStep
from recell.steps.database import recells_login
from recell.steps.files import FileStep

SIDES: tuple[Side, Side] = ("old", "new")
BEGUN_AT = "begun-at"
"""What a switch remembers: when it began to lead users over, seconds since the epoch."""
LISTENING = (
    ("DEFAULT", "my_ip"),
    ("DEFAULT", "my_block_storage_ip"),
    ("DEFAULT", "osapi_compute_listen"),
    ("DEFAULT", "metadata_listen"),
    ("DEFAULT", "novncproxy_host"),
    ("DEFAULT", "html5proxy_host"),
    ("DEFAULT", "vncserver_listen"),
    ("DEFAULT", "vncserver_proxyclient_address"),
    ("vnc", "novncproxy_host"),
    ("vnc", "server_listen"),
    ("vnc", "vncserver_listen"),
    ("vnc", "server_proxyclient_address"),
    ("vnc", "vncserver_proxyclient_address"),
    ("spice", "html5proxy_host"),
    ("spice", "server_listen"),
    ("spice", "server_proxyclient_address"),
    ("serial_console", "serialproxy_host"),
    ("serial_console", "proxyclient_address"),
)
"""Options that hold a host's own address."""
OLD_RABBIT = ("rabbit_host", "rabbit_hosts", "rabbit_port")
_MODE = 0o640


class V1Step(BaseStep):
    """Shared: ``conversion``; the port to both sides."""

    @property
    def conversion(self) -> Conversion:
        return Conversion.from_json(self.param("conversion"))

    def port(self) -> V1Port:
        conversion = self.conversion
        return self.world.v1(conversion, recells_login(self.context, conversion.old.server))


class V1Account(V1Step):
    """recell's own account on both database servers."""

    kind: ClassVar[str] = "v1-account"

    def look(self, toward: Direction) -> Finding:
        port = self.port()
        there = [side for side in SIDES if "recell" in port.there(side)]
        if toward == "forward":
            if len(there) == len(SIDES):
                return Finding.done("recell logs in on both")
            return Finding.partial("recell logs in on one") if there else Finding.not_done()
        if self.recall("made") is None or not there:
            return Finding.done("as before")
        return Finding.not_done("made by recell")

    def act(self, toward: Direction) -> None:
        port = self.port()
        if toward == "forward":
            self.remember("made", True)
            for side in SIDES:
                port.make(side, "recell")
        else:
            self._drop()

    def _drop(self) -> None:
        port = self.port()
        for side in reversed(SIDES):
            port.drop(side, "recell")

    def finish(self) -> None:
        if self.recall("made"):
            self._drop()


class V1Config(FileStep):
    """nova.conf of an API cell's host, after a controller's: the same accounts on other servers.

    ``source``: host and file that it is made after, as it was when the step began; ``addresses``: of that
    host, where ``my_ip`` is this one's. ``nodes``, ``vhost``: of the broker; ``database``: address, port,
    name; ``changes``: on top of that. Its text stays on both hosts.
    """

    kind: ClassVar[str] = "v1-config"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        host, path = (str(part) for part in self.param("source"))
        where = f"{path} on {host}"
        kept = self.recall("source")
        if kept is None:
            source = self.world.host(host)
            read, stat = source.read(path), source.stat(path)
            if read is None or stat is None:
                raise Unknowable(f"{where} is gone", "Put it back, then: recell resume")
            kept = self.host.keep(self.context.keep, read)
            # Never readable by more than Nova, whatever the other one was.
            self.remember("source_stat", [stat.mode & _MODE, stat.owner, stat.group])
            self.remember("source", kept)
        original = self.host.kept(self.context.keep, kept)
        mode, owner, group = self.recall("source_stat")
        text = self._moved(original.decode(), where)
        text = apply_changes(text, self.param("changes"), _no_mapping)
        return text.encode(), mode, owner, group

    def _moved(self, text: str, where: str) -> str:
        config = parse_config([(where, text.encode())])
        transport, database = transport_url_of(config), database_url_of(config)
        if not transport or not database:
            raise Unsupported(
                f"{where} lacks the URL of {'the broker' if not transport else 'the database'}",
                "Set it there, restart Nova, and scan again",
            )
        nodes = tuple((str(h), int(p)) for h, p in self.param("nodes"))
        vhost = str(self.param("vhost")).removeprefix("/")
        url = replace(parse_url(transport).with_nodes(nodes), path=vhost)
        address, port, name = self.param("database")
        stored = replace(parse_url(database).with_nodes(((str(address), int(port)),)), path=str(name))
        text = ini.set_option(text, "DEFAULT", "transport_url", url.text())
        text = ini.set_option(text, "database", "connection", stored.text())
        for section in ("DEFAULT", "oslo_messaging_rabbit"):
            for option in OLD_RABBIT:
                text = ini.unset_option(text, section, option)
        text = ini.unset_option(text, "DEFAULT", "sql_connection")
        # The child's replica has the child's rows, without their path.
        text = ini.unset_option(text, "database", "slave_connection")
        # A name that is another host's would make two of one.
        text = ini.unset_option(text, "DEFAULT", "host")
        theirs = set(self.param("addresses"))
        for section, option in LISTENING:
            if (ini.get(text, section, option) or "").strip() in theirs:
                text = ini.set_option(text, section, option, str(self.param("my_ip")))
        return text


def _no_mapping(cell: str) -> str:
    raise Unknowable(f"cell {cell} is asked for where no mapping is", "Report this")


class V1Database(V1Step):
    """``things`` on the API cell's server, and the tables that the operator's own nova-manage makes there
    (``argv`` on host ``on``); rows that this puts there are cleared."""

    kind: ClassVar[str] = "v1-database"

    def _wanted(self) -> list[Thing]:
        return list(self.param("things"))

    def look(self, toward: Direction) -> Finding:
        there = self.port().there("new")
        made: list[str] | None = self.recall("made")
        if toward == "backward":
            if self.recall("kept"):
                return Finding.done(str(self.recall("kept")))
            left = [t for t in made or [] if t in there]
            return (
                Finding.not_done(f"{', '.join(left)} made by recell") if left else Finding.done("as before")
            )
        if self.recall("kept") and "tables" in there:
            return Finding.unknown(f"an undo has left what is nowhere else there: {self.recall('kept')}")
        if made is None and "tables" in there:
            return Finding.unknown(f"{self.conversion.new.where} has tables that recell did not make")
        missing = [t for t in (*self._wanted(), "tables") if t not in there]
        if made is None or missing or not self.recall("cleared"):
            return Finding.partial(f"{', '.join(missing) or 'all'} to do") if made else Finding.not_done()
        return Finding.done(f"{self.conversion.new.where} has its tables")

    def act(self, toward: Direction) -> None:
        port = self.port()
        if toward == "backward":
            self._take_away(port)
            return
        there = port.there("new")
        if self.recall("made") is None:
            # Before anything is made: undo takes away just that.
            self.remember("made", [t for t in self._wanted() if t not in there])
        self.remember("kept", "")
        for thing in self._wanted():
            port.make("new", thing)
        if not self.recall("cleared"):
            self._sync()
            self.remember("seeded", port.clear_seeded())
            self.remember("cleared", True)

    def _sync(self) -> None:
        on = str(self.param("on"))
        ended = self.world.host(on).run(self.param("argv"), timeout=1800, user=self.param("user"))
        if ended.returncode != 0:
            lines = (ended.stderr or ended.stdout).decode("utf-8", "replace").strip().splitlines()
            raise StepFailed(
                f"nova-manage db sync on {on} ended with {ended.returncode}"
                f" ({lines[-1][:200] if lines else 'it said nothing'})",
                "See its log there, then: recell resume, or recell undo",
            )

    def _take_away(self, port: V1Port) -> None:
        made: list[str] = self.recall("made") or []
        there = port.there("new")
        if "tables" in there and self.recall("cleared"):
            alone = port.agreement().alone
            if alone:
                self.remember(
                    "kept",
                    f"{self.conversion.new.where} is left: {len(alone)} failed builds that no cell took are"
                    f" nowhere else ({', '.join(alone[:3])})",
                )
                return
        self.remember("cleared", False)
        for thing in reversed(self._wanted()):
            if thing in made:
                port.drop("new", thing)

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        seeded = int(self.recall("seeded", 0))
        return f"{said}; {seeded} seeded rows cleared" if toward == "forward" and seeded else said


def with_entry(before: bytes, name: str, entry: dict[str, Any]) -> bytes:
    """The file of [cells] cells_config with this neighbour beside those that it has."""
    known = json.loads(before) if before.strip() else {}
    return (json.dumps({**known, name: entry}, indent=4, sort_keys=True) + "\n").encode()


class V1Record(FileStep, V1Step):
    """One side's record of its neighbour, into its table ``cells``, or the JSON file that [cells]
    cells_config names (``path``; owner and group of ``config`` beside it)."""

    kind: ClassVar[str] = "v1-record"

    def _neighbour(self) -> Neighbour:
        host, path = (str(part) for part in self.param("account"))
        where = f"{path} on {host}"
        content = self.world.host(host).read(path) or b""
        transport = transport_url_of(parse_config([(where, content)]))
        if not transport:
            raise Unsupported(f"{where} has no transport_url", "Set it there, and scan again")
        nodes = tuple((str(h), int(p)) for h, p in self.param("nodes"))
        vhost = str(self.param("vhost"))
        # Written out, as a URL without one means whatever its reader has as default.
        url = replace(parse_url(transport).with_nodes(nodes), path=vhost.removeprefix("/") or "/", query="")
        return Neighbour(
            str(self.param("name")),
            bool(self.param("is_parent")),
            url.text(),
            float(self.param("weight_offset")),
            float(self.param("weight_scale")),
        )

    @property
    def _side(self) -> Side:
        return "old" if self.param("side") == "old" else "new"

    @property
    def _in_table(self) -> bool:
        return str(self.param("into")) == "table"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        stat = self.host.stat(str(self.param("config")))
        if stat is None:
            raise Unknowable(f"{self.param('config')} on {self.spec.where} is gone", "See the journal")
        one = self._neighbour()
        entry = {
            "name": one.name,
            "api_url": "",
            "transport_url": one.url,
            "weight_offset": one.weight_offset,
            "weight_scale": one.weight_scale,
            "is_parent": one.is_parent,
        }
        return with_entry(before, one.name, entry), _MODE, stat.owner, stat.group

    def look(self, toward: Direction) -> Finding:
        if not self._in_table:
            return super().look(toward)
        if toward == "backward" and not self.recall("written"):
            return Finding.done("not begun")
        name = str(self.param("name"))
        known = next((n for n in self.port().neighbours(self._side) if n.name == name), None)
        if toward == "backward":
            return Finding.not_done(f"{name} is there") if known else Finding.done(f"no record of {name}")
        if known is None:
            return Finding.not_done(f"no record of {name}")
        if known != self._neighbour():
            return Finding.unknown(f"there is a record of {name} that recell did not write")
        return Finding.done(f"{name} is there, with {len(self.param('nodes'))} nodes of its broker")

    def act(self, toward: Direction) -> None:
        if not self._in_table:
            super().act(toward)
        elif toward == "forward":
            self.remember("written", True)
            self.port().add_neighbour(self._side, self._neighbour())
        else:
            self.port().remove_neighbour(self._side, str(self.param("name")))
