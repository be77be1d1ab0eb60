"""``recell``: the group, and what becomes of an error."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from recell import __version__
from recell.cli import (
    apply,
    audit,
    check,
    completion,
    doctor,
    export,
    finish,
    page,
    plan,
    report,
    resume,
    rows,
    runbook,
    scan,
    status,
    sync,
    takeover,
    undo,
    verify,
)
from recell.errors import EXIT_CODES, RecellError


def _said(kind: type[RecellError]) -> str:
    """The first sentence of an error's docstring."""
    if kind is RecellError:
        return "a defect in recell itself"
    return " ".join((kind.__doc__ or "").split("\n\n")[0].replace("`", "").split()).rstrip(".")


_CODES = "    0  done           (for doctor: no error, and nothing was left unchecked)\n"
_CODES += "    2  usage          the command line is wrong\n"
_CODES += "\n".join(
    f"  {code:>3}  {EXIT_CODES[code].word:<14} {_said(EXIT_CODES[code])}" for code in sorted(EXIT_CODES)
)


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
    epilog="\b\nExit codes:\n" + _CODES,
)
@click.version_option(__version__, prog_name="recell")
def main() -> None:
    """Move a running OpenStack Nova into cells, without destroying the world.

    \b
    The operator's way; each arrow is a file that you can read:
      recell doctor --inventory FILE     what ails the cloud today (cells v2 and v1); changes nothing
      recell scan --inventory FILE   ->  deployment.json   what runs today
      (you write)                        layout.yaml       the cells you want
      recell plan                    ->  plan.json         every step and its way back
      recell check                       every reason not to begin
      recell apply --observe             every check of every step, nothing written
      recell runbook                     the way back by hand, should recell not be there
      recell apply                   ->  journal.sqlite    does it, while users keep working
      recell verify, recell report   ->  report.html, report.json
      recell rows                        of a database that moves: how far, how fast; compare them
      recell export --to TOOL            what Ansible or Puppet must learn, so that they keep it
      recell undo                        back, also after success, until: recell finish
      recell takeover                    go on from another machine; the first one is fenced
      recell audit, recell sync          cells v1 only: mend and keep equal what they keep twice

    Every command that looks or acts takes --dir (or RECELL_DIR) and --json, and explains itself with
    --help. NO_COLOR is honoured. Completion: recell completion --help.
    """


for command in (
    doctor.command,
    scan.command,
    plan.command,
    check.command,
    runbook.command,
    apply.command,
    status.command,
    page.command,
    resume.command,
    takeover.command,
    undo.command,
    verify.command,
    rows.command,
    report.command,
    export.command,
    finish.command,
    audit.command,
    sync.command,
    completion.command,
):
    main.add_command(command)
