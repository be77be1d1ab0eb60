"""What can go wrong, as the operator meets it.

Every error is one sentence (what, where) and a remedy (what to do), and has an exit code that a
script can rely on. The lowest layer: everything may raise these, nothing below them exists.
"""

from __future__ import annotations

from typing import ClassVar


class RecellError(Exception):
    """Base of all errors that recell raises on purpose.

    :param sentence: what went wrong and where, without a trailing full stop, free of secrets.
    :param remedy: what the operator can do about it, as an imperative.
    """

    exit_code: ClassVar[int] = 70
    word: ClassVar[str] = "internal"

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.sentence}. {self.remedy}" if self.remedy else self.sentence


class BadInput(RecellError):
    """A file or an option that the operator gave is malformed or contradicts itself."""

    exit_code = 3
    word = "bad-input"


class Unreachable(RecellError):
    """A host, broker, database or proxy does not answer."""

    exit_code = 4
    word = "unreachable"


class Denied(RecellError):
    """Something answered and refused: a password, a host key, a missing grant."""

    exit_code = 5
    word = "denied"


class Unsupported(RecellError):
    """recell understands what is there and does not handle it."""

    exit_code = 6
    word = "unsupported"


class Violations(RecellError):
    """`check` found reasons not to begin."""

    exit_code = 7
    word = "violations"


class StalePlan(RecellError):
    """The plan was made against another state than today's, or was edited."""

    exit_code = 8
    word = "stale-plan"


class Locked(RecellError):
    """Another recell holds this journal or this deployment."""

    exit_code = 9
    word = "locked"


class StepFailed(RecellError):
    """A step did not reach its end; what is done stays done, `resume` or `undo` goes on from here."""

    exit_code = 10
    word = "step-failed"


class Unknowable(RecellError):
    """The truth about a step can't be known from here; a human has to look."""

    exit_code = 11
    word = "unknown"


class VerifyFailed(RecellError):
    """Everything ran, and a proof did not hold."""

    exit_code = 12
    word = "verify-failed"


class WouldWait(RecellError):
    """A dry run came to a place where a real one would wait for what it set in motion."""

    word = "would-wait"


class Paused(RecellError):
    """The run stopped where the operator asked it to stop."""

    exit_code = 13
    word = "paused"


class Ailing(RecellError):
    """`doctor` found errors: something fails today, or will at its next use."""

    exit_code = 20
    word = "ailing"


class Unchecked(RecellError):
    """`doctor` found no error, and could not make every check."""

    exit_code = 21
    word = "unchecked"


EXIT_CODES: dict[int, type[RecellError]] = {
    kind.exit_code: kind
    for kind in (
        BadInput,
        Unreachable,
        Denied,
        Unsupported,
        Violations,
        StalePlan,
        Locked,
        StepFailed,
        Unknowable,
        VerifyFailed,
        Paused,
        Ailing,
        Unchecked,
        RecellError,
    )
}
