"""Interpreters older than Debian's: found on the machine, and laid where every host can run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recell_lab import state
from recell_lab.errors import LabError

ABOUT = "import json, ssl, sqlite3, sys; print(json.dumps([list(sys.version_info[:3]), sys.base_prefix]))"
# Whether any file that the process has mapped is below the directory that it is told.
STRAYS = "import sys; print(sys.argv[1] in open('/proc/self/maps').read())"
# Hosts see these of the machine as they are; /root, /home and others are their own.
SHARED = ("/usr", "/opt", "/lib", "/bin")
TIMEOUT = 60  # seconds for one question to an interpreter or its manager
ORIGINAL = ".copied-from"  # in a copy: the directory that programs built with it still name
LEFT_OUT = ("site-packages", "test", "idlelib", "tkinter", "turtledemo", "__pycache__")


@dataclass(frozen=True)
class Interpreter:
    """A Python of a version "3.6": its program, its whole version, and the directory it is installed in."""

    program: Path
    version: tuple[int, int, int]
    prefix: Path

    @property
    def dotted(self) -> str:
        return ".".join(map(str, self.version))


def find(versions: Sequence[str], environment: Mapping[str, str] = os.environ) -> Interpreter:
    """The first interpreter of the first of these versions that the machine has. Raises LabError."""
    for version in versions:
        for program in _candidates(version, environment):
            found = look(program)
            if found is not None and found.dotted.startswith(f"{version}."):
                return found
    wanted = " or ".join(f"Python {version}" for version in versions)
    raise LabError(
        f"this Nova needs {wanted}, and neither PATH nor pyenv nor uv has one on this machine; "
        f"install one (`pyenv install {versions[0]}`) and run `recell-lab up` again"
    )


def look(program: Path) -> Interpreter | None:
    """What a program says of itself; None when it is no whole Python (a shim without a version, say)."""
    try:
        done = subprocess.run([program, "-I", "-c", ABOUT], capture_output=True, check=False, timeout=TIMEOUT)
        version, prefix = json.loads(done.stdout)
        return Interpreter(program, (version[0], version[1], version[2]), Path(prefix))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _candidates(version: str, environment: Mapping[str, str]) -> Iterator[Path]:
    on_path = shutil.which(f"python{version}", path=environment.get("PATH"))
    if on_path:
        yield Path(on_path)
    roots = [environment.get("PYENV_ROOT", ""), _answer(["pyenv", "root"], environment)]
    roots.append(str(Path(environment.get("HOME", "/")) / ".pyenv"))
    for root in dict.fromkeys(root for root in roots if root):
        # 3.6.15 before 3.6.9.
        installed = Path(root).glob(f"versions/{version}.*/bin/python{version}")
        yield from sorted(installed, key=_release, reverse=True)
    known_to_uv = _answer(["uv", "python", "find", "--no-python-downloads", version], environment)
    if known_to_uv:
        yield Path(known_to_uv)


def _release(program: Path) -> int:
    last = program.parent.parent.name.rpartition(".")[2]
    return int(last) if last.isdigit() else -1


def _answer(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """The one line that a program answers with, "" without such a program or such a line."""
    program = shutil.which(argv[0], path=environment.get("PATH"))
    if program is None:
        return ""
    done = subprocess.run(
        [program, *argv[1:]],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=dict(environment),
        check=False,
        timeout=TIMEOUT,
    )
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def shared(found: Interpreter) -> Path:
    """The program of an interpreter that every host can run: itself, or a copy in the cache's directory.

    Raises LabError when a copy would still use files of the original.
    """
    name = f"python{found.version[0]}.{found.version[1]}"
    if any(found.prefix.is_relative_to(place) for place in SHARED):
        return found.prefix / "bin" / name
    copy = state.CACHE_DIR / f"python-{found.dotted}"
    program = copy / "bin" / name
    if look(program) is not None:
        return program
    state.make_directories()
    shutil.rmtree(copy, ignore_errors=True)
    new = copy.with_name(f"new-{copy.name}")
    shutil.rmtree(new, ignore_errors=True)
    _copy(found, new, name)
    _prove(new / "bin" / name, found)
    new.rename(copy)
    return program


def _copy(found: Interpreter, new: Path, name: str) -> None:
    def leave_out(directory: str, names: list[str]) -> set[str]:
        return {one for one in names if one in LEFT_OUT or one.endswith(".a")}

    for part in ("include", "lib"):
        shutil.copytree(found.prefix / part, new / part, symlinks=True, ignore=leave_out)
    # Its own directory of packages is the environment's to fill; it must be there all the same.
    (new / "lib" / name / "site-packages").mkdir(parents=True, exist_ok=True)
    (new / "bin").mkdir()
    original = (found.prefix / "bin" / name).resolve()
    target = new / "bin" / name
    target.write_bytes(relocated(original.read_bytes(), found.prefix))
    target.chmod(0o755)
    (new / ORIGINAL).write_text(str(found.prefix))
    for alias in ("python", "python3"):
        (new / "bin" / alias).symlink_to(name)
    for place, directories, files in os.walk(new):
        for one in (*directories, *files):
            path = Path(place) / one
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if one in directories else 0o444))


def adopt(venv: Path, program: Path) -> None:
    """Let programs that were built into an environment find the library of a copied interpreter.

    uWSGI holds a Python of its own: it is linked to the library where the original has it.
    """
    copy = program.parent.parent
    note = copy / ORIGINAL
    if not note.exists():
        return
    for library in (copy / "lib").glob("libpython*.so*"):
        link = venv / "lib" / library.name
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    for one in (venv / "bin").iterdir():
        if one.is_symlink() or not one.is_file():
            continue
        content = one.read_bytes()
        if content.startswith(b"\x7fELF"):
            one.write_bytes(relocated(content, Path(note.read_text())))


def relocated(binary: bytes, prefix: Path) -> bytes:
    """An ELF program that looks for its library beside itself, where it named its directory before."""
    old = str(prefix / "lib").encode()
    new = b"$ORIGIN/../lib"
    if len(new) > len(old):
        return binary
    return binary.replace(b"\0" + old + b"\0", b"\0" + new.ljust(len(old), b"\0") + b"\0")


def _prove(program: Path, found: Interpreter) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(
        [program, "-I", "-c", STRAYS, str(found.prefix)],
        capture_output=True,
        env=environment,
        check=False,
        timeout=TIMEOUT,
    )
    if done.stdout.strip() != b"False":
        raise LabError(
            f"a copy of {found.program} doesn't run without the original, which the lab's hosts can't see; "
            f"install Python {found.dotted} below /opt or /usr/local"
        )
