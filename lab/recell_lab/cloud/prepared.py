"""What of a cloud is slow to make and the same each time, made once and kept in the cache.

That is: MariaDB's files with all schemas, Keystone's and Nova's first entries and the image;
Keystone's keys; the image's file; the brokers' files (a joined cluster and a lone one); and the
passwords that all of these hold. It is made on the lab's own hosts, by the commands that an
operator would use.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recell_lab import lab, packages, state
from recell_lab.cloud import confs, identity, layout, parts, ready, topology
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.rest import answers
from recell_lab.cloud.topology import Cloud
from recell_lab.errors import LabError
from recell_lab.hosts import Host
from recell_lab.layer import HostSpec, Layer

MYSQL = "/var/lib/mysql"
MNESIA = "/var/lib/rabbitmq/mnesia"
DATABASES = ("keystone", "placement", "glance", "neutron", "nova", "nova_api", "nova_cell0")
FLAVORS = (("m1.tiny", 1, 64, 1, "1"), ("m1.small", 2, 128, 2, "2"))
SYNC_TIMEOUT = 600  # seconds
# What a change of makes the cache stale.
SOURCES = (
    "identity.py",
    "inside/make_flavors.py",
    "passwords.py",
    "prepared.py",
    "topology.py",
)
SERVERS = (topology.DATABASE, topology.CELL_DATABASE)
DEBIAN = ("mariadb-server", "rabbitmq-server", "erlang-base")


@dataclass(frozen=True)
class Prepared:
    """The prepared files of a cloud in the cache."""

    path: Path

    @property
    def passwords(self) -> Passwords:
        """The passwords that the files hold."""
        return Passwords.load(self.path / "passwords.json")

    def lay(self, host: Host) -> None:
        """Copy to a prepared host that does not run yet what belongs there."""
        for name, dest, owner in _trees(host.spec):
            Layer(host.upper()).hide(dest)
            host.copy_tree(self.path / name, dest, owner)


def _trees(spec: HostSpec) -> list[tuple[str, str, str]]:
    """(name in the cache, directory, owner) of what is kept of a host."""
    match spec.role:
        case "database":
            return [("mysql", MYSQL, "mysql:mysql")]
        case "database_cell2":
            return [("mysql", MYSQL, "mysql:mysql")]  # the same schemas; `second` makes them another Nova's
        case "database_cell":
            return [("mysql-cell", MYSQL, "mysql:mysql")]
        case "rabbitmq" | "rabbitmq_api" | "rabbitmq_cell2":
            return [(spec.name, MNESIA, "rabbitmq:rabbitmq")]
        case "services":
            return [
                ("fernet-keys", "/etc/keystone/fernet-keys", "keystone:keystone"),
                ("credential-keys", "/etc/keystone/credential-keys", "keystone:keystone"),
                ("images", "/var/lib/glance/images", "glance:glance"),
            ]
    return []


def place(cloud: Cloud) -> Path:
    """Where the prepared files of a cloud are, or will be."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *DEBIAN]
    versions = subprocess.run(query, capture_output=True, check=True).stdout
    here = Path(__file__).parent
    sources = [(here / name).read_bytes() for name in SOURCES]
    settings = [confs.mariadb_cnf(spec, cloud) for spec in SERVERS]
    settings += map(confs.rabbitmq_conf, topology.BROKERS)
    texts = [text.encode() for text in settings]
    key = packages.cache_key(packages.pins_file(cloud.nova).read_bytes(), versions, *sources, *texts)
    return state.CACHE_DIR / f"cloud-{cloud.nova}-{key[:16]}"


