"""A row out of the binlog, of which only some columns are decoded; the others are skipped by size.

What sizes need is in the table map event (types and their metadata), so no character set, ENUM or
JSON is ever decoded. The steps through a row depend on which columns are NULL only; they are worked
out once a pattern of NULLs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from recell.errors import Unsupported

__all__ = ["Image", "RowDecoder", "length_encoded"]

Image = tuple[int | bytes | None, ...]
"""Values of the wanted columns, in the order they were wanted: integers, or the bytes of text."""

_FIXED = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 7: 4, 8: 8, 9: 3, 10: 3, 11: 3, 12: 8, 13: 1, 14: 3}
_INTEGERS = frozenset({1, 2, 3, 8, 9, 13})
_DIGITS = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_CACHED_PATTERNS = 512

_SKIP, _SKIP_VAR, _TAKE_SIGNED, _TAKE_UNSIGNED, _TAKE_VAR, _TAKE_FIXED, _NULL = range(7)


class _Column(NamedTuple):
    variable: bool
    size: int  # bytes of the value, or of its length
    integer: bool


class RowDecoder:
    """Decodes rows of one table map.

    :param wanted: positions of columns; :param unsigned: those of them that are unsigned integers.
    :raises Unsupported: a column's type is unknown.
    """

    def __init__(
        self, types: bytes, metadata: bytes, wanted: Sequence[int], unsigned: frozenset[int] = frozenset()
    ) -> None:
        self.width = len(types)
        self._bitmap = (len(types) + 7) // 8
        self._columns = _columns(types, metadata)
        self._wanted = frozenset(wanted)
        self._unsigned = unsigned
        self._patterns: dict[bytes, list[tuple[int, int]]] = {}
        in_row = sorted(set(wanted))
        self._order = [in_row.index(w) for w in wanted]
        self._as_is = self._order == list(range(len(in_row)))

    def decode(self, data: bytes, at: int) -> tuple[Image, int]:
        """The image that begins at ``at``, and where the next one does."""
        start = at + self._bitmap
        nulls = data[at:start]
        steps = self._patterns.get(nulls)
        if steps is None:
            if len(self._patterns) >= _CACHED_PATTERNS:
                self._patterns.clear()
            steps = self._patterns[nulls] = self._steps(nulls)
        at = start
        found: list[int | bytes | None] = []
        for what, size in steps:
            if what == _SKIP:
                at += size
            elif what == _SKIP_VAR:
                at += size + (data[at] if size == 1 else int.from_bytes(data[at:at + size], "little"))
            elif what == _TAKE_SIGNED:
                found.append(int.from_bytes(data[at:at + size], "little", signed=True))
                at += size
            elif what == _TAKE_VAR:
                length = data[at] if size == 1 else int.from_bytes(data[at:at + size], "little")
                at += size
                found.append(data[at:at + length])
                at += length
            elif what == _NULL:
                found.append(None)
            elif what == _TAKE_UNSIGNED:
                found.append(int.from_bytes(data[at:at + size], "little"))
                at += size
            else:
                found.append(data[at:at + size])
                at += size
        return (tuple(found) if self._as_is else tuple([found[i] for i in self._order])), at

    def _steps(self, nulls: bytes) -> list[tuple[int, int]]:
        steps: list[tuple[int, int]] = []
        for i, column in enumerate(self._columns):
            if nulls[i >> 3] >> (i & 7) & 1:
                if i in self._wanted:
                    steps.append((_NULL, 0))
            elif i in self._wanted:
                if column.variable:
                    steps.append((_TAKE_VAR, column.size))
                elif column.integer:
                    steps.append((_TAKE_UNSIGNED if i in self._unsigned else _TAKE_SIGNED, column.size))
                else:
                    steps.append((_TAKE_FIXED, column.size))
            elif column.variable:
                steps.append((_SKIP_VAR, column.size))
            elif steps and steps[-1][0] == _SKIP:
                steps[-1] = (_SKIP, steps[-1][1] + column.size)
            else:
                steps.append((_SKIP, column.size))
        return steps


def _columns(types: bytes, metadata: bytes) -> list[_Column]:
    found: list[_Column] = []
    at = 0
    for kind in types:
        if kind in (15, 141):  # VARCHAR, and MariaDB's compressed one
            found.append(_Column(True, 2 if metadata[at] | metadata[at + 1] << 8 > 255 else 1, False))
            at += 2
        elif kind in (252, 140, 249, 250, 251, 245, 255):  # BLOBs, JSON, GEOMETRY
            found.append(_Column(True, metadata[at], False))
            at += 1
        elif kind in (254, 247, 248):  # CHAR, ENUM, SET: the real type is in the metadata
            real, size = metadata[at], metadata[at + 1]
            at += 2
            if real in (247, 248):
                found.append(_Column(False, size, False))
            else:
                longest = ((real & 0x30) ^ 0x30) << 4 | size
                found.append(_Column(True, 2 if longest > 255 else 1, False))
        elif kind == 246:  # DECIMAL
            precision, scale = metadata[at], metadata[at + 1]
            at += 2
            whole = precision - scale
            size = whole // 9 * 4 + _DIGITS[whole % 9] + scale // 9 * 4 + _DIGITS[scale % 9]
            found.append(_Column(False, size, False))
        elif kind == 16:  # BIT
            found.append(_Column(False, metadata[at + 1] + (1 if metadata[at] else 0), False))
            at += 2
        elif kind in (17, 18, 19):  # TIMESTAMP2, DATETIME2, TIME2
            found.append(_Column(False, {17: 4, 18: 5, 19: 3}[kind] + (metadata[at] + 1) // 2, False))
            at += 1
        elif kind in _FIXED:
            at += 1 if kind in (4, 5) else 0  # FLOAT and DOUBLE tell their size once more
            found.append(_Column(False, _FIXED[kind], kind in _INTEGERS))
        else:
            raise Unsupported(f"the binlog has a column of type {kind}, which recell does not know",
                              "Leave this table out, or move it by other means")
    return found


def length_encoded(data: bytes, at: int) -> tuple[int, int]:
    """A length-encoded integer, and where what follows begins."""
    first = data[at]
    if first < 251:
        return first, at + 1
    size = {252: 2, 253: 3, 254: 8}[first]
    return int.from_bytes(data[at + 1:at + 1 + size], "little"), at + 1 + size
