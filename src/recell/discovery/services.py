"""Which Nova services a host runs, in units of systemd's or in containers of kolla's, and what they read."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from recell.adapters import containers
from recell.adapters.conf import Config, database_url_of, parse_config, transport_url_of
from recell.adapters.ports import Contained, FileStat, HostPort, ProcessInfo, UnitState, processes_of
from recell.errors import BadInput
from recell.model.deployment import (
    ENVIRONMENT,
    IN_WEB_SERVER,
    INIT_SCRIPTS,
    ConfigFile,
    Container,
    NovaService,
    Role,
    named_values,
)
from recell.model.urls import parse_url

PROGRAMS: dict[str, Role] = {
    "nova-api": "api",
    "nova-api-os-compute": "api",
    "nova-api-ec2": "ec2",
    "nova-api-wsgi": "api",
    "nova.wsgi.osapi_compute": "api",
    "nova-api-metadata": "metadata",
    "nova-metadata-wsgi": "metadata",
    "nova.wsgi.metadata": "metadata",
    "nova-scheduler": "scheduler",
    "nova-conductor": "conductor",
    "nova-compute": "compute",
    "nova-novncproxy": "novncproxy",
    "nova-spicehtml5proxy": "spicehtml5proxy",
    "nova-serialproxy": "serialproxy",
    "nova-cells": "cells",
    "nova-consoleauth": "consoleauth",
    "nova-cert": "cert",
    "nova-network": "network",
}
OPTIONS = (
    ("DEFAULT", "compute_driver"),
    ("DEFAULT", "ec2_listen_port"),
    ("DEFAULT", "enabled_apis"),
    ("DEFAULT", "host"),
    ("DEFAULT", "manager_shutdown_timeout"),
    ("DEFAULT", "metadata_listen"),
    ("DEFAULT", "metadata_listen_port"),
    ("DEFAULT", "network_api_class"),
    ("DEFAULT", "osapi_compute_listen"),
    ("DEFAULT", "osapi_compute_listen_port"),
    ("DEFAULT", "quota_driver"),
    ("DEFAULT", "report_interval"),
    ("DEFAULT", "rpc_backend"),
    ("DEFAULT", "service_down_time"),
    ("DEFAULT", "servicegroup_driver"),
    ("DEFAULT", "use_neutron"),
    ("DEFAULT", "vif_plugging_is_fatal"),
    ("DEFAULT", "vif_plugging_timeout"),
    ("api", "local_metadata_per_cell"),
    ("cells", "cell_type"),
    ("cells", "cells_config"),
    ("cells", "enable"),
    ("cells", "name"),
    ("cinder", "cross_az_attach"),
    ("filter_scheduler", "track_instance_changes"),
    ("oslo_messaging_notifications", "driver"),
    ("oslo_messaging_rabbit", "rabbit_stream_fanout"),
    ("oslo_messaging_rabbit", "rabbit_quorum_queue"),
    ("quota", "driver"),
    ("scheduler", "discover_hosts_in_cells_interval"),
    ("workarounds", "disable_group_policy_check_upcall"),
    ("workarounds", "enable_consoleauth"),
)
"""Options that a plan or a check looks at and that never hold a secret."""
URLS = (
    ("DEFAULT", "transport_url"),
    ("database", "connection"),
    ("api_database", "connection"),
    ("oslo_messaging_notifications", "transport_url"),
)
_KOLLA: dict[str, Role] = {**PROGRAMS, "nova-metadata": "metadata"}
"""By a container's name, where its command (a web server's) does not name the service."""
WEB_SERVERS = ("apache2", "apache2ctl", "apachectl", "httpd", "httpd-prefork")
_PYTHON = re.compile(r"python[0-9.]*")
_DISTRIBUTION = "/usr/share/nova/nova-dist.conf"
"""What RDO's oslo.config reads before /etc/nova, unless files are named; nobody else has it."""
_GRACE = re.compile(r"^ExecStop=.*\s(?:-t|--time|--timeout)[ =](\d+)", re.MULTILINE)


