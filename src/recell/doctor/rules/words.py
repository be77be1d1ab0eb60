"""Words that several rules use."""

from __future__ import annotations

from collections.abc import Iterable


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few names and how many more there are."""
    listed = sorted(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")


def is_false(text: str) -> bool:
    return text.strip().lower() in ("false", "0", "no", "off")


def is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes", "on")
