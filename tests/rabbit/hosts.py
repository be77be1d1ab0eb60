"""Hosts on this machine for RabbitMQ: each a network, mount, process and host name of its own.

No systemd and no sshd are in them: the agent is started by nsenter, and units are files that
:mod:`tests.rabbit.systemctl` reads. Addresses are 10.78.0.0/24; nothing leads out. Root is needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from recell.adapters.session import Master
from recell.adapters.ssh import Fence, SshHost
from recell.model.deployment import Address

BRIDGE = "rqbr0"
NET = "10.78.0"
CGROUP = Path("/sys/fs/cgroup/unified")
HERE = Path(__file__).parent
COOKIE = "HARNESSCOOKIEOFTHEOLDONES"

_INIT = "import signal,time; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: time.sleep(1000)"

# What the host has of its own, bound over the machine's; then its address.
_INSIDE = """
set -e
mount --make-rprivate /
for pair in hosts:/etc/hosts; do mount --bind "$1/${pair%%:*}" "${pair#*:}"; done
for pair in etc:/etc/rabbitmq data:/var/lib/rabbitmq log:/var/log/rabbitmq; do
  mount --bind "$1/${pair%%:*}" "${pair#*:}"
done
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=700 tmpfs /var/lib/private 2>/dev/null || true
mkdir -p /var/lib/recell
mount --bind "$1/recell" /var/lib/recell
mount --bind "$1/systemctl" /usr/bin/systemctl
mount --bind "$1/system" /etc/systemd/system
mkdir -p /run/rabbitmq /run/units
chown rabbitmq /run/rabbitmq
mount --bind "$1/units" /run/units
hostname "$2"
ip link set lo up
"""


class Host:
    """One host. ``top``: the directory that holds what it has of its own."""

    def __init__(self, name: str, last: int, top: Path, peers: dict[str, int]) -> None:
        self.name = name
        self.ip = f"{NET}.{last}"
        self.last = last
        self.home = top / name
        self.peers = peers
        self.pid = 0
        self._init: subprocess.Popen[bytes] | None = None

    @property
    def cgroup(self) -> Path:
        return CGROUP / f"rq-{self.name}"

    def up(self) -> None:
        for part in ("etc", "data", "log", "recell", "units", "system"):
            (self.home / part).mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{NET}.{last} {name}" for name, last in self.peers.items())]
        (self.home / "hosts").write_text("".join(f"{line}\n" for line in lines))
        script = f"#!{sys.executable}\n" + (HERE / "systemctl.py").read_text().replace("@NAME@", self.name)
        (self.home / "systemctl").write_text(script)
        (self.home / "systemctl").chmod(0o755)
        for part in ("data", "log", "etc"):
            shutil.chown(self.home / part, "rabbitmq", "rabbitmq")
        with contextlib.suppress(OSError):
            self.cgroup.mkdir(exist_ok=True)
        argv = ["unshare", "-n", "-u", "-m", "-p", "--fork", "--mount-proc", "python3", "-c", _INIT]
        self._init = subprocess.Popen(argv, start_new_session=True)
        self.pid = self._child()
        self.run(["sh", "-c", _INSIDE, "x", str(self.home), self.name])
        link = f"rq{self.last}"
        _ip(f"link add {link} type veth peer name eth0 netns {self.pid}")
        _ip(f"link set {link} master {BRIDGE} up")
        self.run(["ip", "addr", "add", f"{self.ip}/24", "dev", "eth0"])
        self.run(["ip", "link", "set", "eth0", "up"])

    def _child(self) -> int:
        assert self._init is not None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            text = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
            if text and b"python3" in Path(f"/proc/{text[0]}/cmdline").read_bytes():
                return int(text[0])
            time.sleep(0.02)
        raise AssertionError(f"{self.name} did not begin")

    def enter(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-u", "-m", "-p", "--", *argv]

    def run(self, argv: Sequence[str], *, text: str = "", check: bool = True, timeout: float = 1800) -> str:
        done = subprocess.run(
            self.enter(argv), input=text, capture_output=True, text=True, check=False, timeout=timeout
        )
        assert not check or done.returncode == 0, (self.name, list(argv), done.stdout, done.stderr)
        return done.stdout

    def ctl(self, *words: str, check: bool = True, text: str = "") -> str:
        return self.run(
            ["runuser", "-u", "rabbitmq", "--", "rabbitmqctl", "-q", *words], check=check, text=text
        )

    def down(self) -> None:
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # the first process of its pid namespace: all go with it
            self._init.wait(30)
            self._init = None
        subprocess.run(["ip", "link", "del", f"rq{self.last}"], capture_output=True, check=False)
        for directory in (*self.cgroup.glob("*.service"), self.cgroup):
            for _ in range(50):
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.1)

    # What stands on it

    def write(self, place: str, text: str, *, mode: int = 0o644, owner: str = "root") -> None:
        """``place``: below the host's own directory, as ``etc/rabbitmq.conf``."""
        path = self.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o600)
        path.write_text(text)
        path.chmod(mode)
        shutil.chown(path, owner, owner)

    def unit(self, name: str, argv: Sequence[str], user: str = "root") -> None:
        self.write(f"units/{name}.service", f"User={user}\nExecStart={' '.join(argv)}\n")

    def systemctl(self, *words: str) -> None:
        self.run(["systemctl", *words])


class _Entered(Master):
    """In place of SSH: the agent is begun inside the host's namespaces."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.name, Address(host.ip))
        self._host = host

    def ensure(self) -> None:
        return None

    def agent_command(self) -> list[str]:
        code = (
            "import sys;n=int(sys.stdin.buffer.readline());"
            'exec(compile(sys.stdin.buffer.read(n),"recell-agent","exec"))'
        )
        return self._host.enter(["/usr/bin/python3", "-I", "-u", "-c", code])


class EnteredHost(SshHost):
    """recell's own way to a host, but for the SSH under it."""

    def __init__(self, host: Host, fence: Fence | None = None) -> None:
        super().__init__(host.name, Address(host.ip), fence)
        self._master = _Entered(host)


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True, capture_output=True)


def bridge_up() -> None:
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)
    _ip(f"link add {BRIDGE} type bridge")
    _ip(f"link set {BRIDGE} up")


def bridge_down() -> None:
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)