class Files(Protocol):
    """Files as a service sees them: its host's, or those inside its container."""

    def read(self, path: str) -> bytes | None: ...
    def stat(self, path: str) -> FileStat | None: ...
    def glob(self, pattern: str) -> tuple[str, ...]: ...


class _Inside:
    """What a container reads, as far as it is the host's: the rest is its image's."""

    def __init__(self, host: HostPort, container: Contained) -> None:
        self._host = host
        self._container = container

    def read(self, path: str) -> bytes | None:
        outside = self._container.on_host(path)
        return self._host.read(outside) if outside else None

    def stat(self, path: str) -> FileStat | None:
        outside = self._container.on_host(path)
        return self._host.stat(outside) if outside else None

    def glob(self, pattern: str) -> tuple[str, ...]:
        inside = [path for path, _ in self._container.files]
        return tuple(p for p in sorted(inside) if fnmatch.fnmatchcase(p, pattern))


@dataclass(frozen=True)
class Found:
    """What a host's services come to. ``configs``: per unit, secrets included; never written."""

    services: tuple[NovaService, ...]
    files: tuple[ConfigFile, ...]
    configs: Mapping[str, Config]
    remarks: tuple[str, ...] = ()


def role_of(argv: tuple[str, ...], host: Files) -> Role | None:
    """The Nova role that a command line runs; uwsgi's may stand in the file that it names."""
    for word in argv:
        for name in (posixpath.basename(word), word.partition("=")[2], word.partition(":")[0]):
            if name in PROGRAMS:
                return PROGRAMS[name]
    if argv and "uwsgi" in posixpath.basename(argv[0]):
        for word in argv[1:]:
            path = word.rpartition("=")[2]
            if path.startswith("/") and path.endswith((".ini", ".yaml", ".yml", ".xml")):
                text = (host.read(path) or b"").decode(errors="replace")
                for name in sorted(PROGRAMS, key=len, reverse=True):
                    if name in text:
                        return PROGRAMS[name]
    return None


def find_services(host: HostPort, hostname: str) -> Found:
    """Every unit of the host that runs, or would run, a Nova service."""
    processes = host.processes()
    candidates = {unit_of(p) for p in processes if "nova" in " ".join(p.argv)}
    candidates |= {u.removesuffix(".service") for u in host.units() if "nova" in u}
    services: list[NovaService] = []
    configs: dict[str, Config] = {}
    files: dict[str, ConfigFile] = {}
    remarks: list[str] = []
    listening = listening_on(host)
    units = [_past_script(host, host.unit(name), processes) for name in sorted(c for c in candidates if c)]
    for unit in [*units, *_without_unit(host, units)]:
        name = unit.name
        seen: Files = _Inside(host, unit.container) if unit.container else host
        role = role_of(unit.exec_start, seen) if unit.exists else None
        if unit.container and unit.container.id and role is None:
            role = _KOLLA.get(unit.container.name.replace("_", "-"))
        if role is None:
            if (program := _web_server(unit, processes)) is not None:
                remarks.append(f"{IN_WEB_SERVER}|{host.name}|{name}|{program}")
            continue
        inside, explicit = config_paths(unit, seen, role)
        container = unit.container
        paths = tuple(container.on_host(p) for p in inside) if container else inside
        below = _below(host, container.directory) if container else ()
        try:
            contents = [(p, host.read(p) or b"") for p in paths]
            environment = environment_of(unit, seen)
            config, given = parse_config(contents, environment), parse_config([], environment)
        except BadInput as error:
            raise BadInput(f"{host.name}: {error.sentence}", error.remedy) from None
        configs[name] = config
        for path in (*paths, unit.fragment, *unit.dropins, *below):
            stat = host.stat(path)
            if stat and path not in files:
                files[path] = ConfigFile(path, stat.sha256, stat.mode, stat.owner, stat.group)
        pids = {p.pid for p in processes_of(unit, processes)}
        service = _service(
            host,
            name,
            unit,
            role,
            paths,
            explicit,
            contents,
            config,
            given,
            hostname,
            tuple(port for port, owners in sorted(listening.items()) if owners & pids),
        )
        services.append(replace(service, container=_container(host, unit, below)))
    return Found(tuple(services), tuple(files.values()), configs, tuple(remarks))


