"""What a host runs and what it reads, for the shapes in which distributions ship Nova."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from recell.adapters.ports import FileStat, Finished, HostPort, ProcessInfo, UnitState
from recell.discovery.services import config_paths, find_services, role_of
from recell.discovery.writers import find_writers, from_options
from recell.errors import BadInput, Unsupported
from recell.planning.commands import with_config

CONF = b"""[DEFAULT]
transport_url = rabbit://nova:pw@mq1:5672/
[database]
connection = mysql+pymysql://nova:pw@db/nova
[oslo_messaging_notifications]
driver = messagingv2
"""


@dataclass
class Paper:
    """A host on paper: files and units."""

    files: dict[str, bytes]
    unit_argv: dict[str, tuple[str, ...]] = field(default_factory=dict)
    environment: tuple[str, ...] = ()
    environment_files: tuple[str, ...] = ()
    listening: bytes = b""
    name: str = "ctl1"
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What became of a unit's command line, where that is another one; (): nothing runs."""

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def stat(self, path: str) -> FileStat | None:
        if path not in self.files:
            return None
        return FileStat(hashlib.sha256(self.files[path]).hexdigest(), 0o640, "root", "nova", 1, 1.0)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return tuple(sorted(p for p in self.files if fnmatch.fnmatch(p, pattern)))

    def units(self) -> tuple[str, ...]:
        return tuple(f"{name}.service" for name in self.unit_argv)

    def unit(self, name: str) -> UnitState:
        argv = self.unit_argv.get(name, ())
        return UnitState(
            name,
            bool(argv),
            "active",
            True,
            7,
            100.0,
            f"/lib/systemd/system/{name}.service",
            (),
            argv,
            False,
            "nova",
            self.environment,
            self.environment_files,
        )

    def processes(self) -> tuple[ProcessInfo, ...]:
        return tuple(
            ProcessInfo(n, 1, runs, "nova", 100.0, 1, f"/system.slice/{name}.service")
            for n, (name, argv) in enumerate(self.unit_argv.items(), 7)
            if (runs := self.started.get(name, argv))
        )

    def query(self, argv: Any, **_: Any) -> Finished:
        if argv[0] == "podman":
            return Finished(127, b"", b"podman: No such file or directory")
        if argv[:3] == ["docker", "container", "inspect"]:
            if argv[3] not in self.containers:
                return Finished(1, b"[]", b"Error response from daemon: No such container: x")
            return Finished(0, json.dumps([self.containers[argv[3]]]).encode(), b"")
        return Finished(0, self.listening if argv[0] == "ss" else b"", b"")


def as_host(paper: Paper) -> HostPort:
    return paper  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (("/usr/bin/nova-conductor", "--log-file", "/x"), "conductor"),
        (("/usr/bin/python3", "/usr/bin/nova-scheduler"), "scheduler"),
        (("/opt/venv/bin/nova-compute",), "compute"),
        (("uwsgi", "--http-socket", ":8774", "--module", "nova.wsgi.osapi_compute:application"), "api"),
        (("uwsgi", "--module=nova.wsgi.metadata"), "metadata"),
        (("/usr/bin/uwsgi", "--ini", "/etc/uwsgi/api.ini"), "api"),
        (("/usr/bin/uwsgi_python3", "--ini=/etc/uwsgi/meta.ini"), "metadata"),
        (("/usr/bin/neutron-server",), None),
        ((), None),
    ],
)
def test_roles(argv: tuple[str, ...], role: str | None) -> None:
    host = Paper(
        {
            "/etc/uwsgi/api.ini": b"[uwsgi]\nwsgi-file = /usr/bin/nova-api-wsgi\n",
            "/etc/uwsgi/meta.ini": b"[uwsgi]\nmodule = nova.wsgi.metadata\n",
        }
    )
    assert role_of(argv, as_host(host)) == role


def test_default_files_and_directories() -> None:
    host = Paper(
        {
            "/etc/nova/nova.conf": CONF,
            "/etc/nova/nova-conductor.conf": b"",
            "/etc/nova/nova.conf.d/10-b.conf": b"",
            "/etc/nova/nova.conf.d/05-a.conf": b"",
        },
        {"nova-conductor": ("/usr/bin/nova-conductor",)},
    )
    paths, explicit = config_paths(host.unit("nova-conductor"), as_host(host), "conductor")
    assert not explicit
    assert paths == (
        "/etc/nova/nova.conf",
        "/etc/nova/nova-conductor.conf",
        "/etc/nova/nova.conf.d/05-a.conf",
        "/etc/nova/nova.conf.d/10-b.conf",
    )


def test_named_files_replace_the_defaults() -> None:
    argv = ("/usr/bin/nova-compute", "--config-file=/a.conf", "--config-file", "/b.conf")
    host = Paper({"/etc/nova/nova.conf": CONF, "/a.conf": b"", "/b.conf": b""}, {"nova-compute": argv})
    assert config_paths(host.unit("nova-compute"), as_host(host), "compute") == (("/a.conf", "/b.conf"), True)


