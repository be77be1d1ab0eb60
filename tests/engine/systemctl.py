"""A stand-in for systemctl: units are files in a directory, and their commands run for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent / "units"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Unit:
    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        self.file = HOME / f"{self.name}.service"
        self.kept = HOME / f"{self.name}.state"

    @property
    def known(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        return {"main": 0, "stop": 0, "asked": False, "enabled": False, **found}

    def keep(self, **changed: object) -> None:
        self.kept.write_text(json.dumps({**self.known, **changed}))

    def command(self, key: str) -> list[str]:
        lines = self.file.read_text().splitlines()
        return [line for line in lines if line.startswith(f"{key}=")][-1].partition("=")[2].split()

    def active(self) -> str:
        known = self.known
        main = alive(known["main"])
        if known["asked"]:
            return "deactivating" if main or alive(known["stop"]) else "inactive"
        return "active" if main else ("failed" if known["main"] else "inactive")

    def run(self, key: str) -> int:
        argv = self.command(key)
        argv[0] = str(Path(__file__).parent / Path(argv[0]).name)
        quiet = subprocess.DEVNULL
        return subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True).pid

    def start(self) -> None:
        if self.active() not in ("active", "deactivating"):
            self.keep(main=self.run("ExecStart"), asked=False, stop=0)

    def stop(self) -> None:
        if self.active() == "active":
            self.keep(asked=True, stop=self.run("ExecStop"))

    def wait(self) -> None:
        while self.active() == "deactivating":
            time.sleep(0.02)

    def show(self) -> str:
        there = self.file.exists()
        argv = " ".join(self.command("ExecStart")) if there else ""
        return "\n".join([
            f"LoadState={'loaded' if there else 'not-found'}",
            f"ActiveState={self.active()}",
            f"UnitFileState={'enabled' if self.known['enabled'] else 'disabled'}",
            f"MainPID={self.known['main'] if self.active() == 'active' else 0}",
            "ExecMainStartTimestampMonotonic=1",
            f"FragmentPath={self.file if there else ''}",
            "DropInPaths=",
            f"ExecStart={{ path=x ; argv[]={argv} ; ignore_errors=no }}" if there else "ExecStart=",
            "NeedDaemonReload=no",
        ])  # fmt: skip


def main(words: list[str]) -> int:
    plain = [w for w in words if not w.startswith("-")]
    verb, unit = plain[0], Unit(plain[1] if len(plain) > 1 else "none")
    if verb == "show":
        print(unit.show())
    elif verb in ("list-units", "list-unit-files"):
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
    elif verb == "reset-failed":
        unit.keep(main=0)
    elif verb != "daemon-reload":
        raise SystemExit(f"unknown words {words} {os.getpid()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
