"""Configuration files as oslo.config reads them, from content rather than from paths.

The files are on other hosts; what oslo.config's own parser makes of their text is what Nova sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oslo_config import iniparser

from recell.errors import BadInput

_ENVIRONMENT = "OS_"


@dataclass(frozen=True)
class Config:
    """Options by group and name, all their values in the order in which they were given."""

    values: Mapping[str, Mapping[str, tuple[str, ...]]]

    def get(self, group: str, option: str, default: str = "") -> str:
        """The value that counts: the last one."""
        found = self.all(group, option)
        return found[-1] if found else default

    def all(self, group: str, option: str) -> tuple[str, ...]:
        return self.values.get(_group(group), {}).get(option, ())

    def has(self, group: str, option: str) -> bool:
        return bool(self.all(group, option))

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.values)


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


def _group(name: str) -> str:
    return "DEFAULT" if name.upper() == "DEFAULT" else name.lower()
