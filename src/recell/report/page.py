"""report.html: one file, offline, for a screen, a phone or paper. Pure: a measurement in, text out.

Nothing is said by colour alone: failures are crosses, good and bad have words and signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from math import log10

from jinja2 import Environment, StrictUndefined

from recell.model.measure import Measurement, StepRecord, UserRequest

WIDTH, LEFT, RIGHT = 1000, 46, 12
PLOT_TOP, PLOT_HEIGHT = 8, 220
LANE_HEIGHT = 22
_OUTCOMES = {
    "succeeded": "succeeded", "undone": "was undone", "paused": "is paused",
    "failed": "failed", "interrupted": "was interrupted",
}


@dataclass(frozen=True)
class Figure:
    """A tile: ``sign`` is ok, bad or none (nothing to judge)."""

    title: str
    value: str
    below: str
    sign: str = "none"


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    number: int
    x: float
    width: float
    lane: int
    title: str
    retried: bool


@dataclass(frozen=True)
class Timeline:
    """Geometry of the picture. ``reads``, ``changes``, ``failures``: SVG path data."""

    height: float
    plot_bottom: float
    reads: str
    changes: str
    failures: str
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]


def render(measurement: Measurement) -> str:
    """The page. Everything that comes from outside is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)
    environment.filters["seconds"] = seconds
    environment.filters["count"] = count
    environment.filters["stamp"] = stamp
    source = resources.files("recell.report").joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        m=measurement, headline=headline(measurement), figures=figures(measurement),
        timeline=timeline(measurement), tables=findings(measurement),
        width=WIDTH, left=LEFT, right=RIGHT, top=PLOT_TOP, lane=LANE_HEIGHT)


# -- words -------------------------------------------------------------------------------------

def seconds(value: float | None) -> str:
    """``0.43 s``, ``12.1 s``, ``7 min 12 s``, ``1 h 2 min``; a dash for None."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f} s"
    if value < 100:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(value: int | None) -> str:
    """Thousands apart by a thin space; a dash for None."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def stamp(value: float) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def headline(m: Measurement) -> str:
    """The outcome in a sentence."""
    text = f"The run “{m.kind}” {_OUTCOMES.get(m.outcome, m.outcome)} in {seconds(m.duration_s)}"
    harm: list[str] = []
    if m.api and m.api.failed:
        harm.append(_many(m.api.failed, "request") + " failed")
    if m.operations and m.operations.lost:
        harm.append(_many(m.operations.lost, "operation") + " lost")
    if m.operations and m.operations.duplicated:
        harm.append(_many(m.operations.duplicated, "operation") + " duplicated")
    if m.guests and m.guests.restarted:
        harm.append(_many(m.guests.restarted, "guest") + " restarted")
    if m.guests and m.guests.missing:
        harm.append(_many(m.guests.missing, "guest") + " missing")
    if m.rows and m.rows.differing:
        harm.append(_many(m.rows.differing, "row") + " changed unexpectedly")
    if harm:
        return f"{text}, but {', '.join(harm)}."
    if m.api and m.api.requests:
        return (f"{text}, and users noticed nothing: none of {count(m.api.requests)} requests "
                f"failed, the longest took {seconds(m.api.longest_wait_s)}.")
    if m.guests or m.rows:
        return f"{text}, and nothing that was measured came to harm."
    return f"{text}."


