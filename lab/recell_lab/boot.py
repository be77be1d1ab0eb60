"""From a new process to a host's init: namespaces, mounts, exec. Runs as PID 1 of the host.

Three rules, each learnt from a broken machine: pivot_root, never chroot (what enters the mount
namespace of a chroot lands in the machine's real root); a /dev of its own, never the machine's
(a devpts instance is shared with whoever binds it); a cgroup of its own below the current one
(else all hosts share one root, and leaving the current one escapes its memory limit).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from recell_lab import syscalls
from recell_lab.errors import LabError

INIT = "/usr/lib/systemd/systemd"
CGROUP_PREFIX = "recell-lab-"
BIND = syscalls.MS_BIND
READ_ONLY = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
NO_EXEC = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC

# name: (mode, major, minor). No console and no kmsg: those are the machine's.
DEVICES = {
    "null": (0o666, 1, 3),
    "zero": (0o666, 1, 5),
    "full": (0o666, 1, 7),
    "random": (0o666, 1, 8),
    "urandom": (0o666, 1, 9),
    "tty": (0o666, 5, 0),
    "net/tun": (0o666, 10, 200),
}
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# These belong to the machine's one kernel: a host may not set its clock or load modules.
DROPPED = (syscalls.CAP_SYS_MODULE, syscalls.CAP_SYS_RAWIO, syscalls.CAP_SYS_TIME)
ENVIRONMENT = {
    "container": "recell-lab",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


# -- cgroups ---------------------------------------------------------------------------------------


def cgroup2_mount(mountinfo: str) -> tuple[str, Path] | None:
    """(root, mount point) of the cgroup v2 hierarchy in the text of a mountinfo, if mounted.

    The same for machines with v2 only (/sys/fs/cgroup) and hybrid ones (/sys/fs/cgroup/unified).
    """
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split()
        if separator and right.split()[0] == "cgroup2" and len(fields) > 4:
            return _unescape(fields[3]), Path(_unescape(fields[4]))
    return None


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def own_cgroup(proc_cgroup: str) -> str:
    """The v2 path in the text of a /proc/PID/cgroup ("/" when there is none)."""
    for line in proc_cgroup.splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def host_cgroup(name: str) -> Path:
    """The directory of a host's cgroup: a child of the cgroup this process is in.

    Only v2: systemd in the host is content with a v2 hierarchy without controllers, and what the
    machine's v1 hierarchies say of this process goes on holding for the host's.
    """
    found = cgroup2_mount(Path("/proc/self/mountinfo").read_text())
    if found is None:
        raise LabError(
            "no cgroup v2 hierarchy is mounted on this machine; "
            "run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` and try again"
        )
    root, place = found
    own = own_cgroup(Path("/proc/self/cgroup").read_text())
    if root != "/" and (own == root or own.startswith(root + "/")):
        own = own[len(root) :]
    return place / own.lstrip("/") / f"{CGROUP_PREFIX}{name}"


def remove_cgroup(place: Path) -> None:
    """Remove a cgroup and those below it; their processes are dead."""
    for directory, _, _ in os.walk(place, topdown=False):
        try:
            Path(directory).rmdir()
        except OSError as error:
            print(f"cgroup {directory} stays: {error}", flush=True)


# -- the host's first process ----------------------------------------------------------------------


def become_host(
    name: str, home: Path, cgroup: Path, plugged: Callable[[], None], configure: Callable[[], None]
) -> NoReturn:
    """Turn this process (PID 1 of a new pid namespace) into the init of a host.

    home holds upper/, work/, lower/ and root/ of the host. plugged is called once this process
    has its network namespace, and returns when the cable is there; configure then runs inside.
    """
    syscalls.die_with_parent()
    os.setsid()
    (cgroup / "cgroup.procs").write_text("0")
    syscalls.unshare(
        syscalls.CLONE_NEWNS
        | syscalls.CLONE_NEWUTS
        | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWNET
        | syscalls.CLONE_NEWCGROUP
    )
    plugged()
    configure()
    socket.sethostname(name)
    os.umask(0)
    root = home / "root"
    syscalls.mount("none", Path("/"), flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    _mount_root(home, root)
    _mount_kernel(root)
    _mount_dev(root / "dev")
    for path, options in {"run": "mode=755,size=256m", "tmp": "mode=1777,size=512m"}.items():
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("tmpfs", root / path, "tmpfs", flags, options)
    _mount_boot_id(root)
    syscalls.pivot_root(root)
    os.umask(0o022)
    for capability in DROPPED:
        syscalls.drop_capability(capability)
    _reset_signals()
    os.execve(INIT, ["/sbin/init"], ENVIRONMENT)  # noqa: S606  that is what becoming init is


def _mount_root(home: Path, root: Path) -> None:
    lower = home / "lower"
    # A bind without those below it: only the machine's root file system shows in a host.
    syscalls.mount("/", lower, flags=BIND)
    options = f"lowerdir={lower},upperdir={home / 'upper'},workdir={home / 'work'}"
    syscalls.mount("overlay", root, "overlay", options=options)


def _mount_kernel(root: Path) -> None:
    proc, sysfs = root / "proc", root / "sys"
    syscalls.mount("proc", proc, "proc", NO_EXEC)
    # Settings of the kernel are the machine's; those of the network namespace are the host's.
    syscalls.mount(str(proc / "sys"), proc / "sys", flags=BIND)
    syscalls.mount(str(proc / "sys/net"), proc / "sys/net", flags=BIND)
    syscalls.mount("none", proc / "sys", flags=READ_ONLY | NO_EXEC)
    trigger = proc / "sysrq-trigger"
    if trigger.exists():
        syscalls.mount(str(trigger), trigger, flags=BIND)
        syscalls.mount("none", trigger, flags=READ_ONLY | NO_EXEC)
    syscalls.mount("sysfs", sysfs, "sysfs", NO_EXEC)
    syscalls.mount("none", sysfs, flags=READ_ONLY | NO_EXEC)  # read-only: no udevd either
    syscalls.mount("cgroup2", sysfs / "fs/cgroup", "cgroup2", NO_EXEC)


def _mount_boot_id(root: Path) -> None:
    # The kernel's own stays when a host reboots, and the boot id is how one sees that it did.
    own = root / "run/boot-id"
    own.write_text(f"{uuid.uuid4()}\n")
    own.chmod(0o444)
    place = root / "proc/sys/kernel/random/boot_id"
    syscalls.mount(str(own), place, flags=BIND)
    syscalls.mount("none", place, flags=READ_ONLY | NO_EXEC)
    own.unlink()


def _mount_dev(dev: Path) -> None:
    syscalls.mount("tmpfs", dev, "tmpfs", syscalls.MS_NOSUID, "mode=755,size=8m")
    for name in ("net", "pts", "shm", "mqueue"):
        (dev / name).mkdir(mode=0o755)
    for name, (mode, major, minor) in DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR | mode, os.makedev(major, minor))
    for name, target in DEVICE_LINKS.items():
        (dev / name).symlink_to(target)
    options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    syscalls.mount("devpts", dev / "pts", "devpts", syscalls.MS_NOSUID, options)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("tmpfs", dev / "shm", "tmpfs", flags, "mode=1777")


def _reset_signals() -> None:
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    sys.stdout.flush()
