"""The standard deployment as kolla-ansible makes it: each service in a container, started by a unit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from recell.adapters.ports import Contained, ContainerState, Finished, UnitState
from recell.discovery.services import find_services
from recell.errors import Unsupported
from recell.model.deployment import Deployment
from tests.sim import cloud
from tests.sim.world import API_START_S, SimFile, SimHost, SimUnit, SimWorld

INSIDE = "/var/lib/kolla/config_files"
COMMANDS = {"nova-api": "uwsgi /etc/nova/nova-api-uwsgi.ini"}
UWSGI = b"[uwsgi]\nmodule = nova.wsgi.osapi_compute:application\n"
UNIT = """\
# kolla-{name}-container.service

[Unit]
Description=docker kolla-{name}-container.service
After=docker.service

[Service]
ExecStart=/usr/bin/docker start -a {name}
ExecStop=/usr/bin/docker stop {name} -t 60
Restart=always
SuccessExitStatus=143

[Install]
WantedBy=multi-user.target
"""


def unit_name(service: str) -> str:
    return f"kolla-{service.replace('-', '_')}-container"


class KollaHost(SimHost):
    """Containers are kept among the files, so that a picture of the world shows them."""

    inside = ""  # set while a container copies its configuration

    @property
    def api(self) -> SimUnit:
        return self.units_[unit_name("nova-api")]

    def _container(self, name: str) -> dict[str, str] | None:
        file = self.files.get(f"container:{name}")
        return None if file is None else json.loads(file.content)

    def make(self, name: str, directory: str, program: str, made_for: str) -> None:
        content = json.dumps({"directory": directory, "program": program, "made_for": made_for})
        self.files[f"container:{name}"] = SimFile(content.encode(), 0, "", "", self.world.time)

    def _started(self, unit: str) -> str:
        """The container that a unit's file says to start."""
        argv = super()._written_argv(unit)
        return argv[-1] if argv else ""

    def _written_argv(self, unit: str) -> tuple[str, ...]:
        container = self._container(self._started(unit))
        return (container["program"],) if container else ()

    def unit(self, name: str) -> UnitState:
        state, started = super().unit(name), self._started(name)
        if not started:
            return state
        container = self._container(started)
        if container is None:
            return replace(state, exec_start=(), container=Contained("docker", started))
        config = json.loads(self.read(f"{container['directory']}/config.json") or b"{}")
        files = tuple(
            (one["dest"], container["directory"] + one["source"].removeprefix(INSIDE))
            for one in config["config_files"]
        )
        return replace(
            state,
            exec_start=tuple(config["command"].split()),
            container=Contained("docker", started, started, container["directory"], files),
        )

    def read(self, path: str) -> bytes | None:
        return super().read(path.replace("/etc/nova", self.inside) if self.inside else path)

    def begin(self, unit: SimUnit) -> None:
        container = self._container(self._started(unit.name))
        assert container is not None, f"{unit.name} starts a container that is not there"
        self.inside = container["directory"]
        try:
            super().begin(unit)
        finally:
            self.inside = ""

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        if argv[0] == "find":
            found = sorted(p for p in self.files if p.startswith(f"{argv[2]}/"))
            return Finished(0, "\0".join(found).encode(), b"")
        return super().query(argv)

    def container(self, engine: str, name: str) -> ContainerState | None:
        assert engine == "docker"
        found = self._container(name)
        running = any(u.active and self._started(u.name) == name for u in self.units_.values())
        return ContainerState(name, running, found["made_for"]) if found else None

    def clone_container(self, engine: str, model: str, name: str, directory: str, made_for: str) -> None:
        self.world.point(f"before creating {name}")
        pattern = self._container(model)
        assert pattern is not None
        if not self._container(name):
            if not self.files.get(f"{directory}/config.json"):
                raise Unsupported(f"{directory} is not there")
            self.world.changes.append(f"{self.name} create {name}")
            self.make(name, directory, pattern["program"], made_for)
            self.world.point(f"created {name}")

    def remove_container(self, engine: str, name: str, made_for: str) -> None:
        self.world.point(f"before removing {name}")
        found = self.container(engine, name)
        if found:
            assert not found.running and found.made_for == made_for
            self.world.changes.append(f"{self.name} rm {name}")
            del self.files[f"container:{name}"]
        self.world.point(f"removed {name}")


def build(controllers: int = 2, *, templated: bool = True) -> SimWorld:
    world = cloud.build(controllers, templated=templated)
    for plain in [h for h in world.hosts.values() if h.units_]:
        host = world.hosts[plain.name] = KollaHost(world, plain.name)
        conf = plain.files["/etc/nova/nova.conf"].content
        for service in plain.units_:
            _deploy(host, service, conf)
        for unit in host.units_.values():
            host.begin(unit)
            unit.started_at -= 500 + API_START_S
    return world


def _deploy(host: KollaHost, service: str, conf: bytes) -> None:
    name, directory, then = service.replace("-", "_"), f"/etc/kolla/{service}", host.world.time - 1000
    copied = ["nova.conf", *(["nova-api-uwsgi.ini"] if service == "nova-api" else [])]
    config = {
        "command": COMMANDS.get(service, service),
        "config_files": [{"source": f"{INSIDE}/{n}", "dest": f"/etc/nova/{n}"} for n in copied],
    }
    texts = {"nova.conf": conf, "nova-api-uwsgi.ini": UWSGI, "config.json": json.dumps(config).encode()}
    for file in [*copied, "config.json"]:
        host.files[f"{directory}/{file}"] = SimFile(texts[file], 0o660, "root", "root", then)
    path = f"/etc/systemd/system/{unit_name(service)}.service"
    host.files[path] = SimFile(UNIT.format(name=name).encode(), 0o644, "root", "root", then)
    host.make(name, directory, f"/usr/bin/{service}", "")
    loaded = (f"/usr/bin/{service}",)
    host.units_[unit_name(service)] = SimUnit(unit_name(service), enabled=True, loaded=loaded)


def scan(world: SimWorld) -> Deployment:
    """What discovery itself finds on these hosts; the rest as in the deployment without containers."""
    found = {name: find_services(host, name) for name, host in world.hosts.items() if host.units_}
    plain = cloud.scan(world)
    return replace(
        plain,
        hosts=tuple(
            replace(h, config_files=found[h.name].files, nova_manage="nova-manage", nova_prefix=("docker",))
            if h.name in found
            else h
            for h in plain.hosts
        ),
        services=tuple(s for f in found.values() for s in f.services),
        proxies=tuple(replace(p, unit=unit_name("nova-api")) for p in plain.proxies),
    )