def ensure(cloud: Cloud, hosts: Mapping[str, Host], progress: Callable[[str], None]) -> Prepared:
    """The prepared files, made on the lab's hosts when there are none (they are off afterwards)."""
    path = place(cloud)
    if (path / "passwords.json").exists():
        return Prepared(path)
    progress("preparing databases and brokers, once (two minutes or so)")
    for stale in (*state.CACHE_DIR.glob(f"cloud-{cloud.nova}-*"), *state.CACHE_DIR.glob("new-*")):
        shutil.rmtree(stale)
    new = state.CACHE_DIR / f"new-{path.name}"
    new.mkdir(mode=0o700)
    passwords = Passwords.random()
    first = cloud.controllers[0]
    # Brokers for further cells are blank: nothing of them is kept. The second Nova's database is a copy.
    left = (*cloud.cell_brokers, *cloud.second_databases)
    kept = [spec for spec in cloud.foundation if spec not in left]
    used = [hosts[spec.name] for spec in (*kept, first)]
    by_name = {host.spec.name: host for host in used}
    _empty_database(new / "empty")
    for host in used:
        part = layout.part_of(host.spec, cloud, passwords)
        # Of Nova nothing runs yet, only its commands.
        units = () if host.spec == first else part.units
        host.prepare(part.files, _first_units(units))
        if host.spec in SERVERS:
            Layer(host.upper()).hide(MYSQL)
            host.copy_tree(new / "empty", MYSQL, "mysql:mysql")
    lab.at_once(used, Host.start)
    lab.at_once(used, Host.wait_ssh)
    with ThreadPoolExecutor(max_workers=2) as pool:
        brokers = pool.submit(_brokers, cloud, by_name, passwords, progress)
        databases = pool.submit(_databases, cloud, by_name, passwords, progress)
        for future in (databases, brokers):
            future.result()
    _keep(used, new, passwords)
    lab.at_once(used, Host.crash)
    new.rename(path)
    return Prepared(path)


def _first_units(units: Sequence[str]) -> list[str]:
    """Without those that would use brokers and databases before they are there."""
    return [unit for unit in units if unit not in ("neutron-server", "notification-consumer")]


def _empty_database(directory: Path) -> None:
    argv = [
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={directory}",
        "--auth-root-authentication-method=socket",
        "--skip-test-db",
        "--user=root",
    ]
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"mariadb-install-db failed: {done.stderr.decode(errors='replace')[-300:]}")


def _brokers(
    cloud: Cloud, hosts: Mapping[str, Host], passwords: Passwords, progress: Callable[[str], None]
) -> None:
    """Wait until the cluster has formed; make the users."""
    members = [hosts[spec.name] for spec in topology.BROKERS]
    spare = [hosts[spec.name] for spec in (*cloud.spare_brokers, *cloud.second_brokers)]
    for host in (*members, *spare):
        ready.wait(
            f"RabbitMQ on {host.spec.name} starts",
            lambda ip=host.spec.ip: ready.listens(ip, topology.BROKER_PORT),  # type: ignore[misc]
            180,
        )
    ready.wait("the brokers form a cluster", lambda: ready.running_brokers(members[0]) == 3, 120)
    users = (
        (members[0], "nova", passwords.mq_nova),
        (members[0], "neutron", passwords.mq_neutron),
    )
    for host, user, password in users:
        host.run(["rabbitmqctl", "-q", "add_user", user], input=f"{password}\n".encode())
        host.run(["rabbitmqctl", "-q", "set_permissions", "-p", "/", user, ".*", ".*", ".*"])
    # A blank one is as its package leaves it.
    for host in (members[0], *([] if cloud.cells_v1 else spare)):
        host.run(["rabbitmqctl", "-q", "delete_user", "guest"])
    # The last to stop knows most: when they start again the others wait for it.
    for host in (*reversed(members), *spare):
        host.run(["systemctl", "stop", "rabbitmq-server"])
    progress("the brokers are prepared")


