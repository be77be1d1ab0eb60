"""Keeps one host: starts its init, and starts it again when it rebooted.

    python -m recell_lab.supervisor NAME IP ROLE    (Host.start runs it, in a session of its own)

PID 1 of a pid namespace that calls reboot(2) dies of SIGHUP for a restart and of SIGINT for a
poweroff: that is how the kernel tells the parent. Signals to this process: SIGTERM asks the host
for a clean poweroff, SIGUSR1 kills it. The host never outlives this process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from recell_lab import boot, network, state, syscalls
from recell_lab.layer import HostSpec
from recell_lab.process import stamp

POWEROFF = signal.SIGRTMIN + 4  # systemd's own: start poweroff.target
RESTART_SIGNAL = signal.SIGHUP
LONG_ENOUGH = 0.5  # seconds; a host that lives shorter would only reboot for ever


@dataclass
class Supervisor:
    """One host's supervisor: spec, the host's home (its tmpfs), and what it was told."""

    spec: HostSpec
    home: Path
    cgroup: Path
    init: int = 0
    told: list[int] = field(default_factory=list)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Do at once what the signal asks for; the loop then sees init's end."""
        self.told.append(number)
        if self.init:
            self.obey(number)

    def obey(self, number: int) -> None:
        """Pass on to init what was asked."""
        if number == signal.SIGUSR1:
            network.unplug(self.spec.name)
        with suppress(ProcessLookupError):  # it ended by itself just now
            os.kill(self.init, signal.SIGKILL if number == signal.SIGUSR1 else POWEROFF)

    def keep(self) -> int:
        """Run the host until it is off for good. Returns an exit status."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.on_signal)
        while True:
            began = time.monotonic()
            status = self.boot_once()
            again = os.WIFSIGNALED(status) and os.WTERMSIG(status) == RESTART_SIGNAL
            print(f"{self.spec.name}: init ended, status {status}, again {again}", flush=True)
            if not again or self.told:
                return 1 if os.WIFEXITED(status) and os.WEXITSTATUS(status) else 0
            if time.monotonic() - began < LONG_ENOUGH:
                print(f"{self.spec.name}: rebooted at once; left off", flush=True)
                return 1

    def boot_once(self) -> int:
        """One life of the host. Returns its init's wait status."""
        self.cgroup.mkdir(exist_ok=True)
        ready_read, ready_write = os.pipe()
        go_read, go_write = os.pipe()
        # The new namespace is for the next child; then this process must come back to its own,
        # for a second unshare (the next boot) is refused from a namespace it is not in.
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            self._child(ready_write, go_read, (ready_read, go_write))
        syscalls.setns(Path("/proc/self/ns/pid"), syscalls.CLONE_NEWPID)
        os.close(ready_write)
        os.close(go_read)
        try:
            if os.read(ready_read, 1):
                network.plug(self.spec, pid)
                os.write(go_write, b"g")
        finally:
            os.close(ready_read)
            os.close(go_write)
        self.init = pid
        state.write_private(state.RUN_DIR / f"{self.spec.name}.init", stamp(pid))
        if self.told:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self.init = 0
        (state.RUN_DIR / f"{self.spec.name}.init").unlink(missing_ok=True)
        network.unplug(self.spec.name)
        boot.remove_cgroup(self.cgroup)
        return status

    def _child(self, ready: int, go: int, others: tuple[int, int]) -> None:
        try:
            for descriptor in others:
                os.close(descriptor)

            def plugged() -> None:
                os.write(ready, b"r")
                if not os.read(go, 1):
                    raise OSError("the supervisor did not plug the host in")

            boot.become_host(
                self.spec.name,
                self.home,
                self.cgroup,
                plugged,
                lambda: network.configure_inside(self.spec),
            )
        except BaseException as error:
            print(f"{self.spec.name}: cannot boot: {error!r}", flush=True)
            os._exit(70)


def main() -> int:
    """Entry point: the host's name, address and role are the arguments."""
    name, ip, role = sys.argv[1:]
    spec = HostSpec(name, ip, role)
    supervisor = Supervisor(spec, state.HOSTS_DIR / name, boot.host_cgroup(name))
    pid_file = state.RUN_DIR / f"{name}.pid"
    state.write_private(pid_file, stamp(os.getpid()))
    try:
        return supervisor.keep()
    finally:
        pid_file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
