"""recell completion, and what is completed beyond names of commands and options"""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from recell.cli.desk import Desk
from recell.errors import BadInput, RecellError

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Teach a shell to complete recell's words.")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def command(shell: str) -> None:
    """Print what teaches a shell to complete recell's commands, options and, after --pause-before, the
    steps of plan.json.

    \b
    Where it goes:
      bash   ~/.bashrc:  eval "$(recell completion bash)"
      zsh    ~/.zshrc:   eval "$(recell completion zsh)"
      fish   recell completion fish > ~/.config/fish/completions/recell.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise BadInput(f"there is no completion for {shell}", f"Name one of: {', '.join(SHELLS)}")
    main = click.get_current_context().find_root().command
    click.echo(found(main, {}, "recell", "_RECELL_COMPLETE").source())


def steps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the plan's steps; none when there is no plan to read."""
    try:
        plan = Desk(Path(ctx.params.get("directory") or ".")).plan()
    except RecellError:
        return []
    return [
        CompletionItem(s.id, help=s.title)
        for s in plan.steps
        if s.acts != "backward" and s.id.startswith(incomplete)
    ]
