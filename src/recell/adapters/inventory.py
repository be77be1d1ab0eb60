"""Ansible inventories, INI and YAML: which hosts there are and how to reach them by SSH.

Read are ``ansible_host``, ``ansible_port``, ``ansible_user``, ``ansible_ssh_private_key_file`` (and
their ``ansible_ssh_*`` spellings) and ``UserKnownHostsFile`` out of ``ansible_ssh_common_args``,
from hosts, groups, their children and ``all``; a host's own value wins, then the nearest group's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from recell.errors import BadInput
from recell.model.deployment import Address

_RANGE = re.compile(r"\[([0-9A-Za-z]+):([0-9A-Za-z]+)(?::([0-9]+))?\]")
_SECTION = re.compile(r"\[([^\]:]+)(?::(children|vars))?\]\s*\Z")
_PORT = re.compile(r"([^:\[\]]+|\[[0-9a-fA-F:]+\]):([0-9]+)\Z")
_DIRECTORY = re.compile(r"\{\{\s*inventory_dir\s*\}\}")
_REMEDY = "Correct the inventory"
# Ways of speaking SSH that don't change where it leads: recell has its own.
_HARMLESS = {
    "stricthostkeychecking", "controlmaster", "controlpersist", "controlpath", "connecttimeout",
    "connectionattempts", "serveraliveinterval", "serveralivecountmax", "batchmode", "loglevel",
    "forwardagent", "compression", "identitiesonly", "preferredauthentications", "tcpkeepalive",
    "pubkeyauthentication", "passwordauthentication", "gssapiauthentication",
}


@dataclass
class _Group:
    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass
class _Tree:
    where: str
    groups: dict[str, _Group] = field(default_factory=lambda: {"all": _Group()})
    hosts: dict[str, dict[str, str]] = field(default_factory=dict)

    def group(self, name: str) -> _Group:
        return self.groups.setdefault(name, _Group())


def read_inventory(path: Path) -> tuple[tuple[str, Address], ...]:
    """Every host of an inventory file, in its order, with its address.

    :raises BadInput: unreadable or malformed; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror})",
                       "Name an inventory file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not an inventory: it is not UTF-8", _REMEDY) from None
    return parse_inventory(text, str(path), path.resolve().parent)


def parse_inventory(
    text: str, where: str, directory: Path | None = None,
) -> tuple[tuple[str, Address], ...]:
    """As :func:`read_inventory`, of text. ``where`` names it in errors."""
    tree = _Tree(where)
    if _looks_like_yaml(text, where):
        _read_yaml(text, tree)
    else:
        _read_ini(text, tree)
    if not tree.hosts:
        raise BadInput(f"{where} names no host", "Write the hosts into it, one a line, or name another")
    found = []
    for name in tree.hosts:
        variables = _variables(tree, name)
        if directory is not None:
            variables = {k: _DIRECTORY.sub(lambda _: str(directory), v)
                         for k, v in variables.items()}
        found.append((name, _address(name, variables, where)))
    return tuple(found)


def _looks_like_yaml(text: str, where: str) -> bool:
    if where.endswith((".yaml", ".yml")):
        return True
    first = next((line for line in text.splitlines()
                  if line.strip() and not line.lstrip().startswith(("#", ";"))), "")
    return first.strip() == "---" or bool(re.fullmatch(r"[A-Za-z0-9_.-]+:\s*(#.*)?", first))


# INI


def _read_ini(text: str, tree: _Tree) -> None:
    section, kind = "ungrouped", ""
    declared: dict[str, int] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        at = f"{tree.where} line {number}"
        if line.startswith("["):
            header = _SECTION.match(re.sub(r"\s[#;].*$", "", line))
            host = _RANGE.search(line) or _PORT.match(line.split()[0])
            if header is None and not host:
                raise BadInput(f"{at}: the section header is malformed", _REMEDY)
            if header is not None:
                section, kind = header[1].strip(), header[2] or ""
                tree.group(section)
                continue
        if kind == "vars":
            key, equals, value = line.partition("=")
            if not equals or not key.strip():
                raise BadInput(f"{at}: a variable is written name=value", _REMEDY)
            tree.group(section).variables[key.strip()] = _plain(value.strip())
        elif kind == "children":
            child = line.split("#")[0].strip()
            if len(child.split()) != 1:
                raise BadInput(f"{at}: a child group is one name on a line", _REMEDY)
            declared.setdefault(child, number)
            tree.group(section).children[child] = None
        else:
            _ini_host(line, section, tree, at)
    for child, number in declared.items():
        if child not in tree.groups:
            raise BadInput(f"{tree.where} line {number}: there is no group {child}", _REMEDY)


