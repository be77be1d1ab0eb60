"""What the lab tells its operator when something cannot be done."""

from __future__ import annotations


class LabError(Exception):
    """One sentence: what failed, where, and what to do about it."""


class HostCommandError(LabError):
    """A command inside a host ended with a status other than zero."""

    def __init__(self, message: str, returncode: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(message)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
