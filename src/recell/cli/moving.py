"""What `recell apply` may be told about waves, over what the layout says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from recell.errors import BadInput
from recell.journal import Journal
from recell.model.plan import Plan
from recell.model.window import Window

F = TypeVar("F", bound=Callable[..., Any])

ALWAYS = "always"


def options(command: F) -> F:
    """--waves, --max-failures, --window, --api-errors and --queue-depth, for plans that move hosts."""
    for option in (
        click.option("--queue-depth", type=click.IntRange(1), metavar="N",
                     help="Hosts: stop when more messages wait in a queue that somebody takes from."),
        click.option("--api-errors", type=click.IntRange(0), metavar="N",
                     help="Hosts: stop when nova-api answers more requests with 5xx during a wave."),
        click.option("--window", metavar="HH:MM-HH:MM",
                     help=f"Hosts: begin waves only in this time of day, UTC; or {ALWAYS}."),
        click.option("--max-failures", type=click.IntRange(0), metavar="N",
                     help="Hosts: so many may be left out because they don't come to rest."),
        click.option("--waves", type=click.IntRange(1), metavar="N",
                     help="Hosts, RabbitMQ: stop after so many waves; apply again goes on."),
    ):  # fmt: skip
        command = option(command)
    return command


def words(plan: Plan, given: dict[str, Any]) -> dict[str, Any]:
    """The operator's own, as the steps recall them; options that were not given are left out.

    :raises BadInput: the plan has no such waves, or a wave doesn't fit into the window.
    """
    said = {key: value for key, value in given.items() if value is not None}
    gates = [s for s in plan.steps if s.kind == "wave-gate" and s.params["at"] == "begin"]
    if said.keys() <= {"waves"} and _waves(plan):
        return said
    if said and not gates:
        named = ", ".join("--" + key.replace("_", "-") for key in said)
        raise BadInput(f"{named} is about waves of hosts, and the plan moves none", "Leave it out")
    if said.get("window") == ALWAYS:
        said["window"] = ""
    elif "window" in said:
        window = Window.parse(str(said["window"]))
        longest = max(float(s.params["takes_s"]) for s in gates)
        if not window.fits(longest):
            raise BadInput(
                f"a wave takes about {longest / 60:.0f} min, and the window has {window.length_s / 60:.0f}",
                "Give a longer --window, or plan smaller waves",
            )
    return said


def pauses(plan: Plan, journal: Journal | None, waves: int | None) -> tuple[str, ...]:
    """The step before which a run stops that may do so many waves; nothing when it may do all."""
    if waves is None:
        return ()
    begins, ends = zip(*_waves(plan), strict=True)
    done = 0
    for end in ends:
        last = journal.last(end) if journal is not None else None
        if last is None or last.direction != "forward" or last.phase not in ("finished", "found"):
            break
        done += 1
    return tuple(begins[done + waves : done + waves + 1])


def _waves(plan: Plan) -> list[tuple[str, str]]:
    """Each wave's first step and its last, on the way there."""
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        if step.acts != "backward" and "wave" in step.params:
            found.setdefault(str(step.params["wave"]), []).append(step.id)
    return [(ids[0], ids[-1]) for ids in found.values()]
