"""Lengths, counts, stamps, and text that is fit for a page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from markupsafe import Markup, escape

from recell.errors import BadInput
from recell.model.urls import parse_url

_PASSWORD = re.compile(r"(://[^/\s:@]*):[^@\s/]+@|(\b[^/\s:@,]+):(?!\*{3}@)[^@\s/:,]+(@[\w.\[])")


def hide(text: str) -> str:
    """The text with whatever looks like a URL's password replaced; no file should hold one anyway."""
    return _PASSWORD.sub(lambda m: f"{m[1] or m[2]}:***{m[3] or '@'}", text)


def esc(value: object) -> Markup:
    """Fit for HTML and SVG: escaped, and without a URL's password."""
    return escape(value if isinstance(value, Markup) else hide(str(value)))


def finalize(value: object) -> object:
    """Jinja's last word on every expression: text loses what looks like a password."""
    return hide(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def seconds(value: float | None) -> str:
    """``0.43 s``, ``12.1 s``, ``7 min 12 s``, ``1 h 2 min``; a dash for None."""
    if value is None:
        return "–"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 99.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(value: int | None) -> str:
    """Thousands apart by a thin space; a dash for None."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def stamp(value: float) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(value: float) -> str:
    """The time of day, UTC."""
    return datetime.fromtimestamp(value, UTC).strftime("%H:%M:%S")


def many(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def database(url: str) -> str:
    """A shown database URL in words: ``nova on db1``."""
    try:
        parsed = parse_url(url)
    except BadInput:
        return url
    return f"{parsed.path} on {', '.join(parsed.hosts)}" if parsed.path and parsed.hosts else url


def shortened(text: str, room: int) -> str:
    """At most ``room`` characters, the last an ellipsis when some were cut."""
    return text if len(text) <= room else text[: max(1, room - 1)].rstrip(" ,") + "…"


def natural(names: Iterable[str]) -> list[str]:
    """Sorted as people count: cmp9 before cmp10."""

    def parts(name: str) -> list[tuple[int, str]]:
        return [(int(p) if p.isdecimal() else 0, p) for p in re.split(r"([0-9]+)", name)]

    return sorted(names, key=parts)
