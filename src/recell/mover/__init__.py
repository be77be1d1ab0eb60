"""Moves rows from a live database to another: copy, follow, prove, switch, feed back (docs/mover.md)."""

from recell.mover.move import Move, Options, Status
from recell.mover.verify import Difference, Report

__all__ = ["Difference", "Move", "Options", "Report", "Status"]
