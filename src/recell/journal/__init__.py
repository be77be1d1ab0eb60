"""What was begun, what came of it, and who may write: an SQLite file beside the plan."""

from recell.journal.journal import Entry, Journal, Run
from recell.journal.position import newest, position, position_of

__all__ = ["Entry", "Journal", "Run", "newest", "position", "position_of"]
