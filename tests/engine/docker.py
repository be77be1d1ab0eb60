"""A stand-in for docker: containers are files and real processes, without any namespace.

It knows the words that recell and kolla's units use and tells of containers in the engine's own form.
Run as ``docker WORDS``; all that it keeps is beside the directory of this script's own link.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent / "engine"
CONFIG = "/var/lib/kolla/config_files"
IMAGE_ID = "sha256:" + "1" * 64
IMAGE_ENV = ["PATH=/usr/bin:/bin", "KOLLA_BASE_DISTRO=debian"]
NUMBERS = {"memory": "Memory", "shm-size": "ShmSize", "pids-limit": "PidsLimit", "cpu-shares": "CpuShares"}
MODES = {"network": "NetworkMode", "pid": "PidMode", "ipc": "IpcMode", "cgroupns": "CgroupnsMode"}


def alive(pid: int) -> bool:
    """A zombie is dead: nobody may be there to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def load(name: str) -> dict[str, Any]:
    for path in HOME.glob("*.json"):
        shown: dict[str, Any] = json.loads(path.read_text())
        if name in (path.stem, shown["Id"]):
            running = alive(shown["State"]["Pid"]) if shown["State"]["Pid"] else False
            shown["State"].update(Running=running, Pid=shown["State"]["Pid"] if running else 0)
            return shown
    sys.stderr.write(f"Error response from daemon: No such container: {name}\n")
    raise SystemExit(1)


def save(shown: dict[str, Any]) -> None:
    path = HOME / f"{shown['Name'].removeprefix('/')}.json"
    path.with_suffix(".new").write_text(json.dumps(shown))
    path.with_suffix(".new").rename(path)


