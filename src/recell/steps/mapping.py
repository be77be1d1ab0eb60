"""Write a cell's mapping: literal, so that no process resolves it from its own configuration, or with
its database at another address."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from recell.adapters.conf import parse_config
from recell.adapters.ports import HostPort, RawMapping
from recell.errors import Unknowable, Unsupported
from recell.model.step import Direction, Finding
from recell.model.urls import is_template, parse_url
from recell.planning.changes import MappingUrl
from recell.planning.templates import resolve_template
from recell.steps.base import BaseStep

__all__ = ["LiteralMapping", "MappingUrl", "MoveMapping", "NodesMapping", "urls_in"]


def urls_in(host: HostPort, path: str) -> tuple[str, str]:
    """transport_url and [database] connection as a service reads them from one file; "" where it has none."""
    config = parse_config([(f"{path} on {host.name}", host.read(path) or b"")])
    return config.get("DEFAULT", "transport_url"), config.get("database", "connection")


class _MappingStep(BaseStep):
    """Both URLs at once, compare-and-set, read back: nova-manage with one URL would take the other
    from nova.conf."""

    @abstractmethod
    def changed(self, now: RawMapping) -> RawMapping:
        """The row that the way forward writes."""

    def look(self, toward: Direction) -> Finding:
        old, new = self._both()
        if old is None or new is None:
            return Finding.not_done("not begun") if toward == "forward" else Finding.done("not begun")
        now = self._now()
        target, origin = (new, old) if toward == "forward" else (old, new)
        if now == target:
            return Finding.done("read back: both URLs as they should be")
        if now == origin:
            return Finding.not_done("as it was")
        if toward == "forward" and _sha(now) in self._noted():
            return Finding.done("both URLs were changed further by a later step")
        return Finding.unknown(f"the mapping of {now.name} is neither what it was nor what recell wrote")

    def act(self, toward: Direction) -> None:
        if toward == "forward" and self.recall("old") is None:
            now = self._now()
            after = self.changed(now)
            self.remember("new", self._keep(after))
            self.remember("old", self._keep(now))
            noted = self._noted()
            more = [_sha(m) for m in (now, after) if _sha(m) not in noted]
            self.context.journal.remember(f"mapping:{self.param('cell')}", "shas", [*noted, *more])
        old, new = self._both()
        if old is None or new is None:
            return
        source, target = (old, new) if toward == "forward" else (new, old)
        if self._now() != target:
            # Processes that have read the other one have to go.
            self.remember("turn", int(self.recall("turn", 0)) + 1)
            self.world.nova().set_mapping(source, target)

    def _now(self) -> RawMapping:
        for mapping in self.world.nova().mappings():
            if mapping.uuid == self.param("cell"):
                return mapping
        raise Unknowable(
            f"cell {self.param('cell')} has no mapping any more", "See nova-manage cell_v2 list_cells"
        )

    def _noted(self) -> list[str]:
        """Hashes of all that this mapping has been by a step's doing, or before it."""
        noted: list[str] = self.context.journal.recall(f"mapping:{self.param('cell')}", "shas", [])
        return noted

    def _keep(self, mapping: RawMapping) -> str:
        """On the host whose nova.conf the URLs come from: they hold passwords."""
        return self.host.keep(self.context.keep, _text(mapping))

    def _both(self) -> tuple[RawMapping | None, RawMapping | None]:
        return self._load(self.recall("old")), self._load(self.recall("new"))

    def _load(self, sha256: str | None) -> RawMapping | None:
        if sha256 is None:
            return None
        uuid, name, transport, database, disabled = (
            self.host.kept(self.context.keep, sha256).decode().split("\0")
        )
        return RawMapping(uuid, name, transport, database, bool(disabled))


class LiteralMapping(_MappingStep):
    """Running processes see no difference: the text resolves to what they have."""

    kind: ClassVar[str] = "literal-mapping"

    def changed(self, now: RawMapping) -> RawMapping:
        transport, database = urls_in(self.host, str(self.param("config")))
        if not transport or not database:
            raise Unsupported(
                f"{self.param('config')} on {self.spec.where} lacks a URL that a mapping uses",
                "Write both URLs into the mapping by hand, then scan again",
            )
        return replace(
            now,
            transport_url=resolve_template(now.transport_url, transport),
            database_connection=resolve_template(now.database_connection, database),
        )


class NodesMapping(_MappingStep):
    """The cell's broker has other ``nodes`` (``[[host, port], ...]``); account and vhost stay.

    A template is filled from ``config`` first, a file on the step's host; the database's URL stays as it is.
    """

    kind: ClassVar[str] = "nodes-mapping"

    def changed(self, now: RawMapping) -> RawMapping:
        url = resolve_template(now.transport_url, urls_in(self.host, str(self.param("config")))[0])
        if is_template(url):
            raise Unsupported(
                f"{now.name}'s mapping can't be filled from {self.param('config')} on {self.spec.where}",
                "Write both URLs into the mapping by hand, then scan again",
            )
        nodes = tuple((str(host), int(port)) for host, port in self.param("nodes"))
        return replace(now, transport_url=parse_url(url).with_nodes(nodes).text())


class MoveMapping(_MappingStep):
    """The same account and database at another ``node`` ([host, port])."""

    kind: ClassVar[str] = "move-mapping"

    def changed(self, now: RawMapping) -> RawMapping:
        host, port = self.param("node")
        url = parse_url(now.database_connection).with_nodes(((str(host), int(port)),))
        return replace(now, database_connection=url.text())


def _text(mapping: RawMapping) -> bytes:
    return "\0".join(
        (
            mapping.uuid,
            mapping.name,
            mapping.transport_url,
            mapping.database_connection,
            "1" if mapping.disabled else "",
        )
    ).encode()


def _sha(mapping: RawMapping) -> str:
    return hashlib.sha256(_text(mapping)).hexdigest()
