"""Configuration files as oslo.config reads them, from content rather than from paths.

The files are on other hosts; what oslo.config's own parser makes of their text is what Nova sees.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from oslo_config import iniparser

from recell.errors import BadInput
from recell.model.urls import Endpoint, Url

_ENVIRONMENT = "OS_"
_DEEPEST = 5
_RABBIT = ("oslo_messaging_rabbit", "DEFAULT")


@dataclass(frozen=True)
class Config:
    """Options by group and name, all their values in the order in which they were given."""

    values: Mapping[str, Mapping[str, tuple[str, ...]]]

    def get(self, group: str, option: str, default: str = "") -> str:
        """The value that counts: the last one, with ``$option`` and ``${group.option}`` filled in. What no
        file sets stays as it is written: its default is Nova's own."""
        return self._get(group, option, default, _DEEPEST)

    def _get(self, group: str, option: str, default: str, deep: int) -> str:
        found = self.all(group, option)
        if not found:
            return default
        return _Template(found[-1].replace(r"\$", "$$")).safe_substitute(_Options(self, group, deep))

    def all(self, group: str, option: str) -> tuple[str, ...]:
        return self.values.get(_group(group), {}).get(option, ())

    def has(self, group: str, option: str) -> bool:
        return bool(self.all(group, option))

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.values)


class _Template(string.Template):
    idpattern = r"[_a-z][._a-z0-9]*"


class _Options(Mapping[str, str]):
    """Options as one of them names others: of its own group, else of DEFAULT, or with the group's name."""

    def __init__(self, config: Config, group: str, deep: int) -> None:
        self._config, self._group, self._deep = config, group, deep

    def __getitem__(self, name: str) -> str:
        first, dot, rest = name.partition(".")
        places = [(first, rest)] if dot else [(self._group, name), ("DEFAULT", name)]
        for group, option in places:
            if self._deep and self._config.has(group, option):
                return self._config._get(group, option, "", self._deep - 1)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Parser(iniparser.BaseParser):  # type: ignore[misc]  # oslo.config ships no types
    def __init__(self, values: dict[str, dict[str, tuple[str, ...]]]) -> None:
        super().__init__()
        self._values = values
        self._group = ""

    def new_section(self, section: str) -> None:
        self._group = _group(section)
        self._values.setdefault(self._group, {})

    def assignment(self, key: str, value: list[str]) -> None:
        if not self._group:
            raise self.parse_exc("an option stands before the first section", self.lineno, key)
        options = self._values[self._group]
        options[key] = (*options.get(key, ()), "\n".join(value))


def parse_config(
    files: Sequence[tuple[str, bytes]], environment: Mapping[str, str] | None = None,
) -> Config:
    """Parse files as (name, content) in the order in which the service reads them; later ones win.

    :param environment: the service's environment: ``OS_<GROUP>__<OPTION>`` wins over files.
    :raises BadInput: not an oslo.config file. Names file and line, never the line's text.
    """
    merged: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, content in files:
        values: dict[str, dict[str, tuple[str, ...]]] = {}
        try:
            _Parser(values).parse(content.decode("utf-8").splitlines(keepends=True))
        except iniparser.ParseError as error:
            raise BadInput(f"{name} is not a configuration file: line {error.lineno} is malformed",
                           "Correct that line") from None
        except UnicodeDecodeError:
            raise BadInput(f"{name} is not a configuration file: it is not UTF-8",
                           "Correct its encoding") from None
        for group, options in values.items():
            known = merged.setdefault(group, {})
            # A later file's values follow an earlier one's: the last wins, lists are joined.
            for option, given in options.items():
                known[option] = (*known.get(option, ()), *given)
    for variable, value in (environment or {}).items():
        group, double, option = variable.removeprefix(_ENVIRONMENT).partition("__")
        if variable.startswith(_ENVIRONMENT) and double:
            known = merged.setdefault(_group(group), {})
            known[option.lower()] = (value,)
    return Config(merged)


def transport_url_of(config: Config) -> str:
    """The RPC transport URL, written out of ``rabbit_*`` options where an old release has only those.

    "" when neither is set, or ``rpc_backend`` is another one than RabbitMQ. Holds the password.
    """
    url = config.get("DEFAULT", "transport_url")
    backend = config.get("DEFAULT", "rpc_backend", "rabbit")
    if url or not ("rabbit" in backend or "kombu" in backend):
        return url

    def old(option: str, default: str = "") -> str:
        return next((config.get(g, option) for g in _RABBIT if config.has(g, option)), default)

    if not any(old(f"rabbit_{o}") for o in ("host", "hosts", "userid", "password", "virtual_host")):
        return ""
    port = old("rabbit_port", "5672")
    nodes = old("rabbit_hosts") or f"{old('rabbit_host', 'localhost')}:{port}"
    endpoints = []
    for node in filter(None, (n.strip() for n in nodes.split(","))):
        host, _, own = node.rpartition(":") if re.search(r"[^:]:\d+\Z", node) else (node, "", port)
        if own.isdigit():
            name = host.strip("[]")
            account = (old("rabbit_userid", "guest"), old("rabbit_password", "guest"))
            endpoints.append(Endpoint(name, int(own), *account))
    vhost = old("rabbit_virtual_host", "/")
    return Url("rabbit", tuple(endpoints), "" if vhost == "/" else vhost).text()


def database_url_of(config: Config) -> str:
    """Nova's (cell) database, also under the names that releases before Icehouse gave the option."""
    return config.get("database", "connection") or config.get("DEFAULT", "sql_connection")


def _group(name: str) -> str:
    return "DEFAULT" if name.upper() == "DEFAULT" else name.lower()