def create(words: list[str]) -> None:
    name, forgets = "", (HOME / "forgets").read_text().split() if (HOME / "forgets").exists() else []
    host: dict[str, Any] = {
        "Binds": None, "NetworkMode": "bridge", "PidMode": "", "IpcMode": "private",
        "CgroupnsMode": "private",
        "Privileged": False, "CapAdd": None, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "json-file", "Config": {}}, "ShmSize": 67108864, "Memory": 0, "Ulimits": [],
    }  # fmt: skip
    own: dict[str, Any] = {
        "Env": list(IMAGE_ENV), "Labels": {"maintainer": "kolla"}, "User": "nova", "Tty": False,
        "Entrypoint": ["dumb-init", "--single-child", "--"], "WorkingDir": "",
        "Hostname": os.uname().nodename, "AttachStdout": True, "AttachStderr": True,
    }  # fmt: skip
    mounts = []
    while words[0].startswith("--"):
        flag = words.pop(0).removeprefix("--")
        if flag in ("privileged", "tty"):
            host["Privileged"] |= flag == "privileged"
            own["Tty"] |= flag == "tty"
            continue
        value = words.pop(0)
        if flag in forgets:
            continue
        if flag == "name":
            name = value
        elif flag == "env-file":
            given = dict(line.split("=", 1) for line in Path(value).read_text().splitlines())
            merged = {**dict(e.split("=", 1) for e in IMAGE_ENV), **given}
            own["Env"] = [f"{k}={v}" for k, v in merged.items()]
        elif flag == "label":
            own["Labels"].update([value.split("=", 1)])
        elif flag in MODES:
            host[MODES[flag]] = value
        elif flag in NUMBERS:
            host[NUMBERS[flag]] = int(value)
        elif flag == "volume":
            source, inside, *options = value.split(":")
            kind = "bind" if source.startswith("/") else "volume"
            mounts.append({
                "Type": kind,
                "Source": source if kind == "bind" else f"/var/lib/docker/volumes/{source}/_data",
                "Destination": inside.rstrip("/"), "RW": options != ["ro"], "Propagation": "rprivate",
                **({"Name": source} if kind == "volume" else {}),
            })  # fmt: skip
        elif flag == "cap-add":
            host["CapAdd"] = [*(host["CapAdd"] or []), value]
        elif flag == "ulimit":
            kind, _, both = value.partition("=")
            soft, _, hard = both.partition(":")
            host["Ulimits"].append({"Name": kind, "Soft": int(soft), "Hard": int(hard)})
        elif flag == "log-driver":
            host["LogConfig"]["Type"] = value
        elif flag == "log-opt":
            host["LogConfig"]["Config"].update([value.split("=", 1)])
        elif flag == "user":
            own["User"] = value
        elif flag == "health-cmd":
            own.setdefault("Healthcheck", {})["Test"] = ["CMD-SHELL", value]
        elif flag in ("health-interval", "health-timeout", "health-start-period"):
            key = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}
            nanoseconds = int(value.removesuffix("ns"))
            own.setdefault("Healthcheck", {})[key[flag.removeprefix("health-")]] = nanoseconds
        elif flag == "health-retries":
            own.setdefault("Healthcheck", {})["Retries"] = int(value)
        else:
            raise SystemExit(f"unknown flag: --{flag}")
    if (HOME / f"{name}.json").exists():
        raise SystemExit(f"Conflict. The container name {name} is already in use")
    own |= {"Image": words[0], "Cmd": words[1:] or ["kolla_start"]}
    number = hashlib.sha256(f"{name}{time.time_ns()}".encode()).hexdigest()
    state = {"Running": False, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"}
    save({"Id": number, "Name": f"/{name}", "Image": IMAGE_ID, "Config": own, "HostConfig": host,
          "Mounts": mounts, "State": state})  # fmt: skip
    print(number)


def start(name: str) -> int:
    """Attached: ends as the container's process does. Copies the configuration first, as kolla's script."""
    shown = load(name)
    root = HOME / f"{name}.root"
    shutil.rmtree(root, ignore_errors=True)
    directory = next(m["Source"] for m in shown["Mounts"] if m["Destination"] == CONFIG)
    config = json.loads(Path(directory, "config.json").read_text())
    began = datetime.now(UTC)
    for one in config["config_files"]:
        target = root / one["dest"].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(directory + one["source"].removeprefix(CONFIG), target)
    program, *rest = config["command"].split()
    environment = {**os.environ, "ROOT": str(root)}
    process = subprocess.Popen(
        [Path(__file__).parent / program, *rest], env=environment, start_new_session=True
    )
    # Nanoseconds, as the engine has it.
    shown["State"] = {"Running": True, "Pid": process.pid,
                      "StartedAt": began.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"}  # fmt: skip
    save(shown)
    return 128 - code if (code := process.wait()) < 0 else code


def end(name: str, number: signal.Signals, patience: float) -> None:
    pid = load(name)["State"]["Pid"]
    if not pid:
        if number is signal.SIGKILL:
            raise SystemExit(f"Error response from daemon: Cannot kill container: {name} is not running")
        return
    if number is not signal.SIGKILL:
        os.kill(pid, number)
        deadline = time.monotonic() + patience
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def main(words: list[str]) -> int:
    with (HOME / "log").open("a") as log:
        log.write(" ".join(words) + "\n")
    if (HOME / "down").exists() and words != ["--version"]:
        sys.stderr.write("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.\n")
        return 1
    match words:
        case ["--version"]:
            print("Docker version 28.0.1, build a stand-in")
        case ["container", "inspect", name]:
            print(json.dumps([load(name)]))
        case ["image", "inspect", "--format", "{{.Id}}", _]:
            print(IMAGE_ID)
        case ["create", *rest]:
            create(rest)
        case ["start", "-a", name]:
            return start(name)
        case ["stop", name, "-t", seconds]:
            end(name, signal.SIGTERM, float(seconds))
        case ["kill", "--signal", "KILL", name]:
            end(name, signal.SIGKILL, 0)
        case ["rm", "--volumes", name]:
            shown = load(name)
            if shown["State"]["Running"]:
                raise SystemExit(f"cannot remove container {name}: container is running")
            (HOME / f"{shown['Name'].removeprefix('/')}.json").unlink()
        case ["exec", "-i", *rest]:
            user = rest[1] if rest[0] == "--user" else load(rest[0])["Config"]["User"]
            rest = rest[2:] if rest[0] == "--user" else rest
            load(rest[0])
            return subprocess.run(rest[1:], env={**os.environ, "AS": user}, check=False).returncode
        case _:
            raise SystemExit(f"docker: unknown words: {' '.join(words)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
