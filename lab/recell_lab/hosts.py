"""One lab host: namespaces with a systemd and an sshd of their own over the machine's own files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess

from recell_lab import base, network, state, syscalls
from recell_lab.errors import HostCommandError, LabError
from recell_lab.layer import HostFile, HostSpec, Layer
from recell_lab.process import living, wait_until

__all__ = ["Host", "HostFile", "HostSpec"]

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
BOOT_TIMEOUT = 20.0  # seconds until the host's init has been executed
STOP_TIMEOUT = 75.0  # seconds a clean poweroff may take: longer than a unit's own stop timeout
KILL_TIMEOUT = 15.0
INSIDE = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}


class Host:
    """One host of the lab; peers are all hosts of the lab (for /etc/hosts), this one included.

    Needs no other state than the machine's: two Host objects of one spec are the same host.
    """

    def __init__(self, spec: HostSpec, peers: Sequence[HostSpec] = ()) -> None:
        network.link_name(spec.name)
        self.spec = spec
        self.peers = tuple(peers) or (spec,)
        self._home = state.HOSTS_DIR / spec.name
        self._pid_file = state.RUN_DIR / f"{spec.name}.pid"
        self._init_file = state.RUN_DIR / f"{spec.name}.init"
        self.log = state.LOG_DIR / f"{spec.name}.log"

    # -- its disk ----------------------------------------------------------------------------------

    def upper(self) -> Path:
        """Path of its upper layer seen from the machine (read it; don't write while it runs)."""
        return self._home / "upper"

    def prepare(
        self, files: Sequence[HostFile], enable: Sequence[str], mask: Sequence[str] = ()
    ) -> None:
        """Before start: base files, then `files`; enable units (by their [Install]); mask units.

        Nothing the machine enables starts in a host: only `ssh` and what is named in `enable`.
        The host's disk begins empty: what an earlier life left there is gone.
        Raises LabError when the host runs, or a file, owner or unit is not right.
        """
        if self.running():
            raise LabError(f"{self.spec.name} runs; `recell-lab down` ends it")
        state.make_directories()
        missing = base.check_machine()
        if missing:
            raise LabError(
                f"{', '.join(missing)} of this machine is a file system of its own, which the "
                "lab's hosts would not see; use a machine with these on its root file system"
            )
        self.remove_disk()
        self._home.mkdir(mode=0o700)
        syscalls.mount(
            "recell-lab", self._home, "tmpfs", options=f"size={self.spec.size_mb}m,mode=700"
        )
        for name in ("upper", "work", "lower", "root"):
            (self._home / name).mkdir(mode=0o755)
        layer = Layer(self.upper())
        base.lay(layer, self.spec, self.peers)
        layer.put(files)
        base.choose_units(layer, enable, mask)

    def remove_disk(self) -> None:
        """Unmount and forget its upper layer. The host must not run."""
        if not self._home.exists():
            return
        # One mount at a time: an interrupted prepare may have left more than one.
        while self._home.is_mount():
            syscalls.umount(self._home, syscalls.MNT_DETACH)
        self._home.rmdir()

    def copy_tree(self, source: Path, dest: str, owner: str) -> None:
        """Copy a directory of the machine to dest in the host, before or after start.

        owner is "user:group" in the host, of everything copied and of dest itself.
        """
        layer = Layer(self.upper())
        if not self.running():
            layer.copy_tree(source, dest, owner)
            return
        uid, gid = self._ids_inside(owner)
        flags = ["--numeric-owner", f"--owner=lab:{uid}", f"--group=lab:{gid}"]
        packed = subprocess.run(
            ["tar", "-C", str(source), *flags, "-cf", "-", "."], capture_output=True, check=False
        )
        if packed.returncode:
            error = packed.stderr.decode(errors="replace").strip()
            raise LabError(f"{source} cannot be copied to {self.spec.name}: {error}")
        self.run(["mkdir", "-p", dest])
        self.run(["tar", "-C", dest, "-xpf", "-"], input=packed.stdout, timeout=600)

    def _ids_inside(self, owner: str) -> tuple[int, int]:
        user, _, group = owner.partition(":")
        numbers = []
        for database, name in (("passwd", user), ("group", group or user)):
            line = self.run(["getent", database, name]).stdout.decode()
            numbers.append(int(line.split(":")[2]))
        return numbers[0], numbers[1]

    # -- its life ----------------------------------------------------------------------------------

    def init_pid(self) -> int | None:
        """The pid of its init as the machine sees it, None when it does not run."""
        return living(self._init_file)

    def running(self) -> bool:
        """Whether its init runs."""
        return self.init_pid() is not None

    def start(self) -> None:
        """Start the host; returns when its init has been executed (see wait_ssh).

        Nothing to do when it runs. Raises LabError with the log's last line when it cannot boot.
        """
        if self.running():
            return
        if not self.upper().is_dir():
            raise LabError(f"{self.spec.name} has no disk; `recell-lab up` prepares it")
        # A supervisor without an init is one that reboots the host, or one that ends just now.
        if living(self._pid_file) is not None:
            wait_until(lambda: self._is_init() or living(self._pid_file) is None, BOOT_TIMEOUT)
            if self.running():
                return
        self._pid_file.unlink(missing_ok=True)
        self._init_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            supervisor = subprocess.Popen(
                supervisor_argv(self.spec, systemd_machine()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": INSIDE["PATH"], "PYTHONPATH": str(PACKAGE_ROOT), "LANG": "C.UTF-8"},
                start_new_session=True,
            )

        def decided() -> bool:
            return supervisor.poll() is not None or self._is_init()

        if not wait_until(decided, BOOT_TIMEOUT) or supervisor.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise LabError(f"{self.spec.name} did not boot: {''.join(tail)} (more in {self.log})")

    def _is_init(self) -> bool:
        pid = self.init_pid()
        if pid is None:
            return False
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/sbin/init\0")
        except OSError:
            return False

    def wait_ssh(self, timeout: float = 60) -> None:
        """Wait until sshd answers with its banner. Raises LabError after timeout (seconds)."""

        def answers() -> bool:
            try:
                with socket.create_connection((self.spec.ip, 22), timeout=2) as connection:
                    return connection.recv(4) == b"SSH-"
            except OSError:
                return False

        if not wait_until(answers, timeout, 0.05):
            raise LabError(
                f"{self.spec.name}: no answer from sshd at {self.spec.ip} in {timeout:.0f} s; "
                f"see {self.log}"
            )

    def stop(self) -> None:
        """Clean systemd poweroff, then kill."""
        self._end(signal.SIGTERM, STOP_TIMEOUT)

    def crash(self) -> None:
        """Kill it without ceremony: cable out first, so that peers see silence, then its init."""
        self._end(signal.SIGUSR1, KILL_TIMEOUT)

    def reboot(self) -> None:
        """Clean stop (when running), then start."""
        self.stop()
        self.start()

    def _end(self, first: signal.Signals, timeout: float) -> None:
        for number, patience in (
            (first, timeout),
            (signal.SIGUSR1, KILL_TIMEOUT),
            (signal.SIGKILL, KILL_TIMEOUT),
        ):
            # The supervisor's own death is its init's too, but that takes the kernel a moment.
            pid = living(self._pid_file)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if self._wait_end(patience if pid is not None else KILL_TIMEOUT):
                break
        else:
            raise LabError(f"{self.spec.name} does not end; see {self.log}")
        self._pid_file.unlink(missing_ok=True)
        self._init_file.unlink(missing_ok=True)

    def _wait_end(self, timeout: float) -> bool:
        def ended() -> bool:
            return living(self._pid_file) is None and living(self._init_file) is None

        return wait_until(ended, timeout)

    # -- inside ------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float = 120,
        check: bool = True,
        user: str | None = None,
    ) -> CompletedProcess[bytes]:
        """Run a command inside (nsenter, not ssh), as root or as `user` with its groups.

        What it leaves in the background ends with the host, but is outside its cgroups: start
        services with systemctl. Raises HostCommandError if check and the status is not zero,
        LabError when the host does not run or the command takes more than timeout seconds.
        """
        pid = self.init_pid()
        if pid is None:
            raise LabError(
                f"{self.spec.name} does not run; `recell-lab reboot {self.spec.name}` starts it"
            )
        prefix = ["nsenter", "--target", str(pid), *NAMESPACES, "--"]
        environment = dict(INSIDE)
        if user is not None:
            prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
            environment |= {"HOME": f"/var/lib/{user}", "USER": user}
        with subprocess.Popen(
            [*prefix, *argv],
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        ) as process:
            try:
                out, error = process.communicate(input, timeout=timeout)
            except BaseException as reason:
                # nsenter is the command's parent only: end the session it began, both of them.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(reason, subprocess.TimeoutExpired):
                    what = " ".join(argv[:3])
                    raise LabError(
                        f"{self.spec.name}: `{what}` took more than {timeout:.0f} s"
                    ) from None
                raise
        if check and process.returncode:
            raise HostCommandError(
                command_failure(self.spec.name, argv, process.returncode, error),
                process.returncode,
                out,
                error,
            )
        return CompletedProcess(list(argv), process.returncode, out, error)


# Of the supervisors, where the machine runs systemd.
SLICE = "recelllab.slice"
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")


def command_failure(name: str, argv: Sequence[str], status: int, error: bytes) -> str:
    """The sentence for a command that failed: the last thing it complained of."""
    lines = error.decode(errors="replace").strip().splitlines()
    what = " ".join(argv[:3])
    return f"{name}: `{what}` ended with {status}: {lines[-1] if lines else 'it said nothing'}"


def systemd_machine() -> bool:
    """Whether the machine itself runs systemd, which then owns its cgroups."""
    return Path("/run/systemd/system").is_dir()


def supervisor_argv(spec: HostSpec, under_systemd: bool) -> list[str]:
    """The command of a host's supervisor.

    On a machine run by systemd it gets a scope of its own, with the cgroups below delegated: in
    the caller's session scope, systemd would end the host with the operator's login.
    """
    argv = [sys.executable, "-m", "recell_lab.supervisor", spec.name, spec.ip, spec.role]
    if not under_systemd:
        return argv
    return [
        "systemd-run",
        "--scope",
        "--quiet",
        "--collect",
        f"--unit=recell-lab-{spec.name}",
        f"--description=Host {spec.name} of the recell lab",
        f"--slice={SLICE}",
        "--property=Delegate=yes",
        "--",
        *argv,
    ]
