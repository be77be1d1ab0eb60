"""A container like another one, made beside it; started by its unit, in a step of its own."""

from __future__ import annotations

from typing import ClassVar

from recell.errors import StepFailed
from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep


class SiblingContainer(BaseStep):
    """Create a container like ``model`` with another configuration; undo removes it.

    It carries the plan's name, so that one made by a run that died is known again. Before it counts as
    made, the engine's own account of both is compared.
    """

    kind: ClassVar[str] = "sibling-container"

    def look(self, toward: Direction) -> Finding:
        engine, name = str(self.param("engine")), str(self.param("name"))
        found = self.host.container(engine, name)
        ours = found is not None and found.made_for == self.context.keep
        if toward == "backward":
            # Somebody else's of the same name is none of ours to remove.
            return Finding.not_done(f"{name} is there") if ours else Finding.done(f"{name} is not there")
        if found is not None and not ours:
            return Finding.unknown(f"a container {name} that recell did not make is on {self.spec.where}")
        if found is None:
            return Finding.not_done(f"there is no {name}")
        if self.recall("compared"):
            return Finding.done(f"{name} is like {self.param('model')}")
        return Finding.partial(f"{name} was made and not compared")

    def act(self, toward: Direction) -> None:
        engine, name = str(self.param("engine")), str(self.param("name"))
        if toward == "forward":
            self.host.clone_container(
                engine, str(self.param("model")), name, str(self.param("directory")), self.context.keep
            )
            self.remember("compared", True)
            return
        found = self.host.container(engine, name)
        if found is not None and found.running:
            raise StepFailed(f"{name} on {self.spec.where} still runs", "Stop its unit, then: recell undo")
        self.host.remove_container(engine, name, self.context.keep)
