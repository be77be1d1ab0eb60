"""The standard deployment, simulated: two (or more) controllers, one broker, templates in cell1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from recell.adapters.ports import RawMapping
from recell.model.deployment import (
    Address,
    Broker,
    CellMapping,
    ConfigFile,
    Deployment,
    HostFacts,
    NovaService,
    ProxyBackendServer,
    Role,
)
from recell.model.layout import Layout, load_layout
from recell.model.urls import parse_url
from recell.planning.templates import resolve_template
from tests.sim.world import (
    API_START_S,
    CELL0,
    CELL1,
    SimBroker,
    SimFile,
    SimHost,
    SimProxy,
    SimUnit,
    SimWorld,
)

BROKER_URL = "rabbit://nova:s3cret@mq1:5672,nova:s3cret@mq2:5672/"
DB_URL = "mysql+pymysql://nova:dbpw@db1/nova?charset=utf8mb4"
CELL0_URL = "mysql+pymysql://nova:dbpw@db1/nova_cell0?charset=utf8mb4"
BLANKS = "   "  # some editors leave them
NOVA_CONF = f"""\
# The configuration of Nova on this host.
[DEFAULT]
# how to reach the message bus
transport_url = {BROKER_URL}
debug = false

[database]
connection = {DB_URL}{BLANKS}

[api_database]
connection = mysql+pymysql://nova:dbpw@db1/nova_api

[oslo_messaging_notifications]
driver = messagingv2
"""
COMPUTE_CONF = f"[DEFAULT]\ntransport_url = {BROKER_URL}\n"
LAYOUT = """\
generation: v2
api:
  broker:
    nodes: [mq4]
cells:
  cell1: {}
