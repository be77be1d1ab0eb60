"""The lab as a whole: begin it, find its hosts, leave nothing of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recell_lab import boot, keys, network, state
from recell_lab.errors import LabError
from recell_lab.hosts import SLICE, Host, HostSpec, systemd_machine

IP_UNKNOWN = "0.0.0.0"  # noqa: S104  of a host whose lab.json is lost: good enough to end it


def begin(specs: Sequence[HostSpec]) -> list[Host]:
    """Write down the topology, make the bridge, the keys and the files that lead to the hosts.

    The hosts are neither prepared nor started yet. Raises LabError when there is a lab already.
    """
    if state.exists():
        raise LabError("there is a lab on this machine already; `recell-lab down` ends it")
    names = [spec.name for spec in specs]
    if len({*names}) != len(names) or len({spec.ip for spec in specs}) != len(specs):
        raise LabError("two hosts of the lab have one name or one address")
    state.save(specs)
    network.create_bridge()
    keys.write_files(specs)
    return [Host(spec, specs) for spec in specs]


def all_hosts() -> list[Host]:
    """The hosts of the lab there is. Raises LabError when there is none."""
    specs = state.load().hosts
    return [Host(spec, specs) for spec in specs]


def host(name: str) -> Host:
    """A host of the lab by its name. Raises LabError naming those there are."""
    topology = state.load()
    return Host(topology.host(name), topology.hosts)


def at_once(hosts: Sequence[Host], each: Callable[[Host], object]) -> None:
    """Do something with all hosts at the same time; the first error is raised at the end."""
    with ThreadPoolExecutor(max_workers=max(len(hosts), 1)) as pool:
        for future in [pool.submit(each, one) for one in hosts]:
            future.result()


def down(*, purge: bool = False) -> int:
    """End the lab: no process, mount, link, cgroup or state is left. Returns the hosts ended.

    Works on what it finds, so also on half a lab. With purge the caches go too.
    """
    found = [_by_name(name) for name in _remains()]
    at_once(found, Host.crash)
    for one in found:
        one.remove_disk()
    network.remove()
    _remove_cgroups()
    if systemd_machine():
        subprocess.run(["systemctl", "stop", SLICE], capture_output=True, check=False)
    shutil.rmtree(state.STATE_DIR, ignore_errors=True)
    if purge:
        shutil.rmtree(state.CACHE_DIR, ignore_errors=True)
    left = [path for path in (state.STATE_DIR, *_cgroups()) if path.exists()]
    if left:
        raise LabError(
            f"{', '.join(map(str, left))} could not be removed; "
            "see what still uses it (`fuser -vm`) and run `recell-lab down` again"
        )
    return len(found)


def _by_name(name: str) -> Host:
    return Host(HostSpec(name, IP_UNKNOWN, "services"))


def _remains() -> list[str]:
    names: set[str] = set()
    if state.HOSTS_DIR.is_dir():
        names |= {path.name for path in state.HOSTS_DIR.iterdir() if path.is_dir()}
    if state.RUN_DIR.is_dir():
        names |= {path.stem for path in state.RUN_DIR.iterdir() if path.suffix in (".pid", ".init")}
    return sorted(names)


def _cgroups() -> list[Path]:
    found = boot.cgroup2_mount(Path("/proc/self/mountinfo").read_text())
    if found is None:
        return []
    # Wherever the `up` that made them stood, which need not be where this process stands.
    # systemd removes its scopes itself.
    paths = found[1].rglob(f"{boot.CGROUP_PREFIX}*")
    return [path for path in paths if path.is_dir() and path.suffix != ".scope"]


def _remove_cgroups() -> None:
    for path in _cgroups():
        boot.remove_cgroup(path)
