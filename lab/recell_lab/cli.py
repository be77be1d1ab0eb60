"""recell-lab: the command. Each module of recell_lab.commands is one subcommand."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import cast

import click

from recell_lab import commands
from recell_lab.errors import LabError


class Commands(click.Group):
    """A group whose commands are the modules of recell_lab.commands (`command` in each).

    A module is imported when its command is asked for: `ssh` need not wait for `up`'s imports.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the modules, hyphens for underscores."""
        found = pkgutil.iter_modules(commands.__path__)
        names = [module.name for module in found if not module.name.startswith("_")]
        return sorted(name.replace("_", "-") for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The `command` of a module, None when there is no such module."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}")
        return cast(click.Command, module.command)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="recell", prog_name="recell-lab")
def recell_lab() -> None:
    """A real OpenStack cloud of several hosts on this machine, to try recell on."""
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces and mounts: run recell-lab as root")


def main() -> None:
    """Entry point. Exit status 1 with one sentence for what the lab refuses or cannot do."""
    try:
        recell_lab()
    except LabError as error:
        click.echo(f"recell-lab: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
