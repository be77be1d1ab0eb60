"""What was begun, what came of it, and who may write: an SQLite file beside the plan."""

from recell.journal.journal import BESIDE, OPERATOR, Entry, Journal, Run
from recell.journal.position import newest, position, position_of

__all__ = ["BESIDE", "OPERATOR", "Entry", "Journal", "Run", "newest", "position", "position_of"]