def _many(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def figures(m: Measurement) -> tuple[Figure, ...]:
    """The tiles; what does not apply has a dash."""
    api, operations, guests, rows = m.api, m.operations, m.guests, m.rows
    return (
        Figure("Requests failed", count(api.failed if api else None),
               f"of {count(api.requests)} by users" if api else "no users were measured",
               _sign(api and api.failed)),
        Figure("Longest wait", seconds(api.longest_wait_s if api else None),
               f"99 of 100 within {seconds(api.p99_s)}" if api else ""),
        Figure("Operations lost", count(operations.lost if operations else None),
               f"of {count(operations.acknowledged)} acknowledged" if operations else "",
               _sign(operations and operations.lost)),
        Figure("Operations duplicated", count(operations.duplicated if operations else None), "",
               _sign(operations and operations.duplicated)),
        Figure("Guests restarted", count(guests.restarted if guests else None),
               f"of {count(guests.total)}, unasked" if guests else "",
               _sign(guests and guests.restarted)),
        Figure("Guests missing", count(guests.missing if guests else None), "",
               _sign(guests and guests.missing)),
        Figure("Rows differing", count(rows.differing if rows else None),
               f"of {count(rows.compared)} compared" if rows else "",
               _sign(rows and rows.differing)),
        Figure("Senders held", seconds(m.freeze_s), "" if m.freeze_s is None else "at most"),
        Figure("Duration", seconds(m.duration_s), f"{len(m.steps)} steps"),
    )


def _sign(bad: object) -> str:
    if bad is None:
        return "none"
    return "bad" if bad else "ok"


def findings(m: Measurement) -> tuple[tuple[str, tuple[str, ...], list[tuple[str, ...]]], ...]:
    """What went wrong, as tables: title, header, rows. Empty ones are left out."""
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
    if m.api:
        tables.append(("Failed requests (the first 20)", ("when", "kind", "after", "why"), [
            (f"+{f['t0'] - m.window.start:.1f} s", f["kind"], seconds(f["dur_s"]), f["why"])
            for f in m.api.failures]))
    if m.operations:
        header = ("request id", "kind", "instance", "why")
        for title, found in (("Operations lost", m.operations.lost_ids),
                             ("Operations duplicated", m.operations.duplicated_ids)):
            tables.append((title, header, [
                (o["req_id"], o["kind"], o["instance"], o["why"]) for o in found]))
    if m.guests:
        for title, guests in (("Guests restarted", m.guests.restarted_ids),
                              ("Guests missing", m.guests.missing_ids)):
            tables.append((title, ("instance", "why"), [
                (g["instance"], g["why"]) for g in guests]))
    if m.rows:
        tables.append(("Rows differing (the first 100)", ("database", "table", "key", "how"), [
            (d["database"], d["table"], d["key"], d["how"]) for d in m.rows.differences]))
    return tuple(t for t in tables if t[2])


# -- geometry ----------------------------------------------------------------------------------

def timeline(m: Measurement) -> Timeline | None:
    """The picture of users' waits over the steps; None when there is nothing to draw."""
    steps = [s for s in m.steps if s.started is not None]
    if not m.requests and not steps:
        return None
    start = min([m.window.start, *(r.t0 for r in m.requests)])
    end = max([m.window.end, start + 1, *(r.t0 for r in m.requests)])
    scale = (WIDTH - LEFT - RIGHT) / (end - start)

    def x(when: float) -> float:
        return round(LEFT + (when - start) * scale, 1)

    longest = max((r.dur_s for r in m.requests), default=1.0)
    top = max(0.0, log10(max(longest, 1e-3))) + 0.1
    low = -2.0  # 10 ms: nobody asks for less

    def y(wait: float) -> float:
        share = (log10(max(wait, 0.01)) - low) / (top - low)
        return round(PLOT_TOP + PLOT_HEIGHT * (1 - share), 1)

    def dots(requests: Sequence[UserRequest]) -> str:
        return "".join(f"M{x(r.t0)} {y(r.dur_s)}h0" for r in requests)

    bottom = PLOT_TOP + PLOT_HEIGHT
    bars = _bars(m.steps, x)
    lanes = max((b.lane for b in bars), default=-1) + 1
    return Timeline(
        height=bottom + 20 + lanes * LANE_HEIGHT + 8, plot_bottom=bottom,
        reads=dots([r for r in m.requests if r.ok and not r.changes]),
        changes=dots([r for r in m.requests if r.ok and r.changes]),
        failures="".join(f"M{x(r.t0) - 4:.1f} {y(r.dur_s) - 4:.1f}l8 8m0-8l-8 8"
                         for r in m.requests if not r.ok),
        xticks=_xticks(start, end),
        yticks=tuple(Tick(y(v), t) for v, t in (
            (0.01, "10 ms"), (0.1, "0.1 s"), (1, "1 s"), (5, "5 s"), (10, "10 s"), (60, "60 s"))
            if log10(v) <= top),
        bars=bars)


def _xticks(start: float, end: float) -> tuple[Tick, ...]:
    length = end - start
    pace = next((p for p in (10, 30, 60, 120, 300, 600, 1800, 3600) if length / p <= 10), 7200)
    scale = (WIDTH - LEFT - RIGHT) / length
    return tuple(
        Tick(round(LEFT + at * scale, 1), f"{at} s" if pace < 60 else f"{at // 60} min")
        for at in range(0, int(length) + 1, pace))


def _bars(steps: Sequence[StepRecord], x: Callable[[float], float]) -> tuple[Bar, ...]:
    """Bars in as few lanes as keep them apart; the number leads to the table below."""
    ends: list[float] = []
    bars: list[Bar] = []
    for number, step in enumerate(steps, 1):
        if step.started is None:
            continue
        left = x(step.started)
        width = max(2.0, x(step.started + step.seconds) - left)
        room = max(width, 7.0 * len(str(number)) + 4)  # its number must not run into the next one
        lane = next((i for i, end in enumerate(ends) if end <= left), len(ends))
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = left + room
        bars.append(Bar(number, left, round(width, 1), lane,
                        f"{number}. {step.title}: {seconds(step.seconds)}", step.attempts > 1))
    return tuple(bars)