def _ini_host(line: str, section: str, tree: _Tree, at: str) -> None:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        raise BadInput(f"{at}: a quote is not closed", _REMEDY) from None
    if not words:
        return
    variables: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"{at}: {key} is not name=value", _REMEDY)
        variables[key] = value
    pattern = words[0]
    port = _PORT.match(pattern)
    if port:
        pattern = port[1].strip("[]")
        variables.setdefault("ansible_port", port[2])
    if "=" in pattern:
        raise BadInput(f"{at}: a host's name is missing", _REMEDY)
    for name in _expand(pattern, at):
        tree.hosts.setdefault(name, {}).update(variables)
        tree.group(section).hosts[name] = None


def _expand(pattern: str, at: str) -> Iterator[str]:
    """``web[01:10].x`` -> ten names, with leading zeros kept; ``[a:f]`` works as well."""
    pieces = _RANGE.split(pattern)
    if "[" in "".join(pieces[::4]) or "]" in "".join(pieces[::4]):
        raise BadInput(f"{at}: the range in {pattern} is malformed", _REMEDY)
    choices: list[list[str]] = []
    for index in range(0, len(pieces) - 1, 4):
        literal, first, last, step = pieces[index : index + 4]
        choices += [[literal], _range(first, last, int(step or 1), at)]
    choices.append([pieces[-1]])
    return ("".join(parts) for parts in product(*choices))


def _range(first: str, last: str, step: int, at: str) -> list[str]:
    if first.isdigit() and last.isdigit() and int(first) <= int(last) and step:
        if len(first) > 1 and first.startswith("0") and len(first) != len(last):
            raise BadInput(f"{at}: the ends of {first}:{last} differ in length", _REMEDY)
        return [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1, step)]
    letters = len(first) == len(last) == 1 and first.isalpha() and last.isalpha()
    if letters and first <= last and step:
        return [chr(n) for n in range(ord(first), ord(last) + 1, step)]
    raise BadInput(f"{at}: the range {first}:{last} is malformed", _REMEDY)


def _plain(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


# YAML


def _read_yaml(text: str, tree: _Tree) -> None:
    try:
        # A mapping's own line is lost once it is a dict: the document tree keeps it.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{tree.where} line {line}: {error.problem or 'malformed YAML'}",
                       _REMEDY) from None
    except yaml.YAMLError:
        raise BadInput(f"{tree.where} is malformed YAML", _REMEDY) from None
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise BadInput(f"{tree.where} line 1: an inventory is a mapping of groups", _REMEDY)
    for key, value in node.value:
        _yaml_group(str(key.value), value, data[key.value], tree)


def _yaml_group(name: str, node: Any, data: Any, tree: _Tree) -> None:
    group = tree.group(name)
    if data is None:
        return
    at = f"{tree.where} line {node.start_mark.line + 1}"
    if not isinstance(data, dict):
        raise BadInput(f"{at}: the group {name} is not a mapping", _REMEDY)
    for key, value in node.value:
        inner = data[key.value]
        at = f"{tree.where} line {key.start_mark.line + 1}"
        if key.value not in ("hosts", "children", "vars"):
            raise BadInput(f"{at}: {key.value} is none of hosts, children, vars", _REMEDY)
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise BadInput(f"{at}: {key.value} of {name} is not a mapping", _REMEDY)
        if key.value == "vars":
            group.variables.update(_texts(inner))
        elif key.value == "children":
            for child, below in value.value:
                group.children[str(child.value)] = None
                _yaml_group(str(child.value), below, inner[child.value], tree)
        else:
            for host, variables in inner.items():
                if variables is not None and not isinstance(variables, dict):
                    raise BadInput(f"{at}: the variables of {host} are not a mapping", _REMEDY)
                for one in _expand(str(host), at):
                    tree.hosts.setdefault(one, {}).update(_texts(variables or {}))
                    group.hosts[one] = None


