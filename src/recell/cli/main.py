"""``recell``: the group, and what becomes of an error."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from recell import __version__
from recell.cli import (
    apply,
    check,
    doctor,
    finish,
    plan,
    report,
    resume,
    runbook,
    scan,
    status,
    takeover,
    undo,
    verify,
)
from recell.errors import EXIT_CODES, RecellError

_CODES = "\n".join(f"  {code:>3}  {EXIT_CODES[code].word}" for code in sorted(EXIT_CODES))


class _Group(click.Group):
    """Every error that recell raises on purpose is one sentence, a remedy and a numbered exit."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RecellError as error:
            content = {"error": error.word, "sentence": error.sentence, "remedy": error.remedy,
                       "exit_code": error.exit_code}
            # On stderr either way: what a command printed before it failed stays one document.
            click.echo(json.dumps(content) if "--json" in sys.argv else f"recell: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes:\n    0  done\n    2  usage\n" + _CODES,
)
@click.version_option(__version__, prog_name="recell")
def main() -> None:
    """Move a running OpenStack Nova into cells, without destroying the world.

    \b
    The operator's way; each arrow is a file that you can read:
      recell scan --inventory FILE   ->  deployment.json   what runs today
      (you write)                        layout.yaml       the cells you want
      recell plan                    ->  plan.json         every step and its way back
      recell check                       every reason not to begin
      recell apply                   ->  journal.sqlite    does it, while users keep working
      recell verify, recell report   ->  report.html, report.json
      recell undo                        back, also after success, until: recell finish
    """


for command in (
    doctor.command,
    scan.command,
    plan.command,
    check.command,
    runbook.command,
    apply.command,
    status.command,
    resume.command,
    takeover.command,
    undo.command,
    verify.command,
    report.command,
    finish.command,
):
    main.add_command(command)
