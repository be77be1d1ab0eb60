"""What a run of the harness is told: ``KIND/HANDLING[/WORD...]``, or ``control[/KIND]``. No I/O.

Words before ``undo`` belong to the way there, those after it to the way back:

``fresh``           a fresh cluster and a bridge, instead of a cut
``nodes=N``         nodes of each side (3)
``restart``         after all, what systemd's own restart of an RPC server costs
``kill=STEP:POINT`` recell is killed (SIGKILL) at this point of this step, and resumed. STEP ``*/*``: at this
                    point of every step, one after the other; POINT ``*``: at every point. ``inside+S``: so
                    many seconds after the step began, at its end at the latest
``kill=STEP:POINT:undo``  it is not resumed: undo goes back from there
``node=STEP``       the beam of a RabbitMQ node is killed when this step begins; systemd starts it again. STEP
                    ``*/*``: when each step begins, once the one that died before is up
``node=STEP:dead``  it stays down until recell has stopped and said why
``@HOST``, ``+S``   after STEP: another node than the step's own; so many seconds after the step begins
``undo``            and back
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

KINDS = ("classic", "mirrored", "quorum")
HANDLINGS = ("ignore", "autoheal", "pause_minority")
POINTS = ("before", "started", "inside", "acted", "finished")
INSIDE_S = 0.3
EVERY = "*/*"
ALL = tuple(f"{kind}/{handling}" for kind in KINDS for handling in HANDLINGS)

# A step's name has one slash in it.
_WORD = re.compile(
    r"(?P<verb>kill|node)=(?P<step>[^/:@+]+/[^/:@+]+)(?:@(?P<host>[^/:+]+))?(?:\+(?P<after>\d+(?:\.\d+)?))?"
    r"(?P<more>(?::[^/:]+)*)(?:/|$)"
)
_PLAIN = re.compile(r"(?P<word>[^/]+)(?:/|$)")


@dataclass(frozen=True)
class Kill:
    """recell is killed at ``point`` of ``step``. ``back``: it isn't resumed, it is undone. ``after``: seconds
    from the step's start, of the point *inside*."""

    step: str
    point: str
    back: bool = False
    after: float = INSIDE_S


@dataclass(frozen=True)
class Death:
    """A node's beam is killed ``after`` seconds of ``step``. ``host``: "" for the step's own. ``dead``: it is
    started again only when recell has stopped. ``alone``: once those that died before are up."""

    step: str
    host: str = ""
    after: float = 0.0
    dead: bool = False
    alone: bool = False


@dataclass
class Way:
    """Forward, or back."""

    kills: list[Kill] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)


@dataclass
class Run:
    """``kind`` of queues, ``handling`` of partitions; ``back`` is None when nothing is undone."""

    kind: str = "classic"
    handling: str = "ignore"
    fresh: bool = False
    control: bool = False
    restart: bool = False
    nodes: int = 3
    forth: Way = field(default_factory=Way)
    back: Way | None = None


def parse(text: str) -> Run:
    """:raises ValueError: naming the word that isn't understood."""
    first, *more = text.split("/", 1)
    if first == "control":
        run = Run(control=True)
        rest = more[0] if more else ""
        if rest.partition("/")[0] in KINDS:
            run.kind, _, rest = rest.partition("/")
    else:
        handling, _, rest = (more[0] if more else "").partition("/")
        if first not in KINDS or handling not in HANDLINGS:
            raise ValueError(f"{text}: begins with none of {', '.join(ALL)}, control")
        run = Run(first, handling)
    while rest:
        found = _WORD.match(rest)
        if found:
            _step_word(run, found)
        else:
            found = _PLAIN.match(rest)
            if found is None:
                raise ValueError(f"{text}: what is {rest}?")
            _plain_word(run, found["word"])
        rest = rest[found.end() :]
    if any(way.kills and way.deaths for way in (run.forth, run.back or Way())):
        raise ValueError(f"{text}: recell and a node can't both die on one way")
    return run


def deaths(told: Sequence[Death], steps: Sequence[str]) -> list[Death]:
    """Who dies when. ``steps``: those that act on this way."""
    return [
        death
        for one in told
        for death in ([replace(one, step=s, alone=True) for s in steps] if one.step == EVERY else [one])
    ]


def _step_word(run: Run, found: re.Match[str]) -> None:
    way = run.forth if run.back is None else run.back
    more = found["more"].split(":")[1:]
    told = found[0].rstrip("/")
    if found["verb"] == "kill":
        named, *then = more or [""]
        point, plus, after = named.partition("+")
        if plus and (point != "inside" or not re.fullmatch(r"\d+(\.\d+)?", after)):
            raise ValueError(f"{told}: inside+SECONDS")
        if point not in (*POINTS, "*") or then not in ([], ["undo"]) or found["host"] or found["after"]:
            raise ValueError(f"{told}: kill=STEP:POINT[:undo], POINT one of {', '.join(POINTS)}, *")
        if then and (run.back is not None or "*" in (found["step"], point) or found["step"] == EVERY):
            raise ValueError(f"{told}: only one kill on the way there can be followed by undo")
        way.kills.append(Kill(found["step"], point, bool(then), float(after or INSIDE_S)))
        if then:
            run.back = Way()
        return
    if more not in ([], ["dead"]):
        raise ValueError(f"{told}: node=STEP[@HOST][+SECONDS][:dead]")
    way.deaths.append(Death(found["step"], found["host"] or "", float(found["after"] or 0), bool(more)))


def _plain_word(run: Run, word: str) -> None:
    if word == "fresh":
        run.fresh = True
    elif word == "restart":
        run.restart = True
    elif word == "undo":
        run.back = run.back or Way()
    elif re.fullmatch(r"nodes=[1-3]", word):
        run.nodes = int(word[-1])
    else:
        raise ValueError(f"{word}: no word of the harness")


def points(kills: Sequence[Kill], steps: Sequence[str]) -> list[Kill]:
    """What to die of, in the order in which a run comes there. ``steps``: those that act on this way."""
    out = [
        Kill(step, point, kill.back, kill.after)
        for kill in kills
        for step in (steps if kill.step == EVERY else [kill.step])
        for point in (POINTS if kill.point == "*" else [kill.point])
    ]
    place = {step: number for number, step in enumerate(steps)}
    for kill in out:
        if kill.step not in place:
            raise ValueError(f"no step {kill.step} on this way; there are {', '.join(steps)}")
    return sorted(dict.fromkeys(out), key=lambda k: (place[k.step], POINTS.index(k.point), k.after))
