"""Runs steps forward and backward, with a journal, so that it can be killed anywhere.

Knows nothing of Nova: a step is anything with check, do, undo and verify.
"""

from recell.engine.run import Engine, Event, Progress
from recell.model.step import Direction, Finding, Step, Truth

__all__ = ["Direction", "Engine", "Event", "Finding", "Progress", "Step", "Truth"]