def _web_server(unit: UnitState, processes: Sequence[ProcessInfo]) -> str | None:
    """The web server that runs nova-api or metadata as a module of its own (mod_wsgi); None: none does."""
    program = posixpath.basename(unit.exec_start[0]) if unit.exec_start else ""
    if program not in WEB_SERVERS or not unit.running:
        return None
    words = " ".join(w for p in processes_of(unit, processes) for w in p.argv)
    return program if re.search(r"nova[-_](?:api|metadata)", words) else None


def _past_script(host: Files, unit: UnitState, processes: Sequence[ProcessInfo]) -> UnitState:
    """Debian's and Ubuntu's units start an init script, which names files and then becomes the service: its
    command line is the process's."""
    main = next((p.argv for p in processes if unit.main_pid and p.pid == unit.main_pid), ())
    if not main or not unit.exec_start or not unit.exec_start[0].startswith(INIT_SCRIPTS):
        return unit
    if _PYTHON.fullmatch(posixpath.basename(main[0])) and main[1:2] and main[1].startswith("/"):
        main = main[1:]
    return replace(unit, exec_start=main) if role_of(main, host) else unit


def _without_unit(host: HostPort, units: list[UnitState]) -> list[UnitState]:
    """Nova's containers that no unit starts: older kolla-ansible left that to the engine."""
    known = {u.container.name for u in units if u.container}
    out = []
    for path in host.glob("/etc/kolla/nova-*/config.json"):
        name = path.split("/")[-2].replace("-", "_")
        if name not in known:
            engines = [e for e in containers.ENGINES if host.query([e, "--version"]).returncode == 0]
            found = (containers.alone(host, engine, name) for engine in engines)
            out += [unit for unit in found if unit][:1]
    return out


def _below(host: HostPort, directory: str) -> tuple[str, ...]:
    """All files of a container's configuration."""
    if not directory:
        return ()
    found = host.query(["find", "-H", directory, "-type", "f", "-print0"], timeout=30).stdout
    return tuple(sorted(p for p in found.decode(errors="surrogateescape").split("\0") if p))


def _container(host: HostPort, unit: UnitState, below: tuple[str, ...]) -> Container | None:
    if unit.container is None:
        return None
    grace = None
    for path in (unit.fragment, *unit.dropins):
        text = (host.read(path) or b"").decode(errors="replace") if path else ""
        grace = next(iter(_GRACE.findall(text)[-1:]), grace)
    c = unit.container
    return Container(c.engine, c.name, c.directory, below, float(grace or 0), c.obstacle)


def _service(
    host: HostPort,
    name: str,
    unit: UnitState,
    role: Role,
    paths: tuple[str, ...],
    explicit: bool,
    contents: list[tuple[str, bytes]],
    config: Config,
    given: Config,
    hostname: str,
    ports: tuple[int, ...],
) -> NovaService:
    origins = {}
    for group, option in (*URLS, *OPTIONS):
        if given.has(group, option):
            origins[f"{group}/{option}"] = ENVIRONMENT
            continue
        for path, content in contents:
            if parse_config([(path, content)]).has(group, option):
                origins[f"{group}/{option}"] = path
    urls = {f"{g}/{o}": config.get(g, o) for g, o in URLS}
    urls["DEFAULT/transport_url"] = transport_url_of(config)
    urls["database/connection"] = database_url_of(config)
    shown = {option: _shown(host, name, option, value) for option, value in urls.items()}
    return NovaService(
        host=host.name,
        unit=name,
        role=role,
        argv=unit.exec_start,
        user=unit.user or "root",
        active=unit.running,
        enabled=unit.enabled,
        started_at=unit.started_at,
        main_pid=unit.main_pid,
        config_files=paths,
        explicit_config=explicit,
        nova_host=config.get("DEFAULT", "host", hostname),
        transport_url=shown["DEFAULT/transport_url"],
        database=shown["database/connection"],
        api_database=shown["api_database/connection"],
        notification_url=shown["oslo_messaging_notifications/transport_url"],
        port=_door(role, ports, config),
        ports=ports,
        fragment=unit.fragment,
        dropins=unit.dropins,
        origins=origins,
        options={f"{g}/{o}": config.get(g, o) for g, o in OPTIONS if config.has(g, o)},
    )


