"""What users waited over time, and the steps below it: an SVG as wide as its place.

It has no viewBox of its own: places along the time are percentages and text keeps its size, so the
same picture reads on a phone and on a wall. Only paths are stretched, with strokes that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log10
from typing import Literal

from markupsafe import Markup

from recell.drawing.waits import Waits, gathered
from recell.drawing.words import clock, count, esc, many, seconds
from recell.model.measure import UserRequest

PLOT, LANE, FAILURES = 170, 20, 24
_BUCKETS = 240
_DOTS = 4000
_LOW = 0.01  # nobody asks for less than 10 ms
_SCALE = ((0.1, "0.1 s"), (1, "1 s"), (10, "10 s"), (60, "1 min"))

BarState = Literal["done", "again", "acting", "failed", "unknown"]
_SIGNS: Mapping[str, str] = {"acting": " (under way)", "failed": " ✕ failed", "unknown": " ? unknown",
                             "again": " (after another try)", "done": ""}


@dataclass(frozen=True)
class Bar:
    """A step in time. ``end`` None: it hasn't ended; it is drawn to the picture's end."""

    number: int
    title: str
    start: float
    end: float | None
    state: BarState = "done"


@dataclass(frozen=True)
class _Placed:
    bar: Bar
    left: float
    width: float
    lane: int
    numbered: bool


def draw_timeline(
    by_second: Mapping[int, Waits],
    bars: Sequence[Bar],
    start: float,
    end: float,
    *,
    requests: Sequence[UserRequest] = (),
    mark: tuple[float, float] | None = None,
    label: str = "",
) -> Markup:
    """``requests``: drawn one by one when they are few enough. ``mark``: the run itself, shaded."""
    end = max(end, start + 1)

    def x(when: float) -> float:
        """Percent."""
        return round(min(100.0, max(0.0, (when - start) / (end - start) * 100)), 3)

    users = bool(by_second)
    plot = PLOT if users else 0
    top = FAILURES if users else 4
    parts: list[Markup] = []
    if mark:
        parts.append(
            Markup('<rect class="run" x="{}%" y="{}" width="{:.3f}%" height="{}"/>').format(
                x(mark[0]), top, x(mark[1]) - x(mark[0]), plot
            )
        )
    ticks = _time_ticks(start, end)
    parts.extend(_time_line(x(at), top, plot, dense) for at, _, dense in ticks)
    if users:
        parts.extend(_users(dict(by_second), requests, start, end, x, top))
    axis = top + plot + 15
    parts.extend(_time_text(x(at), axis, text, dense) for at, text, dense in ticks)
    placed = _place(bars, x)
    parts.extend(_bar(p, axis + 9) for p in placed)
    lanes = max((p.lane for p in placed), default=-1) + 1
    height = axis + 9 + lanes * LANE + 2
    picture = Markup('<svg class="timeline" width="100%" height="{}" role="img" aria-label="{}">{}</svg>')
    return picture.format(
        height, label or "What users waited over time, with the steps below", Markup("").join(parts)
    )


def describe(whole: Waits) -> str:
    """The picture in words."""
    if not whole.requests:
        return "No request yet."
    return (
        f"{many(whole.requests, 'request')}, {count(whole.failed)} failed, half within "
        f"{seconds(whole.quantile(0.5))}, 99 of 100 within {seconds(whole.quantile(0.99))}, "
        f"the longest {seconds(whole.longest)}."
    )


# -- users -------------------------------------------------------------------------------------


def _users(
    by_second: dict[int, Waits],
    requests: Sequence[UserRequest],
    start: float,
    end: float,
    x: Callable[[float], float],
    top: float,
) -> list[Markup]:
    width, buckets = gathered(by_second, start, end, _BUCKETS)
    highest = max(10.0, *(w.longest for w in buckets.values())) if buckets else 10.0
    span = log10(highest * 1.8) - log10(_LOW)

    def y(wait: float) -> float:
        """Of the plot, from its top."""
        return round(PLOT * (1 - (log10(max(wait, _LOW)) - log10(_LOW)) / span), 1)

    out: list[Markup] = []
    scale = [(value, text) for value, text in _SCALE if value < highest * 1.1]
    out.extend(
        Markup('<line class="grid" x1=0 x2="100%" y1="{y}" y2="{y}"/>').format(y=top + y(value))
        for value, _ in scale
    )
    if len(requests) <= _DOTS and requests:
        shown = [r for r in requests if r.ok and start <= r.t0 <= end]
        for kind, some in (("reads", [r for r in shown if not r.changes]),
                           ("changes", [r for r in shown if r.changes])):
            data = "".join(f"M{x(r.t0) * 10:.1f} {y(r.dur_s)}h0" for r in some)
            out.append(_stretched(Markup('<path class="dots {}" d="{}"/>').format(kind, data), top))
    else:
        out.append(_strip(buckets, width, x, y, top))
    # Over the dots, with a halo: so the plot needs no margin, which a phone hasn't got.
    out.extend(
        Markup('<text class="scale over" x="4" y="{}">{}</text>').format(top + y(value) - 3, text)
        for value, text in scale
    )
    out.extend(_failures(buckets, x, width))
    return out


def _strip(
    buckets: Mapping[int, Waits],
    width: int,
    x: Callable[[float], float],
    y: Callable[[float], float],
    top: float,
) -> Markup:
    """A band from the median to the 95th percentile, the median's line, a tick at the longest."""
    band, median, longest = [], [], []
    for second, waits in buckets.items():
        left, right = x(second) * 10, x(second + width) * 10
        low, high = waits.quantile(0.5), waits.quantile(0.95)
        if low is None or high is None or right <= left:
            continue
        band.append(f"M{left:.1f} {y(high)}H{right:.1f}V{y(low)}H{left:.1f}z")
        median.append(f"M{left:.1f} {y(low)}H{right:.1f}")
        longest.append(f"M{left:.1f} {y(waits.longest)}H{right:.1f}")
    return _stretched(
        Markup(
            '<path class="band" d="{}"/><path class="longest" d="{}"/><path class="median" d="{}"/>'
        ).format("".join(band), "".join(longest), "".join(median)),
        top,
    )


