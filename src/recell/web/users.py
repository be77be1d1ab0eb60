"""The probe's file as it grows: read on from where it ended, summed up by second."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path

from recell.drawing.waits import Waits
from recell.model.measure import UserRequest
from recell.probe.record import MARKS

_FAILURES_KEPT = 50
_CHUNK = 4 << 20


class GrowingRequests:
    """``by_second``: what users waited, by the second of sending; ``failures``: the newest ones.

    Requests of the probe's setup are not users'. ``malformed`` counts lines that are not the probe's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.by_second: dict[int, Waits] = {}
        self.failures: deque[UserRequest] = deque(maxlen=_FAILURES_KEPT)
        self.malformed = 0
        self.last_at: float | None = None
        self._inode = 0
        self._offset = 0

    def read_on(self) -> bool:
        """Take in what was appended; True when there was something new.

        A file that was replaced or cut is read from its beginning; an absent one has no requests.
        """
        try:
            with self.path.open("rb") as file:
                inode, size = _identity(file.fileno())
                if inode != self._inode or size < self._offset:
                    self._forget()
                    self._inode = inode
                if size == self._offset:
                    return False
                file.seek(self._offset)
                while chunk := file.read(_CHUNK):
                    end = chunk.rfind(b"\n") + 1
                    if not end:  # half a line: its rest comes later
                        break
                    for line in chunk[:end].splitlines():
                        self._take(line)
                    self._offset += end
                    file.seek(self._offset)
        except FileNotFoundError:
            changed = bool(self.by_second)
            self._forget()
            return changed
        return True

    def _take(self, text: bytes) -> None:
        try:
            line = json.loads(text)
            if line["kind"] in MARKS:
                return
            line.pop("changes", None)
            request = UserRequest(**line)
            if request.phase == "setup":
                return
            self.by_second.setdefault(int(request.t0), Waits()).add(request)
        except (ValueError, TypeError, KeyError, AttributeError):
            self.malformed += 1
            return
        self.last_at = max(self.last_at or 0.0, request.t0 + request.dur_s)
        if not request.ok:
            self.failures.append(request)


def _identity(descriptor: int) -> tuple[int, int]:
    stat = os.fstat(descriptor)
    return stat.st_ino, stat.st_size
