"""A nova-api that has just started is asked the first requests by recell, not by users."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Protocol

from recell.adapters.ports import Finished

__all__ = ["first_words"]


class Asker(Protocol):
    def query(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60) -> Finished: ...


def first_words(host: Asker, url: str, configs: Sequence[str], limit_s: float) -> str:
    """How it went, in words; a failure, too, since the service is as good as before.

    :param url: of the nova-api as the host itself reaches it, with a slash at its end.
    :raises Unreachable: the host doesn't answer.
    """
    source = resources.files("recell.adapters").joinpath("first_requests.py").read_text()
    task = {"url": url, "configs": list(configs), "limit_s": limit_s}
    done = host.query(
        ["python3", "-I", "-c", source], stdin=json.dumps(task).encode(), timeout=2 * limit_s + 10
    )
    try:
        said = json.loads(done.stdout)
        if done.returncode or "why" in said:
            return str(said.get("why", "it ended early"))
        return (
            f"{said['requests']} requests of recell's own came first; the slowest took"
            f" {said['first_s']:.1f} s in the first round, {said['last_s']:.1f} s in the last"
        )
    except (ValueError, KeyError, AttributeError):
        return "the first requests could not be asked"
