"""Writing configuration files of oslo.config as a distribution does: full of comments."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 79


@dataclass(frozen=True)
class Option:
    """One option. value None: only its commented default is shown; default None: it has none."""

    name: str
    value: str | None
    help: str = ""
    default: str | None = None

    def lines(self) -> list[str]:
        """Its comment, its commented default and, if it is set, its line."""
        lines = [f"# {line}" for line in textwrap.wrap(self.help, WIDTH - 2)]
        if self.default is not None:
            lines.append(f"#{self.name} = {self.default}".rstrip())
        if self.value is not None:
            lines.append(f"{self.name} = {self.value}".rstrip())
        return [*lines, ""]


@dataclass(frozen=True)
class Section:
    """A section and its options."""

    name: str
    options: Sequence[Option]


def option(name: str, value: object, help: str = "", default: str | None = None) -> Option:
    """An Option; value may be anything whose str is what the file should hold."""
    return Option(name, None if value is None else str(value), help, default)


def render(title: str, sections: Sequence[Section]) -> str:
    """The text of a file. title: what the comment on top of it says."""
    lines = [f"# {line}" if line else "#" for line in title.splitlines()]
    for section in sections:
        lines += ["", f"[{section.name}]", "", "#", f"# [{section.name}]", "#", ""]
        for one in section.options:
            lines += one.lines()
    return "\n".join(lines).rstrip() + "\n"
