"""What a plan does otherwise where services run in kolla's containers.

Each container has a nova.conf of its own, so the cell's services stay as they are. The super-conductor
is a second container like the conductor's, under the names that kolla-ansible itself would give it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from recell.errors import Unsupported
from recell.model.deployment import Container, NovaService
from recell.planning.changes import Change
from recell.planning.draft import Draft, Facts, edited_file


def refuse_what_is_beyond_control(services: Iterable[NovaService]) -> None:
    """:raises Unsupported: one of them is in a container that recell can't stop and start safely."""
    for s in services:
        if s.container and s.container.obstacle:
            raise Unsupported(
                f"{s.unit} on {s.host} can't be controlled: {s.container.obstacle}",
                "Have it as kolla-ansible (2023.1 or newer) makes it: a systemd unit for each container, on"
                " the host's network, KOLLA_CONFIG_STRATEGY COPY_ALWAYS; then scan again",
            )


def super_name(facts: Facts) -> str:
    """The super-conductor's container, in kolla's spelling."""
    return facts.layout.api.super_conductor_unit.replace("-", "_")


def super_unit(facts: Facts, conductor: NovaService) -> str:
    """What the super-conductor beside this conductor is called."""
    if conductor.container:
        return f"kolla-{super_name(facts)}-container"
    return facts.layout.api.super_conductor_unit


def super_config(facts: Facts, conductor: NovaService, container: Container) -> str:
    """Where the super-conductor's container finds the copy of the conductor's own nova.conf."""
    return _copied(facts, container, edited_file(conductor))


def _directory(facts: Facts, container: Container) -> str:
    return posixpath.join(posixpath.dirname(container.directory), super_name(facts).replace("_", "-"))


def _copied(facts: Facts, container: Container, path: str) -> str:
    inside = posixpath.relpath(path, container.directory)
    if inside.startswith("../"):
        raise Unsupported(
            f"the container {container.name} takes its nova.conf from {path}, not from {container.directory}",
            "Let kolla's config.json copy it from the service's own directory, then scan again",
        )
    return posixpath.join(_directory(facts, container), inside)


def super_conductor(
    facts: Facts, draft: Draft, conductor: NovaService, container: Container, changes: list[Change]
) -> None:
    """Its configuration, its container (not started) and its unit."""
    host, name, unit = conductor.host, super_name(facts), super_unit(facts, conductor)
    there = [s for s in facts.deployment.services if s.host == host and s.container and s.unit == unit]
    if there:
        raise Unsupported(
            f"{host} has a container {name} already",
            "Remove it if it is left over, or write another super_conductor_unit in the layout",
        )
    own = edited_file(conductor)
    for path in dict.fromkeys([own, *container.files]):
        new = _copied(facts, container, path)
        mark = "config" if path == own else posixpath.relpath(path, container.directory)
        said = changes if path == own else []
        draft.copy(f"{host}/super-{mark}", host, path, new, said, " for the super-conductor")
    draft.add(
        f"{host}/super-container",
        "sibling-container",
        host,
        f"create a second container {name} like {container.name}, with {_directory(facts, container)}",
        undone="the container is removed",
        estimate=3,
        engine=container.engine,
        model=container.name,
        name=name,
        directory=_directory(facts, container),
    )
    draft.sibling(
        f"{host}/super-unit",
        conductor,
        unit,
        [],
        f"a second unit {unit}, modelled on {conductor.unit}",
        f"{container.engine} {unit} (Nova super-conductor, API level)",
        renamed=[container.name, name],
    )
