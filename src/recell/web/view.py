"""A story as HTML: the whole page, and its parts as they change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recell.drawing import words
from recell.drawing.timeline import describe as describe_waits
from recell.drawing.timeline import draw_timeline
from recell.drawing.topology import draw_hosts, draw_topology
from recell.web.files import Look
from recell.web.story import Story, tell

SIGNS: Mapping[str, tuple[str, str]] = {
    "todo": ("·", "to do"),
    "acting": ("▶", "under way"),
    "done": ("✓", "done"),
    "found": ("✓", "was there already"),
    "failed": ("✕", "failed"),
    "unknown": ("?", "unknown: look there"),
    "stuck": ("✕", "begun by a recell that is gone"),
}
_DOING = {"forward": "Applying", "backward": "Undoing"}


@dataclass(frozen=True)
class Headline:
    """``tone``: calm, busy, good or bad; ``sign`` says the same without colour."""

    sign: str
    tone: str
    text: str
    below: str = ""


@dataclass(frozen=True)
class Rendered:
    """``parts``: element id -> its HTML, the element included. ``state`` identifies all of them;
    ``shape`` identifies which elements there are: when it changes, the page must be loaded anew."""

    parts: dict[str, str]
    state: str
    shape: str
    story: Story
    look: Look


class View:
    """Templates and where the files are, in words."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._environment = Environment(
            loader=PackageLoader("recell.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=words.finalize,
        )
        self._environment.filters.update(
            seconds=words.seconds, count=words.count, stamp=words.stamp, clock=words.clock
        )
        self._environment.globals.update(signs=SIGNS, headline=headline, announcement=announcement)

    def parts(self, look: Look) -> Rendered:
        """Every part of the page."""
        story = tell(look)
        template = self._environment.get_template("parts.html.j2").module
        s, users = story, look.users
        timeline = None
        if users.by_second or s.bars:
            timeline = draw_timeline(
                users.by_second,
                s.bars,
                *s.window,
                mark=(s.began, s.ended or s.window[1]) if s.began is not None else None,
                label=f"What users waited over time, with the steps below. {describe_waits(s.users)}",
            )
        html = {
            "state": template.state(s, headline(s)),  # type: ignore[attr-defined]
            "notices": template.notices(look.notices),  # type: ignore[attr-defined]
            "figures": template.figures(s, users.last_at),  # type: ignore[attr-defined]
            "strip": template.strip(timeline, users, s),  # type: ignore[attr-defined]
            "now": template.now(  # type: ignore[attr-defined]
                draw_topology(s.now, "Now") if s.now else "", draw_hosts(s.now, "now") if s.now else ""
            ),
            "runs": template.runs(s.runs),  # type: ignore[attr-defined]
        }
        for step in s.steps:
            html[f"step-{step.number}"] = template.step(step)  # type: ignore[attr-defined]
        parts = {key: str(value).strip() for key, value in html.items()}
        shape = _digest([s.direction, *(x.step.id for x in s.steps), repr(s.before), repr(s.wanted)])
        return Rendered(parts, _digest([shape, *parts.values()]), shape, story, look)

    def page(self, rendered: Rendered) -> str:
        """The whole page."""
        s = rendered.story
        return self._environment.get_template("page.html.j2").render(
            # Our own templates made them, and escaped what is inside.
            parts={key: Markup(value) for key, value in rendered.parts.items()},  # noqa: S704
            state=rendered.state,
            shape=rendered.shape,
            story=s,
            plan=rendered.look.plan,
            deployment=rendered.look.deployment,
            directory=self._directory,
            before=draw_topology(s.before, "Before") if s.before else None,
            before_hosts=draw_hosts(s.before, "before") if s.before else "",
            wanted=draw_topology(s.wanted, "Wanted") if s.wanted else None,
            wanted_hosts=draw_hosts(s.wanted, "wanted") if s.wanted else "",
            said=announcement(s),
        )


def _digest(texts: list[str]) -> str:
    whole = hashlib.sha256()
    for text in texts:
        whole.update(len(text).to_bytes(8, "big") + text.encode())
    return whole.hexdigest()[:20]


# -- words -------------------------------------------------------------------------------------


def headline(s: Story) -> Headline:
    """Where it stands, in a sentence, and what to do when it stands still."""
    total = len(s.steps)
    if s.position == "none":
        return Headline("·", "calm", "No plan yet", "recell plan makes plan.json; this page shows it then.")
    if s.position == "new":
        return Headline(
            "·", "calm", f"Planned, not begun: {words.many(total, 'step')}", "It begins with: recell apply"
        )
    if s.position == "applied":
        below = "recell verify proves it; recell undo goes back, until recell finish."
        return Headline("✓", "good", "Applied", below)
    if s.position == "undone":
        return Headline("✓", "good", "Undone: the deployment is as it was", "recell apply would do it again.")
    if s.position == "finished":
        return Headline("✓", "good", "Applied, and finished", "The way back is closed.")
    doing = _DOING[s.direction]
    at = s.current
    if s.running:
        if at is None:
            return Headline("▶", "busy", f"{doing}: {s.done} of {total} steps done")
        text = f"{doing}: step {at.number} of {total}"
        return Headline("▶", "busy", text, f"{at.step.title} (on {at.step.where})")
    outcome = s.runs[-1].outcome if s.runs else None
    remedy = "Go on with recell resume, or go back with recell undo."
    if outcome == "paused":
        return Headline("‖", "wait", f"Paused after {s.done} of {total} steps", remedy)
    where = f" at step {at.number} of {total}, {at.step.id}" if at else f" after {s.done} of {total} steps"
    if outcome is None or outcome == "interrupted":
        return Headline("✕", "bad", f"Interrupted{where}: recell is gone", remedy)
    return Headline("✕", "bad", f"Stopped{where}", f"{at.note if at and at.note else outcome}. {remedy}")


def announcement(s: Story) -> str:
    """What a screen reader is told when it changes: once a step, not once a second."""
    head = headline(s)
    return f"{head.text}. {head.below}".strip()