"""
ROLES: dict[str, Role] = {
    "nova-compute": "compute",
    "nova-api": "api",
    "nova-scheduler": "scheduler",
    "nova-conductor": "conductor",
    "nova-novncproxy": "novncproxy",
}


def layout(text: str = LAYOUT) -> Layout:
    return load_layout(text, "layout.yaml")


def build(
    controllers: int = 2,
    *,
    templated: bool = True,
    make: Callable[[], SimWorld] = SimWorld,
    host_of: Callable[[SimWorld, str], SimHost] = SimHost,
) -> SimWorld:
    world = make()
    names = [f"ctl{n}" for n in range(1, controllers + 1)]
    for name in (*names, "cmp1", "cmp2"):
        host = world.hosts[name] = host_of(world, name)
        conf, units = (NOVA_CONF, list(ROLES)[1:]) if name in names else (COMPUTE_CONF, ["nova-compute"])
        host.files["/etc/nova/nova.conf"] = SimFile(conf.encode(), 0o640, "root", "nova", world.time - 1000)
        for unit in units:
            text = f"[Unit]\nDescription={unit}\n\n[Service]\nUser=nova\nExecStart=/usr/bin/{unit}\n"
            host.files[f"/lib/systemd/system/{unit}.service"] = SimFile(
                text.encode(), 0o644, "root", "root", world.time - 2000
            )
            host.units_[unit] = SimUnit(unit, enabled=True, loaded=(f"/usr/bin/{unit}",))
    for name in ("db1", "db2"):
        world.hosts[name] = host_of(world, name)
    old = SimBroker(world, "mq1", ["mq1", "mq2"])
    old.user_map["nova"] = "s3cret"
    old.permits["/", "nova"] = (".*", ".*", ".*")
    world.brokers = {"mq1": old, "mq4": SimBroker(world, "mq4", ["mq4"])}
    world.proxies = {"lb1": SimProxy(world, "lb1", {"nova-api": names})}
    database = world.database
    raw = (
        (
            "{scheme}://{username1}:{password1}@{hostname1}:{port1},"
            "{username2}:{password2}@{hostname2}:{port2}/"
        )
        if templated
        else BROKER_URL
    )
    database.rows = (
        RawMapping(CELL0, "cell0", "none:///", CELL0_URL, False),
        RawMapping(
            CELL1,
            "cell1",
            raw,
            "{scheme}://{username}:{password}@{hostname}/{path}?{query}" if templated else DB_URL,
            False,
        ),
    )
    database.cell1_truth = "|".join(
        (
            resolve_template(database.rows[1].transport_url, BROKER_URL),
            resolve_template(database.rows[1].database_connection, DB_URL),
        )
    )
    for host in world.hosts.values():
        for process in host.units_.values():
            host.begin(process)
            process.started_at -= 500 + API_START_S
    return world


def _shown(raw: str, own: str) -> str:
    return parse_url(resolve_template(raw, own)).shown() if raw else ""


def scan(world: SimWorld) -> Deployment:
    """What discovery would find."""
    hosts: list[HostFacts] = []
    services: list[NovaService] = []
    for name, host in world.hosts.items():
        files = tuple(
            ConfigFile(p, hashlib.sha256(f.content).hexdigest(), f.mode, f.owner, f.group)
            for p, f in sorted(host.files.items())
            if p.startswith("/etc/nova/")
        )
        hosts.append(
            HostFacts(
                name,
                Address(name),
                (f"10.0.0.{len(hosts)}",),
                name,
                "debian",
                "nft",
                files,
                "/usr/bin/nova-manage",
            )
        )
        for unit in host.units_.values():
            state = host.unit(unit.name)
            role: Role | None = "conductor" if "super-conductor" in unit.name else ROLES.get(unit.name)
            if role is None or not state.exists:
                continue
            argv = list(unit.loaded)
            named = tuple(argv[i + 1] for i, w in enumerate(argv) if w == "--config-file")
            files_read = named or ("/etc/nova/nova.conf",)
            services.append(
                NovaService(
                    host=name,
                    unit=unit.name,
                    role=role,
                    argv=unit.loaded,
                    user="nova",
                    active=unit.active,
                    enabled=unit.enabled,
                    started_at=unit.started_at,
                    main_pid=unit.pid,
                    config_files=files_read,
                    explicit_config=bool(named),
                    nova_host=name,
                    transport_url=parse_url(unit.config["transport_url"]).shown(),
                    notification_url="",
                    database=_shown(unit.config["connection"], ""),
                    api_database=_shown(unit.config["api"], ""),
                    port=8774,
                    fragment=state.fragment,
                    dropins=state.dropins,
                    options={"oslo_messaging_notifications/driver": "messagingv2"},
                    origins=dict.fromkeys(("DEFAULT/transport_url", "database/connection"), files_read[0]),
                )
            )
    for broker in world.brokers.values():
        for node in [h for h, b in world.broker_of_host.items() if b == broker.name]:
            hosts.append(HostFacts(node, Address(node), (f"10.0.1.{len(hosts)}",), node, "debian", "nft"))
    return Deployment(
        format=1,
        generation="v2",
        made_at=0.0,
        nova_version="33.0.2",
        hosts=tuple(hosts),
        services=tuple(services),
        brokers=tuple(
            Broker(
                b.name,
                tuple(h for h, n in world.broker_of_host.items() if n == b.name),
                b.running_nodes(),
                "3.10.8",
                tuple(b.vhost_set),
            )
            for b in world.brokers.values()
        ),
        clients=(),
        mappings=tuple(
            CellMapping(
                m.uuid,
                m.name,
                "",
                _shown(m.transport_url, BROKER_URL),
                "",
                _shown(m.database_connection, DB_URL),
                "{" in m.transport_url + m.database_connection,
                m.disabled,
                hashlib.sha256(f"{m}".encode()).hexdigest(),
            )
            for m in world.database.rows
        ),
        records=(),
        writers=(),
        proxies=tuple(
            ProxyBackendServer(p.host, s.backend, s.server, s.address, s.state, s.server, "nova-api")
            for p in world.proxies.values()
            for s in p.table
        ),
    )


REMOVE = LAYOUT.replace("cell1: {}", "cell1: {api_database: remove}")

MOVE = LAYOUT.replace("cell1: {}", "cell1: {database: {host: db2}}")