def _databases(
    cloud: Cloud, hosts: Mapping[str, Host], passwords: Passwords, progress: Callable[[str], None]
) -> None:
    """Make databases, schemas and first entries."""
    first = hosts[cloud.controllers[0].name]
    database, services = hosts[topology.DATABASE.name], hosts[topology.SERVICES.name]
    ready.wait("MariaDB starts", lambda: ready.listens(topology.DATABASE.ip, 3306), 120)
    database.run(["mariadb"], input=_grants(passwords).encode())

    def nova() -> None:
        manage = ["nova-manage", "cell_v2"]
        first.run(["nova-manage", "api_db", "sync"], user="nova", timeout=SYNC_TIMEOUT)
        first.run([*manage, "map_cell0"], user="nova")
        cell1 = ["--database_connection", topology.CELL1_DATABASE]
        cell1 += ["--transport-url", topology.CELL1_TRANSPORT]
        if cloud.cells_v1:
            cell1 = []  # literal ones, from nova.conf, as `cell_v2 simple_cell_setup` of that age wrote
        first.run([*manage, "create_cell", "--name", "cell1", *cell1], user="nova")
        first.run(["nova-manage", "db", "sync"], user="nova", timeout=SYNC_TIMEOUT)
        script = parts.inside("make_flavors.py", cloud).decode()
        interpreter = first.run(["readlink", "/usr/bin/nova-manage"]).stdout.decode().strip()
        python = str(Path(interpreter).parent / "python")
        flavors = json.dumps(FLAVORS).encode()
        first.run([python, "-c", script], input=flavors, user="nova")
        progress("Nova's schemas are made")

    def others() -> None:
        keystone = ["keystone-manage", "--config-dir", "/etc/keystone"]
        owner = ["--keystone-user", "keystone", "--keystone-group", "keystone"]
        services.run([*keystone, "db_sync"], user="keystone", timeout=SYNC_TIMEOUT)
        services.run([*keystone, "fernet_setup", *owner])
        services.run([*keystone, "credential_setup", *owner])
        services.run(["glance-manage", "db_sync"], user="glance", timeout=SYNC_TIMEOUT)
        services.run(["placement-manage", "db", "sync"], user="placement", timeout=SYNC_TIMEOUT)
        identity.bootstrap(services, passwords)
        ready.wait("Keystone answers", lambda: answers(topology.public_url("keystone", "/v3")), 120)
        identity.fill(passwords)
        ready.wait("Glance answers", lambda: answers(topology.public_url("glance-api", "/")), 120)
        identity.upload_image(passwords)
        progress("Keystone and Glance are filled")
        upgrade = ["neutron-db-manage", "--config-file", "/etc/neutron/neutron.conf"]
        services.run([*upgrade, "upgrade", "heads"], user="neutron", timeout=SYNC_TIMEOUT)
        progress("Neutron's schema is made")

    with ThreadPoolExecutor(max_workers=2) as pool:
        for future in [pool.submit(nova), pool.submit(others)]:
            future.result()
    # What led here is nobody's business: the binary log begins with the cloud.
    database.run(["mariadb"], input=b"RESET MASTER;")
    database.run(["systemctl", "stop", "mariadb"])
    empty = hosts[topology.CELL_DATABASE.name]
    ready.wait("the second MariaDB starts", lambda: ready.listens(topology.CELL_DATABASE.ip, 3306), 120)
    empty.run(["mariadb"], input=b"RESET MASTER;")
    empty.run(["systemctl", "stop", "mariadb"])


def _grants(passwords: Passwords) -> str:
    """The SQL that makes databases and accounts; passwords are hexadecimal digits."""
    owners = {name: "nova" if name.startswith("nova") else name for name in DATABASES}
    accounts = {
        "nova": passwords.db_nova,
        "keystone": passwords.db_keystone,
        "placement": passwords.db_placement,
        "glance": passwords.db_glance,
        "neutron": passwords.db_neutron,
    }
    lines = [f"CREATE USER '{user}'@'%' IDENTIFIED BY '{pw}';" for user, pw in accounts.items()]
    for name, owner in owners.items():
        lines.append(f"CREATE DATABASE {name} CHARACTER SET utf8mb3;")
        lines.append(f"GRANT ALL ON {name}.* TO '{owner}'@'%';")
    return "\n".join(lines) + "\n"


def _keep(hosts: Sequence[Host], new: Path, passwords: Passwords) -> None:
    """Copy what the hosts made to the cache; the passwords last, they say that it is whole."""
    shutil.rmtree(new / "empty")
    for host in hosts:
        for name, directory, _ in _trees(host.spec):
            source = host.upper() / directory.lstrip("/")
            # Not shutil: it would take the overlay's own extended attributes along.
            argv = ["cp", "-R", "--no-dereference", "--preserve=mode", str(source), str(new / name)]
            subprocess.run(argv, check=True)
    passwords.save(new / "passwords.json")
