"""kolla's containers over the real agent, with stand-ins for the engine and for systemd.

Containers are real processes here; what a real engine does of itself (namespaces, images) is not seen.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from recell.adapters import containers
from recell.adapters.containers import Inside, started_by
from recell.adapters.ports import Contained, ProcessInfo, UnitState, processes_of
from recell.adapters.proxy import HaproxySocket
from recell.adapters.ssh import SshHost
from recell.discovery.services import find_services
from recell.errors import StepFailed, Unknowable, Unreachable, Unsupported
from recell.planning.unitfile import sibling
from tests.unit.test_adapters_ssh import Sshd, host, sshd  # noqa: F401 -- fixtures

ENGINE = Path(__file__).parents[1] / "engine"
CONDUCTOR, SUPER = "kolla-nova_conductor-container", "kolla-nova_super_conductor-container"
UNIT = """\
[Unit]
Description=docker kolla-nova_conductor-container.service

[Service]
ExecStart=/usr/bin/docker start -a nova_conductor
ExecStop=/usr/bin/docker stop nova_conductor -t 60
Restart=always
"""
CONFIG = {
    "command": "nova-conductor",
    "config_files": [{"source": f"{containers.CONFIG}/nova.conf", "dest": "/etc/nova/nova.conf"}],
}
MADE = [
    "create", "--name", "nova_conductor", "--network", "host", "--ulimit", "nofile=1024:4096",
    "--log-opt", "max-size=50m", "--health-cmd", "healthcheck_port nova-conductor 5672",
    "--health-interval", "30000000000ns", "--health-retries", "3", "--volume", "kolla_logs:/var/log/kolla",
    "--volume", "/etc/localtime:/etc/localtime:ro", "--env-file", "/dev/stdin",
]  # fmt: skip


@dataclass
class Kolla:
    """A controller with one container, whose service is connected to ``broker``."""

    host: SshHost
    top: Path
    broker: socket.socket

    @property
    def directory(self) -> Path:
        return self.top / "etc/kolla/nova-conductor"

    def conf(self, *, busy: float = 0, where: Path | None = None) -> None:
        address, port = self.broker.getsockname()
        text = f"[DEFAULT]\ntransport_url = rabbit://nova:pw@{address}:{port}/\nbusy = {busy}\n"
        path = (where or self.directory) / "nova.conf"
        path.write_text(text + "[database]\nconnection = mysql+pymysql://nova:pw@db/nova\n")

    def log(self) -> str:
        return (self.top / "engine/log").read_text()

    def engine(self, *words: str, stdin: bytes = b"") -> None:
        done = self.host.query(["docker", *words], stdin=stdin)
        assert done.returncode == 0, done.stderr

    def shown(self, name: str) -> dict[str, Any]:
        found = containers.inspect(self.host, "docker", name)
        assert found is not None
        return found

    def await_state(self, active: str, unit: str = CONDUCTOR) -> UnitState:
        deadline = time.monotonic() + 120
        while (state := self.host.unit(unit)).active != active:
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        return state


@pytest.fixture
def kolla(host: SshHost, sshd: Sshd) -> Iterator[Kolla]:  # noqa: F811
    tools = sshd.directory / "bin"
    before = {p: p.read_text() for p in tools.iterdir()}
    for name, source in (
        ("docker", "docker"),
        ("systemctl", "systemctl"),
        ("nova-conductor", "nova_conductor"),
    ):
        (tools / name).write_text(f"#!{sys.executable}\n" + (ENGINE / f"{source}.py").read_text())
        (tools / name).chmod(0o755)
    (tools / "busctl").write_text("#!/bin/sh\nexit 1\n")
    for name in ("engine", "units", "etc/kolla/nova-conductor"):
        (sshd.directory / name).mkdir(parents=True)
    made = Kolla(host, sshd.directory, socket.create_server(("127.0.0.1", 0)))
    made.conf()
    (made.directory / "config.json").write_text(json.dumps(CONFIG))
    (sshd.directory / "units" / f"{CONDUCTOR}.service").write_text(UNIT)
    mount = f"{made.directory}:{containers.CONFIG}:ro"
    environment = b"KOLLA_CONFIG_STRATEGY=COPY_ALWAYS\nKOLLA_SERVICE_NAME=nova-conductor\nPW=s3cret $x\n"
    made.engine(*MADE, "--volume", mount, "kolla/nova-conductor:2026.1", stdin=environment)
    # As made by the engine's interface, which kolla uses, and not by its command.
    path = sshd.directory / "engine/nova_conductor.json"
    shown = json.loads(path.read_text())
    shown["Config"].update(AttachStdout=False, AttachStderr=False)
    shown["HostConfig"].update(RestartPolicy={"Name": "", "MaximumRetryCount": 0}, Devices=None)
    path.write_text(json.dumps(shown))
    host.systemctl("enable", CONDUCTOR)
    host.systemctl("start", CONDUCTOR)
    made.await_state("active")
    yield made
    for path in (sshd.directory / "engine").glob("*.json"):
        host.query(["docker", "kill", "--signal", "KILL", path.stem])
    for name in ("engine", "units", "etc"):
        shutil.rmtree(sshd.directory / name)
    for path in tools.iterdir():
        path.unlink() if path not in before else path.write_text(before[path])
    made.broker.close()


def test_a_unit_is_seen_through(kolla: Kolla) -> None:
    unit = kolla.host.unit(CONDUCTOR)
    assert unit.running and unit.enabled and unit.exec_start == ("nova-conductor",) and unit.user == "nova"
    assert 0 <= time.time() - unit.started_at < 60
    assert "PW=s3cret $x" in unit.environment
    inner = unit.container
    assert inner is not None and (inner.engine, inner.name, inner.obstacle) == (
        "docker",
        "nova_conductor",
        "",
    )
    assert inner.directory == str(kolla.directory)
    assert inner.on_host("/etc/nova/nova.conf") == f"{kolla.directory}/nova.conf"
    assert inner.on_host("/etc/nova/policy.yaml") == ""
    connected, _ = kolla.broker.accept()
    mine = processes_of(unit, kolla.host.processes())
    assert len(mine) == 2 and {p.told_pid for p in mine} == {p.pid for p in mine}
    sockets = kolla.host.sockets([p.pid for p in mine])
    assert [s.remote_port for s in sockets] == [kolla.broker.getsockname()[1]]
    connected.close()


def test_discovery_finds_it_with_the_hosts_files(kolla: Kolla) -> None:
    found = find_services(kolla.host, "ctl1")
    assert [(s.unit, s.role) for s in found.services] == [(CONDUCTOR, "conductor")]
    service = found.services[0]
    assert service.config_files == (f"{kolla.directory}/nova.conf",)
    assert service.origins["DEFAULT/transport_url"] == f"{kolla.directory}/nova.conf"
    assert service.container is not None and service.container.grace_s == 60
    assert service.container.files == (f"{kolla.directory}/config.json", f"{kolla.directory}/nova.conf")
    known = {f.path for f in found.files}
    assert {*service.container.files, str(kolla.top / "units" / f"{CONDUCTOR}.service")} <= known
    assert "s3cret" not in repr(service) and "pw" not in repr(service)


def test_a_stop_waits_for_its_work_and_a_kill_does_not(kolla: Kolla) -> None:
    kolla.conf(busy=100)
    kolla.host.systemctl("restart", CONDUCTOR)
    old = kolla.await_state("active")
    kolla.host.systemctl("stop-later", CONDUCTOR)
    stopping = kolla.await_state("deactivating")
    assert stopping.main_pid == old.main_pid
    time.sleep(0.5)
    assert kolla.host.unit(CONDUCTOR).active == "deactivating", "it is at its work"
    kolla.host.systemctl("kill", CONDUCTOR)
    ended = kolla.await_state("inactive")
    assert (ended.main_pid, ended.started_at) == (0, 0.0)
    assert not processes_of(old, kolla.host.processes())
    kolla.host.systemctl("kill", CONDUCTOR)  # what is dead already is no error


def test_a_start_reads_the_configuration_of_the_host(kolla: Kolla) -> None:
    kolla.broker.accept()
    first = kolla.host.unit(CONDUCTOR)
    kolla.broker.close()
    kolla.broker = socket.create_server(("127.0.0.1", 0))
    kolla.conf()
    written = (kolla.directory / "nova.conf").stat().st_mtime
    assert first.started_at < written
    kolla.host.systemctl("restart", CONDUCTOR)
    again = kolla.await_state("active")
    assert again.started_at > written and again.main_pid != first.main_pid
    kolla.broker.settimeout(120)
    kolla.broker.accept()


def test_a_second_container_is_like_the_first(kolla: Kolla) -> None:
    kolla.host.systemctl("restart", CONDUCTOR)
    directory = kolla.directory.parent / "nova-super-conductor"
    me = {"mode": 0o600, "owner": "0", "group": "0", "expect": None}
    for name in ("config.json", "nova.conf"):
        content = (kolla.directory / name).read_bytes()
        kolla.host.write(f"{directory}/{name}", content, **me)  # type: ignore[arg-type]
    for _ in range(2):  # a run that died in between does it again
        kolla.host.clone_container(
            "docker", "nova_conductor", "nova_super_conductor", str(directory), "plan-1"
        )
    state = kolla.host.container("docker", "nova_super_conductor")
    assert state is not None and (state.made_for, state.running) == ("plan-1", False)
    model, made = kolla.shown("nova_conductor"), kolla.shown("nova_super_conductor")
    assert made["HostConfig"]["RestartPolicy"]["Name"] == "no" and made["Image"] == model["Image"]
    for key in ("NetworkMode", "Ulimits", "LogConfig", "ShmSize"):
        assert made["HostConfig"][key] == model["HostConfig"][key], key
    assert made["Config"]["Healthcheck"] == model["Config"]["Healthcheck"]
    assert {m["Destination"]: m["Source"] for m in made["Mounts"]}[containers.CONFIG] == str(directory)
    assert set(made["Config"]["Env"]) ^ set(model["Config"]["Env"]) == {
        "KOLLA_SERVICE_NAME=nova-conductor", "KOLLA_SERVICE_NAME=nova-super-conductor"}  # fmt: skip
    assert "s3cret" not in kolla.log(), "the environment is on no command line"
    text = sibling(UNIT, [], "super", ("nova_conductor", "nova_super_conductor"))
    kolla.host.write(str(kolla.top / "units" / f"{SUPER}.service"), text.encode(), **me)  # type: ignore[arg-type]
    kolla.host.systemctl("daemon-reload")
    kolla.host.systemctl("enable", SUPER)
    kolla.host.systemctl("start", SUPER)
    second = kolla.await_state("active", SUPER)
    assert second.container is not None and second.container.directory == str(directory)
    assert second.main_pid != kolla.host.unit(CONDUCTOR).main_pid
    with pytest.raises(StepFailed, match=r"docker rm nova_super_conductor failed on ctl1 \(cannot remove"):
        kolla.host.remove_container("docker", "nova_super_conductor", "plan-1")
    kolla.host.systemctl("stop", SUPER)
    with pytest.raises(Unknowable, match="not the one that recell made"):
        kolla.host.remove_container("docker", "nova_super_conductor", "plan-2")
    for _ in range(2):
        kolla.host.remove_container("docker", "nova_super_conductor", "plan-1")
    assert kolla.host.container("docker", "nova_super_conductor") is None
    for name in ("config.json", "nova.conf"):
        stat = kolla.host.stat(f"{directory}/{name}")
        assert stat is not None
        kolla.host.remove(f"{directory}/{name}", expect=stat.sha256)
    assert not directory.exists() and kolla.directory.exists()


def test_an_engine_that_makes_it_otherwise_is_refused(kolla: Kolla) -> None:
    (kolla.top / "engine/forgets").write_text("ulimit health-cmd")
    with pytest.raises(Unsupported, match=r"differ in HostConfig\.Ulimits, Config\.Healthcheck"):
        kolla.host.clone_container("docker", "nova_conductor", "nova_super_conductor", "/x", "plan-1")
    assert kolla.host.container("docker", "nova_super_conductor") is None
    (kolla.top / "engine/forgets").unlink()
    kolla.engine("create", "--name", "nova_super_conductor", "other:1")
    with pytest.raises(Unknowable, match="recell did not make"):
        kolla.host.clone_container("docker", "nova_conductor", "nova_super_conductor", "/x", "plan-1")
    with pytest.raises(Unknowable, match="the container gone is gone from ctl1"):
        kolla.host.clone_container("docker", "gone", "new", "/x", "plan-1")


def test_a_unit_whose_container_is_gone_or_not_asked_for(kolla: Kolla) -> None:
    (kolla.top / "units" / f"{SUPER}.service").write_text(
        UNIT.replace("nova_conductor", "nova_super_conductor")
    )
    unit = kolla.host.unit(SUPER)
    assert unit.exists and unit.active == "inactive" and unit.exec_start == ()
    assert unit.container is not None and unit.container.id == ""
    assert not [s for s in find_services(kolla.host, "ctl1").services if s.unit == SUPER]
    (kolla.top / "engine/down").touch()
    with pytest.raises(Unreachable, match=r"docker on ctl1 does not tell of nova_conductor \(Cannot connect"):
        kolla.host.unit(CONDUCTOR)
    (kolla.top / "engine/down").unlink()
    (kolla.top / "units" / f"{CONDUCTOR}.state").unlink()
    assert "runs although its unit does not" in _obstacle(kolla.host.unit(CONDUCTOR))


def _obstacle(unit: UnitState | None) -> str:
    assert unit is not None and unit.container is not None
    return unit.container.obstacle


@pytest.mark.parametrize(
    ("words", "strategy", "why"),
    [
        ((), "COPY_ALWAYS", "not on the host's network (bridge)"),
        (("--network", "host"), "COPY_ONCE", "once only (KOLLA_CONFIG_STRATEGY is COPY_ONCE)"),
        (("--network", "host"), "COPY_ALWAYS", "no systemd unit starts the container other"),
    ],
)
def test_what_can_not_be_controlled_says_why(
    kolla: Kolla, words: tuple[str, ...], strategy: str, why: str
) -> None:
    environment = f"KOLLA_CONFIG_STRATEGY={strategy}\n".encode()
    mount = f"{kolla.directory}:{containers.CONFIG}:ro"
    kolla.engine("create", "--name", "other", *words, "--env-file", "/dev/stdin", "--volume", mount, "i:1",
                 stdin=environment)  # fmt: skip
    if "systemd" in why:
        assert why in _obstacle(containers.alone(kolla.host, "docker", "other"))
        assert containers.alone(kolla.host, "docker", "none") is None
        return
    (kolla.top / "units/kolla-other-container.service").write_text(UNIT.replace("nova_conductor", "other"))
    assert why in _obstacle(kolla.host.unit("kolla-other-container"))


def test_commands_run_inside_where_there_is_a_container(kolla: Kolla) -> None:
    one, other = Inside(kolla.host, CONDUCTOR), Inside(kolla.host, "kolla-rabbitmq-container")
    asked = ["sh", "-c", "cat; echo $AS"]
    assert one.query(asked, stdin=b"in ", user="rabbitmq").stdout == b"in rabbitmq\n"
    assert one.run(asked).stdout == b"nova\n"
    assert other.query(asked, stdin=b"in ").stdout == b"in \n"
    assert one.name == "ctl1"


def test_the_words_that_start_a_container() -> None:
    assert started_by(("/usr/bin/podman", "start", "-a", "nova_api")) == ("podman", "nova_api")
    for argv in (("/usr/bin/docker", "run", "x"), ("docker", "start", "-a"), ("nova-api", "start", "x"), ()):
        assert started_by(argv) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-02T03:04:05.123456789Z", 1767323045.123456789),
        ("2026-01-02T05:04:05.5+02:00", 1767323045.5),
        ("2026-01-02 03:04:05.25 +0000 UTC", 1767323045.25),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_when_it_began(text: str, seconds: float) -> None:
    assert containers._seconds(text) == pytest.approx(seconds, abs=1e-6)


def test_flags_of_a_busy_container() -> None:
    pattern = {
        "Image": "sha256:a",
        "Config": {"Env": ["KOLLA_SERVICE_NAME=nova-conductor"], "Cmd": ["kolla_start"], "Labels": None,
                   "Healthcheck": {"Test": ["NONE"]}},
        "HostConfig": {"NetworkMode": "host", "Privileged": True, "CapAdd": ["SYS_NICE"],
                       "NanoCpus": 1500000000,
                       "Memory": 1024, "Tmpfs": {"/run": "", "/tmp": "size=1m"},
                       "RestartPolicy": {"Name": "unless-stopped"},
                       "Ulimits": [{"Name": "RLIMIT_NPROC", "Soft": 1, "Hard": 2}]},
        "Mounts": [
            {"Type": "bind", "Source": "/run", "Destination": "/run", "RW": True, "Propagation": "shared"},
            {"Type": "volume", "Name": "b" * 64, "Destination": "/anonymous", "RW": True},
            {"Type": "bind", "Source": "/etc/kolla/a", "Destination": f"{containers.CONFIG}/", "RW": False},
        ],
    }  # fmt: skip
    argv, environment = containers.creation(pattern, "podman", "i:1", "b", "/etc/kolla/b", "p")
    line = " ".join(argv)
    for words in (
        "--network host", "--privileged", "--cap-add SYS_NICE", "--cpus 1.5", "--memory 1024",
        "--tmpfs /run ", "--tmpfs /tmp:size=1m", "--restart unless-stopped", "--ulimit nproc=1:2",
        "--volume /run:/run:shared",
        f"--volume /etc/kolla/b:{containers.CONFIG}:ro", "--no-healthcheck", "--label recell.plan=p",
    ):  # fmt: skip
        assert words in line
    assert line.endswith(" i:1 kolla_start") and "anonymous" not in line
    assert environment == b"KOLLA_SERVICE_NAME=b\n"
    pattern["Config"]["Env"].append("A=1\n2")  # type: ignore[index]
    with pytest.raises(Unsupported, match="several lines"):
        containers.creation(pattern, "podman", "i:1", "b", "/etc/kolla/b", "p")
    with pytest.raises(Unsupported, match="no name for a container"):
        containers.creation(pattern, "podman", "i:1", "-b", "/etc/kolla/b", "p")


def test_what_counts_as_like() -> None:
    def shown(**around: Any) -> dict[str, Any]:
        own = {"Env": ["A=1"], "Labels": {"l": "1"}, "AttachStdout": bool(around)}
        return {"Image": "i", "Config": own, "HostConfig": {"NetworkMode": "host", **around}, "Mounts": []}

    same = shown(
        RestartPolicy={"Name": "no", "MaximumRetryCount": 0},
        MemorySwappiness=-1,
        Dns=[],
        ConsoleSize=[24, 80],
    )
    assert containers.differences(shown(), same, "x", "/d") == []
    for key, value in (
        ("Sysctls", {"a": "1"}),
        ("RestartPolicy", {"Name": "always"}),
        ("Devices", ["/dev/x"]),
    ):
        assert containers.differences(shown(), shown(**{key: value}), "x", "/d") == [f"HostConfig.{key}"]
    other = {**shown(), "Image": "j", "Mounts": [{"Source": "/a", "Destination": "/b"}]}
    other["Config"] = {"Env": [], "Labels": {"recell.plan": "p"}, "User": "root"}
    assert containers.differences(shown(), other, "x", "/d") == [
        "Image", "Config.User", "Config.Env", "Config.Labels", "Mounts"]  # fmt: skip


def test_processes_in_their_own_namespace_tell_their_own_numbers() -> None:
    def process(pid: int, ppid: int, inner: int) -> ProcessInfo:
        return ProcessInfo(pid, ppid, ("x",), "nova", 0.0, 0, "/system.slice/docker-1.scope", inner)

    unit = UnitState(
        "u", True, "active", True, 500, 0.0, "", (), (), False, container=Contained("docker", "x")
    )
    found = [process(500, 1, 1), process(507, 500, 7), process(508, 507, 8), process(600, 1, 9)]
    assert [p.told_pid for p in processes_of(unit, found)] == [1, 7, 8]
    assert processes_of(replace(unit, main_pid=0), found) == ()


class _Proxied:
    """A host whose HAProxy is kolla's."""

    name = "lb1"

    def __init__(self, level: str, mounts: tuple[tuple[str, str], ...]) -> None:
        self.level, self.mounts, self.asked = level, mounts, ""

    def unit(self, name: str) -> UnitState:
        found = UnitState(name, False, "inactive", False, 0, 0.0, "", (), (), False)
        if name != "kolla-haproxy-container":
            return found
        files = (("/etc/haproxy/haproxy.cfg", "/etc/kolla/haproxy/haproxy.cfg"),)
        return replace(
            found, exists=True, container=Contained("docker", "haproxy", "1", "", files, self.mounts)
        )

    def read(self, path: str) -> bytes | None:
        socket_path = "/var/lib/kolla/haproxy/haproxy.sock"
        text = f"global\n  stats socket {socket_path} group kolla mode 660{self.level}\n"
        return text.encode() if path == "/etc/kolla/haproxy/haproxy.cfg" else None

    def glob(self, pattern: str) -> tuple[str, ...]:
        return ()

    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        self.asked = path
        return b""

    unix_run = unix_query


def test_haproxy_in_its_container_is_asked_through_its_volume() -> None:
    volume = (("/var/lib/kolla/haproxy", "/var/lib/docker/volumes/haproxy_socket/_data"),)
    there = _Proxied(" level admin", volume)
    assert HaproxySocket(there).servers() == ()
    assert there.asked == "/var/lib/docker/volumes/haproxy_socket/_data/haproxy.sock"
    with pytest.raises(Unsupported, match="haproxy_socket_level_admin"):
        HaproxySocket(_Proxied("", volume)).servers()
    with pytest.raises(Unsupported, match="inside its container only"):
        HaproxySocket(_Proxied(" level admin", ())).servers()
