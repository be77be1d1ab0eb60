"""What each host of the cloud has: files and enabled units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recell_lab.cloud import confs, topology, unitfiles
from recell_lab.cloud.novaconf import nova_conf
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.errors import LabError
from recell_lab.layer import HostFile, HostSpec
from recell_lab.units import SYSTEM

INSIDE = Path(__file__).parent / "inside"
LIB = "/usr/lib/cloud"  # programs of the cloud that no package brings
NOVA_LOGIN = 0o640
UWSGI = "/usr/bin/uwsgi"


@dataclass(frozen=True)
class Part:
    """Files of a host and the units to enable there."""

    files: tuple[HostFile, ...]
    units: tuple[str, ...]

    def __add__(self, other: Part) -> Part:
        return Part(self.files + other.files, self.units + other.units)


def part_of(host: HostSpec, cloud: Cloud, passwords: Passwords) -> Part:
    """What a host of the cloud has, by its role."""
    match host.role:
        case "loadbalancer":
            return _load_balancer(cloud)
        case "controllers":
            return _nova(host, cloud, passwords) + _controller(cloud)
        case "computes":
            return _nova(host, cloud, passwords) + _compute(cloud)
        case "services":
            return _services(cloud, passwords)
        case "database" | "database_cell":
            return _database(host)
        case "rabbitmq" | "rabbitmq_api":
            return _broker(host, passwords)
    raise LabError(f"{host.name}: the cloud has nothing for the role {host.role!r}")


def _text(path: str, text: str, mode: int = 0o644, owner: str = "root:root") -> HostFile:
    return HostFile(path, text.encode(), mode, owner)


def _inside(name: str) -> bytes:
    return (INSIDE / name).read_bytes()


def _programs(cloud: Cloud, names: Sequence[str]) -> list[HostFile]:
    """Programs of the environment, in /usr/bin as a package would have them."""
    return [HostFile(f"/usr/bin/{name}", None, symlink_to=str(cloud.venv / "bin" / name)) for name in names]


def _own_directories(user: str, *more: str) -> list[HostFile]:
    """The directories of a service user: state, logs and more below the state directory."""
    owner = f"{user}:{user}"
    return [
        HostFile(f"/etc/{user}", None, 0o755),
        HostFile(f"/var/lib/{user}", None, 0o755, owner),
        HostFile(f"/var/log/{user}", None, 0o750, owner),
        *(HostFile(f"/var/lib/{user}/{name}", None, 0o755, owner) for name in more),
    ]


def _wsgi(user: str, unit: str, description: str, module: str, **variables: str) -> list[HostFile]:
    """A service in uWSGI: its ini file and its unit."""
    # One thread but for Nova's API: the others load their policies unlocked in the first request.
    processes, threads = {"nova-api": (1, 8), "keystone": (2, 1)}.get(unit, (1, 1))
    preload = "nova_api_policy" if unit == "nova-api" else ""
    ini = f"/etc/{user}/{unit}-uwsgi.ini"
    command = [UWSGI, "--ini", ini]
    unit_text = unitfiles.service(description, user, command, environment=variables)
    return [
        _text(ini, confs.uwsgi_ini(unit, module, processes, threads, preload)),
        _text(f"{SYSTEM}/{unit}.service", unit_text),
    ]


def _daemon(user: str, unit: str, description: str, *arguments: str) -> HostFile:
    """A service that is a program of its unit's name."""
    command = [f"/usr/bin/{unit}", *arguments]
    return _text(f"{SYSTEM}/{unit}.service", unitfiles.service(description, user, command))


# -- Nova ------------------------------------------------------------------------------------------


def _nova(host: HostSpec, cloud: Cloud, passwords: Passwords) -> Part:
    paste = (cloud.venv / "etc/nova/api-paste.ini").read_bytes()
    rootwrap = (cloud.venv / "etc/nova/rootwrap.conf").read_bytes()
    return Part(
        (
            *_own_directories("nova", "lock", "instances"),
            _text("/etc/nova/nova.conf", nova_conf(host, passwords), NOVA_LOGIN, "root:nova"),
            HostFile("/etc/nova/api-paste.ini", paste, NOVA_LOGIN, "root:nova"),
            HostFile("/etc/nova/rootwrap.conf", rootwrap),
            *_programs(cloud, ["nova-manage", "nova-status", "nova-policy", "privsep-helper"]),
        ),
        (),
    )


def _controller(cloud: Cloud) -> Part:
    units = {
        "nova-scheduler": "OpenStack Compute scheduler",
        "nova-conductor": "OpenStack Compute conductor",
        "nova-novncproxy": "OpenStack Compute noVNC proxy",
    }
    return Part(
        (
            *_programs(cloud, [*units, "uwsgi", "openstack"]),
            *(_daemon("nova", unit, description) for unit, description in units.items()),
            HostFile(LIB, None),
            HostFile(f"{LIB}/nova_api_policy.py", _inside("nova_api_policy.py")),
            *_wsgi(
                "nova",
                "nova-api",
                "OpenStack Compute API",
                "nova.wsgi.osapi_compute",
                PYTHONPATH=LIB,
            ),
            *_wsgi("nova", "nova-api-metadata", "OpenStack Compute metadata API", "nova.wsgi.metadata"),
            HostFile("/usr/share/novnc", None),
            _text("/usr/share/novnc/vnc_lite.html", "<!doctype html><title>noVNC</title>\n"),
        ),
        ("nova-api", "nova-api-metadata", *units),
    )


