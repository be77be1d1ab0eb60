"""What each host of the cloud has: files and enabled units."""

from __future__ import annotations

from recell_lab.cloud import confs, libvirt, standins, stein, unitfiles
from recell_lab.cloud.novaconf import nova_conf, scheduler_conf
from recell_lab.cloud.parts import (
    LIB,
    NOVA_LOGIN,
    Part,
    daemon,
    inside,
    nova_files,
    own_directories,
    programs,
    text,
    wsgi,
)
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.errors import LabError
from recell_lab.layer import HostFile, HostSpec
from recell_lab.units import SYSTEM


def part_of(host: HostSpec, cloud: Cloud, passwords: Passwords) -> Part:
    """What a host of the cloud has, by its role."""
    match host.role:
        case "loadbalancer":
            return _load_balancer(cloud)
        case "controllers":
            own = stein.controller(cloud) if cloud.cells_v1 else _controller(cloud)
            return _nova(host, cloud, passwords) + own
        case "controllers_cell2":
            its = scheduler_conf(host, cloud, passwords)
            file = text("/etc/nova/nova-scheduler.conf", its, NOVA_LOGIN, "root:nova")
            return _nova(host, cloud, passwords) + stein.second_controller(cloud) + Part((file,), ())
        case "api_cell":
            return stein.installed(cloud)
        case "computes" | "computes_cell2":
            qemu = host.name == cloud.libvirt
            return _nova(host, cloud, passwords) + (libvirt.part(cloud) if qemu else _compute(cloud))
        case "services":
            own = stein.services(cloud, passwords) if cloud.cells_v1 else _services(cloud, passwords)
            return own + _consumer(cloud, passwords) + standins.cinder()
        case "database" | "database_cell" | "database_cell2":
            return _database(host, cloud)
        case "rabbitmq" | "rabbitmq_api" | "rabbitmq_cell" | "rabbitmq_cell2":
            return _broker(host, cloud, passwords)
    raise LabError(f"{host.name}: the cloud has nothing for the role {host.role!r}")


# -- Nova ------------------------------------------------------------------------------------------


def _nova(host: HostSpec, cloud: Cloud, passwords: Passwords) -> Part:
    files = nova_files(cloud)
    files += [text("/etc/nova/nova.conf", nova_conf(host, cloud, passwords), NOVA_LOGIN, "root:nova")]
    return Part(tuple(files), ())


def _controller(cloud: Cloud) -> Part:
    units = {
        "nova-scheduler": "OpenStack Compute scheduler",
        "nova-conductor": "OpenStack Compute conductor",
        "nova-novncproxy": "OpenStack Compute noVNC proxy",
    }
    return Part(
        (
            *programs(cloud, [*units, "uwsgi", "openstack"]),
            *(daemon("nova", unit, description) for unit, description in units.items()),
            HostFile(LIB, None),
            HostFile(f"{LIB}/nova_api_policy.py", inside("nova_api_policy.py", cloud)),
            *wsgi(
                "nova",
                "nova-api",
                "OpenStack Compute API",
                "nova.wsgi.osapi_compute",
                PYTHONPATH=LIB,
            ),
            *wsgi("nova", "nova-api-metadata", "OpenStack Compute metadata API", "nova.wsgi.metadata"),
            HostFile("/usr/share/novnc", None),
            text("/usr/share/novnc/vnc_lite.html", "<!doctype html><title>noVNC</title>\n"),
        ),
        ("nova-api", "nova-api-metadata", *units),
    )


def _compute(cloud: Cloud) -> Part:
    virt = next(cloud.venv.glob("lib/python3*/site-packages/nova/virt"))
    return Part(
        (
            *programs(cloud, ["nova-compute"]),
            HostFile("/var/lib/nova/guests", None, 0o755, "nova:nova"),
            HostFile(f"{virt}/guests.py", inside("guests.py", cloud)),
            daemon("nova", "nova-compute", "OpenStack Compute"),
            text(f"{SYSTEM}/guest@.service", unitfiles.GUEST),
            text(f"{SYSTEM}/guest-runner.socket", unitfiles.RUNNER_SOCKET),
            text(f"{SYSTEM}/guest-runner@.service", unitfiles.RUNNER),
            text("/usr/libexec/guest-runner", unitfiles.RUNNER_SCRIPT, 0o755),
        ),
        ("guest-runner.socket", "nova-compute"),
    ) + standins.vnc()


# -- everything else -------------------------------------------------------------------------------


