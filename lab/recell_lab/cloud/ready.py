"""Waiting on readiness, and the proof of it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recell_lab.cloud import topology
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.rest import Session, answers
from recell_lab.cloud.topology import Cloud, public_url
from recell_lab.errors import LabError
from recell_lab.hosts import Host

POLL = 0.25  # seconds


def wait(what: str, condition: Callable[[], bool], timeout: float) -> None:
    """Wait until the condition holds. Raises LabError ("...: not within N s") after timeout."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:.0f} s; see `recell-lab status`")
        time.sleep(POLL)


def listens(ip: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((ip, port), timeout=2):
            return True
    except OSError:
        return False


def running_brokers(host: Host) -> int:
    """How many nodes of its cluster a broker sees running."""
    argv = ["rabbitmqctl", "-q", "cluster_status", "--formatter", "json"]
    done = host.run(argv, check=False)
    return len(json.loads(done.stdout)["running_nodes"]) if done.returncode == 0 else 0


def query(database: Host, sql: str) -> list[list[str]]:
    """The rows of a query, as the database's root."""
    done = database.run(["mariadb", "--batch", "--skip-column-names"], input=sql.encode())
    return [line.split("\t") for line in done.stdout.decode().splitlines()]


@dataclass(frozen=True)
class Proof:
    """What has been seen of the cloud, from outside, with an administrator's eyes."""

    services: Sequence[Mapping[str, Any]]
    hypervisors: Sequence[Mapping[str, Any]]

    def missing(self, cloud: Cloud) -> list[str]:
        """What should be up and is not: "BINARY on HOST"."""
        up = {(one["binary"], one["host"]) for one in self.services if one["state"] == "up"}
        consoles = ["nova-consoleauth"] if cloud.cells_v1 else []
        wanted = [
            (binary, host.name)
            for binary in ("nova-conductor", "nova-scheduler", *consoles)
            for host in cloud.controllers
        ] + [("nova-compute", host.name) for host in cloud.computes]
        there = {one["hypervisor_hostname"] for one in self.hypervisors if one["state"] == "up"}
        lacking = [f"{binary} on {host}" for binary, host in wanted if (binary, host) not in up]
        return lacking + [f"hypervisor {host.name}" for host in cloud.computes if host.name not in there]


def look(admin: Session) -> Proof:
    """Ask Nova for services and hypervisors."""
    nova = public_url("nova-api", "/v2.1")
    return Proof(
        admin.call("GET", f"{nova}/os-services")["services"],
        admin.call("GET", f"{nova}/os-hypervisors/detail")["hypervisors"],
    )


def _lacking(admin: Session, cloud: Cloud) -> list[str]:
    """What is missing; Nova's answer itself, when it takes too long.

    nova-compute has its record before its queue: a question sent in between waits for Nova's own time-out."""
    try:
        return look(admin).missing(cloud)
    except TimeoutError:
        return ["nova-api's answer about the hypervisors"]


def prove(cloud: Cloud, passwords: Passwords, timeout: float) -> str:
    """Wait until the whole cloud works. Returns a line that says what was seen.

    Raises LabError naming what is missing after timeout (seconds).
    """
    deadline = time.monotonic() + timeout
    admin = Session("admin", passwords.user_admin, "admin")
    while True:
        missing = silent(cloud) or _lacking(admin, cloud)
        if not missing:
            break
        if time.monotonic() > deadline:
            raise LabError(
                f"the cloud is not ready after {timeout:.0f} s; missing: {', '.join(missing)}; "
                "see `recell-lab status` and the logs below /var/log on those hosts"
            )
        time.sleep(POLL)
    providers = public_url("placement-api", "/resource_providers")
    wait(
        "Placement knows the compute hosts",
        lambda: len(admin.call("GET", providers)["resource_providers"])
        == len(cloud.computes) + len(cloud.second_computes),
        timeout,
    )
    images = admin.call("GET", public_url("glance-api", "/v2/images"))["images"]
    admin.call("GET", public_url("neutron-server", "/v2.0/networks"))
    return (
        f"{len(cloud.controllers)} controllers, {len(cloud.computes)} hypervisors and resource "
        f"providers, {len(images)} image; every service answers"
    )


def silent(cloud: Cloud) -> list[str]:
    """The services that don't answer: on each controller itself, and through the balancer."""
    web = {
        f"{service} on {host.name}": f"http://{host.ip}:{topology.PORTS[service]}/"
        for service in ("nova-api", "nova-api-metadata")
        for host in (*cloud.controllers, *cloud.second_controllers)
    }
    web |= {
        f"{service} behind {topology.LOAD_BALANCER.name}": public_url(service, "/")
        for service in topology.PORTS
        if service != "nova-novncproxy"
    }
    ports = {f"nova-novncproxy on {host.name}": (host.ip, 6080) for host in cloud.controllers}
    ports |= {
        f"RabbitMQ on {host.name}": (host.ip, topology.BROKER_PORT)
        for host in (*topology.BROKERS, *cloud.spare_brokers, *cloud.cell_brokers, *cloud.second_brokers)
    }
    return [what for what, url in web.items() if not answers(url)] + [
        what for what, (ip, port) in ports.items() if not listens(ip, port)
    ]
