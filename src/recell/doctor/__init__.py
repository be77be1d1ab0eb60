"""`recell doctor`: facts in, findings out. Pure; what is looked at comes from discovery."""

from recell.doctor.examine import examine

__all__ = ["examine"]
