"""Clouds of other shapes than the standard one: what planning reads of them, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recell.adapters.conf import parse_config
from recell.adapters.ports import Finished, ProxyServer
from recell.discovery.brokers import hostnames
from recell.discovery.scan import led_to, with_aliases
from recell.discovery.services import find_services
from recell.errors import Unsupported
from recell.model.deployment import Address, Deployment, NovaService
from recell.model.plan import PlanStep
from recell.model.urls import parse_url
from recell.planning.changes import Change, apply_changes
from recell.planning.draft import edited_file
from recell.planning.names import called_like
from recell.planning.split import is_split, plan_split
from recell.preflight import live
from recell.steps.base import Context
from recell.steps.files import SiblingUnit
from tests.sim.cloud import LAYOUT, REMOVE, build, layout, scan
from tests.sim.world import SimFile
from tests.unit.test_discovery import CONF, Paper, as_host


def standard(**same: str) -> Deployment:
    """The simulated cloud; ``same``: fields that every service has alike."""
    found = scan(build(2))
    return replace(found, services=tuple(_with(s, same) for s in found.services))


def _with(service: NovaService, same: dict[str, str]) -> NovaService:
    return replace(service, **same)  # type: ignore[arg-type]


def no_mapping(cell: str) -> str:
    raise AssertionError(f"nobody asked for {cell}")


@pytest.mark.parametrize(("path", "vhost"), [
    ("", "/"), ("nova", "nova"), ("/nova", "/nova"), ("%2Fnova", "/nova"), ("%2F", "/"), ("a%20b", "a b"),
])  # fmt: skip
def test_a_vhost_is_all_behind_one_slash(path: str, vhost: str) -> None:
    url = parse_url(f"rabbit://nova:pw@mq1:5671/{path}?ssl=1")
    assert url.vhost == vhost
    assert url.with_vhost(vhost).vhost == vhost and url.with_vhost(vhost).query == "ssl=1"


def test_a_vhost_that_begins_with_a_slash_is_kept() -> None:
    """OpenStack-Ansible's: rabbit://.../ and then the vhost /nova."""
    plan = plan_split(standard(transport_url="rabbit://nova:***@mq1:5671,nova:***@mq2:5671//nova?ssl=1"),
                      layout(), 0.0)  # fmt: skip
    account = next(s for s in plan.steps if s.kind == "broker-account")
    assert account.params["vhost"] == "/nova"
    (change,) = {str(c): c for s in plan.steps if s.kind == "edit-config" for c in s.params["changes"]
                 if c["op"] == "nodes"}.values()  # fmt: skip
    before = "[DEFAULT]\ntransport_url = rabbit://nova:pw@mq1:5671//nova?ssl=1\n"
    text = apply_changes(before, [change], no_mapping)
    assert text == "[DEFAULT]\ntransport_url = rabbit://nova:pw@mq4:5672//nova?ssl=1\n"


def test_another_vhost_is_written_as_rabbitmq_spells_it() -> None:
    change: Change = {
        "section": "DEFAULT", "option": "transport_url", "op": "nodes",
        "nodes": [["mq4", 5672]], "vhost": "my vhost",
    }  # fmt: skip
    text = apply_changes("[DEFAULT]\ntransport_url = rabbit://nova:pw@mq1/nova\n", [change], no_mapping)
    assert text == "[DEFAULT]\ntransport_url = rabbit://nova:pw@mq4:5672/my%20vhost\n"


def _elsewhere(deployment: Deployment, role: str, **fields: str) -> Deployment:
    """The same cloud, in which the services of one role differ."""
    return replace(
        deployment,
        services=tuple(_with(s, fields) if s.role == role else s for s in deployment.services),
    )


def test_an_api_level_on_a_vhost_of_its_own_is_split_off_already() -> None:
    """DevStack's: one broker, the cell's services on the vhost nova_cell1."""
    cell = "rabbit://nova:***@mq1:5672/nova_cell1"
    found = _elsewhere(standard(), "compute", transport_url=cell)
    assert is_split(found) and not is_split(standard())
    with pytest.raises(Unsupported, match="split off already"):
        plan_split(found, layout(), 0.0)


