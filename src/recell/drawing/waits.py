"""What users waited, summed up: per bucket of time a histogram, mergeable and of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil, exp, log

from recell.model.measure import UserRequest

_STEP = log(1.02)  # a histogram's bin is 2 % wide, and so is the error of a quantile
_SHORTEST = 1e-4
_PACES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass
class Waits:
    """Waits of some requests. Lengths in seconds; ``longest`` is exact, quantiles within 2 %."""

    requests: int = 0
    failed: int = 0
    longest: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, request: UserRequest) -> None:
        self.requests += 1
        self.failed += not request.ok
        self.longest = max(self.longest, request.dur_s)
        self.bins[int(log(max(request.dur_s, _SHORTEST) / _SHORTEST) / _STEP)] += 1

    def merge(self, other: Waits) -> None:
        self.requests += other.requests
        self.failed += other.failed
        self.longest = max(self.longest, other.longest)
        self.bins.update(other.bins)

    def quantile(self, share: float) -> float | None:
        """The wait that ``share`` of the requests did not exceed (nearest rank); None of none."""
        rank = ceil(share * self.requests)
        for number, many in sorted(self.bins.items()):
            rank -= many
            if rank <= 0:
                return min(self.longest, _SHORTEST * exp((number + 1) * _STEP))
        return None


def total(waits: Iterable[Waits]) -> Waits:
    whole = Waits()
    for some in waits:
        whole.merge(some)
    return whole


def pace(length_s: float, most: int) -> int:
    """How many seconds a bucket has, so that there are ``most`` of them at the most."""
    return next((p for p in _PACES if length_s / p <= most), ceil(length_s / most))


def gathered(
    by_second: Mapping[int, Waits], start: float, end: float, most: int
) -> tuple[int, dict[int, Waits]]:
    """Seconds' waits in wider buckets: the width, and bucket's first second -> waits."""
    width = pace(end - start, most)
    out: dict[int, Waits] = {}
    for second in sorted(by_second):
        if start - width < second <= end:
            out.setdefault(second // width * width, Waits()).merge(by_second[second])
    return width, out


def by_second(requests: Iterable[UserRequest]) -> dict[int, Waits]:
    """Keyed by the second in which they were sent."""
    out: dict[int, Waits] = {}
    for request in requests:
        out.setdefault(int(request.t0), Waits()).add(request)
    return out
