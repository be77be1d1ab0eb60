"""Enabling systemd units in a host that does not run yet, by their [Install] sections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from recell_lab.errors import LabError
from recell_lab.layer import HostFile, Layer

SYSTEM = "/etc/systemd/system"
UNIT_PATH = (SYSTEM, "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
SUFFIXES = (".service", ".socket", ".target", ".timer", ".path", ".mount", ".slice", ".automount")


@dataclass(frozen=True)
class Install:
    """The [Install] section of a unit."""

    wanted_by: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    alias: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


def unit_name(name: str) -> str:
    """`ssh` is short for `ssh.service`, as systemctl has it."""
    return name if name.endswith(SUFFIXES) else f"{name}.service"


def parse_install(text: str) -> Install:
    """The [Install] section of the text of a unit file."""
    keys: dict[str, list[str]] = {"WantedBy": [], "RequiredBy": [], "Alias": [], "Also": []}
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped
        elif section == "[Install]" and not stripped.startswith(("#", ";")):
            key, _, value = stripped.partition("=")
            if key.strip() in keys:
                keys[key.strip()].extend(value.split())
    return Install(
        tuple(keys["WantedBy"]),
        tuple(keys["RequiredBy"]),
        tuple(keys["Alias"]),
        tuple(keys["Also"]),
    )


def enable(layer: Layer, names: Iterable[str]) -> None:
    """Enable units. Raises LabError for one that the host has not, or that cannot be enabled."""
    done: set[str] = set()
    todo = [unit_name(name) for name in names]
    while todo:
        unit = todo.pop(0)
        if unit in done:
            continue
        done.add(unit)
        place, install = _find(layer, unit)
        if not (install.wanted_by or install.required_by or install.alias or install.also):
            raise LabError(f"the unit {unit} ({place}) has no [Install] section to enable it by")
        links = [f"{SYSTEM}/{target}.wants/{unit}" for target in install.wanted_by]
        links += [f"{SYSTEM}/{target}.requires/{unit}" for target in install.required_by]
        links += [f"{SYSTEM}/{alias}" for alias in install.alias if alias != unit]
        layer.put(HostFile(link, None, symlink_to=place) for link in links)
        todo += [unit_name(name) for name in install.also]


def _find(layer: Layer, unit: str) -> tuple[str, Install]:
    template = re.sub(r"@[^.]+\.", "@.", unit)
    for name in dict.fromkeys((unit, template)):
        for directory in UNIT_PATH:
            place = str(PurePosixPath(directory) / name)
            if layer.find(layer.resolve(place, last=True)) is not None:
                return place, parse_install(layer.read_text(place))
    raise LabError(f"the host has no unit {unit} to enable")


def mask(layer: Layer, names: Iterable[str]) -> None:
    """Mask units, whether the host has them or not."""
    layer.put(
        HostFile(f"{SYSTEM}/{unit_name(name)}", None, symlink_to="/dev/null") for name in names
    )
