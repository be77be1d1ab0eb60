"""Which hosts the cloud has, and where on them its services are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recell_lab import packages
from recell_lab.layer import HostSpec

NETWORK = "10.77.0"
REGION = "RegionOne"

# Ports on their own host and, where HAProxy stands before them, on lb1 too.
PORTS = {
    "nova-api": 8774,
    "nova-api-metadata": 8775,
    "nova-novncproxy": 6080,
    "keystone": 5000,
    "placement-api": 8778,
    "glance-api": 9292,
    "neutron-server": 9696,
    "cinder-stand-in": 8776,
}
DATABASE_PORT = 3306
BROKER_PORT = 5672
MEMCACHED_PORT = 11211

LOAD_BALANCER = HostSpec("lb1", f"{NETWORK}.5", "loadbalancer", 256)
SERVICES = HostSpec("svc1", f"{NETWORK}.21", "services", 1024)
DATABASE = HostSpec("db1", f"{NETWORK}.31", "database", 3072)
CELL_DATABASE = HostSpec("db2", f"{NETWORK}.32", "database_cell", 1024)
SECOND_DATABASE = HostSpec("db3", f"{NETWORK}.33", "database_cell2", 1024)
BROKERS = tuple(HostSpec(f"mq{n}", f"{NETWORK}.{40 + n}", "rabbitmq", 512) for n in (1, 2, 3))
API_BROKER, *MORE_BROKERS = (
    HostSpec(f"mq{n}", f"{NETWORK}.{40 + n}", "rabbitmq_api", 512) for n in (4, 5, 6)
)
# For further cells, only when asked for: as their package leaves them.
CELL_BROKERS = tuple(HostSpec(f"mq{n}", f"{NETWORK}.{40 + n}", "rabbitmq_cell", 512) for n in (5, 6))
# Where a cloud of cells v1 gets its API cell: Nova is installed there, and nothing is configured.
API_CELL = tuple(HostSpec(f"api{n}", f"{NETWORK}.{21 + n}", "api_cell", 512) for n in (1, 2))
CELLS_V1 = ("19.",)  # releases of this lab that can run in cells v1
# A second Nova that runs by itself beside the first, to be the next child of its tree: on one of the brokers
# that are blank else, with accounts of its own.
SECOND_BROKER = HostSpec("mq5", f"{NETWORK}.45", "rabbitmq_cell2", 512)
SECOND_ACCOUNT = "nova2"
SECOND_COMPUTES = 2


def controller(number: int) -> HostSpec:
    """The controller of that number, from 1."""
    return HostSpec(f"ctl{number}", f"{NETWORK}.{10 + number}", "controllers", 512)


def second_controller(number: int) -> HostSpec:
    """The second Nova's controller, numbered on after the first's."""
    return replace(controller(number), role="controllers_cell2")


def second_compute(number: int) -> HostSpec:
    """A compute host of the second Nova, numbered on after the first's."""
    return replace(compute(number), role="computes_cell2")


def compute(number: int, libvirt: str = "") -> HostSpec:
    """The compute host of that number, from 1. libvirt: name of the one that keeps guests' disks."""
    name = f"cmp{number}"
    # Nova counts whole gigabytes. Nothing of them is in memory until somebody writes it.
    return HostSpec(name, f"{NETWORK}.{50 + number}", "computes", 65536 if name == libvirt else 512)


