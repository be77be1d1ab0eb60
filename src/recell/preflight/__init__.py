"""Every reason not to begin, all at once, each with its remedy."""

from recell.preflight.check import check

__all__ = ["check"]