def _texts(variables: Mapping[Any, Any]) -> dict[str, str]:
    return {str(k): str(v) for k, v in variables.items() if isinstance(v, (str, int, float))}


# Both


def _variables(tree: _Tree, host: str) -> dict[str, str]:
    """all, then the groups from the outermost inwards (by name at equal depth), then the host."""
    depths = {name: 0 for name, group in tree.groups.items() if host in group.hosts}
    # Distance from the host: a parent's values are weaker than its child's.
    frontier = dict(depths)
    while frontier:
        above: dict[str, int] = {}
        for child, distance in frontier.items():
            for name, group in tree.groups.items():
                # The bound ends a circle of groups.
                above_it = depths.get(name, -1) < distance + 1 <= len(tree.groups)
                if child in group.children and above_it:
                    depths[name] = above[name] = distance + 1
        frontier = above
    depths.pop("all", None)
    found = dict(tree.groups["all"].variables)
    for name in sorted(depths, key=lambda n: (-depths[n], n)):
        found |= tree.groups[name].variables
    return found | tree.hosts[host]


def _address(name: str, variables: Mapping[str, str], where: str) -> Address:
    def value(*names: str) -> str:
        return next((variables[n] for n in names if variables.get(n)), "")

    connection = value("ansible_connection")
    if connection not in ("", "ssh", "smart", "paramiko", "openssh"):
        raise BadInput(f"{where}: {name} is reached by {connection}, not by SSH",
                       "recell needs SSH: correct ansible_connection, or leave the host out")
    port = value("ansible_port", "ansible_ssh_port") or "22"
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(f"{where}: the port of {name} is not a port number", _REMEDY)
    host = value("ansible_host", "ansible_ssh_host") or name
    key = value("ansible_ssh_private_key_file", "ansible_private_key_file")
    known = ""
    for arguments in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        more = _ssh_arguments(variables.get(arguments, ""), name, arguments, where)
        key, known = key or more[0], known or more[1]
    user = value("ansible_user", "ansible_ssh_user") or "root"
    for text in (host, user, key, known):
        if "{{" in text:
            raise BadInput(f"{where}: the address of {name} holds a template",
                           "Write the value itself")
    if host.startswith("-") or user.startswith("-"):
        raise BadInput(f"{where}: the address of {name} begins with a dash", _REMEDY)
    return Address(host, int(port), user, _home(key), _home(known))


def _ssh_arguments(text: str, name: str, option: str, where: str) -> tuple[str, str]:
    """Key file and known_hosts file out of ssh's own arguments; others must not change the way."""
    try:
        words = iter(shlex.split(text))
    except ValueError:
        raise BadInput(f"{where}: a quote is not closed in {option} of {name}", _REMEDY) from None
    key = known = ""
    for word in words:
        if word == "-o":
            word += next(words, "")
        if word == "-i":
            key = next(words, "")
            continue
        if word in ("-C", "-q", "-T", "-4", "-6"):
            continue
        setting, _, value = word.removeprefix("-o").strip().replace(" ", "=", 1).partition("=")
        if word.startswith("-o") and setting.lower() == "userknownhostsfile":
            known = value
        elif word.startswith("-o") and setting.lower() == "identityfile":
            key = value
        elif not (word.startswith("-o") and setting.lower() in _HARMLESS):
            raise BadInput(
                f"{where}: {option} of {name} holds {word.split('=')[0]}, which recell ignores",
                "Put it into the SSH client's own configuration",
            )
    return key, known


def _home(path: str) -> str:
    return str(Path(path).expanduser()) if path else ""
