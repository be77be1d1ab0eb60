"""SQL text: names quoted in one place, lists of parameters, key ranges."""

from __future__ import annotations

from collections.abc import Sequence

from recell.errors import BadInput

__all__ = ["Key", "KeyPart", "after", "among", "columns", "name", "upto"]

KeyPart = int | str | bytes
Key = tuple[KeyPart, ...]
"""A row's primary key: integers, text, or bytes for binary columns."""


def name(identifier: str) -> str:
    """An identifier, quoted. The only place that does it. :raises BadInput: it can't be one."""
    if not identifier or "\0" in identifier:
        raise BadInput(f"{identifier!r} is no name of a table or column", "Look at the schema")
    # A cursor fills in %s: a percent sign in a name must survive that.
    return "`" + identifier.replace("`", "``").replace("%", "%%") + "`"


def columns(names: Sequence[str]) -> str:
    return ", ".join(name(n) for n in names)


def among(key: Sequence[str], keys: Sequence[Key]) -> tuple[str, list[KeyPart]]:
    """A condition for rows whose ``key`` columns are one of ``keys`` (not empty), and its values."""
    values = [part for k in keys for part in k]
    if len(key) == 1:
        return f"{name(key[0])} IN ({', '.join(['%s'] * len(keys))})", values
    one = f"({', '.join(['%s'] * len(key))})"
    return f"({columns(key)}) IN ({', '.join([one] * len(keys))})", values


def after(key: Sequence[str], bound: Key | None) -> tuple[str, list[KeyPart]]:
    """A condition for rows behind ``bound`` in the key's order; all rows for None."""
    return _beyond(key, bound, ">", ">")


def upto(key: Sequence[str], bound: Key | None) -> tuple[str, list[KeyPart]]:
    """A condition for rows at or before ``bound`` in the key's order; all rows for None."""
    return _beyond(key, bound, "<", "<=")


def _beyond(key: Sequence[str], bound: Key | None, sign: str, last: str) -> tuple[str, list[KeyPart]]:
    if bound is None:
        return "TRUE", []
    if len(key) == 1:
        return f"{name(key[0])} {last} %s", [bound[0]]
    # The first column alone bounds the range that the index is searched for.
    rest, values = _beyond(key[1:], bound[1:], sign, last)
    text = f"({name(key[0])} {sign}= %s AND ({name(key[0])} {sign} %s OR {rest}))"
    return text, [bound[0], bound[0], *values]
