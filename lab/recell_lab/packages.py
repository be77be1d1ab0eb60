"""The software of the lab: Debian's packages, and a virtual environment of OpenStack's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from recell_lab import interpreters, state
from recell_lab.errors import LabError

# Package: the units of it that the machine itself should not start at its next boot.
DEBIAN: Mapping[str, tuple[str, ...]] = {
    "dbus": (),
    "haproxy": ("haproxy.service",),
    "iproute2": (),
    "iptables": (),
    "mariadb-server": ("mariadb.service",),
    "memcached": ("memcached.service",),
    "nftables": (),
    "openssh-client": (),
    "openssh-server": ("ssh.service",),
    "procps": (),
    "python3": (),
    "rabbitmq-server": ("rabbitmq-server.service", "epmd.service", "epmd.socket"),
    "systemd": (),
    "systemd-sysv": (),
    "util-linux": (),
}
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_ASIDE = POLICY.with_name("policy-rc.d.before-recell-lab")
NO_SERVICES = """\
#!/bin/sh
# recell-lab installs packages; their services run only in its hosts.
exit 101
"""
LOCK_TIMEOUT = 600  # seconds to wait for another package manager
# What builds those of the old pins for which PyPI has no wheel.
COMPILERS = ("gcc", "libc6-dev", "libssl-dev", "linux-libc-dev", "make")
PYTHON = Path("/usr/bin/python3.11")
OTHER_PYTHONS = {"3.6": ("3.6", "3.7")}  # Stein ran on both; the lab was seen on the first
PINS = Path(__file__).parent / "pins"
KEY_FILE = ".recell-lab-key"


# -- Debian's packages -----------------------------------------------------------------------------


def missing_packages(dpkg_status: str, wanted: Sequence[str]) -> list[str]:
    """Those of wanted that are not installed, by dpkg-query's "NAME STATUS" lines."""
    installed = set()
    for line in dpkg_status.splitlines():
        name, _, status = line.partition(" ")
        if status.strip() == "installed":
            installed.add(name)
    return [name for name in wanted if name not in installed]


def ensure_debian(progress: Callable[[str], None], *also: str) -> None:
    """Install the packages that the machine lacks; none of their services starts on it.

    ``also``: packages beyond those of the lab. Raises LabError with apt's last complaint.
    """
    wanted = [*DEBIAN, *also]
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted]
    found = subprocess.run(query, capture_output=True, check=False).stdout.decode()
    missing = missing_packages(found, wanted)
    if not missing:
        return
    progress(f"installing {', '.join(missing)}")
    apt = ["apt-get", "-q", "-y", "-o", f"DPkg::Lock::Timeout={LOCK_TIMEOUT}"]
    with services_held():
        _apt([*apt, "update"])
        _apt([*apt, "install", "--no-install-recommends", *missing])
    units = [unit for name in missing for unit in DEBIAN.get(name, ())]
    if units:
        subprocess.run(["systemctl", "disable", *units], capture_output=True, check=False)


