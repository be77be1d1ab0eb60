"""rabbitmq.conf, the sysctl-style file: keys set and unset, all other lines as they were. No I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping


def get(text: str, key: str) -> str | None:
    """The last value that stands there, as RabbitMQ reads it."""
    found = [value for name, value in map(_parts, text.splitlines()) if name == key]
    return found[-1] if found else None


def sets(text: str, beginnings: Collection[str]) -> bool:
    """Whether a key that begins with one of these is set there."""
    return any(name.startswith(tuple(beginnings)) for name, _ in map(_parts, text.splitlines()) if name)


def edit(text: str, settings: Mapping[str, str | None]) -> str:
    """A key's first line gets the value, its further ones go; None takes all of them away. A key that ends
    with ``.*`` stands for every key below it and can only be taken away."""
    out: list[str] = []
    left = {k: v for k, v in settings.items() if v is not None}
    for line in text.splitlines():
        name, _ = _parts(line)
        if name and any(k.endswith(".*") and name.startswith(k[:-1]) and name not in left for k in settings):
            continue
        if name not in settings:
            if name not in left:
                out.append(line)
            continue
        if name in left:
            out.append(f"{name} = {left.pop(name)}")
    out += [f"{name} = {value}" for name, value in left.items()]
    return "".join(f"{line}\n" for line in out)


def _parts(line: str) -> tuple[str, str]:
    found = re.match(r"\s*([^#\s=][^=\s]*)\s*=\s*(.*?)\s*(?:\s#.*)?$", line)
    return (found[1], found[2]) if found else ("", "")
