"""The subcommands of recell-lab: each module here has a click command named `command`."""
