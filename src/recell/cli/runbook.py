"""recell runbook"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from recell.cli.desk import Desk, options, standing
from recell.model.plan import Plan
from recell.planning.runbook import SQL, Hand, back, forth


@click.command("runbook", short_help="Print the way back by hand, should recell not be there.")
@options
@click.option("--forth", "also_forth", is_flag=True, help="The way forth as well.")
def command(directory: Path, as_json: bool, also_forth: bool) -> None:
    """Print the way back in words and commands, for a night on which recell itself is not there.

    Made from plan.json and, once there is one, the journal, which knows what was begun and under which
    names old files are kept on their hosts. Holds no secret: print it, and keep it with the change.
    Reaches no host.

    \b
    Examples:
      recell runbook > runbook.md          before the change, and again whenever it is paused
    """
    desk = Desk(directory)
    plan = desk.plan()
    where = "new"
    if desk.journal_path.exists():
        where = standing(desk, plan)
        journal = desk.journal(read_only=True)
        try:
            ways = back(plan, journal.recall), forth(plan, journal.recall)
        finally:
            journal.close()
    else:
        ways = back(plan, lambda step, key: None), forth(plan, lambda step, key: None)
    if as_json:
        content = {"plan": plan.id, "position": where, "back": [asdict(h) for h in ways[0]]}
        if also_forth:
            content["forth"] = [asdict(h) for h in ways[1]]
        click.echo(json.dumps(content, indent=1))
        return
    click.echo(head(plan, where), nl=False)
    click.echo(text("Back, last step first", ways[0]), nl=False)
    if also_forth:
        click.echo(text("Forth", ways[1]), nl=False)


def head(plan: Plan, where: str) -> str:
    early = (
        "\n**This was printed before the change.** Steps that keep old values name none yet: print it again"
        "\nat every pause and at the end.\n"
    )
    return (
        f"# {plan.kind} {plan.id} by hand (the journal stands at: {where})\n\n"
        "Commands are for a root shell on the host that is named. A step that was not begun needs nothing.\n"
        f"Databases are reached with {SQL.split()[-1].partition('=')[2]}, a file of yours (mode 0600) with"
        " user and\npassword. recell's owner file fences the hosts against other recells, not against you:"
        " let no recell\nrun while you work by hand.\n" + (early if where == "new" else "")
    )


def text(title: str, hands: Sequence[Hand]) -> str:
    lines = ["", f"## {title}", ""]
    for number, h in enumerate(hands, 1):
        lines += [f"{number}. **{h.step}** (on {h.where}): {h.title}", "", f"   {h.words}", ""]
        if h.commands:
            block = "\n".join(h.commands).splitlines()
            lines += ["```", *block, "```", ""]
    return "\n".join(lines)
