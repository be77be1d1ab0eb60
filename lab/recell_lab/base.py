"""What every host has before anybody's own files: a machine's system made a host's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from recell_lab import keys, network, units
from recell_lab.layer import Accounts, HostFile, HostSpec, Layer

# Debian gives nova this number too; the others have none of their own in Debian.
USERS = {"nova": 64060, "glance": 64061, "keystone": 64062, "placement": 64063, "neutron": 64064}

# The rest of the machine's root directory is the machine owner's business, not a host's.
TOP_LEVEL = {
    *("bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt"),
    *("opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var"),
}
# Empty in a host: the machine's own homes, keys, enabled units, init scripts and what its
# package manager and its services left behind.
EMPTIED = (
    "/boot",
    "/home",
    "/media",
    "/mnt",
    "/root",
    "/srv",
    "/etc/systemd/system",
    "/etc/systemd/system-generators",
    "/etc/systemd/network",
    "/etc/systemd/journald.conf.d",
    "/etc/ssh",
    "/etc/profile.d",
    "/etc/sysctl.d",
    "/etc/modules-load.d",
    *(f"/etc/rc{level}.d" for level in "0123456S"),
    "/var/lib/recell-lab",
    "/var/log",
)
REMOVED = ("/usr/sbin/policy-rc.d", "/etc/ld.so.preload", "/etc/sysctl.conf", "/.dockerenv")
LOG_DIRECTORIES = {
    "/var/log/mysql": "mysql:adm",
    "/var/log/rabbitmq": "rabbitmq:rabbitmq",
}

# Units that Debian's packages start without being enabled, and that a host has no use for: they
# are about consoles, devices, seats or kernel settings, all of which belong to the machine.
MASKED = (
    "console-getty",
    "getty.target",
    "getty-static",
    "cryptsetup.target",
    "dev-hugepages.mount",
    "e2scrub_reap",
    "epmd",
    "epmd.socket",
    "haproxy",
    "integritysetup.target",
    "kmod-static-nodes",
    "ldconfig",
    "mariadb",
    "memcached",
    "proc-sys-fs-binfmt_misc.automount",
    "rabbitmq-server",
    "remote-cryptsetup.target",
    "remote-veritysetup.target",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt",
    "systemd-firstboot",
    "systemd-hwdb-update",
    "systemd-initctl.socket",
    "systemd-journal-catalog-update",
    "systemd-journald-audit.socket",
    "systemd-machine-id-commit",
    "systemd-modules-load",
    "systemd-networkd",
    "systemd-pcrphase",
    "systemd-pcrphase-sysinit",
    "systemd-random-seed",
    "systemd-repart",
    "systemd-resolved",
    "systemd-sysusers",
    "systemd-timesyncd",
    "systemd-tmpfiles-clean.timer",
    "systemd-udevd",
    "systemd-update-done",
    "veritysetup.target",
)
MASKED_GENERATORS = (
    "systemd-cryptsetup-generator",
    "systemd-fstab-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-sysv-generator",
    "postgresql-generator",
)

SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
# Without PAM a session needs neither a seat manager nor a service manager per user.
UsePAM no
UseDNS no
MaxSessions 50
MaxStartups 200:30:400
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
"""
JOURNALD_CONF = """\
[Journal]
Storage=volatile
RuntimeMaxUse=16M
ForwardToSyslog=no
RateLimitIntervalSec=0
"""
# A host with a stuck service should still go down while somebody waits.
SYSTEM_CONF = """\
[Manager]
DefaultTimeoutStopSec=45s
ShowStatus=no
"""


def machine_id(name: str) -> str:
    """The /etc/machine-id of a host: its own, and the same in each lab."""
    return hashlib.sha256(f"recell-lab {name}".encode()).hexdigest()[:32]


