"""Bringing the cloud up: in the order in which its parts need each other, as fast as they can."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import yaml

from recell_lab import lab, state
from recell_lab.cloud import identity, layout, prepared, ready, second, topology
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.rest import answers
from recell_lab.cloud.topology import Cloud, public_url
from recell_lab.hosts import Host
from recell_lab.layer import HostSpec

Progress = Callable[[str], None]

CLOUDS = state.STATE_DIR / "clouds.yaml"
SECRETS = state.STATE_DIR / "secrets.json"
START_TIMEOUT = 180  # seconds for one thing to come up; far more than a loaded machine needs
DISCOVER = ["nova-manage", "cell_v2", "discover_hosts"]


def up(cloud: Cloud, progress: Progress) -> None:
    """Make the cloud and wait until it works. Raises LabError naming what does not."""
    hosts = {host.spec.name: host for host in lab.begin(cloud.hosts)}
    base = prepared.ensure(cloud, hosts, progress)
    passwords = base.passwords
    write_files(cloud, passwords)

    def prepare(host: Host) -> None:
        part = layout.part_of(host.spec, cloud, passwords)
        host.prepare(part.files, part.units)
        base.lay(host)

    def begin(group: Sequence[Host]) -> None:
        lab.at_once(group, prepare)
        lab.at_once(group, Host.start)

    foundation = [hosts[spec.name] for spec in cloud.foundation]
    control = [hosts[s.name] for s in (*cloud.controllers, *cloud.api_cell, *cloud.second_controllers)]
    workers = [hosts[spec.name] for spec in (*cloud.computes, *cloud.second_computes)]
    begin(foundation)
    progress("database, brokers, load balancer and Keystone are starting")
    lab.at_once([*control, *workers], prepare)
    _wait_for_foundation(cloud)
    second.make_its_own(cloud, hosts, passwords)
    progress("database and brokers accept connections")
    lab.at_once(control, Host.start)
    for database, controllers, _ in _novas(cloud):
        _wait_for_conductors(hosts[database.name], controllers)
    for service in ("keystone", "placement-api", "glance-api", "neutron-server", "cinder-stand-in"):
        url = public_url(service, "/")
        ready.wait(f"{service} answers", lambda url=url: answers(url), START_TIMEOUT)  # type: ignore[misc]
    progress("the conductors are up; Keystone, Placement, Glance, Neutron and Cinder's stand-in answer")
    lab.at_once(workers, Host.start)
    for database, controllers, computes in _novas(cloud):
        _map_computes(hosts[database.name], hosts[controllers[0].name], computes)
    progress("the compute hosts are up and mapped to their cells")
    lab.at_once(list(hosts.values()), Host.wait_ssh)
    progress("ready: " + ready.prove(cloud, passwords, START_TIMEOUT))
    for spec in cloud.second_databases:
        ready.wait(
            f"the second Nova on {cloud.second_controllers[0].name} runs",
            lambda host=hosts[spec.name]: not second.missing(cloud, host),  # type: ignore[misc]
            START_TIMEOUT,
        )
        progress("a second Nova runs beside it: " + ", ".join(host.name for host in cloud.second))
    state.save(cloud.hosts, facts(cloud))


def facts(cloud: Cloud) -> dict[str, object]:
    """What lab.json tells of the cloud."""
    return {
        "nova": cloud.nova,
        "libvirt": cloud.libvirt,
        "region": topology.REGION,
        "auth_url": public_url("keystone", "/v3"),
        "endpoints": {service: public_url(service) for service in topology.PORTS},
        "venv": str(cloud.venv),
        "image": identity.IMAGE,
        "flavors": [flavor[0] for flavor in prepared.FLAVORS],
        "second": [host.name for host in cloud.second],
    }


Group = tuple[HostSpec, ...]


def _novas(cloud: Cloud) -> list[tuple[HostSpec, Group, Group]]:
    """(database server, controllers, compute hosts) of the Nova, and of a second one."""
    first = (topology.DATABASE, cloud.controllers, cloud.computes)
    return [first, *((s, cloud.second_controllers, cloud.second_computes) for s in cloud.second_databases)]


def _wait_for_foundation(cloud: Cloud) -> None:
    databases = (topology.DATABASE, topology.CELL_DATABASE, *cloud.second_databases)
    for spec, port in (
        *((database, topology.DATABASE_PORT) for database in databases),
        *((broker, topology.BROKER_PORT) for broker in (*topology.BROKERS, *cloud.second_brokers)),
    ):
        ready.wait(
            f"{spec.name} accepts connections",
            lambda ip=spec.ip, port=port: ready.listens(ip, port),  # type: ignore[misc]
            START_TIMEOUT,
        )


def _wait_for_conductors(database: Host, controllers: Group) -> None:
    """nova-compute's first act is to ask a conductor; one asked too early costs it 10 s."""
    sql = "SELECT COUNT(*) FROM nova.services WHERE `binary`='nova-conductor' AND deleted=0"
    ready.wait(
        "the conductors start",
        lambda: int(ready.query(database, sql)[0][0]) >= len(controllers),
        START_TIMEOUT,
    )


def _map_computes(database: Host, controller: Host, computes: Group) -> None:
    """Wait for the compute nodes' rows, then map their hosts to the cell."""
    sql = "SELECT COUNT(*) FROM nova.compute_nodes WHERE deleted=0"
    ready.wait(
        "the compute hosts start",
        lambda: int(ready.query(database, sql)[0][0]) >= len(computes),
        START_TIMEOUT,
    )
    controller.run(DISCOVER, user="nova", timeout=START_TIMEOUT)


def write_files(cloud: Cloud, passwords: Passwords) -> None:
    """Write clouds.yaml and secrets.json, for their owner only."""
    auth = {"auth_url": public_url("keystone", "/v3")}

    def entry(user: str, password: str, project: str) -> dict[str, object]:
        login = {"username": user, "password": password, "project_name": project}
        domains = {"user_domain_name": "Default", "project_domain_name": "Default"}
        return {
            "auth": {**auth, **login, **domains},
            "region_name": topology.REGION,
            "identity_api_version": 3,
        }

    clouds = {
        "lab-admin": entry("admin", passwords.user_admin, "admin"),
        "lab-demo": entry("demo", passwords.user_demo, identity.PROJECT),
    }
    state.write_private(CLOUDS, yaml.safe_dump({"clouds": clouds}, sort_keys=False))
    transport_urls = {
        "cell1": topology.transport_url("nova", passwords.mq_nova),
        "api": topology.transport_url("nova", passwords.mq_nova_api, cloud.spare_brokers),
    }
    secrets = {"passwords": asdict(passwords), "transport_urls": transport_urls}
    state.write_private(SECRETS, json.dumps(secrets, indent=2) + "\n")
