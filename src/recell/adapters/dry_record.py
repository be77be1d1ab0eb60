"""What a dry run would have changed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Record:
    """What would have been changed, in order: (host or other place, what). Thread-safe."""

    changes: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, where: str, what: str) -> None:
        with self._lock:
            self.changes.append((where, what))
