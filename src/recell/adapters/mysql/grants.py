"""What SHOW GRANTS says, as MariaDB and MySQL word it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ALL", "Granted", "granted"]

ALL = "ALL PRIVILEGES"
_GRANT = re.compile(r"GRANT (.+?) ON (\S+)\.\* TO (.*)", re.DOTALL)


@dataclass(frozen=True)
class Granted:
    """``rights``: in capitals. ``pattern``: of databases, as LIKE has it; empty: all of them, and the server.
    ``handed``: they may be given to others."""

    rights: frozenset[str]
    pattern: str
    handed: bool

    def has(self, right: str) -> bool:
        return bool({right, ALL} & self.rights)

    def on(self, database: str) -> bool:
        """Whether these are rights on it, and not only by a pattern that stands for others, too."""
        return not self.pattern or self.pattern.replace("\\_", "_").replace("\\%", "%") == database

    def reaches(self, database: str) -> bool:
        """Whether these are rights on it, however they are spelled."""
        parts = re.findall(r"\\?.", self.pattern, re.DOTALL)
        wild = {"%": ".*", "_": "."}
        spelled = "".join(wild.get(p) or re.escape(p[-1]) for p in parts)
        return not self.pattern or re.fullmatch(spelled, database, re.DOTALL) is not None


def granted(lines: Iterable[str]) -> tuple[Granted, ...]:
    """Rights on all databases, or on whole ones; what is smaller is left out, and so are roles."""
    found = []
    for line in lines:
        if match := _GRANT.match(line):
            rights = frozenset(r.strip().upper() for r in match[1].split(","))
            pattern = "" if match[2] == "*" else match[2].strip("`").replace("``", "`")
            found.append(Granted(rights, pattern, "GRANT OPTION" in match[3]))
    return tuple(found)
