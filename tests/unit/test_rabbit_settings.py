"""Deployments of RabbitMQ as others set them up: networks, domains, TLS, further files and URLs; refused or
carried along."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from recell.adapters.ports import Finished, ProcessInfo
from recell.adapters.rabbit_settings import main_file, settings_of
from recell.discovery.rabbit import look_at_rabbit
from recell.errors import RecellError, Unsupported
from recell.model.deployment import (
    NOVA_UNREAD,
    Address,
    Deployment,
    HostFacts,
    dump_deployment,
    load_deployment,
)
from recell.model.plan import Plan
from recell.model.rabbit import NodeSettings, QueueHome, RabbitClient, RabbitNode
from recell.planning import bridge, rabbit_conf
from recell.planning.rabbit import plan_rabbit
from recell.preflight.rabbit import _ASK, check
from tests.sim.rabbit import HOSTS
from tests.sim.test_bridge import FRESH, build_fresh, scan_fresh
from tests.sim.test_rabbit import TEXT, build, layout, scan
from tests.unit.test_rabbit import SETTINGS, Host
from tests.unit.test_rabbit import _node as node_on

WILD = (("amqp", "::", 5672), ("clustering", "::", 25672))
TLS = (("amqp/ssl", "0.0.0.0", 5671),)


def nodes(found: Deployment, side: str, **changed: Any) -> Deployment:
    return replace(
        found, rabbit=tuple(replace(n, **changed) if HOSTS[n.host] == side else n for n in found.rabbit)
    )


def clients(found: Deployment, **changed: Any) -> Deployment:
    """Those that move."""
    moving = ("net1", "net2", "tel1")
    told = tuple(replace(c, **changed) if c.host in moving else c for c in found.rabbit_clients)
    return replace(found, rabbit_clients=told)


def hosts(found: Deployment, told: Mapping[str, Mapping[str, Any]]) -> Deployment:
    def changed(h: HostFacts) -> HostFacts:
        return replace(h, **told.get(h.name, {}))

    return replace(found, hosts=tuple(map(changed, found.hosts)))


def split(found: Deployment) -> Plan:
    return plan_rabbit(found, layout(TEXT), 0.0)


def refused(found: Deployment, text: str = TEXT) -> str:
    with pytest.raises(RecellError) as said:
        plan_rabbit(found, layout(text), 0.0)
    return str(said.value)


# -- what is refused -------------------------------------------------------------------------------


def test_a_cookie_that_no_file_changes_forbids_a_cut() -> None:
    found = nodes(scan(build()), "keep", settings=NodeSettings(cookie_given=True))
    assert "rabbit@mq1 has its Erlang cookie from its command line" in refused(found)
    fresh = nodes(scan_fresh(build_fresh()), "keep", settings=NodeSettings(cookie_given=True))
    assert plan_rabbit(fresh, layout(FRESH), 0.0).steps, "a fresh cluster leaves it alone"


@pytest.mark.parametrize("text", [TEXT, FRESH], ids=["split", "fresh"])
def test_a_node_that_would_join_others_when_it_is_blank_again(text: str) -> None:
    found = scan_fresh(build_fresh()) if text == FRESH else scan(build())
    prepared = nodes(found, "new", settings=NodeSettings(joins=("rabbit@mq5", "rabbit@mq6")))
    assert "rabbit@mq4 joins rabbit@mq5, rabbit@mq6 by itself when it starts blank" in refused(prepared, text)
    old = nodes(found, "keep", settings=NodeSettings(joins=("rabbit@mq2",)))
    assert plan_rabbit(old, layout(text), 0.0).steps, "the old nodes are never blank"


def test_what_both_clusters_would_run_after_the_cut() -> None:
    movers = NodeSettings(movers=("federation-upstream away", "shovel metering"))
    assert "both clusters would run" in refused(nodes(scan(build()), "keep", settings=movers))
    assert plan_rabbit(nodes(scan_fresh(build_fresh()), "keep", settings=movers), layout(FRESH), 0.0).steps
    ours = NodeSettings(movers=("shovel recell-bridge-1",))
    assert split(nodes(scan(build()), "keep", settings=ours)).steps


def test_a_server_of_two_vhosts() -> None:
    found = scan(build())
    server = next(c for c in found.rabbit_clients if c.host == "net1")
    quiet = replace(server, vhost="/n", queues=())
    assert split(replace(found, rabbit_clients=(*found.rabbit_clients, quiet))).steps, "it only sends there"
    two = replace(found, rabbit_clients=(*found.rabbit_clients, replace(quiet, queues=("metering",))))
    assert "neutron-server@net1 takes from queues in more than one vhost" in refused(two)


def test_the_coordinator_of_streams_that_are_gone_would_be_cut_too() -> None:
    found = nodes(scan(build()), "keep", coordinator=True)
    told = refused(found)
    assert "rabbit@mq1 keeps a coordinator of streams that are gone" in told and "ra:delete_cluster" in told
    left = (*found.rabbit_queues, QueueHome("/", "s", "stream", "rabbit@mq1", (), ()))
    told = refused(replace(found, rabbit_queues=left))
    assert "stream queues (s) can't be split" in told and "delete_cluster" not in told, "it is needed"
    bridged = nodes(scan_fresh(build_fresh()), "keep", coordinator=True)
    assert plan_rabbit(bridged, layout(FRESH), 0.0).steps, "nothing is cut"


def test_queues_that_end_with_their_last_taker() -> None:
    found = scan(build())
    said = refused(clients(found, auto_delete=True))
    assert "neutron-server@net1 takes from q-plugin, which end with their last taker" in said
    assert "would be lost" in said
    mine = tuple(replace(q, auto_delete=q.name == "q-plugin") for q in found.rabbit_queues)
    assert "(amqp_auto_delete)" in refused(replace(found, rabbit_queues=mine)), "whatever files say by now"
    silent = clients(found, auto_delete=True, queues=())
    assert split(silent).steps, "who only calls declares no queue but for its replies"
    stay = tuple(replace(c, auto_delete=c.host == "ctl1") for c in found.rabbit_clients)
    assert split(replace(found, rabbit_clients=stay)).steps, "it is not restarted"
    bridged = scan_fresh(build_fresh())
    stay = tuple(replace(c, auto_delete=c.host == "ctl1") for c in bridged.rabbit_clients)
    said = refused(replace(bridged, rabbit_clients=stay), FRESH)
    assert "@ctl1 takes from" in said, "a shovel takes from its namesake"


@pytest.mark.parametrize(
    ("text", "environment", "ends"),
    [
        ("[oslo_messaging_rabbit]\namqp_auto_delete = True\n", (), True),
        ("[DEFAULT]\namqp_auto_delete = yes\n", (), True),
        ("[DEFAULT]\namqp_auto_delete = 1\n[oslo_messaging_rabbit]\namqp_auto_delete = false\n", (), False),
        ("[oslo_messaging_rabbit]\n", (), False),
        ("", ("OS_OSLO_MESSAGING_RABBIT__AMQP_AUTO_DELETE=true",), True),
    ],
)
def test_a_client_s_word_on_its_queues_is_read(text: str, environment: tuple[str, ...], ends: bool) -> None:
    from recell.discovery.rabbit import _with_config

    host = Host("net1")
    host.files["/etc/neutron/neutron.conf"] = text.encode()
    unit, world = host.unit, cast("Any", host)
    world.unit = lambda name: replace(unit(name), environment=environment)
    base = RabbitClient("mq1", "/", "neutron-server", "ip", "net1", "neutron-server", 1, ("rabbit@mq1",))
    assert _with_config(base, world).auto_delete is ends


def test_a_port_that_is_not_known_can_not_be_walled_off() -> None:
    assert "on which port other nodes reach it" in refused(nodes(scan(build()), "new", dist_port=0))
    assert plan_rabbit(nodes(scan_fresh(build_fresh()), "keep", dist_port=0), layout(FRESH), 0.0).steps


def test_an_epmd_elsewhere_is_walled_off_where_it_is() -> None:
    found, moved = scan(build()), NodeSettings(epmd_port=14369)
    there = nodes(nodes(found, "keep", settings=moved), "new", settings=moved)
    plan = split(there)
    walls = [s.params["text"] for s in plan.steps if s.kind == "rabbit-apart"]
    assert len(walls) == 6 and all("14369, 25672" in text and " 4369" not in text for text in walls)
    assert any("keep ports 14369, 25672 closed" in r for r in plan.remarks)
    world: Any = Asked()
    assert not [v for v in check(there, layout(TEXT), world) if v.id.startswith("reach:")]
    assert "mq1:14369" in world.asked["mq5"] and "mq1:4369" not in world.asked["mq5"]
    told = "rabbit@mq4 looks for epmd on port 14369, rabbit@mq1 on 4369: it could not join"
    assert told in refused(nodes(found, "new", settings=moved))
    bridged = scan_fresh(build_fresh())
    assert plan_rabbit(nodes(bridged, "new", settings=moved), layout(FRESH), 0.0).steps, "two clusters"
    odd = tuple(replace(n, settings=moved) if n.host == "mq5" else n for n in bridged.rabbit)
    assert "rabbit@mq5 looks for epmd on port 14369" in refused(replace(bridged, rabbit=odd), FRESH)


def test_an_epmd_that_rabbitmqctl_is_not_told_of_is_said() -> None:
    def found(*environment: str) -> str:
        broker = Host()
        broker.code = 69
        argv = ("/usr/bin/beam.smp", "-boot", "x", "rabbit")
        broker.found = (ProcessInfo(1, 0, argv, "rabbitmq", 1.0, 1, "/"),)
        broker.files["/var/lib/rabbitmq/.erlang.cookie"] = b"C"
        unit, hosts = broker.unit, cast("Any", {"mq1": broker})
        hosts["mq1"].unit = lambda name: replace(unit(name), environment=environment)
        with pytest.raises(RecellError) as said:
            look_at_rabbit(hosts, {"mq1": Address("mq1")}, 0.0)
        return str(said.value)

    told = found("ERL_EPMD_PORT=14369")
    assert "RabbitMQ on mq1 has epmd's port (14369) from its unit's environment" in told
    assert "Say ERL_EPMD_PORT in rabbitmq-env.conf" in told
    assert "RabbitMQ does not answer on mq1" in found()


def test_a_later_file_that_sets_the_same_keys() -> None:
    found = nodes(scan(build()), "new", elsewhere="/etc/rabbitmq/conf.d/50-cluster.conf")
    assert "/etc/rabbitmq/conf.d/50-cluster.conf, which rabbit@mq4 reads after" in refused(found)


def test_nodes_of_one_name() -> None:
    found = scan_fresh(build_fresh())
    same = tuple(replace(n, name="rabbit@mq1") if n.host == "mq4" else n for n in found.rabbit)
    assert "nodes on both sides call themselves rabbit@mq1" in refused(replace(found, rabbit=same), FRESH)


@pytest.mark.parametrize("text", [TEXT, FRESH], ids=["split", "fresh"])
def test_new_nodes_that_do_not_listen_where_clients_connect(text: str) -> None:
    found = scan_fresh(build_fresh()) if text == FRESH else scan(build())
    found = nodes(nodes(found, "keep", settings=NodeSettings(listeners=WILD)), "new", settings=NodeSettings())
    assert plan_rabbit(found, layout(text), 0.0).steps, "unknown is not refused"
    tls = nodes(found, "new", settings=NodeSettings(listeners=TLS))
    assert "rabbit@mq4 does not listen for amqp on port 5672, to which" in refused(tls, text)
    other = clients(found, shown="rabbit://os:***@vip:5670/")
    wild = nodes(other, "new", settings=NodeSettings(listeners=WILD))
    assert "amqp on port 5670" in refused(wild, text), "the port is a load balancer's"
    mixed = nodes(found, "new", settings=NodeSettings(listeners=(("amqp/ssl", "::", 5672),)))
    assert "does not listen for amqp on port 5672" in refused(mixed, text)
    assert plan_rabbit(nodes(found, "new", settings=NodeSettings(listeners=WILD)), layout(text), 0.0).steps


def test_a_url_that_recell_does_not_edit() -> None:
    found = clients(scan(build()), fixed=(("[notification] messaging_urls", "rabbit://os:***@mq1:5672/"),))
    assert "[notification] messaging_urls leads it to the old nodes as well" in refused(found)
    away = clients(scan(build()), fixed=(("[notification] messaging_urls", "rabbit://os:***@else:5672/"),))
    assert split(away).steps


# -- what is carried along -------------------------------------------------------------------------


def _changes(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    return {s.id: s.params["changes"] for s in plan.steps if s.kind == "edit-config"}


def test_notifications_go_along_where_their_url_leads_to_the_same_cluster() -> None:
    section, conf = "oslo_messaging_notifications", "/etc/neutron-server.conf"
    found = scan(build())
    told = tuple(
        replace(c, also=((conf, section, "rabbit://os:***@mq1:5672/notify"),)) if c.host == "net1" else c
        for c in found.rabbit_clients
    )
    changes = _changes(split(replace(found, rabbit_clients=told)))["net1/neutron-server-url"]
    assert [c["section"] for c in changes] == ["DEFAULT", section]
    assert changes[1]["nodes"] == [["mq4", 5672], ["mq5", 5672], ["mq6", 5672]]
    other = tuple(
        replace(c, also=(("/etc/x.conf", section, "rabbit://os:***@mq1:5672/"),)) if c.host == "net1" else c
        for c in found.rabbit_clients
    )
    ids = _changes(split(replace(found, rabbit_clients=other)))
    assert [c["section"] for c in ids["net1/neutron-server-url-2"]] == [section]
    away = tuple(replace(c, also=((conf, section, "rabbit://else:5672/"),)) for c in found.rabbit_clients)
    kept = _changes(split(replace(found, rabbit_clients=away)))["net1/neutron-server-url"]
    assert len(kept) == 1


def _nodes_of(found: Deployment) -> list[list[Any]]:
    nodes: list[list[Any]] = _changes(split(found))["net1/neutron-server-url"][0]["nodes"]
    return nodes


def test_new_urls_are_in_the_manner_of_the_old_ones() -> None:
    found = scan(build())
    plain = {h: {"ips": (f"192.0.2.{i}", f"10.20.0.{i}", "172.17.0.1", f"2001:db8::{i}"),
                 "address": Address(f"192.0.2.{i}")} for i, h in enumerate(HOSTS, 1)}  # fmt: skip
    many = hosts(found, plain)
    by_ip = clients(many, shown="rabbit://os:***@10.20.0.1:5672,os:***@10.20.0.2:5672/v")
    assert _nodes_of(by_ip) == [[f"10.20.0.{i}", 5672] for i in (4, 5, 6)], "not by the network of SSH"
    six = clients(many, shown="rabbit://os:***@[2001:db8::1]:5673/")
    assert _nodes_of(six) == [[f"2001:db8::{i}", 5673] for i in (4, 5, 6)]
    portless = clients(many, shown="rabbit://os:***@[2001:db8::1]/")
    assert _nodes_of(portless)[0] == ["2001:db8::4", 5672]
    named = clients(many, shown="rabbit://os:***@mq1.cloud.example:5672/")
    assert _nodes_of(named) == [[f"mq{i}.cloud.example", 5672] for i in (4, 5, 6)]
    long = hosts(many, {h: {"hostname": f"{h}.cloud.example"} for h in HOSTS})
    assert _nodes_of(clients(long, shown="rabbit://os:***@mq1:5672/"))[0] == ["mq4", 5672]
    assert _nodes_of(clients(long, shown="rabbit://os:***@mq1.cloud.example/"))[0][0] == "mq4.cloud.example"


def _ends(found: Deployment) -> dict[str, list[str]]:
    plan = plan_rabbit(found, layout(FRESH), 0.0)
    ends: dict[str, list[str]] = next(s.params["ends"] for s in plan.steps if s.id == "rabbitmq/bridge")
    return ends


def test_shovels_connect_where_nodes_listen() -> None:
    found = scan_fresh(build_fresh())
    assert _ends(found)["keep"] == ["mq1:5672", "mq2:5672", "mq3:5672"]
    inside = NodeSettings(listeners=(("amqp", "127.0.0.1", 5672), ("amqp", "10.9.0.7", 5672)))
    assert _ends(nodes(found, "keep", settings=inside))["keep"][0] == "10.9.0.7:5672"
    tls = clients(found, shown="rabbit://os:***@mq1:5671/")
    tls = nodes(nodes(tls, "keep", settings=NodeSettings(listeners=TLS)), "new",
                settings=NodeSettings(listeners=TLS))  # fmt: skip
    assert _ends(tls)["new"][0] == "amqps://mq4:5671"
    said = plan_rabbit(tls, layout(FRESH), 0.0).remarks
    assert any("take any certificate" in r for r in said)
    both = NodeSettings(listeners=(*TLS, ("amqp", "::", 5672)))
    assert _ends(nodes(tls, "keep", settings=both))["keep"][0] == "mq1:5672"
    assert bridge.uri("amqps://mq4:5671", "a:b", "%2F") == "amqps://a:b@mq4:5671/%2F?verify=verify_none"
    assert bridge.uri("[2001:db8::1]:5672", "a:b", "v") == "amqp://a:b@[2001:db8::1]:5672/v"


def test_policies_that_name_nodes_are_remarked() -> None:
    found = nodes(scan(build()), "keep", settings=NodeSettings(node_policies=("ha-two of /",)))
    assert any("ha-mode: nodes" in r and "ha-two of /" in r for r in split(found).remarks)


def test_releases_say_the_same_in_other_words() -> None:
    old = {"users": [{"name": "os", "password_hash": "h", "tags": []}], "policies": []}
    new = {"users": [{"name": "os", "password_hash": "h", "tags": [], "limits": {}}], "policies": []}
    wanted, there = bridge.copied(old, "3.12.0"), bridge.copied(new, "3.12.0")
    assert bridge.lacking(wanted, there) == ()
    changed = {"users": [{"name": "os", "password_hash": "i", "tags": [], "limits": {}}], "policies": []}
    assert bridge.lacking(wanted, bridge.copied(changed, "3.12.0")) == ("user os",)


@pytest.mark.parametrize(("tags", "same"), [("administrator", True), ("a, b", False), ("", False)])
def test_before_3_9_tags_were_one_text(tags: str, same: bool) -> None:
    old = {"users": [{"name": "os", "password_hash": "h", "tags": tags}]}
    new = {"users": [{"name": "os", "password_hash": "h", "tags": ["administrator"]}]}
    assert (bridge.lacking(bridge.copied(old, "3.12.0"), bridge.copied(new, "3.12.0")) == ()) is same
    bare = {"users": [{"name": "os", "password_hash": "h", "tags": ""}]}
    none = {"users": [{"name": "os", "password_hash": "h", "tags": []}]}
    assert bridge.lacking(bridge.copied(bare, "3.12.0"), bridge.copied(none, "3.12.0")) == ()


def test_a_vhost_s_default_queue_type_goes_along() -> None:
    def of(kind: str = "") -> bridge.Copied:
        metadata = {"tags": [], "default_queue_type": kind} if kind else {"tags": []}
        return bridge.copied({"vhosts": [{"name": "/", "limits": [], "metadata": metadata}]}, "4.1.0")

    assert of("quorum").definitions()["vhosts"] == [
        {"name": "/", "metadata": {"default_queue_type": "quorum"}}
    ]
    assert bridge.lacking(of("quorum"), of("quorum")) == ()
    assert bridge.lacking(of("quorum"), of("classic")) == ("vhost /",)
    assert bridge.lacking(of("quorum"), of()) == ("vhost /",)
    assert bridge.lacking(of(), of("classic")) == (), "4.0 and newer give one to every vhost"
    assert of("undefined") == of()


def test_operator_policies_go_along_and_other_parameters_stay() -> None:
    def row(component: str, definition: dict[str, Any]) -> dict[str, Any]:
        value = {"pattern": ".*", "definition": definition, "priority": 0, "apply-to": "queues"}
        return {"vhost": "/", "component": component, "name": component, "value": value}

    both = row("operator_policy", {"ha-mode": "all", "max-length": 5})
    told = {"parameters": [both, row("shovel", {}), row("operator_policy", {"ha-mode": "all"})]}
    pairs = {**both, "value": {**both["value"], "definition": [["ha-mode", "all"], ["max-length", 5]]}}
    assert bridge.copied({"parameters": [pairs]}, "3.12.0") == bridge.copied({"parameters": [both]}, "3.12.0")
    assert len(bridge.copied(told, "3.12.0").definitions()["parameters"]) == 2
    (one,) = bridge.copied(told, "4.0.0").definitions()["parameters"]
    assert one["value"]["definition"] == {"max-length": 5} and one["value"]["pattern"] == ".*"
    (lacks,) = bridge.lacking(bridge.copied(told, "4.0.0"), bridge.copied({}, "4.0.0"))
    assert lacks == "operator policy operator_policy"


def test_new_nodes_are_not_older() -> None:
    older = nodes(scan_fresh(build_fresh()), "new", version="3.9.29")
    assert "rabbit@mq4 runs RabbitMQ 3.9.29" in refused(older, FRESH) and "older" in refused(older, FRESH)
    plan_rabbit(nodes(scan_fresh(build_fresh()), "new", version="4.1.2"), layout(FRESH), 0.0)


def test_a_vhost_s_limits_are_in_a_bridge_s_way() -> None:
    limited = nodes(scan_fresh(build_fresh()), "keep", settings=NodeSettings(limited=True))
    assert "has limits" in refused(limited, FRESH)
    plan_rabbit(nodes(scan(build()), "keep", settings=NodeSettings(limited=True)), layout(TEXT), 0.0)


def test_new_nodes_that_take_no_transient_queues() -> None:
    found = nodes(scan_fresh(build_fresh()), "new", settings=NodeSettings(transient=False), version="4.3.0")
    (queue, *_) = found.rabbit_queues
    told = replace(found, rabbit_queues=(replace(queue, durable=False),))
    assert "neither durable nor exclusive" in refused(told, FRESH)
    for durable, exclusive in ((True, False), (False, True)):
        harmless = replace(queue, durable=durable, exclusive=exclusive)
        plan_rabbit(replace(found, rabbit_queues=(harmless,)), layout(FRESH), 0.0)


# -- the node and its scan -------------------------------------------------------------------------


def test_settings_out_of_what_a_node_tells() -> None:
    told = {
        **SETTINGS, "given": True, "peers": ["rabbit@mq1", "rabbit@mq2"], "naming": [["/", "ha-two"]],
        "parameters": [["shovel", "s1"], ["vhost-limits", "l"], ["federation-upstream", "u"]],
        "shovels": ["old"],
    }  # fmt: skip
    found = settings_of(told, "rabbit@mq1")
    assert found.cookie_given and found.joins == ("rabbit@mq2",)
    assert found.movers == ("federation-upstream u", "shovel old", "shovel s1")
    assert found.node_policies == ("ha-two of /",)
    assert found.speaks(5672) == ("amqp",) and found.speaks(25672) == ()
    assert found.limited and not settings_of({**told, "parameters": []}, "x").limited
    assert found.transient and not settings_of({**told, "transient": False}, "x").transient
    consul = "rabbit_peer_discovery_consul"
    assert consul in settings_of({**told, "discovery": consul}, "x").joins
    assert main_file(told) == "/etc/rabbitmq/rabbitmq.conf" and main_file({"main": "undefined"}) == ""
    assert main_file({"main": "/opt/r.conf"}) == "/opt/r.conf"


def _broker(files: Mapping[str, bytes], **view: Any) -> Host:
    broker = Host()
    broker.view |= {"queues": 0, "users": 1, **view}
    argv = ("/usr/bin/beam.smp", "-boot", "x", "rabbit")
    broker.found = (ProcessInfo(1, 0, argv, "rabbitmq", 1.0, 1, "/"),)
    broker.files |= {"/var/lib/rabbitmq/.erlang.cookie": b"C", **files}
    broker.said["list_vhosts"] = "name\n/\n"
    return broker


def _scanned(files: Mapping[str, bytes], **view: Any) -> RabbitNode:
    hosts: Any = {"mq1": _broker(files, **view)}
    found = look_at_rabbit(hosts, {"mq1": Address("mq1")}, 0.0)
    assert load_deployment(dump_deployment(found), "x") == found
    return found.rabbit[0]


def test_a_scan_that_can_not_look_at_nova_says_why_and_what_to_do() -> None:
    def nova() -> Deployment:
        raise Unsupported("Nova's database is of another kind", "recell handles MySQL and MariaDB")

    broker = _broker({})
    broker.found += (ProcessInfo(9, 1, ("/usr/bin/nova-compute",), "nova", 1.0, 1, "/"),)
    hosts: Any = {"mq1": broker}
    found = look_at_rabbit(hosts, {"mq1": Address("mq1")}, 0.0, nova)
    why = "Nova's database is of another kind|recell handles MySQL and MariaDB"
    assert found.remarks == (f"{NOVA_UNREAD}||{why}",)


def test_a_scan_reads_files_in_the_order_in_which_rabbitmq_does() -> None:
    main, late = "/etc/rabbitmq/rabbitmq.conf", "/etc/rabbitmq/conf.d/50.conf"
    files = {main: b"log.file = x\n", late: b"# cluster_partition_handling = ignore\nlisteners.tcp.1 = 1\n"}
    assert _scanned(files, config=[main, late]).elsewhere == ""
    files[late] = b"cluster_formation.classic_config.nodes.1 = rabbit@mq1\n"
    found = _scanned(files, config=[main, late])
    assert (found.config, found.elsewhere) == (main, late)
    assert _scanned({}, config=[]).config == main
    assert rabbit_conf.sets("a.b = 1\n", ["a."]) and not rabbit_conf.sets("# a.b = 1\n", ["a."])


def test_a_service_whose_environment_sets_its_url_has_no_file_to_edit() -> None:
    from recell.discovery.rabbit import _with_config

    conf = "/etc/neutron/neutron.conf"
    host = Host("net1")
    host.files[conf] = (
        b"[DEFAULT]\ntransport_url = rabbit://os:s3cret@mq1:5672/\n"
        b"[oslo_messaging_notifications]\ntransport_url = rabbit://n:s3cret@mq1:5672/notify\n"
        b"[notification]\nmessaging_urls = rabbit://n:s3cret@mq1:5672/a\n"
    )
    base = RabbitClient("mq1", "/", "neutron-server", "ip", "net1", "neutron-server", 1, ("rabbit@mq1",))
    world: Any = host
    found = _with_config(base, world)
    assert found.file == conf and "s3cret" not in repr(found)
    assert found.also == ((conf, "oslo_messaging_notifications", "rabbit://n:***@mq1:5672/notify"),)
    assert found.fixed == (("[notification] messaging_urls", "rabbit://n:***@mq1:5672/a"),)
    unit = host.unit

    def with_environment(name: str) -> Any:
        return replace(unit(name), environment=("OS_DEFAULT__TRANSPORT_URL=rabbit://else/",))

    world.unit = with_environment
    assert _with_config(base, world).file == ""


def test_a_blank_node_does_not_join_whom_it_was_told_of_at_its_start() -> None:
    host = Host()
    node_on(host).leave()
    assert [words[0] for words in host.ran] == ["stop_app", "reset", "eval", "start_app"]
    assert "cluster_nodes, {[], disc}" in host.ran[2][1]


def test_a_queue_s_record_is_deleted_as_each_release_wants_it() -> None:
    from recell.model.rabbit import QueueHome

    host = Host()
    node_on(host).purge([QueueHome("/", "q", "classic", "rabbit@mq4", (), ())])
    (words,) = host.ran
    assert "rabbit_db_queue" in words[1], "3.12 and newer have it, and delete by the record"
    assert "internal_delete(Q, " in words[1] and "internal_delete(N, " in words[1]
    assert json.dumps(words[1]).count("<<47>>") == 1
    node_on(host).purge([QueueHome("/", str(n), "classic", "rabbit@mq4", (), ()) for n in range(250)])
    assert len(host.ran) == 4, "a hundred at once: walls stand meanwhile"


# -- who reaches whom ------------------------------------------------------------------------------


class Asked:
    """A world whose hosts note whom they are asked about; ``far`` is what one of them says."""

    def __init__(self, far: bytes = b"", code: int = 0, of: str = "net1") -> None:
        self.asked: dict[str, list[str]] = {}
        self.far, self.code, self.of = far, code, of

    def host(self, name: str) -> Any:
        world = self

        class Here:
            def query(self, argv: list[str], **_: Any) -> Finished:
                if argv[0] == "df":
                    return Finished(0, b"Avail\n99999999999\n", b"")
                world.asked[name] = argv[4:]
                return Finished(world.code, world.far if name == world.of else b"", b"")

            def stat(self, path: str) -> None:
                return None

        return Here()


def test_check_asks_hosts_whom_they_reach() -> None:
    world: Any = Asked(b"mq5:5672\tName or service not known\n")
    found = [v for v in check(scan(build()), layout(TEXT), world) if v.id.startswith("reach:")]
    assert [(v.where, v.severity) for v in found] == [("net1", "stop")]
    assert found[0].what == "mq5:5672 can't be reached from there (Name or service not known)"
    assert world.asked["tel1"] == ["mq4:5672", "mq5:5672", "mq6:5672"]
    assert {"mq1:4369", "mq1:25672", "mq1:5672"} <= set(world.asked["mq5"])
    assert {"mq5:4369", "mq5:25672"} <= set(world.asked["mq2"]) and "mq1:4369" not in world.asked["mq2"]
    fresh: Any = Asked()
    check(scan_fresh(build_fresh()), layout(FRESH), fresh)
    assert set(fresh.asked) == {"net1", "net2", "tel1", "mq4", "mq5", "mq6"}
    assert not any(end.endswith(":4369") for ends in fresh.asked.values() for end in ends)
    away: Any = Asked(b"mq1:5672\tConnection refused\n", of="mq4")
    (one,) = [v for v in check(scan(build()), layout(TEXT), away) if v.id.startswith("reach:")]
    assert one.severity == "warning" and "undo after the cut" in one.what
    (one,) = [v for v in check(scan_fresh(build_fresh()), layout(FRESH), away) if v.id.startswith("reach:")]
    assert one.severity == "stop"
    mute: Any = Asked(b"mq5:5672\tno\n", code=127)
    assert not [v for v in check(scan(build()), layout(TEXT), mute) if v.id.startswith("reach:")]


def test_what_hosts_are_asked_tells_who_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ends = [f"127.0.0.1:{s.getsockname()[1]}" for s in (there, closed)]
        argv = [sys.executable, "-I", "-c", _ASK, *ends, "[::1]:1"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert [line.partition("\t")[0] for line in said.splitlines()] == [ends[1], "[::1]:1"]
