"""A standard Nova of Stein as scan finds it: two controllers, two computes, hosts for an API cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
from recell.model.layout import load_any_layout
from recell.model.layout_v1 import CELLS_V1_EXAMPLE, CellsV1Layout
from recell.planning.draft import CELL0

CONF = "/etc/nova/nova.conf"
RABBIT = "rabbit://nova:***@mq1:5672,nova:***@mq2:5672,nova:***@mq3:5672/"
DATABASE = "mysql+pymysql://nova:***@db1:3306/nova"
API_DATABASE = "mysql+pymysql://nova:***@db1:3306/nova_api"
CONTROL: tuple[Role, ...] = ("api", "scheduler", "conductor", "consoleauth", "novncproxy", "cells")
API_CELL: tuple[Role, ...] = ("api", "consoleauth", "novncproxy", "cells")


def service(
    host: str, role: Role, *, configured: bool = True, active: bool = True, **more: Any
) -> NovaService:
    unit = f"nova-{role}"
    compute = role == "compute"
    made = NovaService(
        host=host,
        unit=unit,
        role=role,
        argv=(f"/usr/bin/{unit}",),
        user="nova",
        active=active,
        enabled=active,
        started_at=1.0,
        main_pid=7 if active else 0,
        config_files=(CONF,),
        explicit_config=False,
        nova_host=host,
        transport_url=RABBIT if configured else "",
        notification_url="",
        database=DATABASE if configured and not compute else "",
        api_database=API_DATABASE if configured and not compute else "",
        port=8774 if role == "api" and active else 0,
        fragment=f"/etc/systemd/system/{unit}.service",
        options={"DEFAULT/enabled_apis": "osapi_compute,metadata"} if role == "api" else {},
        origins=dict.fromkeys(("DEFAULT/transport_url", "database/connection"), CONF) if configured else {},
    )
    return replace(made, **more)


def _host(name: str, number: int) -> HostFacts:
    files = (ConfigFile(CONF, f"{number:064x}", 0o640, "root", "nova"),)
    nova = name.startswith(("ctl", "api", "cmp"))
    return HostFacts(
        name, Address(f"10.1.0.{number}"), (f"10.1.0.{number}",), name, "debian", "nft", files if nova else ()
    )


def stein(**changes: Any) -> Deployment:
    """``changes``: fields of the Deployment."""
    names = ["lb1", "ctl1", "ctl2", "api1", "api2", "db1", "db2", "cmp1", "cmp2"]
    names += [f"mq{n}" for n in range(1, 7)]
    services = [service(h, r, active=r != "cells") for h in ("ctl1", "ctl2") for r in CONTROL]
    services += [service(h, r, configured=False, active=False) for h in ("api1", "api2") for r in API_CELL]
    services += [service(h, "compute") for h in ("cmp1", "cmp2")]
    hosts = tuple(_host(name, number) for number, name in enumerate(names, 1))
    addresses = {h.name: h.address.host for h in hosts}
    made = Deployment(
        format=1,
        generation="v2",
        made_at=0.0,
        nova_version="19.3.2",
        hosts=hosts,
        services=tuple(services),
        brokers=(
            Broker("mq1", ("mq1", "mq2", "mq3"), ("rabbit@mq1",), "3.10.8", ("/",)),
            Broker("mq4", ("mq4", "mq5", "mq6"), ("rabbit@mq4",), "3.10.8", ("/",)),
        ),
        clients=(),
        mappings=(
            CellMapping(CELL0, "cell0", "", "none:///", "", DATABASE + "_cell0", False, False, "a"),
            CellMapping("c1", "cell1", "", RABBIT, "", DATABASE, False, False, "b"),
        ),
        records=(),
        proxies=tuple(
            ProxyBackendServer(
                "lb1", backend, h, f"{addresses[h]}:{port}", "up", h if unit else "", unit
            )
            for backend, port, unit in (
                ("nova-api", 8774, "nova-api"), ("nova-api-metadata", 8775, ""),
                ("nova-novncproxy", 6080, "nova-novncproxy"),
            )
            for h in ("ctl1", "ctl2")
        ),
        writers=(),
    )
    return replace(made, **changes)


def layout_v1(text: str = CELLS_V1_EXAMPLE) -> CellsV1Layout:
    found = load_any_layout(text, "layout.yaml")
    assert isinstance(found, CellsV1Layout)
    return found
