"""What the hosts of a cloud of Stein have that differs from today's: Nova 19, the last with cells v1.

Neutron is Stein's own server, and no agent of it makes networks. What cells v1 want is installed and
off: nova-cells on the controllers, and all of the API level's services on hosts of their own.
"""

from __future__ import annotations

from recell_lab.cloud import confs
from recell_lab.cloud.parts import Part, daemon, nova_files, own_directories, programs, text, wsgi
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.layer import HostFile

CONTROL = {
    "nova-scheduler": "OpenStack Compute scheduler",
    "nova-conductor": "OpenStack Compute conductor",
    "nova-consoleauth": "OpenStack Compute console tokens",
    "nova-novncproxy": "OpenStack Compute noVNC proxy",
    "nova-api": "OpenStack Compute API and metadata API",
}
SECOND = {name: CONTROL[name] for name in ("nova-scheduler", "nova-conductor", "nova-api")}
CELLS = {"nova-cells": "OpenStack Compute cells"}
API_CELL = {name: CONTROL[name] for name in ("nova-consoleauth", "nova-novncproxy", "nova-api")} | CELLS


def controller(cloud: Cloud) -> Part:
    """Nova's own services on a controller, of which nova-cells is off."""
    return Part((*_units(cloud, CONTROL | CELLS), *_no_vnc()), tuple(CONTROL))


def second_controller(cloud: Cloud) -> Part:
    """A second Nova's, as small as one can be; nova-cells is off."""
    return Part(tuple(_units(cloud, SECOND | CELLS)), tuple(SECOND))


def installed(cloud: Cloud) -> Part:
    """A host for the API cell as packages leave it: nothing is configured, nothing runs."""
    conf = text("/etc/nova/nova.conf", "[DEFAULT]\n", 0o640, "root:nova")
    return Part((*nova_files(cloud), conf, *_units(cloud, API_CELL), *_no_vnc()), ())


def _units(cloud: Cloud, units: dict[str, str]) -> list[HostFile]:
    return [
        *programs(cloud, list(units)),
        *(daemon("nova", unit, description) for unit, description in units.items()),
    ]


def _no_vnc() -> list[HostFile]:
    page = "<!doctype html><title>noVNC</title>\n"
    return [HostFile("/usr/share/novnc", None), text("/usr/share/novnc/vnc_lite.html", page)]


def services(cloud: Cloud, passwords: Passwords) -> Part:
    """Keystone, Placement, Glance and Neutron of that age, by the scripts that their packages bring."""
    etc, scripts = cloud.venv / "etc", cloud.venv / "bin"
    names = ["uwsgi", "keystone-manage", "placement-manage", "glance-manage", "glance-api"]

    def of(service: str, name: str) -> HostFile:
        return HostFile(f"/etc/{service}/{name}", (etc / service / name).read_bytes())

    return Part(
        (
            *programs(cloud, [*names, "neutron-db-manage", "privsep-helper"]),
            text("/etc/memcached.conf", confs.memcached_conf()),
            *own_directories("keystone"),
            text(
                "/etc/keystone/keystone.conf", confs.keystone_conf(passwords, cloud), 0o640, "root:keystone"
            ),
            *wsgi("keystone", "keystone", "OpenStack Identity", str(scripts / "keystone-wsgi-public")),
            *own_directories("placement"),
            text(
                "/etc/placement/placement.conf",
                confs.placement_conf(passwords, cloud),
                0o640,
                "root:placement",
            ),
            *wsgi("placement", "placement-api", "OpenStack Placement", str(scripts / "placement-api")),
            *own_directories("glance", "images", "staging"),
            text(
                "/etc/glance/glance-api.conf",
                confs.glance_conf_of_stein(passwords, cloud),
                0o640,
                "root:glance",
            ),
            of("glance", "glance-api-paste.ini"),
            of("glance", "policy.json"),
            daemon("glance", "glance-api", "OpenStack Image", "--config-file=/etc/glance/glance-api.conf"),
            *own_directories("neutron", "lock"),
            text("/etc/neutron/neutron.conf", confs.neutron_conf(passwords, cloud), 0o640, "root:neutron"),
            of("neutron", "api-paste.ini"),
            *wsgi(
                "neutron",
                "neutron-server",
                "OpenStack Networking",
                str(scripts / "neutron-api"),
                arguments="--config-file /etc/neutron/neutron.conf",
            ),
        ),
        ("memcached", "keystone", "placement-api", "glance-api", "neutron-server"),
    )
