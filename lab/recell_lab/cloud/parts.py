"""What the descriptions of hosts are made of: files, programs and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recell_lab import packages
from recell_lab.cloud import confs, unitfiles
from recell_lab.cloud.older import for_python36
from recell_lab.cloud.topology import Cloud
from recell_lab.layer import HostFile
from recell_lab.units import SYSTEM

INSIDE = Path(__file__).parent / "inside"
LIB = "/usr/lib/cloud"  # programs of the cloud that no package brings
NOVA_LOGIN = 0o640
UWSGI = "/usr/bin/uwsgi"


@dataclass(frozen=True)
class Part:
    """Files of a host and the units to enable there."""

    files: tuple[HostFile, ...]
    units: tuple[str, ...]

    def __add__(self, other: Part) -> Part:
        return Part(self.files + other.files, self.units + other.units)


def text(path: str, content: str, mode: int = 0o644, owner: str = "root:root") -> HostFile:
    """A text file."""
    return HostFile(path, content.encode(), mode, owner)


def inside(name: str, cloud: Cloud) -> bytes:
    """A program of ours that the cloud's own Python runs."""
    source = (INSIDE / name).read_bytes()
    modern = packages.python_of(packages.pins_file(cloud.nova)) not in packages.OTHER_PYTHONS
    return source if modern else for_python36(source)


def programs(cloud: Cloud, names: Sequence[str]) -> list[HostFile]:
    """Programs of the environment, in /usr/bin as a package would have them."""
    return [HostFile(f"/usr/bin/{name}", None, symlink_to=str(cloud.venv / "bin" / name)) for name in names]


def own_directories(user: str, *more: str) -> list[HostFile]:
    """The directories of a service user: state, logs and more below the state directory."""
    owner = f"{user}:{user}"
    return [
        HostFile(f"/etc/{user}", None, 0o755),
        HostFile(f"/var/lib/{user}", None, 0o755, owner),
        HostFile(f"/var/log/{user}", None, 0o750, owner),
        *(HostFile(f"/var/lib/{user}/{name}", None, 0o755, owner) for name in more),
    ]


def wsgi(
    user: str, unit: str, description: str, module: str, *, arguments: str = "", **variables: str
) -> list[HostFile]:
    """A service in uWSGI: its ini file and its unit. module: a Python module, or a script's path."""
    # One thread but for Nova's API: the others load their policies unlocked in the first request.
    processes, threads = {"nova-api": (1, 8), "keystone": (2, 1)}.get(unit, (1, 1))
    preload = "nova_api_policy" if unit == "nova-api" else ""
    ini = f"/etc/{user}/{unit}-uwsgi.ini"
    command = [UWSGI, "--ini", ini]
    unit_text = unitfiles.service(description, user, command, environment=variables)
    return [
        text(ini, confs.uwsgi_ini(unit, module, processes, threads, preload, arguments)),
        text(f"{SYSTEM}/{unit}.service", unit_text),
    ]


def daemon(user: str, unit: str, description: str, *arguments: str) -> HostFile:
    """A service that is a program of its unit's name."""
    command = [f"/usr/bin/{unit}", *arguments]
    return text(f"{SYSTEM}/{unit}.service", unitfiles.service(description, user, command))


def nova_files(cloud: Cloud) -> list[HostFile]:
    """What Nova's packages bring to every host, but for nova.conf and units."""
    etc = cloud.venv / "etc/nova"
    return [
        *own_directories("nova", "lock", "instances"),
        HostFile("/etc/nova/api-paste.ini", (etc / "api-paste.ini").read_bytes(), NOVA_LOGIN, "root:nova"),
        HostFile("/etc/nova/rootwrap.conf", (etc / "rootwrap.conf").read_bytes()),
        *programs(cloud, ["nova-manage", "nova-status", "nova-policy", "privsep-helper"]),
    ]
