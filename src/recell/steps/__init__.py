"""The steps: one idea a file, each with a way back. ``bind`` turns a plan's data into them."""

from recell.steps.base import Context
from recell.steps.registry import bind

__all__ = ["Context", "bind"]
