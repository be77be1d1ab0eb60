"""A time of day, every day, in which something may begin. Always UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recell.errors import BadInput

__all__ = ["PATTERN", "Window"]

PATTERN = r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$"
"""``22:00-05:00``; empty: always."""
_DAY = 86400


@dataclass(frozen=True)
class Window:
    """``begins``, ``ends``: seconds after midnight UTC; equal: the whole day."""

    begins: int
    ends: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """:raises BadInput: it is not two times of day."""
        if not text or not re.fullmatch(PATTERN, text):
            raise BadInput(f"{text!r} is no window of time", "Write it as 22:00-05:00; it is UTC")
        first, second = (int(t[:2]) * 3600 + int(t[3:]) * 60 for t in text.split("-"))
        return cls(first, second)

    def __str__(self) -> str:
        return f"{_clock(self.begins)}-{_clock(self.ends)} UTC"

    @property
    def length_s(self) -> int:
        return (self.ends - self.begins) % _DAY or _DAY

    def fits(self, takes_s: float) -> bool:
        """Whether what takes so long fits at all."""
        return takes_s <= self.length_s

    def waits(self, at: float, takes_s: float) -> float:
        """Seconds from ``at`` (since 1970) until something may begin that then ends inside. 0.0: now.
        What is longer than the window begins with it."""
        if self.length_s == _DAY:
            return 0.0
        since = (at - self.begins) % _DAY
        if since < self.length_s and since + min(takes_s, self.length_s) <= self.length_s:
            return 0.0
        return float(_DAY - since) if since else 0.0


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}"
