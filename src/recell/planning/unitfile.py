"""Texts of systemd units and drop-ins."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PLAIN = re.compile(r"^[A-Za-z0-9_@+=:,./-]+$")


def quoted(argv: Sequence[str]) -> str:
    """An argv as ``ExecStart=`` wants it: ``%`` and ``$`` are specifiers there and get doubled."""
    words = []
    for word in argv:
        text = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
        if not _PLAIN.match(text):
            text = '"' + text.replace('"', '\\"') + '"'
        words.append(text)
    return " ".join(words)


def dropin(argv: Sequence[str], why: str) -> str:
    """A drop-in that gives a unit another command line (the empty line resets the first one)."""
    return f"# {why}\n[Service]\nExecStart=\nExecStart={quoted(argv)}\n"


def sibling(
    text: str, argv: Sequence[str], description: str, renamed: tuple[str, str] | None = None
) -> str:
    """A unit like the one given (``systemctl cat``: fragment and drop-ins), with another command; or, when
    ``renamed`` is (a word, another word), with the same commands about the other word.

    Sections that a drop-in repeats are fine for systemd. ``Alias=`` lines would steal the first
    unit's name and are left out.
    """
    out: list[str] = []
    continued = False
    for line in text.splitlines():
        key = line.partition("=")[0].strip()
        if renamed and not continued and key not in ("Alias", "Description"):
            line = re.sub(rf"(?<!\S){re.escape(renamed[0])}(?!\S)", renamed[1], line)
        elif continued or key in ("ExecStart", "Alias", "Description"):
            continued = line.rstrip().endswith("\\")
            continue
        out.append(line)
    body = "\n".join(out).rstrip("\n")
    head = f"# Made by recell.\n{body}\n\n[Unit]\nDescription={description}\n"
    return head if renamed else f"{head}\n[Service]\nExecStart={quoted(argv)}\n"