def test_services_on_other_vhosts_of_one_broker_are_refused() -> None:
    found = _elsewhere(standard(), "scheduler", transport_url="rabbit://nova:***@mq1:5672/other")
    with pytest.raises(Unsupported, match="nova-scheduler on ctl1 is on another broker or vhost"):
        plan_split(found, layout(), 0.0)


def test_every_door_of_a_service_is_known() -> None:
    """nova-api that answers for metadata too stands in two backends; both are drained, and the API's own is
    the one that is asked."""
    found = standard()
    api = next(s for s in found.role("api") if s.host == "ctl1")
    facts = replace(found.host("ctl1"), ips=("10.1.0.2", "fd00::2"))
    both = [(facts, (replace(api, port=8774, ports=(8774, 8775)),))]

    def leads(address: str, proxy: str = "lb1") -> tuple[str, str]:
        entry = led_to(proxy, ProxyServer("b", "s", address, "UP", 0, 0), both)
        return entry.host, entry.unit

    assert leads("10.1.0.2:8774") == leads("10.1.0.2:8775") == leads("[fd00::2]:8775") == ("ctl1", "nova-api")
    assert leads("10.1.0.2:8776") == leads("10.1.0.3:8774") == leads("10.1.0.2:") == ("", "")
    assert leads("127.0.0.1:8774", "ctl1") == ("ctl1", "nova-api") and leads("127.0.0.1:8774") == ("", "")


def test_metadata_that_nova_api_answers_is_drained_with_it() -> None:
    found = standard()
    more = [
        replace(p, backend="metadata", address=f"{p.address.partition(':')[0]}:8775") for p in found.proxies
    ]
    plan = plan_split(replace(found, proxies=(*more, *found.proxies)), layout(), 0.0)
    drain = next(s for s in plan.steps if s.id == "ctl1/drain")
    assert [t["backend"] for t in drain.params["servers"]] == ["nova-api", "metadata"]
    restart = next(s for s in plan.steps if s.id == "ctl1/nova-api")
    assert restart.params["url"].endswith(":8774/")


def test_nodes_are_found_on_hosts_that_call_themselves_by_long_names() -> None:
    """rabbit@ctl1 runs on a host whose hostname is ctl1.example.org, in every distribution's default."""
    one = standard().host("ctl1")
    found = hostnames(replace(one, name=n, hostname=h) for n, h in (
        ("a", "ctl1.example.org"), ("b", "ctl2"), ("c", "mq.one.example.org"), ("d", "mq.two.example.org")))
    assert found["ctl1"] == found["ctl1.example.org"] == "a" and found["ctl2"] == "b"
    assert "mq" not in found and found["mq.two.example.org"] == "d"


@pytest.mark.parametrize(("example", "hostname", "ips", "address", "called"), [
    ("mq1", "mq4", ("10.0.0.4",), "10.0.0.4", "mq4"),
    ("mq1.in.example.org", "mq4", ("10.0.0.4",), "10.0.0.4", "mq4.in.example.org"),
    ("rabbit.example.org", "mq4", ("10.0.0.4",), "10.0.0.4", "mq4"),
    ("mq1.example.org", "mq4.example.org", ("10.0.0.4",), "10.0.0.4", "mq4.example.org"),
    ("10.1.0.1", "mq4", ("192.168.0.4", "10.1.0.4", "10.1.0.99"), "192.168.0.4", "10.1.0.4"),
    ("10.1.0.1", "mq4", ("10.1.0.4",), "mq4", "10.1.0.4"),
    ("10.1.0.1", "mq4", ("172.16.0.4",), "172.16.0.4", "172.16.0.4"),
    ("fd00::1", "mq4", ("10.1.0.4", "fd00::4"), "10.1.0.4", "fd00::4"),
    ("fd00::1", "mq4", (), "mq4", "mq4"),
])  # fmt: skip
def test_a_new_node_is_called_as_the_old_ones_are(
    example: str, hostname: str, ips: tuple[str, ...], address: str, called: str
) -> None:
    found = standard()
    new = replace(found.host("mq4"), hostname=hostname, ips=ips, address=Address(address))
    assert called_like(found, example, new) == called


