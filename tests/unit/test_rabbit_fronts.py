"""Who of RabbitMQ's clients is a web service, which load balancers lead there, and which are Nova's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from recell.adapters.ports import Finished, ProcessInfo, UnitState
from recell.discovery.fronts import proxied, told_of_nova, with_balancers, with_doors
from recell.discovery.rabbit import oslo_paths
from recell.model.deployment import Address, Broker, Deployment, HostFacts, NovaService
from recell.model.rabbit import RabbitClient, RabbitNode
from tests.unit.test_rabbit import Host


class Front(Host):
    """A host of web services, and of the load balancer before them."""

    listening = ""

    def query(self, argv: Sequence[str], **more: Any) -> Finished:
        return Finished(0, self.listening.encode(), b"") if argv[0] == "ss" else super().query(argv, **more)

    def unit(self, name: str) -> UnitState:
        argv = {"haproxy.service": ("/usr/sbin/haproxy", "-f", "/etc/haproxy/haproxy.cfg")}
        there = name in ("haproxy.service", "neutron-server", "nova-api")
        return UnitState(
            name, there, "active", True, 7, 1.0, "", (), argv.get(name, ("/usr/bin/uwsgi",)), False
        )

    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        if b"servers state" in data:
            return (
                b"1\n# be_name srv_name srv_addr srv_port srv_admin_state\n"
                b"web one 10.0.0.7 9696 0\nweb two 10.0.0.8 9696 0\nother far 10.9.9.9 80 0\n"
            )
        rows = ["web,one,2,UP,0,0", "web,two,2,UP,0,0", "other,far,2,UP,0,0"]
        return ("# pxname,svname,type,status,scur,qcur\n" + "".join(f"{r}\n" for r in rows)).encode()

    def http_status(self, url: str, timeout: float = 30) -> int:
        return 200 if url == "http://10.0.0.7:9696/" else 0


def _fronts(config: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    lb, web = Front("lb1"), Front("net1")
    lb.found = (ProcessInfo(3, 1, ("/usr/sbin/haproxy",), "haproxy", 1.0, 1, "/"),)
    lb.files["/etc/haproxy/haproxy.cfg"] = config
    web.found = (
        ProcessInfo(
            42, 1, ("/usr/bin/uwsgi", "--ini", "x"), "neutron", 1.0, 1, "/system.slice/neutron-server.service"
        ),
    )
    web.listening = 'LISTEN 0 9 0.0.0.0:9696 0.0.0.0:* users:(("uwsgi",pid=42,fd=3))\n'
    facts = {
        "lb1": HostFacts("lb1", Address("10.0.0.5"), ("10.0.0.5",), "lb1", "", ""),
        "net1": HostFacts("net1", Address("10.0.0.7"), ("10.0.0.7",), "net1", "", ""),
    }
    return {"lb1": lb, "net1": web}, facts, {"lb1": lb.found, "net1": web.found}


def test_a_web_service_is_found_behind_its_load_balancer() -> None:
    hosts, facts, processes = _fronts(b"global\n stats socket /run/a.sock level admin\n")
    found, remarks = proxied(hosts, facts, processes)
    assert remarks == ()
    assert [(p.proxy, p.server, p.host, p.unit) for p in found] == [
        ("lb1", "one", "net1", "neutron-server"),
        ("lb1", "two", "", ""),
        ("lb1", "far", "", ""),
    ]
    client = RabbitClient("mq1", "/", "uwsgi", "10.0.0.7", "net1", "neutron-server", 1, ("rabbit@mq1",))
    deployment = Deployment(
        1, "none", 0.0, "", tuple(facts.values()), (), (), (), (), (), found, (), rabbit_clients=(client,)
    )
    (seen,) = with_doors(deployment, hosts).rabbit_clients
    assert seen.url == "http://10.0.0.7:9696/"
    (alone,) = with_doors(replace(deployment, proxies=()), hosts).rabbit_clients
    assert alone.url == "", "nothing answers where it listens"


def test_a_load_balancer_without_a_socket_is_remarked_and_ends_no_scan() -> None:
    hosts, facts, processes = _fronts(b"global\n maxconn 1\n")
    found, remarks = proxied(hosts, facts, processes)
    assert found == () and remarks[0].startswith("proxy-unread|lb1|") and "no admin socket" in remarks[0]


def test_a_wsgi_application_reads_what_its_environment_names() -> None:
    host: Any = Host()
    for path in ("/etc/neutron/neutron.conf", "/srv/n/one.conf", "/srv/n/two.conf"):
        host.files[path] = b""
    environment = {"OS_NEUTRON_CONFIG_DIR": "/srv/n", "OS_NEUTRON_CONFIG_FILES": "one.conf;two.conf"}
    argv = ("/usr/bin/uwsgi", "--ini", "x.ini")
    paths = oslo_paths(argv, "uwsgi", host, unit="neutron-server", environment=environment)
    assert paths == ("/srv/n/one.conf", "/srv/n/two.conf")
    assert oslo_paths(argv, "uwsgi", host, unit="neutron-server") == ("/etc/neutron/neutron.conf",)


def _base_and_service(url: str) -> tuple[Deployment, Any]:
    hosts = tuple(HostFacts(n, Address(n), (), n, "", "") for n in ("mq1", "ctl1"))
    node = RabbitNode(
        "mq1",
        "rabbit@mq1",
        "3.10.8",
        "25",
        ("rabbit@mq1",),
        ("rabbit@mq1",),
        (),
        (),
        "ignore",
        60.0,
        25672,
        0,
        (),
        "/etc/rabbitmq/rabbitmq.conf",
    )
    base = Deployment(
        1,
        "none",
        0.0,
        "",
        hosts,
        (),
        (Broker("mq1", ("mq1",), ("rabbit@mq1",), "3.10.8", ("/",)),),
        (),
        (),
        (),
        (),
        (),
        rabbit=(node,),
        rabbit_clients=(RabbitClient("mq1", "/", "uwsgi", "ctl1", "ctl1", "nova-api", 2, ("rabbit@mq1",)),),
    )

    def service(unit: str, role: Any, active: bool = True) -> NovaService:
        conf = "/etc/nova/nova.conf"
        return NovaService(
            "ctl1",
            unit,
            role,
            (),
            "nova",
            active,
            True,
            1.0,
            1,
            (conf,),
            False,
            "ctl1",
            url,
            "",
            "",
            "",
            origins={"DEFAULT/transport_url": conf},
        )

    return base, service


def test_novas_services_are_clients_even_when_they_say_nothing() -> None:
    base, service = _base_and_service("rabbit://nova:***@mq1:5672/")
    services = (
        service("nova-api", "api"),
        service("nova-metadata", "metadata"),
        service("nova-cert", "cert", False),
    )
    told = told_of_nova(base, replace(base, generation="v2", services=services, rabbit_clients=(), rabbit=()))
    assert told.generation == "v2" and told.rabbit == base.rabbit
    by_unit = {c.unit: c for c in told.rabbit_clients}
    assert set(by_unit) == {"nova-api", "nova-metadata"}
    assert by_unit["nova-api"].file == "/etc/nova/nova.conf" and by_unit["nova-api"].connections == 2
    silent = by_unit["nova-metadata"]
    assert (silent.connections, silent.nodes, silent.role) == (0, ("rabbit@mq1",), "metadata")


def test_a_load_balancer_before_rabbitmq_is_known_by_a_server_that_takes_from_its_queues() -> None:
    """Else a nova-api that is silent just now would be left behind, and cells' mappings would not follow."""
    url = "rabbit://nova:***@vip.example:5670/"
    base, service = _base_and_service(url)
    conductor = RabbitClient(
        "mq1", "/", "nova-conductor", "lb1", "ctl1", "nova-conductor", 2, ("rabbit@mq1",), ("conductor",)
    )
    base = replace(base, rabbit_clients=(conductor,))
    assert base.broker_of(url) is None
    services = (service("nova-conductor", "conductor"), service("nova-api", "api"))
    told = told_of_nova(base, replace(base, generation="v2", services=services, rabbit_clients=(), rabbit=()))
    assert {c.unit: c.nodes for c in told.rabbit_clients} == {
        "nova-conductor": ("rabbit@mq1",),
        "nova-api": ("rabbit@mq1",),
    }
    found = told.broker_of(url)
    assert found is not None and found.doors == ("vip.example:5670",)
    assert told.broker_of("rabbit://nova:***@vip.example:5671/") is None, "the port of another service"
    further = replace(conductor, shown=url, fixed=(("[notification] messaging_urls", "rabbit://else/"),))
    assert with_balancers(replace(base, rabbit_clients=(further,))).broker_of(url) is None
    other = replace(base.brokers[0], name="mq9", hosts=())
    two = (replace(conductor, shown=url), replace(conductor, cluster="mq9", shown=url))
    both = replace(base, brokers=(*base.brokers, other), rabbit_clients=two)
    assert with_balancers(both).broker_of(url) is None, "it can't lead to two"