def test_the_distributions_own_file_is_read_first_where_there_is_one() -> None:
    """RDO's: a cell's conductor that lost it would lose its lock_path."""
    host = Paper({"/etc/nova/nova.conf": CONF, "/usr/share/nova/nova-dist.conf": b""},
                 {"openstack-nova-conductor": ("/usr/bin/nova-conductor",)})  # fmt: skip
    paths, _ = config_paths(host.unit("openstack-nova-conductor"), as_host(host), "conductor")
    assert paths == ("/usr/share/nova/nova-dist.conf", "/etc/nova/nova.conf")
    (service,) = find_services(as_host(host), "ctl1").services
    assert with_config(service, {"/etc/nova/nova.conf": "/etc/nova/nova-cell1.conf"}) == [
        "/usr/bin/nova-conductor",
        *("--config-file", "/usr/share/nova/nova-dist.conf"),
        *("--config-file", "/etc/nova/nova-cell1.conf"),
    ]


def test_an_init_script_is_seen_through() -> None:
    """Debian's and Ubuntu's units: the script ignores what is added to its command line."""
    host = Paper({"/etc/nova/nova.conf": CONF, "/etc/nova/own.conf": b""},
                 {"nova-conductor": ("/etc/init.d/nova-conductor", "systemd-start")})  # fmt: skip
    host.started["nova-conductor"] = (
        "/usr/bin/python3", "/usr/bin/nova-conductor", "--config-file=/etc/nova/nova.conf",
        "--config-file=/etc/nova/own.conf", "--log-file=/var/log/nova/nova-conductor.log",
    )  # fmt: skip
    (service,) = find_services(as_host(host), "ctl1").services
    assert service.config_files == ("/etc/nova/nova.conf", "/etc/nova/own.conf")
    assert service.explicit_config and service.role == "conductor"
    assert with_config(service, {"/etc/nova/nova.conf": "/etc/nova/nova-cell1.conf"}) == [
        "/usr/bin/nova-conductor", "--config-file=/etc/nova/nova-cell1.conf",
        "--config-file=/etc/nova/own.conf", "--log-file=/var/log/nova/nova-conductor.log",
    ]  # fmt: skip
    host.started["nova-conductor"] = ("/usr/bin/some-wrapper",)
    (wrapped,) = find_services(as_host(host), "ctl1").services
    assert wrapped.role == "conductor" and wrapped.argv[0] == "/etc/init.d/nova-conductor"
    host.started["nova-conductor"] = ()
    (silent,) = find_services(as_host(host), "ctl1").services
    assert with_config(silent, {}) == ["/etc/init.d/nova-conductor", "systemd-start"]
    with pytest.raises(Unsupported, match=r"started by /etc/init\.d/nova-conductor and does not run"):
        with_config(silent, {"/etc/nova/nova.conf": "/etc/nova/nova-cell1.conf"})


@pytest.mark.parametrize(("unit", "start", "runs"), [
    ("apache2", ("/usr/sbin/apachectl", "start"), ("(wsgi:nova-api)", "-k", "start")),
    ("httpd", ("/usr/sbin/httpd", "-DFOREGROUND"), ("nova_metadata_wsgi", "-DFOREGROUND")),
])  # fmt: skip
def test_a_web_server_with_nova_api_inside_is_told_of(
    unit: str, start: tuple[str, ...], runs: tuple[str, ...]
) -> None:
    host = Paper({"/etc/nova/nova.conf": CONF}, {unit: start}, started={unit: runs})
    found = find_services(as_host(host), "ctl1")
    assert found.services == () and found.remarks == (f"in-web-server|ctl1|{unit}|{start[0][10:]}",)
    host.started[unit] = ("(wsgi:placement)",)
    assert find_services(as_host(host), "ctl1").remarks == ()


def test_a_wsgi_application_takes_its_files_from_the_environment() -> None:
    host = Paper(
        {"/opt/nova/own.conf": CONF, "/etc/default/nova": b"OS_NOVA_CONFIG_FILES='api-paste.ini;own.conf'\n"},
        {"nova-api": ("uwsgi", "--module", "nova.wsgi.osapi_compute")},
        ("OS_NOVA_CONFIG_DIR=/opt/nova",),
        ("/etc/default/nova",),
    )
    paths, explicit = config_paths(host.unit("nova-api"), as_host(host), "api")
    assert paths == ("/opt/nova/own.conf",) and not explicit


def test_a_service_is_found_with_where_its_settings_come_from() -> None:
    host = Paper(
        {"/etc/nova/nova.conf": CONF, "/etc/nova/nova.conf.d/x.conf": b"[DEFAULT]\nhost = other\n"},
        {"nova-api": ("uwsgi", "--module", "nova.wsgi.osapi_compute"), "neutron-server": ("/usr/bin/n",)},
        listening=b'LISTEN 0 100 10.0.0.1:8774 0.0.0.0:* users:(("uwsgi",pid=7,fd=3))\n',
    )
    found = find_services(as_host(host), "ctl1")
    assert [s.unit for s in found.services] == ["nova-api"]
    service = found.services[0]
    assert service.port == 8774 and service.nova_host == "other"
    assert service.transport_url == "rabbit://nova:***@mq1:5672/" and "pw" not in repr(service)
    assert service.origins["DEFAULT/transport_url"] == "/etc/nova/nova.conf"
    assert service.options["oslo_messaging_notifications/driver"] == "messagingv2"


