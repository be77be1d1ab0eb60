"""The upper layer of a host: what it has of its own, over the files of the machine."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from recell_lab.errors import LabError

OPAQUE = "trusted.overlay.opaque"
MAX_LINKS = 40


@dataclass(frozen=True)
class HostSpec:
    """What a host is: its name, address (dotted IPv4), role and the size of its disk.

    role is the host's group in the inventory: controllers, api_cell, computes, rabbitmq, rabbitmq_api,
    rabbitmq_cell, database, database_cell, loadbalancer, services; controllers_cell2 and so on for a second
    Nova. size_mb is the size of the tmpfs of its upper layer, in MiB.
    """

    name: str
    ip: str
    role: str
    size_mb: int = 2048


@dataclass(frozen=True)
class HostFile:
    """A file (content), a directory (content None) or a symlink (symlink_to) of a host.

    owner is "user:group" in the HOST's own /etc/passwd and /etc/group (nova, keystone, glance,
    placement and neutron always exist there). A directory gets an x bit for each r bit of mode.
    """

    path: str
    content: bytes | None
    mode: int = 0o644
    owner: str = "root:root"
    symlink_to: str | None = None


def directory_mode(mode: int) -> int:
    """The mode of a directory: whoever may read it may enter it."""
    return mode | (mode & 0o444) >> 2


def ids(text: str) -> dict[str, int]:
    """Names to numbers of the text of an /etc/passwd or /etc/group."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            found[fields[0]] = int(fields[2])
    return found


@dataclass(frozen=True)
class Accounts:
    """The texts of the four account files."""

    passwd: str
    group: str
    shadow: str
    gshadow: str

    def with_users(self, users: Mapping[str, int]) -> Accounts:
        """Add system users (name to uid, equal to the gid) that are not there already.

        root's password becomes `*`: sshd refuses even a key for an account locked with `!`.
        Raises LabError when the number belongs to somebody else.
        """
        passwd, group = self.passwd, self.group
        shadow, gshadow = self.shadow, self.gshadow
        for name, number in users.items():
            if name not in ids(group):
                _refuse_taken(number, name, ids(group), "/etc/group")
                group += f"{name}:x:{number}:\n"
                gshadow += f"{name}:!::\n"
            if name not in ids(passwd):
                _refuse_taken(number, name, ids(passwd), "/etc/passwd")
                gid = ids(group)[name]
                passwd += f"{name}:x:{number}:{gid}::/var/lib/{name}:/usr/sbin/nologin\n"
                shadow += f"{name}:*:19000:0:99999:7:::\n"
        lines = [
            ":".join(["root", "*", *line.split(":")[2:]]) if line.startswith("root:") else line
            for line in shadow.splitlines()
        ]
        return Accounts(passwd, group, "".join(f"{line}\n" for line in lines), gshadow)


def _refuse_taken(number: int, name: str, taken: Mapping[str, int], where: str) -> None:
    for other, held in taken.items():
        if held == number:
            raise LabError(
                f"the machine's {where} gives {number} to {other}, but the lab's hosts need it "
                f"for {name}; give {other} another number"
            )


