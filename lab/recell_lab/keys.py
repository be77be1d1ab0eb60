"""SSH keys of the lab, and the files by which an operator and Ansible reach its hosts."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from recell_lab import state
from recell_lab.errors import LabError
from recell_lab.layer import HostFile, HostSpec

USER_KEY = state.STATE_DIR / "id_ed25519"
KNOWN_HOSTS = state.STATE_DIR / "known_hosts"
SSH_CONFIG = state.STATE_DIR / "ssh_config"
INVENTORY = state.STATE_DIR / "inventory.ini"
FIRST_INVENTORY = state.STATE_DIR / "inventory-first.ini"  # without the second Nova
HOST_KEYS = state.CACHE_DIR / "ssh-host-keys"
SECOND = ("controllers_cell2", "computes_cell2", "rabbitmq_cell2", "database_cell2")
"""Of a second Nova that runs by itself."""
GROUPS = (
    "controllers",
    "api_cell",
    "computes",
    "rabbitmq",
    "rabbitmq_api",
    "rabbitmq_cell",
    "database",
    "database_cell",
    "loadbalancer",
    "services",
    *SECOND,
)


_making = threading.Lock()
"""Hosts are prepared side by side and all want the user's key."""


def _make_key(path: Path, comment: str) -> None:
    with _making:
        _make_key_once(path, comment)


def _make_key_once(path: Path, comment: str) -> None:
    if path.exists() and path.with_name(path.name + ".pub").exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    done = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        error = done.stderr.decode(errors="replace").strip()
        raise LabError(f"ssh-keygen could not make {path}: {error}")


def _public(path: Path) -> str:
    return path.with_name(path.name + ".pub").read_text().strip()


def user_public_key() -> str:
    """The line for authorized_keys; makes the key pair the first time."""
    _make_key(USER_KEY, "recell-lab")
    return _public(USER_KEY) + "\n"


def _host_key(name: str) -> Path:
    path = HOST_KEYS / name / "ssh_host_ed25519_key"
    _make_key(path, f"root@{name}")
    return path


def host_key_files(name: str) -> list[HostFile]:
    """A host's own ssh key pair, the same in each lab until the cache is emptied."""
    key = _host_key(name)
    return [
        HostFile("/etc/ssh/ssh_host_ed25519_key", key.read_bytes(), 0o600),
        HostFile("/etc/ssh/ssh_host_ed25519_key.pub", f"{_public(key)}\n".encode()),
    ]


def known_hosts(public_keys: Sequence[tuple[HostSpec, str]]) -> str:
    """The text of known_hosts of hosts with their public keys ("TYPE BASE64 COMMENT")."""
    return "".join(
        f"{spec.name},{spec.ip} {' '.join(public.split()[:2])}\n" for spec, public in public_keys
    )


def ssh_config(hosts: Sequence[HostSpec]) -> str:
    """The text of an ssh_config by which `ssh -F FILE ctl1` works."""
    text = "".join(f"Host {spec.name}\n    HostName {spec.ip}\n" for spec in hosts)
    names = " ".join(spec.name for spec in hosts)
    return (
        f"{text}Host {names}\n    User root\n    IdentityFile {USER_KEY}\n    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {KNOWN_HOSTS}\n    GlobalKnownHostsFile /dev/null\n"
        "    StrictHostKeyChecking yes\n    ConnectTimeout 10\n    LogLevel ERROR\n"
    )


def inventory(hosts: Sequence[HostSpec]) -> str:
    """The text of an Ansible inventory: each host in the group its role names.

    Raises LabError for a role that is no group.
    """
    for spec in hosts:
        if spec.role not in GROUPS:
            raise LabError(f"{spec.name}: {spec.role!r} is no role; roles are {', '.join(GROUPS)}")
    sections = []
    for group in GROUPS:
        lines = [
            f"{spec.name} ansible_host={spec.ip} ansible_user=root "
            f"ansible_ssh_private_key_file={USER_KEY} "
            f"ansible_ssh_common_args='-o UserKnownHostsFile={KNOWN_HOSTS} "
            "-o StrictHostKeyChecking=yes'\n"
            for spec in hosts
            if spec.role == group
        ]
        sections.append(f"[{group}]\n" + "".join(lines))
    return "\n".join(sections)


def write_files(hosts: Sequence[HostSpec]) -> None:
    """Write known_hosts, ssh_config and inventory.ini of the lab's hosts."""
    public = [(spec, _public(_host_key(spec.name))) for spec in hosts]
    state.write_private(KNOWN_HOSTS, known_hosts(public))
    state.write_private(SSH_CONFIG, ssh_config(hosts))
    state.write_private(INVENTORY, inventory(hosts))
    state.write_private(FIRST_INVENTORY, inventory([h for h in hosts if h.role not in SECOND]))
