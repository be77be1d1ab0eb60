"""Where the lab keeps things, and what it remembers of itself (lab.json)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recell_lab.errors import LabError
from recell_lab.layer import HostSpec

STATE_DIR = Path("/var/lib/recell-lab")
CACHE_DIR = Path("/var/cache/recell-lab")
HOSTS_DIR = STATE_DIR / "hosts"  # one tmpfs per host
RUN_DIR = STATE_DIR / "run"  # what the supervisors read and write
LOG_DIR = STATE_DIR / "log"
TOPOLOGY = STATE_DIR / "lab.json"

# lab.json is written only once a lab is begun, so a file without it is no lab.
CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"


@dataclass(frozen=True)
class Topology:
    """The hosts of the lab, and what the cloud on them wants remembered (facts: JSON values)."""

    hosts: tuple[HostSpec, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def host(self, name: str) -> HostSpec:
        """The host of that name. Raises LabError naming those there are."""
        for spec in self.hosts:
            if spec.name == name:
                return spec
        names = ", ".join(spec.name for spec in self.hosts)
        raise LabError(f"the lab has no host {name!r}; it has {names}")

    def to_json(self) -> str:
        """The text of lab.json."""
        hosts = [asdict(spec) for spec in self.hosts]
        return json.dumps({"hosts": hosts, "facts": dict(self.facts)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Topology:
        """The reverse of to_json. Raises LabError when the text is not one."""
        try:
            data = json.loads(text)
            hosts = tuple(HostSpec(**spec) for spec in data["hosts"])
            return cls(hosts=hosts, facts=dict(data["facts"]))
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(
                f"{TOPOLOGY} cannot be read ({error}); run `recell-lab down` and begin again"
            ) from error


def make_directories() -> None:
    """Make the state directories (0700: keys and passwords live there) and the cache's."""
    for directory in (STATE_DIR, HOSTS_DIR, RUN_DIR, LOG_DIR):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    STATE_DIR.chmod(0o700)
    # The cache holds the services' programs, which their own users inside the hosts execute.
    CACHE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    tag = CACHE_DIR / "CACHEDIR.TAG"
    if not tag.exists():
        tag.write_text(CACHEDIR_TAG)


def write_private(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Replace a file whole; at no moment is it readable by more than `mode` allows."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
    temporary.replace(path)


def save(hosts: Sequence[HostSpec], facts: Mapping[str, Any] | None = None) -> Topology:
    """Write lab.json and return what it says."""
    topology = Topology(hosts=tuple(hosts), facts=dict(facts or {}))
    make_directories()
    write_private(TOPOLOGY, topology.to_json())
    return topology


def exists() -> bool:
    """Whether there is a lab on this machine (up or half up)."""
    return TOPOLOGY.exists()


def load() -> Topology:
    """Read lab.json. Raises LabError when there is no lab."""
    try:
        return Topology.from_json(TOPOLOGY.read_text())
    except FileNotFoundError:
        raise LabError("there is no lab on this machine; `recell-lab up` makes one") from None
