"""report.html: one file, offline, for a screen, a phone or paper. Pure: a measurement in, text out.

Nothing is said by colour alone: failures are crosses, good and bad have words and signs.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recell import __version__
from recell.drawing import stylesheet
from recell.drawing.timeline import Bar, describe, draw_timeline
from recell.drawing.topology import draw_hosts, draw_topology
from recell.drawing.waits import by_second, total
from recell.drawing.words import count, finalize, many, seconds, stamp
from recell.model.measure import Measurement, StepRecord, Topology, UserRequest

AROUND_S = 30.0
"""How much of the time before and after the run the picture shows."""
_BEFORE_S = 120.0  # what a user waited before the run, for comparison
_NAMED = 40  # so many hosts are listed by name at once; more are folded away
_OUTCOMES = {
    "succeeded": ("✓", "good", "succeeded"),
    "undone": ("✓", "good", "was undone"),
    "paused": ("‖", "wait", "is paused"),
    "failed": ("✕", "bad", "failed"),
    "interrupted": ("✕", "bad", "was interrupted"),
}


@dataclass(frozen=True)
class Figure:
    """A tile: ``sign`` is ok, bad or none (nothing to judge)."""

    title: str
    value: str
    below: str
    sign: str = "none"


@dataclass(frozen=True)
class StepRow:
    """A step in the table. ``share``: of the longest step, 0 to 100. ``users``: what they had meanwhile."""

    number: int
    step: StepRecord
    share: float
    users: str


def render(measurement: Measurement) -> str:
    """The page. Everything that comes from outside is escaped."""
    m = measurement
    environment = Environment(
        loader=PackageLoader("recell.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.filters.update(seconds=seconds, count=count, stamp=stamp)
    sign, tone, _ = _OUTCOMES.get(m.outcome, ("·", "wait", m.outcome))
    if not m.unharmed:
        sign, tone = "✕", "bad"
    return environment.get_template("page.html.j2").render(
        m=m,
        style=Markup(stylesheet()),  # noqa: S704 (a file of ours)
        sign=sign,
        tone=tone,
        headline=headline(m),
        figures=figures(m),
        timeline=timeline(m),
        tables=findings(m),
        steps=step_rows(m),
        before=_picture(m.topology_before, "Before"),
        after=_picture(m.topology_after, "After"),
        recell=__version__,
    )


# -- words -------------------------------------------------------------------------------------


def headline(m: Measurement) -> str:
    """The outcome in a sentence."""
    text = f"The run “{m.kind}” {_OUTCOMES.get(m.outcome, ('', '', m.outcome))[2]} in {seconds(m.duration_s)}"
    harm: list[str] = []
    if m.api and m.api.failed:
        harm.append(many(m.api.failed, "request") + " failed")
    if m.operations and m.operations.lost:
        harm.append(many(m.operations.lost, "operation") + " lost")
    if m.operations and m.operations.duplicated:
        harm.append(many(m.operations.duplicated, "operation") + " duplicated")
    if m.guests and m.guests.restarted:
        harm.append(many(m.guests.restarted, "guest") + " restarted")
    if m.guests and m.guests.missing:
        harm.append(many(m.guests.missing, "guest") + " missing")
    if m.rows and m.rows.differing:
        harm.append(many(m.rows.differing, "row") + " changed unexpectedly")
    if harm:
        return f"{text}, but {', '.join(harm)}."
    if m.api and m.api.requests:
        fine = [f"none of {count(m.api.requests)} requests failed"]
        if m.operations:
            fine.append(f"none of {count(m.operations.acknowledged)} operations was lost")
        if m.guests:
            fine.append("no guest was restarted")
        return f"{text}: {', '.join(fine)}. The longest request took {seconds(m.api.longest_wait_s)}."
    if m.guests or m.rows:
        return f"{text}, and nothing that was measured came to harm."
    return f"{text}."


def figures(m: Measurement) -> tuple[Figure, ...]:
    """The tiles; what was not measured has a dash."""
    api, operations, guests, rows = m.api, m.operations, m.guests, m.rows
    return (
        Figure(
            "Requests failed",
            count(api.failed if api else None),
            f"of {count(api.requests)} by users" if api else "no users were measured",
            _sign(api and api.failed),
        ),
        Figure("Longest wait", seconds(api.longest_wait_s if api else None), _p99(m)),
        Figure(
            "Operations lost",
            count(operations.lost if operations else None),
            f"of {count(operations.acknowledged)} acknowledged" if operations else "",
            _sign(operations and operations.lost),
        ),
        Figure(
            "Operations duplicated",
            count(operations.duplicated if operations else None),
            "done twice" if operations else "",
            _sign(operations and operations.duplicated),
        ),
        Figure(
            "Guests restarted",
            count(guests.restarted if guests else None),
            f"of {count(guests.total)}, unasked" if guests else "",
            _sign(guests and guests.restarted),
        ),
        Figure(
            "Guests missing",
            count(guests.missing if guests else None),
            f"of {count(guests.total)}" if guests else "",
            _sign(guests and guests.missing),
        ),
        Figure(
            "Rows differing",
            count(rows.differing if rows else None),
            f"of {count(rows.compared)} compared" if rows else "",
            _sign(rows and rows.differing),
        ),
        *((Figure("Senders held", seconds(m.freeze_s), "at most"),) if m.freeze_s is not None else ()),
        Figure("Duration", seconds(m.duration_s), many(len(m.steps), "step")),
    )


def _p99(m: Measurement) -> str:
    if not m.api:
        return ""
    text = f"99 of 100 within {seconds(m.api.p99_s)}"
    earlier = total(
        by_second(
            r for r in _users(m) if m.window.start - _BEFORE_S <= r.t0 + r.dur_s < m.window.start
        ).values()
    )
    return text if earlier.requests < 100 else f"{text}; before the run {seconds(earlier.quantile(0.99))}"


def _sign(bad: object) -> str:
    if bad is None:
        return "none"
    return "bad" if bad else "ok"


def findings(m: Measurement) -> tuple[tuple[str, tuple[str, ...], list[tuple[str, ...]]], ...]:
    """What users waited for and what went wrong, as tables: title, header, rows. Empty ones are left out."""
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
    if m.hold:
        tables.append(
            (
                f"While requests waited ({seconds(m.freeze_s)} at most)",
                ("from", "for", "what"),
                [(f"+{p.at_s:.2f} s", seconds(p.seconds), p.what) for p in m.hold],
            )
        )
    if m.api:
        tables.append(
            (
                "Failed requests (the first 20)",
                ("when", "kind", "after", "why"),
                [
                    (f"+{f['t0'] - m.window.start:.1f} s", f["kind"], seconds(f["dur_s"]), f["why"])
                    for f in m.api.failures
                ],
            )
        )
    if m.operations:
        header = ("request id", "kind", "instance", "why")
        for title, found in (
            ("Operations lost", m.operations.lost_ids),
            ("Operations duplicated", m.operations.duplicated_ids),
        ):
            tables.append(
                (title, header, [(o["req_id"], o["kind"], o["instance"], o["why"]) for o in found])
            )
    if m.guests:
        for title, guests in (
            ("Guests restarted", m.guests.restarted_ids),
            ("Guests missing", m.guests.missing_ids),
        ):
            tables.append((title, ("instance", "why"), [(g["instance"], g["why"]) for g in guests]))
    if m.rows:
        tables.append(
            (
                "Rows differing (the first 100)",
                ("database", "table", "key", "how"),
                [(d["database"], d["table"], d["key"], d["how"]) for d in m.rows.differences],
            )
        )
    return tuple(t for t in tables if t[2])


# -- pictures ----------------------------------------------------------------------------------


def _users(m: Measurement) -> tuple[UserRequest, ...]:
    return tuple(r for r in m.requests if r.phase != "setup")


def timeline(m: Measurement) -> Markup | None:
    """The picture of users' waits over the steps; None when there is nothing to draw."""
    start, end = m.window.start - AROUND_S, m.window.end + AROUND_S
    users = tuple(r for r in _users(m) if start <= r.t0 <= end)
    bars = tuple(
        Bar(n, s.title, s.started, s.started + s.seconds, "again" if s.attempts > 1 else "done")
        for n, s in enumerate(m.steps, 1)
        if s.started is not None
    )
    if not users and not bars:
        return None
    seen = by_second(users)
    inside = total(w for second, w in seen.items() if m.window.holds(second))
    return draw_timeline(
        seen,
        bars,
        start,
        end,
        requests=users,
        mark=(m.window.start, m.window.end),
        label="What users waited over time, with the steps as numbered bars below. "
        + (describe(inside) if users else "No users were measured."),
    )


def step_rows(m: Measurement) -> tuple[StepRow, ...]:
    longest = max((s.seconds for s in m.steps), default=0.0) or 1.0
    users = _users(m)
    return tuple(
        StepRow(n, s, round(s.seconds / longest * 100, 1), _meanwhile(s, users))
        for n, s in enumerate(m.steps, 1)
    )


def _meanwhile(step: StepRecord, users: tuple[UserRequest, ...]) -> str:
    """What users had who waited while the step ran; empty where that isn't known or nobody did."""
    if step.started is None:
        return ""
    end = step.started + step.seconds
    waiting = [r for r in users if r.t0 <= end and r.t0 + r.dur_s >= step.started]
    if not waiting:
        return ""
    failed = sum(not r.ok for r in waiting)
    return f"{count(len(waiting))} waited, at most {seconds(max(r.dur_s for r in waiting))}" + (
        f", ✕ {count(failed)} failed" if failed else ""
    )


def _picture(groups: Topology, title: str) -> Markup | None:
    if not groups:
        return None
    everyone = {h for g in groups for h in (*g.computes, *(h for s in g.services for h in s.hosts))}
    return draw_topology(groups, title) + draw_hosts(groups, title.lower(), opened=len(everyone) <= _NAMED)
