"""Bringing the cloud up: in the order in which its parts need each other, as fast as they can."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import yaml

from recell_lab import lab, state
from recell_lab.cloud import identity, layout, prepared, ready, topology
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.rest import answers
from recell_lab.cloud.topology import Cloud, public_url
from recell_lab.hosts import Host

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
    control = [hosts[spec.name] for spec in (*cloud.controllers, *cloud.api_cell)]
    workers = [hosts[spec.name] for spec in cloud.computes]
    begin(foundation)
    progress("database, brokers, load balancer and Keystone are starting")
    lab.at_once([*control, *workers], prepare)
    _wait_for_foundation()
    progress("database and brokers accept connections")
    lab.at_once(control, Host.start)
    _wait_for_conductors(hosts, cloud)
    for service in ("keystone", "placement-api", "glance-api", "neutron-server"):
        url = public_url(service, "/")
        ready.wait(f"{service} answers", lambda url=url: answers(url), START_TIMEOUT)  # type: ignore[misc]
    progress("the conductors are up; Keystone, Placement, Glance and Neutron answer")
    lab.at_once(workers, Host.start)
    _map_computes(hosts, cloud)
    progress("the compute hosts are up and mapped to cell1")
    lab.at_once(list(hosts.values()), Host.wait_ssh)
    progress("ready: " + ready.prove(cloud, passwords, START_TIMEOUT))
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
    }


def _wait_for_foundation() -> None:
    for spec, port in (
        (topology.DATABASE, topology.DATABASE_PORT),
        (topology.CELL_DATABASE, topology.DATABASE_PORT),
        *((broker, topology.BROKER_PORT) for broker in topology.BROKERS),
    ):
        ready.wait(
            f"{spec.name} accepts connections",
            lambda ip=spec.ip, port=port: ready.listens(ip, port),  # type: ignore[misc]
            START_TIMEOUT,
        )


def _wait_for_conductors(hosts: Mapping[str, Host], cloud: Cloud) -> None:
    """nova-compute's first act is to ask a conductor; one asked too early costs it 10 s."""
    sql = "SELECT COUNT(*) FROM nova.services WHERE `binary`='nova-conductor' AND deleted=0"
    database = hosts[topology.DATABASE.name]
    ready.wait(
        "the conductors start",
        lambda: int(ready.query(database, sql)[0][0]) >= len(cloud.controllers),
        START_TIMEOUT,
    )


def _map_computes(hosts: Mapping[str, Host], cloud: Cloud) -> None:
    """Wait for the compute nodes' rows, then map their hosts to cell1."""
    sql = "SELECT COUNT(*) FROM nova.compute_nodes WHERE deleted=0"
    database = hosts[topology.DATABASE.name]
    ready.wait(
        "the compute hosts start",
        lambda: int(ready.query(database, sql)[0][0]) >= len(cloud.computes),
        START_TIMEOUT,
    )
    hosts[cloud.controllers[0].name].run(DISCOVER, user="nova", timeout=START_TIMEOUT)


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