@pytest.mark.parametrize(("path", "argv"), [
    ("/etc/nova/nova.conf.d/90-site.conf", ("/usr/bin/nova-conductor",)),
    ("/etc/nova/site/x.conf", ("/usr/bin/nova-conductor", "--config-dir=/etc/nova/site/")),
])  # fmt: skip
def test_urls_in_a_configuration_directory_are_refused(path: str, argv: tuple[str, ...]) -> None:
    """A file of the cell's own would be named on the command line, and such a directory is read after it."""
    origins = dict.fromkeys(("DEFAULT/transport_url", "database/connection"), path)
    found = standard()
    services = tuple(
        replace(s, argv=argv, origins=origins, config_files=("/etc/nova/nova.conf", path))
        if s.role == "conductor" else s
        for s in found.services
    )  # fmt: skip
    with pytest.raises(Unsupported, match="in a configuration directory that every service there reads"):
        plan_split(replace(found, services=services), layout(), 0.0)


def test_urls_in_the_environment_are_refused() -> None:
    host = Paper({"/etc/nova/nova.conf": CONF}, {"nova-conductor": ("/usr/bin/nova-conductor",)},
                 ("OS_DEFAULT__TRANSPORT_URL=rabbit://nova:pw@mq9/",
                  "OS_DATABASE__CONNECTION=mysql://n:p@d/n"))  # fmt: skip
    (service,) = find_services(as_host(host), "ctl1").services
    assert service.transport_url == "rabbit://nova:***@mq9/"
    with pytest.raises(Unsupported, match="takes its URLs from its environment"):
        edited_file(service)


def test_options_that_name_others_are_filled_in() -> None:
    config = parse_config([("nova.conf", b"""[DEFAULT]
my_ip = 10.0.0.1
transport_url = rabbit://nova:a$$b@$my_ip:5672/${site.vhost}
other = \\$my_ip $nothing
me = $me
[site]
vhost = v-$name
name = one
[database]
connection = mysql://nova:pw@${my_ip}/$name
""")])
    assert config.get("DEFAULT", "transport_url") == "rabbit://nova:a$b@10.0.0.1:5672/v-one"
    assert config.get("DEFAULT", "other") == "$my_ip $nothing" and config.get("DEFAULT", "me") == "$me"
    assert config.get("database", "connection") == "mysql://nova:pw@10.0.0.1/$name"


def test_a_password_with_a_dollar_stays_the_same() -> None:
    changes: list[Change] = [
        {"section": "DEFAULT", "option": "transport_url", "op": "nodes", "nodes": [["mq4", 5672]]},
        {"section": "database", "option": "connection", "op": "mapping", "cell": "c0"},
    ]
    before = "[DEFAULT]\ntransport_url = rabbit://nova:a$$b@mq1/\n[database]\nconnection = mysql://n:x@d/n\n"
    after = apply_changes(before, changes, lambda cell: "mysql://nova:a$b@d/nova_cell0")
    config = parse_config([("nova.conf", after.encode())])
    assert parse_url(config.get("DEFAULT", "transport_url")).endpoints[0].password == "a$b"
    assert config.get("database", "connection") == "mysql://nova:a$b@d/nova_cell0"


def test_an_edit_that_can_not_be_made_is_told_before_anything_is_changed() -> None:
    world = build(2)
    found = scan(world)
    plan = plan_split(found, layout(), 0.0)
    assert not list(live._edits(world, plan))
    file = world.hosts["ctl2"].files["/etc/nova/nova.conf"]
    world.hosts["ctl2"].files["/etc/nova/nova.conf"] = SimFile(
        file.content.replace(b"@mq1:5672", b"@$my_ip:5672"), file.mode, file.owner, file.group, file.mtime
    )
    told = list(live._edits(world, plan))
    assert {v.id for v in told} == {"edit:ctl2:/etc/nova/nova.conf"}
    assert "transport_url is written with the names of other options" in told[0].what