def _door(role: Role, ports: tuple[int, ...], config: Config) -> int:
    """Where it is asked. nova-api may listen for metadata as well, and until Liberty does for EC2, at a lower
    port than its own."""
    doors = {"api": ("osapi_compute_listen_port", "8774"), "metadata": ("metadata_listen_port", "8775")}
    named = config.get("DEFAULT", *doors[role]).strip() if role in doors else ""
    return int(named) if named.isdigit() and int(named) in ports else (ports[0] if ports else 0)


def _shown(host: HostPort, name: str, option: str, value: str) -> str:
    """:raises BadInput: names the place, never the text, which may hold a password."""
    try:
        return parse_url(value).shown() if value else ""
    except BadInput as error:
        group, _, word = option.partition("/")
        raise BadInput(f"{host.name}, [{group}] {word} of {name}: {error.sentence}", error.remedy) from None


def config_paths(unit: UnitState, host: Files, role: Role) -> tuple[tuple[str, ...], bool]:
    """The files a unit's service reads, in order, and whether its command line names them.

    As oslo.config finds them: named ones, else nova.conf and <program>.conf in /etc/nova; then the
    configuration directories. A WSGI application takes its list from the environment.
    """
    argv = unit.exec_start
    named = named_values(argv, "--config-file")
    explicit = bool(named)
    program = next((posixpath.basename(w) for w in argv if posixpath.basename(w) in PROGRAMS), "nova")
    own = bool(argv) and posixpath.basename(argv[0]).startswith("nova")
    if not named and role in ("api", "metadata") and not own:
        environment = environment_of(unit, host)
        top = environment.get("OS_NOVA_CONFIG_DIR", "/etc/nova").strip()
        listed = environment.get("OS_NOVA_CONFIG_FILES", "").split(";")
        names = [n.strip() for n in listed if n.strip()] or ["api-paste.ini", "nova.conf"]
        named = [posixpath.join(top, n) for n in names]
    elif not named:
        named = [_DISTRIBUTION, "/etc/nova/nova.conf", f"/etc/nova/{program}.conf"]
    # Named files replace the default ones; directories have a default of their own, named files or not.
    directories = named_values(argv, "--config-dir") or [
        "/etc/nova/nova.conf.d",
        f"/etc/nova/{program}.conf.d",
    ]
    found = [p for p in named if host.stat(p)]
    for directory in directories:
        found += sorted(host.glob(posixpath.join(directory, "*.conf")))
    # api-paste.ini holds filters and applications, none of the options that matter here.
    return tuple(dict.fromkeys(p for p in found if not p.endswith("paste.ini"))), explicit


def environment_of(unit: UnitState, host: Files) -> dict[str, str]:
    """What a unit gives its processes; passwords may be among it."""
    lines = list(unit.environment)
    for path in unit.environment_files:
        lines += (host.read(path.lstrip("-")) or b"").decode(errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def unit_of(process: ProcessInfo) -> str:
    """Without .service; "" when no unit runs it."""
    for part in reversed(process.cgroup.split("/")):
        if part.endswith(".service"):
            return part.removesuffix(".service")
    return ""


def listening_on(host: HostPort) -> dict[int, set[int]]:
    """port -> pids that listen there, from ``ss``; nothing when there is no ss."""
    ended = host.query(["ss", "-Hltnp"], timeout=20)
    out: dict[int, set[int]] = {}
    for line in ended.stdout.decode(errors="replace").splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[3].rpartition(":")[2].isdigit():
            pids = {int(p.partition(",")[0].partition(")")[0]) for p in line.split("pid=")[1:]}
            out.setdefault(int(fields[3].rpartition(":")[2]), set()).update(pids)
    return out
