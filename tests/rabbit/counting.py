"""What became of the load: lost, doubled, failed, and how long it stood still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Count:
    """Of one side. ``longest_s``: the longest call that succeeded; ``fanouts_missed``: no server had them."""

    calls: int
    failed: int
    casts: int
    lost: int
    doubled: int
    longest_s: float
    fanouts_missed: int
    errors: tuple[str, ...]
    odd: tuple[str, ...] = ()
    """Of casts that were lost or doubled: all lines about them."""


def longest(logs: Iterable[Path], side: str, start: float, end: float) -> float:
    """The longest call, in seconds, that was under way at some time between ``start`` and ``end``."""
    found = [0.0]
    for path in logs:
        for line in path.read_text(errors="replace").splitlines():
            fields = line.split()
            if len(fields) >= 5 and fields[1] == "C" and fields[2].startswith(side):
                done, took = float(fields[0]), float(fields[4])
                if done >= start and done - took <= end:
                    found.append(took)
    return max(found)


Window = tuple[float, float]
"""From when until when, in seconds since 1970."""


def count(
    logs: Iterable[Path],
    side: str,
    until: float = float("inf"),
    windows: Sequence[Window] = (),
    *,
    inside: bool = False,
) -> Count:
    """``side``: the letter that its clients' names begin with. What is sent after ``until`` isn't counted.

    ``windows``: what was under way in one of them is left out; ``inside``: and nothing else is counted.
    """
    sent: dict[str, list[tuple[str, str, float]]] = {"C": [], "S": [], "F": []}
    got: dict[str, Counter[tuple[str, str]]] = {"RC": Counter(), "RS": Counter(), "RF": Counter()}
    errors: Counter[str] = Counter()
    lines: dict[str, list[str]] = {}
    for path in logs:
        for line in path.read_text(errors="replace").splitlines():
            fields = line.split()
            if len(fields) < 3 or not fields[2].startswith(side):
                continue
            kind = fields[1]
            if kind.endswith("S"):
                lines.setdefault(fields[2], []).append(line)
            if kind in sent and len(fields) >= 5:
                began, ended = float(fields[0]) - float(fields[4]), float(fields[0])
                if began > until or inside != any(began <= w[1] and ended >= w[0] for w in windows):
                    continue
                sent[kind].append((fields[2], fields[3], float(fields[4])))
                if fields[3] == "ERR":
                    errors[" ".join(fields[5:])] += 1
            elif kind in got:
                got[kind][fields[2], fields[3]] += 1
    arrived = Counter(seq for (seq, _), n in got["RS"].items() for _ in range(n))
    casts = [seq for seq, outcome, _ in sent["S"] if outcome == "ok"]
    fanouts = [seq for seq, outcome, _ in sent["F"] if outcome == "ok"]
    reached = {seq for seq, _ in got["RF"]}
    return Count(
        calls=len(sent["C"]),
        failed=sum(outcome != "ok" for kind in "CS" for _, outcome, _ in sent[kind]),
        casts=len(casts),
        lost=sum(not arrived[seq] for seq in casts),
        doubled=sum(arrived[seq] > 1 for seq in casts),
        longest_s=max((s for _, outcome, s in sent["C"] if outcome == "ok"), default=0.0),
        fanouts_missed=sum(seq not in reached for seq in fanouts),
        errors=tuple(f"{n} {e}" for e, n in errors.items()),
        odd=tuple(line for seq in casts if arrived[seq] != 1 for line in lines[seq]),
    )


def harmless(told: Count) -> bool:
    """Whether nothing that was sent failed, got lost or came twice."""
    return told.failed == told.lost == told.doubled == 0 and told.casts > 0


def in_a_line(sides: Mapping[str, Count]) -> str:
    """Losses first: ``a: 0 of 802 casts lost, 0 doubled, ...; b: ...``."""
    return "; ".join(
        f"{side}: {n.lost:,} of {n.casts:,} casts lost, {n.doubled:,} doubled, {n.failed:,} calls and casts"
        f" failed, longest call {n.longest_s:.1f} s, {n.fanouts_missed:,} fanouts missed"
        for side, n in sides.items()
    )