def test_names_that_urls_use_are_those_of_hosts() -> None:
    """As whoever uses the URL resolves them: from DNS, or /etc/hosts, where a host calls itself 127.0.1.1."""
    found = standard()
    facts = [replace(found.host(n), ips=(ip,)) for n, ip in (("ctl1", "10.1.0.2"), ("mq1", "10.1.0.5"))]
    table = {
        "rabbit.example.org": b"10.1.0.5 STREAM\n10.1.0.5 DGRAM\n",
        "controller": b"127.0.1.1 STREAM x\n",
    }

    class Resolving(Paper):
        def query(self, argv: Any, **_: Any) -> Finished:
            assert argv[:2] == ["getent", "ahosts"] and argv[2] not in ("mq1", "10.1.0.9")
            return Finished(0 if argv[2] in table else 2, table.get(argv[2], b""), b"")

    urls = [
        ("ctl1", "rabbit://nova:***@rabbit.example.org:5672,nova:***@mq1/"),
        ("ctl1", "mysql://nova:***@controller/nova"),
        ("ctl1", "rabbit://nova:***@10.1.0.9,nova:***@nobody/"),
        ("ctl1", "none:///"),
    ]
    seen = with_aliases(facts, {"ctl1": as_host(Resolving({}))}, urls)
    assert {f.name: f.aliases for f in seen} == {"ctl1": ("controller",), "mq1": ("rabbit.example.org",)}
    others = (h for h in found.hosts if h.name not in ("ctl1", "mq1"))
    broker = replace(found, hosts=(*others, *seen)).broker_of("rabbit://nova:***@rabbit.example.org/")
    assert broker is not None and broker.name == "mq1"


@pytest.mark.parametrize("text", [LAYOUT, REMOVE])
def test_several_conductors_on_a_host_get_one_super_conductor(text: str) -> None:
    """nova-conductor@1 and @2."""
    found = standard()
    first = next(s for s in found.role("conductor") if s.host == "ctl1")
    others = [s for s in found.services if s is not first]
    two = [replace(first, unit=f"nova-conductor@{n}", main_pid=n) for n in (1, 2)]
    plan = plan_split(replace(found, services=(*others, *two)), layout(text), 0.0)
    ids = [s.id for s in plan.steps]
    assert len(set(ids)) == len(ids)
    model = next(s for s in plan.steps if s.id == "ctl1/super-unit")
    assert model.params["model"] == "nova-conductor@1"
    if text == REMOVE:
        order = ["ctl1/undo-nova-conductor@1", "ctl1/undo-nova-conductor@2", "ctl1/no-api-database",
                 "ctl1/nova-conductor@1", "ctl1/nova-conductor@2"]  # fmt: skip
        assert [i for i in ids if i in order] == order


def test_a_unit_modelled_on_an_instance_has_its_name_filled_in() -> None:
    world = build(2)
    host = world.hosts["ctl1"]
    content = b"[Service]\nSyslogIdentifier=conductor-%i\nExecStart=/usr/bin/nova-conductor\n"
    host.files["/lib/systemd/system/nova-conductor@1.service"] = SimFile(content, 0o644, "root", "root", 1.0)
    spec = PlanStep(
        "ctl1/super-unit", "sibling-unit", "ctl1", "", "", "", "finish", "both", 1.0,
        {"path": "/etc/systemd/system/nova-super-conductor.service", "unit": "nova-super-conductor",
         "model": "nova-conductor@1", "argv": ["/usr/bin/nova-conductor"], "description": "d"},
    )  # fmt: skip
    remembered: dict[str, Any] = {}
    journal = SimpleNamespace(
        recall=lambda step, key, default=None: remembered.get(key, default),
        remember=lambda step, key, value: remembered.update({key: value}),
    )
    step = SiblingUnit(spec, cast(Context, SimpleNamespace(world=world, journal=journal, keep="p")))
    text = step.content(b"")[0].decode()
    assert "SyslogIdentifier=conductor-1\n" in text and "%i" not in text