def _apt(argv: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        argv,
        capture_output=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=1800,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise LabError(
            f"`{argv[0]} {argv[5]}` failed: {lines[-1] if lines else 'it said nothing'}; "
            "see that this machine's package sources work and try again"
        )


@contextmanager
def services_held() -> Iterator[None]:
    """While in it, installing a package starts no service. The machine's own policy comes back."""
    if POLICY.exists() and not POLICY_ASIDE.exists():
        POLICY.replace(POLICY_ASIDE)
    POLICY.write_text(NO_SERVICES)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if POLICY_ASIDE.exists():
            POLICY_ASIDE.replace(POLICY)
        else:
            POLICY.unlink(missing_ok=True)


# -- OpenStack's, from PyPI ------------------------------------------------------------------------


def canonical(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_pins(text: str) -> dict[str, str]:
    """Canonical name to version of the `name==version` lines of a requirements file."""
    pins = {}
    for line in text.splitlines():
        name, separator, version = line.partition("#")[0].strip().partition("==")
        if separator:
            pins[canonical(name.strip())] = version.strip()
    return pins


def full_version(word: str) -> str:
    """The Nova version that a word means: "19" for 19.3.2. Raises LabError naming those there are."""
    known = sorted(path.name.split("-")[1] for path in PINS.glob("nova-*-python*.txt"))
    meant = [version for version in known if version == word or version.startswith(f"{word}.")]
    if len(meant) != 1:
        raise LabError(f"the lab cannot make Nova {word}; it has pins for {', '.join(known)}")
    return meant[0]


def pins_file(version: str) -> Path:
    """The pins of a Nova version, whole or short. Raises LabError naming the versions there are."""
    return next(PINS.glob(f"nova-{full_version(version)}-python*.txt"))


def python_of(pins: Path) -> str:
    """The Python that pins are for, by their file's name: "3.11"."""
    return pins.stem.rpartition("-python")[2]


def interpreter_of(pins: Path) -> Path:
    """The Python that makes an environment of these pins. Raises LabError when there is none."""
    version = python_of(pins)
    if version in OTHER_PYTHONS:
        return interpreters.shared(interpreters.find(OTHER_PYTHONS[version]))
    if not PYTHON.exists():
        raise LabError(f"{PYTHON} is missing; the lab needs a Debian 12 machine")
    return PYTHON


def venv_path(version: str) -> Path:
    """Where the environment of a Nova version is, on the machine and in the hosts alike."""
    return state.CACHE_DIR / f"nova-{version}"


def cache_key(*parts: bytes) -> str:
    """A key that changes when any of the parts does."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def matches(venv: Path, pins: Mapping[str, str]) -> bool:
    """Whether an environment has every pinned distribution at its version."""
    places = [str(path) for path in venv.glob("lib/python3*/site-packages")]
    found = {
        canonical(distribution.metadata["Name"] or ""): distribution.version
        for distribution in metadata.distributions(path=places)
    }
    return all(found.get(name) == version for name, version in pins.items())


def ensure_venv(version: str, progress: Callable[[str], None]) -> Path:
    """The environment of a Nova version, made when missing or stale. Raises LabError."""
    version = full_version(version)
    requirements = pins_file(version)
    text = requirements.read_bytes()
    python = interpreter_of(requirements)
    about = subprocess.run([python, "-VV"], capture_output=True, check=True)
    key = cache_key(text, about.stdout)
    venv = venv_path(version)
    key_file = venv / KEY_FILE
    if key_file.exists() and key_file.read_text() == key:
        return venv
    if not key_file.exists() and matches(venv, parse_pins(text.decode())):
        key_file.write_text(key)
        return venv
    if python != PYTHON:
        ensure_debian(progress, *COMPILERS)
    progress(f"making the environment of Nova {version} (a minute or so)")
    shutil.rmtree(venv, ignore_errors=True)
    state.make_directories()
    uv = uv_program()
    # Hosts' services, which are other users, execute it: no cache of the caller's may be linked.
    common = ["--quiet", "--no-python-downloads"]
    _uv([uv, "venv", *common, "--python", str(python), str(venv)])
    install = ["--link-mode=copy", "--requirement", str(requirements)]
    inside = str(venv / "bin/python")
    if python == PYTHON:
        install.append("--compile-bytecode")
    _uv([uv, "pip", "install", *common, "--python", inside, *install])
    if python != PYTHON:
        interpreters.adopt(venv, python)
        # uv compiles for newer ones only. Templates that can't be compiled are nobody's loss.
        argv = [inside, "-m", "compileall", "-q", "-j2", str(venv / "lib")]
        subprocess.run(argv, capture_output=True, check=False)
    key_file.write_text(key)
    return venv


def uv_program() -> str:
    """The uv of this environment, else the PATH's. Raises LabError when there is none."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise LabError("uv is missing; install it beside recell-lab (`pip install uv`)")
    return found


def _uv(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise LabError(f"`uv {argv[1]}` failed: {lines[-1] if lines else 'it said nothing'}")


def main() -> int:
    """`python -m recell_lab.packages VERSION` makes the environment of a Nova version ahead of its cloud."""
    ensure_venv(sys.argv[1], print)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
