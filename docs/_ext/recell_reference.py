"""Directives that write the reference out of the code: commands, exit codes, the layout's words."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from recell.cli import main
from recell.errors import EXIT_CODES
from recell.model.layout import EXAMPLE, RABBIT_EXAMPLE, BrokerLayout, Layout
from recell.model.layout_v1 import CELLS_V1_EXAMPLE, CellsV1Layout
from recell.model.layout_v1_v2 import TREE_EXAMPLE, TreeLayout

_TITLES = {
    "ApiLevel": "`api`",
    "ApiBroker": "`api.broker`",
    "Cell": "`cells.<name>`",
    "CellDatabase": "`cells.<name>.database`",
    "CellBroker": "`cells.<name>.broker`",
    "CellConsoles": "`cells.<name>.consoles`",
    "Placement": "`services`",
    "Moving": "`moving`",
    "Abort": "`moving.abort`",
    "CanaryGuest": "`moving.canary_guest`",
    "Limits": "`limits`",
}


class _Written(SphinxDirective, ABC):
    """Subclasses write MyST."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.write(), allow_section_headings=True)

    @abstractmethod
    def write(self) -> str:
        """The text that stands for the directive."""


class Commands(_Written):
    """``recell --help`` and every command's."""

    def write(self) -> str:
        out = [_block(_help(main, None))]
        parent = click.Context(main, info_name="recell", max_content_width=100)
        for name, command in main.commands.items():
            out += [f"## recell {name}", _block(_help(command, parent, name))]
        return "\n\n".join(out)


def _help(command: click.Command, parent: click.Context | None, name: str = "recell") -> str:
    return command.get_help(click.Context(command, info_name=name, parent=parent, max_content_width=100))


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


class ExitCodes(_Written):
    def write(self) -> str:
        rows = ["| code | word | when |", "|---|---|---|"]
        rows += ["| 0 | | done |", "| 2 | | wrong usage of a command |"]
        for code in sorted(EXIT_CODES):
            kind = EXIT_CODES[code]
            # The base class stands for what no other says.
            said = "a defect of recell" if code == 70 else " ".join(inspect.getdoc(kind).split())  # type: ignore[union-attr]
            rows.append(f"| {code} | `{kind.word}` | {said} |")
        return "\n".join(rows)


class LayoutWords(_Written):
    """Every word of layout.yaml, from the models that read it."""

    def write(self) -> str:
        schema = Layout.model_json_schema()
        out = ["## An example", f"```yaml\n{EXAMPLE}```", "## The file", *_model(schema)]
        parts = dict(schema["$defs"])
        for name, title in _TITLES.items():
            out += [f"## {title}", *_model(parts.pop(name))]
        if parts:
            raise ValueError(f"the layout has parts that the reference does not name: {', '.join(parts)}")
        return "\n\n".join(out + self._rabbitmq() + self._cells_v1() + self._tree())

    def _rabbitmq(self) -> list[str]:
        """The other file: a cluster that becomes two."""
        parts = BrokerLayout.model_json_schema()["$defs"]
        out = ["## RabbitMQ alone", f"```yaml\n{RABBIT_EXAMPLE}```", *_model(parts["RabbitSplit"])]
        for name, title in (
            ("KeptSide", "rabbitmq: keep"),
            ("RabbitSide", "rabbitmq: new"),
            ("MovingClients", "moving, of RabbitMQ's clients"),
        ):
            out += [f"## {title}", *_model(parts[name])]
        return out


    def _cells_v1(self) -> list[str]:
        """Of the other generation; limits are the same."""
        schema = CellsV1Layout.model_json_schema()
        out = ["## Cells v1", f"```yaml\n{CELLS_V1_EXAMPLE}```", *_model(schema)]
        for name, title in (
            ("ApiCell", "api, of cells v1"),
            ("ApiCellDatabase", "api: database, of cells v1"),
            ("ChildCell", "cells: NAME, of cells v1"),
            ("Hold", "hold"),
        ):
            out += [f"## {title}", *_model(schema["$defs"][name])]
        return out

    def _tree(self) -> list[str]:
        """The way from one generation to the other; hold and limits are the same."""
        schema = TreeLayout.model_json_schema()
        out = ["## From cells v1 to cells v2", f"```yaml\n{TREE_EXAMPLE}```", *_model(schema)]
        for name, title in (("TreeApi", "api, from cells v1"), ("TreeChild", "cells: NAME, from cells v1")):
            out += [f"## {title}", *_model(schema["$defs"][name])]
        return out


def _model(part: dict[str, Any]) -> list[str]:
    said = inspect.cleandoc(part.get("description", "")).replace("``", "`")
    rows = ["| word | value | default |", "|---|---|---|"]
    needed = set(part.get("required", ()))
    for word, value in part["properties"].items():
        default = "**needed**" if word in needed else _default(value)
        rows.append(f"| `{word}` | {_value(value)} | {default} |")
    return [said, "\n".join(rows)]


def _value(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_value(v) for v in value["anyOf"])
    if "$ref" in value or "allOf" in value:
        return "see below"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{v}`" for v in value["enum"])
    kind = value.get("type", "")
    if kind == "null":
        return "nothing"
    if kind == "array":
        return "list of words"
    if kind == "object":
        return "name: see below"
    if kind in ("number", "integer"):
        low = value.get("minimum", value.get("exclusiveMinimum"))
        high = value.get("maximum")
        whole = "whole number" if kind == "integer" else "number"
        if high is not None:
            return f"{whole}, {low} to {high}"
        if low is None:
            return whole
        return f"{whole}, {low} or more" if "minimum" in value else f"{whole} above {low}"
    return "text"


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default in ("", [], None) or isinstance(default, dict):
        return "–" if not isinstance(default, dict) else "see below"
    return f"`{default}`"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("recell-commands", Commands)
    app.add_directive("recell-exit-codes", ExitCodes)
    app.add_directive("recell-layout", LayoutWords)
    return {"parallel_read_safe": True}