def _stretched(inside: Markup, top: float) -> Markup:
    return Markup(
        '<svg x="0" y="{}" width="100%" height="{}" viewBox="0 0 1000 {}" preserveAspectRatio="none">{}</svg>'
    ).format(top, PLOT, PLOT, inside)


def _failures(buckets: Mapping[int, Waits], x: Callable[[float], float], width: int) -> list[Markup]:
    """A lane of its own at the top: a cross per bucket that has failures."""
    failed = [(second, w.failed) for second, w in buckets.items() if w.failed]
    whole = sum(n for _, n in failed)
    text, kind = (f"✕ {many(whole, 'failure')}", "bad") if whole else ("✓ no failure", "ok")
    out = [
        Markup('<rect class="lane {}" x="0" y="0" width="100%" height="{}"/>').format(kind, FAILURES - 4),
        Markup('<text class="verdict {}" x="6" y="14">{}</text>').format(kind, text),
    ]
    out.extend(
        Markup(
            '<svg x="{}%" y="{}" overflow="visible"><title>{}</title>'
            '<path class="cross" d="M-4-4 4 4M-4 4 4-4"/></svg>'
        ).format(x(second + width / 2), FAILURES / 2 - 2, f"{clock(second)}: {many(n, 'request')} failed")
        for second, n in failed
    )
    return out


# -- time and steps ----------------------------------------------------------------------------


def _time_ticks(start: float, end: float) -> list[tuple[float, str, bool]]:
    """Where, what, and whether only wide pictures have room for it."""
    length = end - start
    pace = next((p for p in (5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600) if length / p <= 10), 7200)
    first = int(start // pace + 1) * pace
    ticks = range(first, int(end) + 1, pace)
    form = clock if pace < 60 else (lambda t: clock(t)[:5])
    return [(t, form(t), bool(i % 3)) for i, t in enumerate(ticks)]


def _time_line(at: float, top: float, plot: float, dense: bool) -> Markup:
    return Markup('<line class="grid{}" x1="{x}%" x2="{x}%" y1="{}" y2="{}"/>').format(
        " dense" if dense else "", top, top + plot + 4, x=at
    )


def _time_text(at: float, y: float, text: str, dense: bool) -> Markup:
    anchor = "start" if at < 4 else "end" if at > 96 else "middle"
    return Markup('<text class="scale{}" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
        " dense" if dense else "", at, y, anchor, text
    )


def _place(bars: Sequence[Bar], x: Callable[[float], float]) -> list[_Placed]:
    """In as few lanes as keep them apart. One whose number would run into the next goes without."""
    ends: list[float] = []
    out: list[_Placed] = []
    for bar in sorted(bars, key=lambda b: b.start):
        left = x(bar.start)
        width = max(0.3, (x(bar.end) if bar.end is not None else 100.0) - left)
        left = min(left, 100 - width)
        lane = next((i for i, end in enumerate(ends) if end <= left), len(ends))
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = left + width + 0.1
        out.append(_Placed(bar, round(left, 3), round(width, 3), lane, numbered=True))
    following: dict[int, float] = {}
    for i in reversed(range(len(out))):
        p = out[i]
        room = following.get(p.lane, 100.0) - p.left
        following[p.lane] = p.left
        out[i] = replace(p, numbered=room >= 0.75 * len(str(p.bar.number)) + 0.5)
    return out


def _bar(p: _Placed, top: float) -> Markup:
    took = "" if p.bar.end is None else f": {seconds(p.bar.end - p.bar.start)}"
    y = top + p.lane * LANE
    number = (
        Markup('<text class="number" x="{}%" dx="3" y="{}">{}</text>').format(p.left, y + 12, p.bar.number)
        if p.numbered
        else Markup("")
    )
    return Markup(
        '<g class="bar {}"><title>{}</title><rect x="{}%" y="{}" width="{}%" height="{}" rx="3"/>{}</g>'
    ).format(
        p.bar.state,
        esc(f"{p.bar.number}. {p.bar.title}{took}{_SIGNS[p.bar.state]}"),
        p.left,
        y,
        p.width,
        LANE - 4,
        number,
    )