@pytest.mark.parametrize(("more", "ports", "port"), [
    (b"", (8773, 8774, 8775), 8774),  # Juno to Liberty: EC2 is on unless it is switched off
    (b"osapi_compute_listen_port = 18774\nmetadata_listen_port = 9775\n", (9775, 18774), 18774),
    (b"enabled_apis = metadata\n", (8775,), 8775),
    (b"", (18774, 18775), 18774),  # behind something that passes its port on
])  # fmt: skip
def test_of_several_ports_it_is_asked_at_its_own(more: bytes, ports: tuple[int, ...], port: int) -> None:
    lines = [f'LISTEN 0 100 *:{p} *:* users:(("nova-api",pid=7,fd=3))\n' for p in ports]
    host = Paper({"/etc/nova/nova.conf": CONF.replace(b"[DEFAULT]\n", b"[DEFAULT]\n" + more)},
                 {"nova-api": ("/usr/bin/nova-api",)}, listening="".join(lines).encode())  # fmt: skip
    (service,) = find_services(as_host(host), "ctl1").services
    assert (service.port, service.ports) == (port, ports)


def test_containers_of_an_older_kolla_are_seen_and_not_controlled() -> None:
    """It had no units: docker itself started them at boot. The doctor looks at them all the same."""
    config = {
        "command": "/usr/sbin/httpd -DFOREGROUND",
        "config_files": [{"source": "/var/lib/kolla/config_files/nova.conf", "dest": "/etc/nova/nova.conf"}],
    }
    host = Paper(
        {
            "/etc/kolla/nova-api/nova.conf": CONF,
            "/etc/kolla/nova-api/config.json": json.dumps(config).encode(),
            "/etc/kolla/nova-gone/config.json": b"{}",
        },
        containers={
            "nova_api": {
                "Id": "f" * 64,
                "Name": "/nova_api",
                "State": {"Running": True, "Pid": 7, "StartedAt": "2026-01-02T03:04:05Z"},
                "Config": {"Env": ["KOLLA_CONFIG_STRATEGY=COPY_ALWAYS"], "User": "nova"},
                "HostConfig": {"NetworkMode": "host"},
                "Mounts": [{"Source": "/etc/kolla/nova-api", "Destination": "/var/lib/kolla/config_files"}],
            }
        },
    )
    found = find_services(as_host(host), "ctl1").services
    assert [(s.unit, s.role, s.active, s.main_pid) for s in found] == [("nova_api", "api", True, 7)]
    assert found[0].config_files == ("/etc/kolla/nova-api/nova.conf",)
    assert found[0].container is not None
    assert found[0].container.obstacle == "no systemd unit starts the container nova_api"
    host.files["/etc/kolla/nova-api/config.json"] = b"{"
    broken = find_services(as_host(host), "ctl1").services
    assert [(s.unit, s.role, s.argv) for s in broken] == [("nova_api", "api", ())]
    assert find_services(as_host(Paper({})), "ctl1").services == (), "without kolla no engine is asked"


def test_a_url_that_is_none_is_named_by_its_place_and_not_repeated() -> None:
    host = Paper({"/etc/nova/nova.conf": b"[DEFAULT]\ntransport_url = nova:s3cret@mq1\n"},
                 {"nova-conductor": ("/usr/bin/nova-conductor",)})  # fmt: skip
    with pytest.raises(BadInput, match=r"ctl1, \[DEFAULT\] transport_url of nova-conductor") as refused:
        find_services(as_host(host), "ctl1")
    assert "s3cret" not in str(refused.value)


def test_writers_are_found_without_their_arguments() -> None:
    host = Paper(
        {
            "/etc/cron.d/nova": b"# nova-manage off\n0 1 * * * nova nova-manage db archive_deleted_rows "
            b"--url mysql://u:pw@h/\n",
            "/etc/kolla/nova-api/nova.conf": b"",
        }
    )
    found = find_writers(as_host(host))
    assert ("cron", "/etc/cron.d/nova", "nova-manage db archive_deleted_rows") in {
        (w.kind, w.where, w.what) for w in found
    }
    assert "pw" not in repr(found) and "/etc/kolla" in {w.where for w in found}


def test_a_scheduler_that_maps_hosts_by_itself_is_a_writer() -> None:
    conf = CONF + b"[scheduler]\ndiscover_hosts_in_cells_interval = 300\n"
    host = Paper({"/etc/nova/nova.conf": conf}, {"nova-scheduler": ("/usr/bin/nova-scheduler",)})
    found = find_services(as_host(host), "ctl1")
    assert [w.kind for w in from_options(found.services)] == ["option"]
