"""Changes of a configuration file, as data without secrets, and their application.

A value that holds a password is never in a plan: the change says how to make it out of what stands
on the host or in the API database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from recell.errors import Unsupported
from recell.model.deployment import NovaService
from recell.model.layout import Layout
from recell.model.urls import parse_url
from recell.planning import ini


class Change(TypedDict):
    """``op``: ``set`` to ``value``; ``unset``; ``nodes``: the URL that stands there now, on other
    broker nodes (``[[host, port], ...]``) and ``vhost``; ``copy``: what ``source`` [section,
    option] of the file says before any change; ``mapping``: the database URL of cell ``cell``."""

    section: str
    option: str
    op: Literal["set", "unset", "nodes", "copy", "mapping"]
    value: NotRequired[str]
    nodes: NotRequired[list[list[Any]]]
    vhost: NotRequired[str]
    source: NotRequired[list[str]]
    cell: NotRequired[str]


def kept_notifications(layout: Layout, service: NovaService) -> list[Change]:
    """What lets a service that gets another broker send its notifications where they are listened for today;
    nothing where the layout says otherwise, none are sent, or their broker is named already."""
    notifies = service.options.get("oslo_messaging_notifications/driver", "") not in ("", "noop")
    own = "oslo_messaging_notifications/transport_url" in service.origins
    if layout.services.notifications != "keep" or not notifies or own:
        return []
    return [
        {
            "section": "oslo_messaging_notifications",
            "option": "transport_url",
            "op": "copy",
            "source": ["DEFAULT", "transport_url"],
        }
    ]


MappingUrl = Callable[[str], str]
"""cell uuid -> the literal database URL of its mapping."""


def apply_changes(text: str, changes: Sequence[Change], mapping_url: MappingUrl) -> str:
    """The file's new text.

    :raises Unsupported: an option that a change builds on is not set in this file.
    """
    before = text
    for change in changes:
        section, option = change["section"], change["option"]
        if change["op"] == "unset":
            text = ini.unset_option(text, section, option)
            continue
        text = ini.set_option(text, section, option, _value(before, change, mapping_url))
    return text


def _value(before: str, change: Change, mapping_url: MappingUrl) -> str:
    match change["op"]:
        case "set":
            return change["value"]
        case "copy":
            section, option = change["source"]
            return _required(before, section, option)
        case "mapping":
            return mapping_url(change["cell"]).replace("$", "$$")  # a file's $ begins an option's name
        case _:
            url = parse_url(_literal(before, change["section"], change["option"]))
            nodes = tuple((str(host), int(port)) for host, port in change["nodes"])
            moved = url.with_nodes(nodes)
            return (moved.with_vhost(change["vhost"]) if "vhost" in change else moved).text()


def _literal(text: str, section: str, option: str) -> str:
    """As the service reads it.

    :raises Unsupported: it names other options: their values may be in other files.
    """
    value = _required(text, section, option).replace(r"\$", "$$")
    if "$" in value.replace("$$", ""):
        raise Unsupported(
            f"[{section}] {option} is written with the names of other options ($...)",
            "Write it out in that file, restart the services that read it, and scan again",
        )
    return value.replace("$$", "$")


def _required(text: str, section: str, option: str) -> str:
    value = ini.get(text, section, option)
    if value is None:
        raise Unsupported(
            f"[{section}] {option} is not set in the file where it was expected",
            "Set it there, and scan again",
        )
    return value


def describe(change: Change) -> str:
    """In words, for the plan's text."""
    name = f"[{change['section']}] {change['option']}"
    match change["op"]:
        case "set":
            return f"{name} = {change['value']}"
        case "unset":
            return f"{name} removed"
        case "copy":
            return f"{name} = what [{change['source'][0]}] {change['source'][1]} says today"
        case "mapping":
            return f"{name} = cell0's database"
        case _:
            nodes = ", ".join(f"{host}:{port}" for host, port in change["nodes"])
            return f"{name}: the same account on {nodes}"
