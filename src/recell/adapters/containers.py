"""Services that kolla-ansible runs: a systemd unit that starts a container of docker's or podman's.

The unit stays what a service is called by, started, stopped and enabled with, as kolla-ansible itself
does it. What is different stands here: whose process it is, where the host has the files that it reads,
how a kill reaches it, and how a second container like it is made. The engine is asked through its own
command on the host; no secret is on its command line.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from recell.adapters.ports import Contained, ContainerState, Finished, UnitState
from recell.errors import StepFailed, Unknowable, Unreachable, Unsupported

ENGINES = ("docker", "podman")
CONFIG = "/var/lib/kolla/config_files"
"""Where kolla mounts a service's directory of /etc/kolla."""
LABEL = "recell.plan"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+)? ?(Z|[+-]\d\d:?\d\d)?")
_UP_S = 60
_SERVICE_NAME = "KOLLA_SERVICE_NAME"

# Flags of `create` by what `inspect` calls them; whatever has no flag here is found by comparing the two.
_MODES = {
    "NetworkMode": "--network", "PidMode": "--pid", "IpcMode": "--ipc", "CgroupnsMode": "--cgroupns",
    "CgroupMode": "--cgroupns", "UTSMode": "--uts", "UsernsMode": "--userns",
    "CpusetCpus": "--cpuset-cpus", "CpusetMems": "--cpuset-mems",
}  # fmt: skip
_NUMBERS = {
    "Memory": "--memory", "MemoryReservation": "--memory-reservation", "MemorySwap": "--memory-swap",
    "CpuPeriod": "--cpu-period", "CpuQuota": "--cpu-quota", "CpuShares": "--cpu-shares",
    "BlkioWeight": "--blkio-weight", "PidsLimit": "--pids-limit", "ShmSize": "--shm-size",
    "OomScoreAdj": "--oom-score-adj",
}  # fmt: skip
_SWITCHES = {"Privileged": "--privileged", "ReadonlyRootfs": "--read-only", "Init": "--init"}
_LISTS = {"CapAdd": "--cap-add", "CapDrop": "--cap-drop", "SecurityOpt": "--security-opt"}
_OWN_WORDS = {
    "User": "--user", "WorkingDir": "--workdir", "StopSignal": "--stop-signal",
    "StopTimeout": "--stop-timeout",
}  # fmt: skip
_DIFFERS = {
    # Kolla creates by the engine's interface and recell by its command, which attaches to what it creates.
    "HostConfig": {"Binds", "Mounts", "ContainerIDFile", "LogConfig", "ConsoleSize"},
    "Config": {"Hostname", "Env", "Labels", "Volumes", "Image", "CreateCommand", "Annotations",
               "AttachStdin", "AttachStdout", "AttachStderr"},
}  # fmt: skip
"""What two containers of a kind differ in, or what is compared in another form."""


class EngineHost(Protocol):
    """What is needed of a host: :class:`recell.adapters.ssh.SshHost` has it."""

    name: str

    def read(self, path: str) -> bytes | None: ...
    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None,
    ) -> Finished: ...
    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None,
    ) -> Finished: ...


def started_by(argv: Sequence[str]) -> tuple[str, str] | None:
    """(engine, container) when this command line starts a container, as kolla's units do."""
    if len(argv) < 3 or posixpath.basename(argv[0]) not in ENGINES or argv[1] != "start":
        return None
    names = [w for w in argv[2:] if not w.startswith("-")]
    return (posixpath.basename(argv[0]), names[0]) if len(names) == 1 and _NAME.match(names[0]) else None


def seen_through(host: EngineHost, unit: UnitState) -> UnitState:
    """The same unit with the process, command line and environment of the container that it starts."""
    found = started_by(unit.exec_start) if unit.exists else None
    return _look(host, unit, *found) if found else unit