@dataclass(frozen=True)
class Cloud:
    """The hosts of a cloud, and the Nova version on them. cell_brokers: for cells that are not there yet;
    libvirt: name of the compute host whose guests are QEMU's, if any. second_controllers, second_computes: of
    a second Nova, which runs by itself."""

    nova: str
    controllers: tuple[HostSpec, ...]
    computes: tuple[HostSpec, ...]
    cell_brokers: tuple[HostSpec, ...] = ()
    libvirt: str = ""
    second_controllers: tuple[HostSpec, ...] = ()
    second_computes: tuple[HostSpec, ...] = ()

    @classmethod
    def of(
        cls, nova: str, controllers: int, computes: int, cell_brokers: int = 0, libvirt: str = "",
        *, second: bool = False,
    ) -> Cloud:  # fmt: skip
        """A cloud of so many controllers (1 to 8), compute hosts (1 to 16) and brokers for further cells (up
        to 2; one that can run cells v1 has blank brokers anyway). second: with a second Nova."""
        more = range(computes + 1, computes + 1 + SECOND_COMPUTES) if second else ()
        return cls(
            nova,
            tuple(controller(number) for number in range(1, controllers + 1)),
            tuple(compute(number, libvirt) for number in range(1, computes + 1)),
            () if nova.startswith(CELLS_V1) else CELL_BROKERS[:cell_brokers],
            libvirt,
            (second_controller(controllers + 1),) if second else (),
            tuple(second_compute(number) for number in more),
        )

    @property
    def cells_v1(self) -> bool:
        """Whether this Nova can be converted to cells v1; its hosts are those of such a conversion."""
        return self.nova.startswith(CELLS_V1)

    @property
    def spare_brokers(self) -> tuple[HostSpec, ...]:
        """The brokers that nobody uses yet: a lone one, or three blank ones."""
        if not self.cells_v1:
            return (API_BROKER,)
        used = {broker.name for broker in self.second_brokers}
        return (API_BROKER, *(broker for broker in MORE_BROKERS if broker.name not in used))

    @property
    def second_brokers(self) -> tuple[HostSpec, ...]:
        """The second Nova's."""
        return (SECOND_BROKER,) if self.second_controllers else ()

    @property
    def second_databases(self) -> tuple[HostSpec, ...]:
        """The second Nova's."""
        return (SECOND_DATABASE,) if self.second_controllers else ()

    @property
    def second(self) -> tuple[HostSpec, ...]:
        """All that the second Nova has of its own."""
        return (
            *self.second_controllers,
            *self.second_databases,
            *self.second_brokers,
            *self.second_computes,
        )

    @property
    def api_cell(self) -> tuple[HostSpec, ...]:
        """Hosts for an API cell, none for a Nova without cells v1."""
        return API_CELL if self.cells_v1 else ()

    @property
    def foundation(self) -> tuple[HostSpec, ...]:
        """What Nova stands on: needs nothing of Nova to come up."""
        brokers = (*BROKERS, *self.spare_brokers, *self.cell_brokers, *self.second_brokers)
        return (DATABASE, CELL_DATABASE, *self.second_databases, *brokers, LOAD_BALANCER, SERVICES)

    @property
    def hosts(self) -> tuple[HostSpec, ...]:
        """All hosts, in the order of an operator's list."""
        return (
            LOAD_BALANCER,
            *self.controllers,
            *self.api_cell,
            SERVICES,
            DATABASE,
            CELL_DATABASE,
            *BROKERS,
            *self.spare_brokers,
            *self.cell_brokers,
            *self.computes,
            *self.second,
        )

    @property
    def venv(self) -> Path:
        """The environment of the services, at one path on the machine and in the hosts."""
        return packages.venv_path(self.nova)


def public_url(service: str, path: str = "") -> str:
    """The URL of a service for everybody: through the load balancer."""
    return f"http://{LOAD_BALANCER.ip}:{PORTS[service]}{path}"


def transport_url(user: str, password: str, brokers: Sequence[HostSpec] = BROKERS) -> str:
    """The oslo.messaging URL of a user on a set of brokers, virtual host /."""
    hosts = ",".join(f"{user}:{password}@{broker.name}:{BROKER_PORT}" for broker in brokers)
    return f"rabbit://{hosts}/"


def database_url(
    cloud: Cloud, user: str, password: str, database: str, server: HostSpec = DATABASE
) -> str:
    """The SQLAlchemy URL of a user's database."""
    # The name that PyMySQL of that age knows.
    charset = "utf8" if cloud.cells_v1 else "utf8mb3"
    return f"mysql+pymysql://{user}:{password}@{server.name}:{DATABASE_PORT}/{database}?charset={charset}"


# cell1 as `nova-manage cell_v2 simple_cell_setup` and deployment tools leave it: every process
# fills these in from its own [database]connection and transport_url.
CELL1_DATABASE = "{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}"
CELL1_TRANSPORT = (
    "{scheme}://"
    + ",".join(
        f"{{username{n}}}:{{password{n}}}@{{hostname{n}}}:{{port{n}}}" for n in range(1, len(BROKERS) + 1)
    )
    + "/{path}"
)
