"""What a run looks like: a live line on a terminal, plain lines when piped, JSON lines for scripts."""

from __future__ import annotations

import json
import sys
import time

import click
from rich.console import Console

from recell.engine.run import Event, Observer


def console(*, stderr: bool = False) -> Console:
    """rich's console; honours NO_COLOR and pipes by itself. Wide when piped, so that lines stay whole."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def observer(as_json: bool) -> Observer:
    if as_json:
        return _json_line
    out = console()
    status = out.status("") if out.is_terminal else None

    def show(event: Event) -> None:
        p = event.progress
        place = f"[{p.index + 1}/{p.total}]"
        if event.kind == "acting":
            line = f"{place} {event.step.id}: {event.step.title} (about {minutes(p.eta_s)} left)"
            if event.text:
                line += f": {event.text}"
            if status:
                status.update(click.unstyle(line)[: out.width - 4].replace("[", "\\["))
                status.start()
            else:
                out.print(line, markup=False)
            return
        if status:
            status.stop()
        mark, style = {
            "finished": ("done", "green"),
            "found": ("nothing to do", "dim"),
            "failed": ("STOPPED", "bold red"),
            "retrying": ("again in 5 s", "yellow"),
            "skipped": ("skipped", "dim"),
        }[event.kind]
        took = f" {event.seconds:.1f} s" if event.seconds else ""
        text = f"  {event.text}" if event.text else ""
        out.print(f"{place} {event.step.id}: ", markup=False, end="")
        out.print(f"{mark}{took}", style=style, end="")
        out.print(text, markup=False)

    return show


def _json_line(event: Event) -> None:
    click.echo(
        json.dumps(
            {
                "at": time.time(),
                "event": event.kind,
                "step": event.step.id,
                "title": event.step.title,
                "index": event.progress.index + 1,
                "total": event.progress.total,
                "eta_s": round(event.progress.eta_s, 1),
                "seconds": round(event.seconds, 3),
                "text": event.text,
            }
        )
    )
    sys.stdout.flush()