def base_files(spec: HostSpec, peers: Sequence[HostSpec]) -> list[HostFile]:
    """The files every host has, its keys excepted."""

    def text(path: str, content: str, mode: int = 0o644) -> HostFile:
        return HostFile(path, content.encode(), mode)

    return [
        text("/etc/hostname", f"{spec.name}\n"),
        text("/etc/hosts", network.hosts_file(spec.name, peers)),
        text("/etc/machine-id", f"{machine_id(spec.name)}\n", 0o444),
        text("/etc/resolv.conf", ""),
        text("/etc/fstab", ""),
        text("/etc/environment", ""),
        text("/etc/nsswitch.conf", "".join(f"{db}: files\n" for db in NSS)),
        text("/etc/ssh/sshd_config", SSHD_CONFIG),
        text("/etc/ssh/ssh_config", ""),
        text("/etc/systemd/journald.conf", JOURNALD_CONF),
        text("/etc/systemd/system.conf", SYSTEM_CONF),
        HostFile("/root", None, 0o700),
        HostFile("/root/.ssh", None, 0o700),
        text("/root/.ssh/authorized_keys", keys.user_public_key(), 0o600),
        HostFile("/etc/systemd/system/default.target", None, symlink_to=MULTI_USER),
    ]


NSS = ("passwd", "group", "shadow", "gshadow", "hosts", "networks", "protocols", "services")
MULTI_USER = "/usr/lib/systemd/system/multi-user.target"


def lay(layer: Layer, spec: HostSpec, peers: Sequence[HostSpec]) -> None:
    """Make an empty upper layer that of a bare host: reachable by ssh, nothing else enabled."""
    for path in EMPTIED:
        layer.hide(path)
    for path in REMOVED:
        layer.hide(path, keep_directory=False)
    for entry in sorted(layer.lower.iterdir()):
        if entry.name not in TOP_LEVEL and (entry.is_dir() or entry.is_file()):
            layer.hide(f"/{entry.name}", keep_directory=False)
    _accounts(layer)
    layer.put(base_files(spec, peers))
    layer.put(keys.host_key_files(spec.name))
    for path, owner in LOG_DIRECTORIES.items():
        if _has_owner(layer, owner):
            layer.put([HostFile(path, None, 0o750, owner)])
    layer.put(
        HostFile(f"/etc/systemd/system-generators/{name}", None, symlink_to="/dev/null")
        for name in MASKED_GENERATORS
    )


def choose_units(layer: Layer, enable: Sequence[str], mask: Sequence[str]) -> None:
    """Mask the machine's units and `mask`, then enable ssh and `enable`, which wins over masks."""
    wanted = {units.unit_name(name) for name in ("ssh", *enable)}
    masked = {units.unit_name(name) for name in (*MASKED, *mask)} - wanted
    # A unit file of the host's own, in the way of a mask, is meant to be there.
    own = {
        name for name in masked if layer.find(layer.resolve(f"{units.SYSTEM}/{name}")) is not None
    }
    units.mask(layer, sorted(masked - own | {units.unit_name(name) for name in mask} - wanted))
    units.enable(layer, sorted(wanted))


def _accounts(layer: Layer) -> None:
    found = Accounts(
        *(layer.read_text(f"/etc/{name}") for name in ("passwd", "group", "shadow", "gshadow"))
    ).with_users(USERS)
    shadow_owner = "root:shadow" if _has_owner(layer, "root:shadow") else "root:root"
    layer.put(
        [
            HostFile("/etc/passwd", found.passwd.encode()),
            HostFile("/etc/group", found.group.encode()),
            HostFile("/etc/shadow", found.shadow.encode(), 0o640, shadow_owner),
            HostFile("/etc/gshadow", found.gshadow.encode(), 0o640, shadow_owner),
        ]
    )


def _has_owner(layer: Layer, owner: str) -> bool:
    user, _, group = owner.partition(":")
    return f"\n{user}:" in "\n" + layer.read_text("/etc/passwd") and f"\n{group}:" in (
        "\n" + layer.read_text("/etc/group")
    )


def check_machine() -> list[str]:
    """Directories a host would miss, for only the machine's root file system shows in a host."""
    root = Path("/").stat().st_dev
    needed = ("/etc", "/usr", "/var", "/var/lib", "/var/cache")
    return [path for path in needed if Path(path).stat().st_dev != root]
