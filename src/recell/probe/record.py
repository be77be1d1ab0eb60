"""The probe's JSONL file: one line per request, written through at once, and how to read it back.

A line is a :class:`UserRequest`; lines with ``kind`` ``summary`` or ``begin`` are not requests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recell.errors import BadInput
from recell.model.measure import UserRequest

MARKS = ("begin", "known", "summary")


class Recorder:
    """Appends lines; each is in the kernel's hands before the next request is judged."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def request(self, request: UserRequest) -> None:
        self.mark(asdict(request))

    def mark(self, content: Mapping[str, Any]) -> None:
        """One write per line, so that a reader never meets half of one but at a crash's end."""
        os.write(self._file, json.dumps(content, separators=(",", ":")).encode() + b"\n")


def read_requests(path: Path) -> tuple[UserRequest, ...]:
    """All requests of a file, ordered by the time at which they were sent.

    A last line that was cut off by a crash is left out. An absent file has no requests.

    :raises BadInput: a line in the middle is not one of the probe's.
    """
    found = [UserRequest(**{k: v for k, v in line.items() if k != "changes"})
             for line in _lines(path) if line["kind"] not in MARKS]
    return tuple(sorted(found, key=lambda r: r.t0))


def read_summary(path: Path) -> dict[str, Any] | None:
    """The last line, when the probe ended softly."""
    lines = _lines(path)
    return lines[-1] if lines and lines[-1]["kind"] == "summary" else None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    raw = path.read_bytes().split(b"\n")
    result: list[dict[str, Any]] = []
    for number, text in enumerate(raw[:-1], 1):
        try:
            line = json.loads(text)
            line["kind"]
        except (ValueError, TypeError, KeyError):
            raise BadInput(f"line {number} of {path} is not the probe's",
                           "Give the file that recell.probe wrote") from None
        result.append(line)
    return result
