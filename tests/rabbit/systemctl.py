"""A stand-in for systemctl inside a harness's host: units are files in /run/units.

Each unit's processes are in a cgroup of its name, as systemd's are.
"""

import contextlib
import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOME = Path("/run/units")
CGROUP = Path("/sys/fs/cgroup/unified/rq-@NAME@")


class Unit:
    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        written = Path("/etc/systemd/system") / f"{self.name}.service"
        self.file = written if written.exists() else HOME / f"{self.name}.service"
        self.kept = HOME / f"{self.name}.state"
        self.group = CGROUP / f"{self.name}.service"

    @property
    def known(self) -> "dict[str, Any]":
        found = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        return {"main": 0, "asked": False, "enabled": True, "began": 0, **found}

    def keep(self, **changed: object) -> None:
        self.kept.write_text(json.dumps({**self.known, **changed}))

    def said(self, key: str) -> str:
        text = self.file.read_text() if self.file.exists() else ""
        lines = [ln for ln in text.splitlines() if ln.startswith(f"{key}=")]
        return lines[-1].partition("=")[2] if lines else ""

    def oneshot(self) -> bool:
        return self.said("Type") == "oneshot"

    def run_lines(self, key: str) -> None:
        """As systemd does with a oneshot's: one after the other, a dash forgives a failure."""
        for line in self.file.read_text().splitlines():
            if line.startswith(f"{key}="):
                argv = shlex.split(line.partition("=")[2].removeprefix("-"))
                subprocess.run(argv, check=not line.startswith(f"{key}=-"), capture_output=True)

    def alive(self) -> bool:
        if self.oneshot():
            return bool(self.known["main"])
        pid = self.known["main"]
        try:
            return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def active(self) -> str:
        known = self.known
        if known["asked"]:
            return "deactivating" if self.alive() else "inactive"
        return "active" if self.alive() else ("failed" if known["main"] else "inactive")

    def start(self) -> None:
        if self.active() in ("active", "deactivating"):
            return
        if self.oneshot():
            self.run_lines("ExecStart")
            self.keep(main=1, asked=False, began=time.monotonic() * 1e6)
            return
        self.group.mkdir(parents=True, exist_ok=True)

        def inside() -> None:
            (self.group / "cgroup.procs").write_text("0")
            account = pwd.getpwnam(self.said("User") or "root")
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.environ.update(HOME=account.pw_dir, USER=account.pw_name)

        with (HOME / f"{self.name}.log").open("ab") as out:
            process = subprocess.Popen(
                self.said("ExecStart").split(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=inside,
                cwd="/",
            )
        self.keep(main=process.pid, asked=False, began=time.monotonic() * 1e6)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.active() in ("active", "deactivating"):
            if self.oneshot():
                self.run_lines("ExecStop")
                self.keep(main=0)
                return
            self.keep(asked=True)
            os.kill(self.known["main"], number)

    def kill(self) -> None:
        self.keep(asked=True)
        if self.group.exists():
            for pid in (self.group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)

    def wait(self) -> None:
        while self.active() == "deactivating":
            time.sleep(0.05)

    def show(self) -> str:
        there = self.file.exists()
        argv = self.said("ExecStart") if there else ""
        return "\n".join([
            f"LoadState={'loaded' if there else 'not-found'}",
            f"ActiveState={self.active()}",
            f"UnitFileState={'enabled' if self.known['enabled'] else 'disabled'}",
            f"MainPID={self.known['main'] if self.active() == 'active' else 0}",
            f"ExecMainStartTimestampMonotonic={int(self.known['began'])}",
            f"FragmentPath={self.file if there else ''}",
            "DropInPaths=",
            f"ExecStart={{ path=x ; argv[]={argv} ; ignore_errors=no }}" if there else "ExecStart=",
            "NeedDaemonReload=no",
            f"User={self.said('User') if there else ''}",
        ])  # fmt: skip


def main(words: "list[str]") -> int:
    plain = [w for w in words if not w.startswith("-")]
    verb, unit = plain[0], Unit(plain[1] if len(plain) > 1 else "none")
    if verb == "show":
        print(unit.show())
    elif verb in ("list-units", "list-unit-files"):
        if "--type=timer" not in words:
            print("\n".join(f"{path.name} x" for path in HOME.glob("*.service")))
    elif verb in ("enable", "disable"):
        unit.keep(enabled=verb == "enable")
    elif verb == "start":
        unit.start()
    elif verb in ("stop", "restart"):
        unit.stop()
        if "--no-block" not in words:
            unit.wait()
        if verb == "restart":
            unit.start()
    elif verb == "kill":
        unit.kill()
    elif verb == "reset-failed":
        unit.keep(main=0)
    elif verb != "daemon-reload":
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
