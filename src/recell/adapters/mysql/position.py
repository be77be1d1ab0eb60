"""A place in a server's binlog, between two transactions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering

from recell.errors import BadInput

__all__ = ["Position"]


@total_ordering
@dataclass(frozen=True)
class Position:
    """Opaque to all but the reader: kept as text, compared, handed back.

    Two positions compare only when both are of one server and no ``RESET MASTER`` lies between.
    """

    file: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> Position:
        """:raises BadInput: ``text`` was not made by ``str()`` of a position."""
        file, _, offset = text.rpartition(":")
        if not file or not offset.isdigit():
            raise BadInput(f"{text!r} is not a binlog position", "Start the move anew")
        return cls(file, int(offset))

    @property
    def sequence(self) -> int:
        """The number that the binlog file's name ends with."""
        digits = self.file.rpartition(".")[2]
        return int(digits) if digits.isdigit() else 0

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Position):
            return NotImplemented
        return (self.sequence, self.offset) < (other.sequence, other.offset)