def _services(cloud: Cloud, passwords: Passwords) -> Part:
    etc = cloud.venv / "etc"
    names = ["uwsgi", "openstack", "keystone-manage", "placement-manage", "glance-manage"]
    return Part(
        (
            *programs(cloud, [*names, "neutron-db-manage"]),
            text("/etc/memcached.conf", confs.memcached_conf()),
            *own_directories("keystone"),
            text(
                "/etc/keystone/keystone.conf",
                confs.keystone_conf(passwords, cloud),
                0o640,
                "root:keystone",
            ),
            *wsgi("keystone", "keystone", "OpenStack Identity", "keystone.wsgi.api"),
            *own_directories("placement"),
            text(
                "/etc/placement/placement.conf",
                confs.placement_conf(passwords, cloud),
                0o640,
                "root:placement",
            ),
            *wsgi("placement", "placement-api", "OpenStack Placement", "placement.wsgi.api"),
            *own_directories("glance", "images", "staging", "os_glance_tasks_store"),
            HostFile("/var/lib/glance/os_glance_staging_store", None, 0o755, "glance:glance"),
            text("/etc/glance/glance-api.conf", confs.glance_conf(passwords, cloud), 0o640, "root:glance"),
            HostFile(
                "/etc/glance/glance-api-paste.ini",
                (etc / "glance/glance-api-paste.ini").read_bytes(),
            ),
            *wsgi("glance", "glance-api", "OpenStack Image", "glance.wsgi.api"),
            *own_directories("neutron", "lock"),
            text("/etc/neutron/neutron.conf", confs.neutron_conf(passwords, cloud), 0o640, "root:neutron"),
            HostFile("/etc/neutron/api-paste.ini", (etc / "neutron/api-paste.ini").read_bytes()),
            HostFile(LIB, None),
            HostFile(f"{LIB}/neutron_app.py", inside("neutron_app.py", cloud)),
            *wsgi(
                "neutron",
                "neutron-server",
                "OpenStack Networking",
                "neutron_app",
                PYTHONPATH=LIB,
                OS_NEUTRON_CONFIG_DIR="/etc/neutron",
                OS_NEUTRON_CONFIG_FILES="neutron.conf",
            ),
        ),
        (
            "memcached",
            "keystone",
            "placement-api",
            "glance-api",
            "neutron-server",
        ),
    )


def _consumer(cloud: Cloud, passwords: Passwords) -> Part:
    consumer = "notification-consumer"
    config = f"/etc/{consumer}/{consumer}.conf"
    command = [str(cloud.venv / "bin/python"), f"{LIB}/notification_consumer.py", f"--config-file={config}"]
    unit = unitfiles.service("Consumer of notifications", "nova", command)
    return Part(
        (
            HostFile(LIB, None),
            HostFile(f"{LIB}/notification_consumer.py", inside("notification_consumer.py", cloud)),
            HostFile(f"/etc/{consumer}", None),
            text(config, confs.consumer_conf(passwords), 0o640, "root:nova"),
            text(f"/var/log/{consumer}.log", "", 0o644, "nova:nova"),
            text(f"{SYSTEM}/{consumer}.service", unit),
        ),
        (consumer,),
    )


def _load_balancer(cloud: Cloud) -> Part:
    return Part((text("/etc/haproxy/haproxy.cfg", confs.haproxy_cfg(cloud)),), ("haproxy",))


def _database(host: HostSpec, cloud: Cloud) -> Part:
    # Debian's script of ExecStartPost looks through all tables of all databases at each start.
    drop_in = "[Service]\nExecStartPost=\nLimitNOFILE=16384\nLimitMEMLOCK=infinity\n"
    return Part(
        (
            text("/etc/mysql/mariadb.conf.d/90-cloud.cnf", confs.mariadb_cnf(host, cloud)),
            text(f"{SYSTEM}/mariadb.service.d/cloud.conf", drop_in),
        ),
        ("mariadb",),
    )


def _broker(host: HostSpec, cloud: Cloud, passwords: Passwords) -> Part:
    spare = host in (*cloud.spare_brokers, *cloud.cell_brokers, *cloud.second_brokers)
    blank = host in cloud.cell_brokers or (spare and cloud.cells_v1)
    # Those that may join the cluster one day have its cookie.
    cookie = passwords.cookie_api if spare and not cloud.cells_v1 else passwords.cookie
    owner = "rabbitmq:rabbitmq"
    return Part(
        (
            text("/etc/rabbitmq/rabbitmq.conf", confs.rabbitmq_conf(host, blank=blank)),
            text("/etc/rabbitmq/rabbitmq-env.conf", confs.RABBITMQ_ENV),
            HostFile("/var/lib/rabbitmq", None, 0o750, owner),
            text("/var/lib/rabbitmq/.erlang.cookie", cookie, 0o400, owner),
            text(
                f"{SYSTEM}/rabbitmq-server.service.d/cloud.conf",
                "[Service]\nLimitNOFILE=16384\nOOMScoreAdjust=0\n",
            ),
        ),
        ("epmd", "epmd.socket", "rabbitmq-server"),
    )