class Layer:
    """Writes into `upper` as the host will see it over `lower`.

    Paths are the host's absolute ones. Symlinks on the way are followed as the host would follow
    them (/bin/x lands in /usr/bin/x), and directories made on the way look like the lower ones.
    Only for a host that does not run: the kernel does not expect others' hands in an upper layer.
    """

    def __init__(self, upper: Path, lower: Path = Path("/")) -> None:
        self.upper = upper
        self.lower = lower

    def resolve(self, path: str, *, last: bool = False) -> str:
        """The path free of symlinks; the last component is followed only when `last`."""
        todo = [part for part in PurePosixPath(path).parts if part != "/"]
        done = PurePosixPath("/")
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                done = done.parent
                continue
            here = done / part
            target = self._link(here) if todo or last else None
            if target is None:
                done = here
                continue
            links += 1
            if links > MAX_LINKS:
                raise LabError(f"too many symbolic links in {path}")
            if target.startswith("/"):
                done = PurePosixPath("/")
            todo = [part for part in PurePosixPath(target).parts if part != "/"] + todo
        return str(done)

    def _link(self, path: PurePosixPath) -> str | None:
        found = self.find(str(path))
        return str(found.readlink()) if found is not None and found.is_symlink() else None

    def find(self, path: str) -> Path | None:
        """Where the file the host sees at a resolved path really is, or None."""
        relative = path.lstrip("/")
        above = self.upper / relative
        try:
            mode = above.lstat()
        except (FileNotFoundError, NotADirectoryError):
            mode = None
        if mode is not None:
            whiteout = stat.S_ISCHR(mode.st_mode) and mode.st_rdev == 0
            return None if whiteout else above
        for parent in PurePosixPath(path).parents:
            over = self.upper / str(parent).lstrip("/")
            if self._hides(over):
                return None
        below = self.lower / relative
        return below if os.path.lexists(below) else None

    def _hides(self, over: Path) -> bool:
        """Whether nothing of the lower layer shows below this path of the upper one."""
        try:
            status = over.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISDIR(status.st_mode):
            return True
        try:
            return os.getxattr(over, OPAQUE, follow_symlinks=False) == b"y"
        except OSError:
            return False

    def read_text(self, path: str) -> str:
        """The text the host sees at path, "" when there is none."""
        found = self.find(self.resolve(path, last=True))
        return found.read_text() if found is not None else ""

    def make_directories(self, path: str) -> Path:
        """Make a (resolved) directory and its parents in the upper layer."""
        over = self.upper
        for part in PurePosixPath(path).parts[1:]:
            below = self.find("/" + str((over / part).relative_to(self.upper)))
            over = over / part
            if over.is_dir() and not over.is_symlink():
                continue
            if os.path.lexists(over):
                over.unlink()
            over.mkdir(mode=0o755)
            if below is not None and below.is_dir():
                status = below.lstat()
                os.chown(over, status.st_uid, status.st_gid)
                over.chmod(stat.S_IMODE(status.st_mode))
            else:
                over.chmod(0o755)
        return over

    def put(self, files: Iterable[HostFile]) -> None:
        """Lay the files down, in order; one that is there already is replaced."""
        for file in files:
            self._put(file)

    def _put(self, file: HostFile) -> None:
        if not file.path.startswith("/"):
            raise LabError(f"{file.path!r} is not an absolute path of a host")
        uid, gid = self.owner(file.owner)
        if file.content is None and file.symlink_to is None:
            place = self.make_directories(self.resolve(file.path, last=True))
            os.chown(place, uid, gid)
            place.chmod(directory_mode(file.mode))
            return
        resolved = PurePosixPath(self.resolve(file.path))
        place = self.make_directories(str(resolved.parent)) / resolved.name
        if place.is_dir() and not place.is_symlink():
            raise LabError(f"{file.path} is a directory of the host, not a file")
        place.unlink(missing_ok=True)
        if file.symlink_to is not None:
            place.symlink_to(file.symlink_to)
            os.lchown(place, uid, gid)
            return
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(file.content or b"")
            os.fchown(out.fileno(), uid, gid)
            os.fchmod(out.fileno(), file.mode)

    def owner(self, owner: str) -> tuple[int, int]:
        """(uid, gid) of "user:group" in the host's own account files, or of numbers."""
        user, _, group = owner.partition(":")
        return (
            self._number(user, "/etc/passwd", owner),
            self._number(group or user, "/etc/group", owner),
        )

    def _number(self, name: str, path: str, owner: str) -> int:
        if name.isdigit():
            return int(name)
        found = ids(self.read_text(path)).get(name)
        if found is None:
            raise LabError(f"owner {owner!r}: the host's {path} has no {name!r}")
        return found

    def hide(self, path: str, *, keep_directory: bool = True) -> None:
        """Hide what the machine has at path: an empty directory in its place, or nothing at all."""
        resolved = PurePosixPath(self.resolve(path))
        if keep_directory:
            place = self.make_directories(str(resolved))
            os.setxattr(place, OPAQUE, b"y")
            return
        if self.find(str(resolved)) is None:
            return
        place = self.make_directories(str(resolved.parent)) / resolved.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        os.mknod(place, stat.S_IFCHR, 0)

    def copy_tree(self, source: Path, dest: str, owner: str) -> None:
        """Copy a directory of the machine to dest, everything in it owned by owner."""
        uid, gid = self.owner(owner)
        place = self.make_directories(self.resolve(dest, last=True))
        shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True)
        os.chown(place, uid, gid)
        for directory, names, files in os.walk(place):
            for name in (*names, *files):
                os.chown(Path(directory) / name, uid, gid, follow_symlinks=False)