def _compute(cloud: Cloud) -> Part:
    virt = next(cloud.venv.glob("lib/python3*/site-packages/nova/virt"))
    return Part(
        (
            *_programs(cloud, ["nova-compute"]),
            HostFile("/var/lib/nova/guests", None, 0o755, "nova:nova"),
            HostFile(f"{virt}/guests.py", _inside("guests.py")),
            _daemon("nova", "nova-compute", "OpenStack Compute"),
            _text(f"{SYSTEM}/guest@.service", unitfiles.GUEST),
            _text(f"{SYSTEM}/guest-runner.socket", unitfiles.RUNNER_SOCKET),
            _text(f"{SYSTEM}/guest-runner@.service", unitfiles.RUNNER),
            _text("/usr/libexec/guest-runner", unitfiles.RUNNER_SCRIPT, 0o755),
        ),
        ("guest-runner.socket", "nova-compute"),
    )


# -- everything else -------------------------------------------------------------------------------


def _services(cloud: Cloud, passwords: Passwords) -> Part:
    consumer = "notification-consumer"
    etc = cloud.venv / "etc"
    python = str(cloud.venv / "bin/python")
    consumer_unit = unitfiles.service(
        "Consumer of notifications",
        "nova",
        [
            python,
            f"{LIB}/notification_consumer.py",
            f"--config-file=/etc/{consumer}/{consumer}.conf",
        ],
    )
    programs = ["uwsgi", "openstack", "keystone-manage", "placement-manage", "glance-manage"]
    return Part(
        (
            *_programs(cloud, [*programs, "neutron-db-manage"]),
            _text("/etc/memcached.conf", confs.memcached_conf()),
            *_own_directories("keystone"),
            _text(
                "/etc/keystone/keystone.conf",
                confs.keystone_conf(passwords),
                0o640,
                "root:keystone",
            ),
            *_wsgi("keystone", "keystone", "OpenStack Identity", "keystone.wsgi.api"),
            *_own_directories("placement"),
            _text(
                "/etc/placement/placement.conf",
                confs.placement_conf(passwords),
                0o640,
                "root:placement",
            ),
            *_wsgi("placement", "placement-api", "OpenStack Placement", "placement.wsgi.api"),
            *_own_directories("glance", "images", "staging", "os_glance_tasks_store"),
            HostFile("/var/lib/glance/os_glance_staging_store", None, 0o755, "glance:glance"),
            _text("/etc/glance/glance-api.conf", confs.glance_conf(passwords), 0o640, "root:glance"),
            HostFile(
                "/etc/glance/glance-api-paste.ini",
                (etc / "glance/glance-api-paste.ini").read_bytes(),
            ),
            *_wsgi("glance", "glance-api", "OpenStack Image", "glance.wsgi.api"),
            *_own_directories("neutron", "lock"),
            _text("/etc/neutron/neutron.conf", confs.neutron_conf(passwords), 0o640, "root:neutron"),
            HostFile("/etc/neutron/api-paste.ini", (etc / "neutron/api-paste.ini").read_bytes()),
            HostFile(LIB, None),
            HostFile(f"{LIB}/neutron_app.py", _inside("neutron_app.py")),
            *_wsgi(
                "neutron",
                "neutron-server",
                "OpenStack Networking",
                "neutron_app",
                PYTHONPATH=LIB,
                OS_NEUTRON_CONFIG_DIR="/etc/neutron",
                OS_NEUTRON_CONFIG_FILES="neutron.conf",
            ),
            HostFile(f"/etc/{consumer}", None),
            _text(
                f"/etc/{consumer}/{consumer}.conf",
                confs.consumer_conf(passwords),
                0o640,
                "root:nova",
            ),
            HostFile(f"{LIB}/notification_consumer.py", _inside("notification_consumer.py")),
            _text(f"/var/log/{consumer}.log", "", 0o644, "nova:nova"),
            _text(f"{SYSTEM}/{consumer}.service", consumer_unit),
        ),
        (
            "memcached",
            "keystone",
            "placement-api",
            "glance-api",
            "neutron-server",
            consumer,
        ),
    )


def _load_balancer(cloud: Cloud) -> Part:
    return Part((_text("/etc/haproxy/haproxy.cfg", confs.haproxy_cfg(cloud)),), ("haproxy",))


def _database(host: HostSpec) -> Part:
    # Debian's script of ExecStartPost looks through all tables of all databases at each start.
    drop_in = "[Service]\nExecStartPost=\nLimitNOFILE=16384\nLimitMEMLOCK=infinity\n"
    return Part(
        (
            _text("/etc/mysql/mariadb.conf.d/90-cloud.cnf", confs.mariadb_cnf(host)),
            _text(f"{SYSTEM}/mariadb.service.d/cloud.conf", drop_in),
        ),
        ("mariadb",),
    )


def _broker(host: HostSpec, passwords: Passwords) -> Part:
    alone = host == topology.API_BROKER
    cookie = passwords.cookie_api if alone else passwords.cookie
    owner = "rabbitmq:rabbitmq"
    return Part(
        (
            _text("/etc/rabbitmq/rabbitmq.conf", confs.rabbitmq_conf(host)),
            _text("/etc/rabbitmq/rabbitmq-env.conf", confs.RABBITMQ_ENV),
            HostFile("/var/lib/rabbitmq", None, 0o750, owner),
            _text("/var/lib/rabbitmq/.erlang.cookie", cookie, 0o400, owner),
            _text(
                f"{SYSTEM}/rabbitmq-server.service.d/cloud.conf",
                "[Service]\nLimitNOFILE=16384\nOOMScoreAdjust=0\n",
            ),
        ),
        ("epmd", "epmd.socket", "rabbitmq-server"),
    )