def alone(host: EngineHost, engine: str, name: str) -> UnitState | None:
    """A container that no unit starts, as if it were one; None: there is none."""
    if inspect(host, engine, name) is None:
        return None
    none = UnitState(name, True, "inactive", False, 0, 0.0, "", (), (), False)
    state = _look(host, none, engine, name)
    assert state.container is not None  # noqa: S101 -- made just above
    why = f"no systemd unit starts the container {name}"
    return replace(state, container=replace(state.container, obstacle=why))


def inspect(host: EngineHost, engine: str, name: str) -> dict[str, Any] | None:
    """What the engine says of a container; None: there is none.

    :raises Unreachable: the engine does not answer.
    """
    done = host.query([engine, "container", "inspect", name], timeout=_UP_S)
    if done.returncode == 0:
        return dict(json.loads(done.stdout)[0])
    if b"no such container" in done.stderr.lower():
        return None
    raise Unreachable(f"{engine} on {host.name} does not tell of {name} ({_reason(done)})",
                      f"See that {engine} runs there: {engine} ps")


def _look(host: EngineHost, unit: UnitState, engine: str, name: str) -> UnitState:
    shown = inspect(host, engine, name)
    if shown is None:
        active = "activating" if unit.active == "active" else unit.active
        return replace(unit, active=active, main_pid=0, started_at=0.0, exec_start=(), user="",
                       environment=(), environment_files=(), container=Contained(engine, name))
    config, state = shown["Config"], shown["State"]
    environment = tuple(str(word) for word in config.get("Env") or ())
    mounts = tuple((_path(m["Destination"]), _path(m["Source"])) for m in shown.get("Mounts") or ())
    directory = dict(mounts).get(CONFIG, "")
    argv, files = _kolla_config(host, directory)
    pid = int(state.get("Pid") or 0)
    running = bool(state.get("Running")) and pid > 0
    active, obstacle = unit.active, _obstacle(shown, environment, directory, argv)
    if running and active in ("inactive", "failed"):
        active, obstacle = "active", f"the container {name} runs although its unit does not"
    elif active == "active" and not running:
        active = "activating"
    return replace(
        unit, active=active, main_pid=pid if running else 0,
        started_at=_seconds(str(state.get("StartedAt", ""))) if running else 0.0,
        exec_start=argv, user=str(config.get("User") or "root"), environment=environment,
        environment_files=(),
        container=Contained(engine, name, str(shown["Id"]), directory, files, mounts, obstacle),
    )


