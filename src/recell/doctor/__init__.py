"""`recell doctor`: facts in, findings out. Pure; what is looked at comes from discovery."""

from recell.doctor.examine import audit, examine
from recell.doctor.rules.unknown import unanswered

__all__ = ["audit", "examine", "unanswered"]
