"""What a report says of hosts that moved, beside its figures: who was left out, taken back, or late."""

from __future__ import annotations

from typing import Any

from recell.journal import Journal
from recell.model.plan import Plan

__all__ = ["told_of_hosts"]


def told_of_hosts(plan: Plan, journal: Journal) -> tuple[str, ...]:
    """Sentences; none for plans that move no hosts."""
    out = [f"Left out, and in their cell as before: {', '.join(left)}."
           for left in [journal.recall("hosts", "left-out", [])] if left]  # fmt: skip
    late: dict[str, Any] = {}
    for wave in dict.fromkeys(str(s.params["wave"]) for s in plan.steps if "wave" in s.params):
        if why := journal.recall(wave, "taken-back"):
            last = journal.last(f"{wave}/open")
            later = last is not None and last.direction == "forward" and last.phase in ("finished", "found")
            words = "was taken back once, and has moved since" if later else "was taken back by itself"
            out.append(f"{wave} {words}: {why}.")
        for key, value in journal.recall(wave, "late", {}).items():
            late[key] = late[key] + value if key in late else value
    if late:
        out.append(
            f"Written late to a cell that was left: {late['carried']} rows were brought over,"
            f" {late['stale']} were overtaken by newer ones, {len(late['lost'])} are lost;"
            f" {late['requests']} late requests were carried over."
        )
        out += [f"Lost: {sentence}." for sentence in late["lost"]]
    return tuple(out)
