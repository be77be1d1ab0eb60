"""Edit an oslo.config file without losing a comment, a blank line or an order.

The file stays the operator's: only the lines of the named option change. Values may go over several
lines (continuations begin with white space); an option that stands more than once keeps its last
place, because oslo.config lets the last one win.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECTION = re.compile(r"^\[(?P<name>[^\]]+)\]\s*(?:[#;].*)?$")
_OPTION = re.compile(r"^(?P<key>[^\s:=#;\[][^:=]*?)\s*(?P<sep>[:=])\s*(?P<value>.*)$")


@dataclass(frozen=True)
class _Place:
    """Lines [first, last) that hold one option of one section."""

    first: int
    last: int


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _canonical(option: str) -> str:
    return option.strip().replace("-", "_").lower()


def _find(lines: list[str], section: str, option: str) -> list[_Place]:
    found: list[_Place] = []
    inside = False
    index = 0
    while index < len(lines):
        line = lines[index]
        header = _SECTION.match(line.rstrip("\n"))
        if header:
            inside = header["name"].strip() == section
        elif inside:
            match = _OPTION.match(line.rstrip("\n"))
            if match and _canonical(match["key"]) == _canonical(option):
                last = index + 1
                while last < len(lines) and lines[last][:1] in (" ", "\t") and lines[last].strip():
                    last += 1
                found.append(_Place(index, last))
                index = last
                continue
        index += 1
    return found


def get(text: str, section: str, option: str) -> str | None:
    """The value that oslo.config would read from this one file; continuations joined by a space.

    None: not set here. (Interpolation and several files are the reader's business.)
    """
    lines = _lines(text)
    places = _find(lines, section, option)
    if not places:
        return None
    place = places[-1]
    match = _OPTION.match(lines[place.first].rstrip("\n"))
    parts = [match["value"] if match else ""] + [x.strip() for x in lines[place.first + 1 : place.last]]
    value = " ".join(p.strip() for p in parts if p.strip())
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return value


def set_option(text: str, section: str, option: str, value: str) -> str:
    """Set an option in place, or at the end of its section, or in a new section at the end."""
    if "\n" in value:
        raise ValueError("a value of one line is needed")
    lines = _lines(text)
    places = _find(lines, section, option)
    if places:
        keep = places[-1]
        match = _OPTION.match(lines[keep.first].rstrip("\n"))
        key = match["key"] if match else option
        lines[keep.first : keep.last] = [f"{key} = {value}\n"]
        for place in reversed(places[:-1]):
            del lines[place.first : place.last]
        return "".join(lines)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    end = _end_of_section(lines, section)
    if end is None:
        gap = ["\n"] if lines and lines[-1].strip() else []
        lines += [*gap, f"[{section}]\n", f"{option} = {value}\n"]
    else:
        lines.insert(end, f"{option} = {value}\n")
    return "".join(lines)


def unset_option(text: str, section: str, option: str) -> str:
    """Remove every line of an option; its comments stay."""
    lines = _lines(text)
    for place in reversed(_find(lines, section, option)):
        del lines[place.first : place.last]
    return "".join(lines)


def _end_of_section(lines: list[str], section: str) -> int | None:
    """The index behind the last option (or header) of a section, where a new option belongs.

    Of a section that stands twice, the last one: there a later value can't override it.
    """
    end: int | None = None
    inside = False
    for index, line in enumerate(lines):
        header = _SECTION.match(line.rstrip("\n"))
        if header:
            inside = header["name"].strip() == section
            if inside:
                end = index + 1
        elif inside and line.strip() and not line.lstrip().startswith(("#", ";")):
            end = index + 1
    return end


def sections(text: str) -> tuple[str, ...]:
    found = (_SECTION.match(line.rstrip("\n")) for line in _lines(text))
    return tuple(dict.fromkeys(m["name"].strip() for m in found if m))