def _kolla_config(
    host: EngineHost, directory: str,
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The command that kolla's start script runs, and (path inside, path on the host) of what it copies."""
    text = host.read(f"{directory}/config.json") if directory else None
    if text is None:
        return (), ()
    try:
        content = json.loads(text)
        command = tuple(shlex.split(content["command"]))
        copied = [(str(one["source"]), str(one["dest"])) for one in content.get("config_files", [])]
    except (ValueError, KeyError, TypeError):
        return (), ()
    files = []
    for source, dest in copied:
        if source.startswith(f"{CONFIG}/") and not set("*?[") & set(source):
            inside = f"{dest}{posixpath.basename(source)}" if dest.endswith("/") else dest
            files.append((_path(inside), f"{directory}{source[len(CONFIG):].rstrip('/')}"))
    return command, tuple(files)


def _obstacle(
    shown: Mapping[str, Any], environment: Sequence[str], directory: str, argv: Sequence[str],
) -> str:
    name = str(shown["Name"]).removeprefix("/")
    network = shown["HostConfig"].get("NetworkMode")
    strategy = dict(word.partition("=")[::2] for word in environment).get("KOLLA_CONFIG_STRATEGY", "")
    if network != "host":
        # Its connections would be in another namespace than the firewall's rules.
        return f"the container {name} is not on the host's network ({network or 'none'})"
    if not directory:
        return f"the container {name} has nothing mounted at {CONFIG}, so it is not kolla's"
    if not argv:
        return f"{directory}/config.json names no command"
    if strategy != "COPY_ALWAYS":
        return (f"the container {name} reads its configuration once only"
                f" (KOLLA_CONFIG_STRATEGY is {strategy or 'not set'})")
    return ""


def _seconds(text: str) -> float:
    """docker's and podman's times, in seconds since 1970; 0.0 for none."""
    found = _TIME.match(text)
    if found is None or text.startswith("0001"):
        return 0.0
    offset = "+00:00" if found[4] in (None, "Z") else found[4]
    return datetime.fromisoformat(f"{found[1]}T{found[2]}{offset}").timestamp() + float(found[3] or 0)


def _path(path: str) -> str:
    return path.rstrip("/") or "/"


def _reason(done: Finished) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip().rstrip(".")[:200] if lines else f"it ended with {done.returncode}"


# Changes


def kill(host: EngineHost, container: Contained) -> None:
    """SIGKILL to all that runs in it. Its unit must be stopping, or it starts it again."""
    done = host.run([container.engine, "kill", "--signal", "KILL", container.name], timeout=_UP_S)
    if done.returncode != 0:
        left = state(host, container.engine, container.name)
        if left is not None and left.running:
            raise StepFailed(f"{container.engine} kill {container.name} failed on {host.name}"
                             f" ({_reason(done)})", f"Look at: {container.engine} ps")


def state(host: EngineHost, engine: str, name: str) -> ContainerState | None:
    shown = inspect(host, engine, name)
    if shown is None:
        return None
    labels = shown["Config"].get("Labels") or {}
    return ContainerState(str(shown["Id"]), bool(shown["State"].get("Running")), str(labels.get(LABEL, "")))


def clone(host: EngineHost, engine: str, model: str, name: str, directory: str, made_for: str) -> None:
    """See :meth:`recell.adapters.host_port.HostPort.clone_container`. Finished when it is there already."""
    pattern = inspect(host, engine, model)
    if pattern is None:
        raise Unknowable(f"the container {model} is gone from {host.name}", "Deploy it again")
    there = inspect(host, engine, name)
    if there is None:
        image = _image(host, engine, pattern)
        argv, environment = creation(pattern, engine, image, name, directory, made_for)
        done = host.run(argv, stdin=environment, timeout=180)
        if done.returncode != 0:
            raise StepFailed(f"{engine} create {name} failed on {host.name} ({_reason(done)})",
                             "See what the engine lacks there, then: recell resume")
        there = inspect(host, engine, name)
    elif (there["Config"].get("Labels") or {}).get(LABEL) != made_for:
        raise Unknowable(f"a container {name} that recell did not make is on {host.name}",
                         "See whose it is")
    if there is None:
        raise StepFailed(f"{engine} has lost the container {name} on {host.name}", "Then: recell resume")
    wrong = differences(pattern, there, name, directory)
    if wrong:
        remove(host, engine, name, made_for)
        raise Unsupported(
            f"a container like {model} can't be made on {host.name}: it would differ in {', '.join(wrong)}",
            f"Let kolla-ansible make {name} (enable_cells), or change {model}",
        )


def remove(host: EngineHost, engine: str, name: str, made_for: str) -> None:
    found = state(host, engine, name)
    if found is None:
        return
    if found.made_for != made_for:
        raise Unknowable(f"the container {name} on {host.name} is not the one that recell made",
                         "See whose it is")
    done = host.run([engine, "rm", "--volumes", found.id], timeout=_UP_S)
    if done.returncode != 0 and state(host, engine, name) is not None:
        raise StepFailed(f"{engine} rm {name} failed on {host.name} ({_reason(done)})",
                         f"Look at: {engine} ps --all")


def _image(host: EngineHost, engine: str, pattern: Mapping[str, Any]) -> str:
    """By the name that kolla knows it by, unless that has come to mean another image since."""
    named = str(pattern["Config"]["Image"])
    done = host.query([engine, "image", "inspect", "--format", "{{.Id}}", named], timeout=_UP_S)
    same = done.stdout.decode().strip().removeprefix("sha256:") == _bare(pattern["Image"])
    return named if same else str(pattern["Image"])


def _bare(digest: object) -> str:
    return str(digest).removeprefix("sha256:")


def creation(
    pattern: Mapping[str, Any], engine: str, image: str, name: str, directory: str, made_for: str,
) -> tuple[list[str], bytes]:
    """The command that makes a container like the one inspected, and the environment for its stdin."""
    if not _NAME.match(name):
        raise Unsupported(f"{name} is no name for a container", "Choose another super_conductor_unit")
    own, around = pattern["Config"], pattern["HostConfig"]
    argv = [engine, "create", "--name", name, "--env-file", "/dev/stdin", "--label", f"{LABEL}={made_for}"]
    for key, value in sorted((own.get("Labels") or {}).items()):
        argv += ["--label", f"{key}={value}"]
    for key, flag in {**_MODES, **_NUMBERS}.items():
        if around.get(key):
            argv += [flag, str(around[key])]
    argv += [flag for key, flag in _SWITCHES.items() if around.get(key)]
    for key, flag in _LISTS.items():
        for word in around.get(key) or ():
            argv += [flag, str(word)]
    if around.get("NanoCpus"):
        argv += ["--cpus", f"{around['NanoCpus'] / 1e9:g}"]
    for path, options in sorted((around.get("Tmpfs") or {}).items()):
        argv += ["--tmpfs", f"{path}:{options}" if options else path]
    for one in around.get("Ulimits") or ():
        argv += ["--ulimit", f"{one['Name'].removeprefix('RLIMIT_').lower()}={one['Soft']}:{one['Hard']}"]
    if (policy := (around.get("RestartPolicy") or {}).get("Name")) not in (None, "", "no"):
        argv += ["--restart", str(policy)]
    log = around.get("LogConfig") or {}
    if log.get("Type"):
        argv += ["--log-driver", str(log["Type"])]
    for key, value in sorted((log.get("Config") or {}).items()):
        argv += ["--log-opt", f"{key}={value}"]
    for kind, source, inside, options in _mounts(pattern):
        if kind != "anonymous":
            argv += ["--volume", f"{directory if inside == CONFIG else source}:{inside}"
                     + (f":{options}" if options else "")]
    for key, flag in _OWN_WORDS.items():
        if own.get(key):
            argv += [flag, str(own[key])]
    argv += ["--tty"] if own.get("Tty") else []
    argv += ["--interactive"] if own.get("OpenStdin") else []
    argv += _health(own.get("Healthcheck") or {})
    environment = [_renamed(str(word), name) for word in own.get("Env") or ()]
    if any("\n" in word for word in environment):
        raise Unsupported("the container's environment has a value of several lines",
                          "Put it into a file that the service reads")
    return [*argv, image, *(own.get("Cmd") or ())], "".join(f"{w}\n" for w in environment).encode()


def _health(check: Mapping[str, Any]) -> list[str]:
    test = list(check.get("Test") or ())
    if test[:1] == ["NONE"]:
        return ["--no-healthcheck"]
    out = ["--health-cmd", str(test[1])] if test[:1] == ["CMD-SHELL"] else []
    for key, flag in (("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "start-period")):
        if check.get(key):
            out += [f"--health-{flag}", f"{check[key]}ns"]
    return out + (["--health-retries", str(check["Retries"])] if check.get("Retries") else [])


def _mounts(shown: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(kind, source, path inside, options) of every mount, in one form for both engines."""
    out = []
    for one in shown.get("Mounts") or ():
        kind, inside = str(one.get("Type", "bind")), _path(one["Destination"])
        source = str(one.get("Name") or "") if kind == "volume" else _path(one.get("Source") or "")
        if kind == "volume" and re.fullmatch(r"[0-9a-f]{64}", source):
            kind, source = "anonymous", ""
        options = [] if one.get("RW", True) else ["ro"]
        options += [p for p in [str(one.get("Propagation") or "")] if p not in ("", "rprivate", "private")]
        if kind != "tmpfs":
            out.append((kind, source, inside, ",".join(options)))
    return sorted(out, key=lambda m: m[2])


def _renamed(word: str, name: str) -> str:
    return f"{_SERVICE_NAME}={name.replace('_', '-')}" if word.startswith(f"{_SERVICE_NAME}=") else word


def differences(
    pattern: Mapping[str, Any], made: Mapping[str, Any], name: str, directory: str,
) -> list[str]:
    """In which words of ``inspect`` the second is not like the first, but for what it has of its own."""
    wrong = [] if _bare(pattern["Image"]) == _bare(made["Image"]) else ["Image"]
    for section, left_out in _DIFFERS.items():
        a, b = pattern[section], made[section]
        wrong += [f"{section}.{key}" for key in sorted({*a, *b} - left_out)
                  if _said(key, a.get(key)) != _said(key, b.get(key))]
    logs = [one["HostConfig"].get("LogConfig") or {} for one in (pattern, made)]
    if any((logs[0].get(key) or None) != (logs[1].get(key) or None) for key in ("Type", "Config")):
        wrong.append("HostConfig.LogConfig")
    environments = [{_renamed(str(w), name) for w in one["Config"].get("Env") or ()}
                    for one in (pattern, made)]
    if environments[0] != environments[1]:
        wrong.append("Config.Env")
    labels = [{k: v for k, v in (one["Config"].get("Labels") or {}).items() if k != LABEL}
              for one in (pattern, made)]
    if labels[0] != labels[1]:
        wrong.append("Config.Labels")
    wanted = [(k, directory if i == CONFIG else s, i, o) for k, s, i, o in _mounts(pattern)]
    if wanted != _mounts(made):
        wrong.append("Mounts")
    return wrong


def _said(key: str, value: Any) -> Any:
    """A default in one form: an engine's interface and its command leave different ones."""
    if key == "RestartPolicy":
        return None if (value or {}).get("Name") in (None, "", "no") else value
    return None if key == "MemorySwappiness" and value == -1 else value or None


class Inside:
    """Commands that run in the container of a unit where the host has one, else on the host itself.

    For what kolla-ansible keeps in containers beside Nova: ``rabbitmqctl``, ``nova-manage``.
    """

    def __init__(self, host: Any, unit: str) -> None:
        self.name = str(host.name)
        self._host = host
        self._unit = unit
        self._container: Contained | None = None
        self._asked = False

    def _argv(self, argv: Sequence[str], user: str | None) -> tuple[list[str], str | None]:
        if not self._asked:
            self._container = self._host.unit(self._unit).container
            self._asked = True
        if self._container is None:
            return list(argv), user
        return inside(self._container.engine, self._container.name, argv, user), None

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None,
    ) -> Finished:
        words, account = self._argv(argv, user)
        done: Finished = self._host.query(words, stdin=stdin, timeout=timeout, user=account)
        return done

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None,
    ) -> Finished:
        words, account = self._argv(argv, user)
        done: Finished = self._host.run(words, stdin=stdin, timeout=timeout, user=account)
        return done

    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        """:raises Unreachable: nothing of the host's leads to a socket of this path in the container."""
        outside = self._container.on_host(path) if self._container is not None else path
        if not outside:
            raise Unreachable(f"{path} is inside a container of {self.name} only", "See its volumes")
        answer: bytes = self._host.unix_query(outside, data, timeout)
        return answer


def inside(engine: str, name: str, argv: Sequence[str], user: str | None = None) -> list[str]:
    return [engine, "exec", "-i", *(["--user", user] if user else []), name, *argv]
