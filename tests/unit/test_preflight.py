"""Each trap, planted in a healthy deployment, is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recell.errors import BadInput, RecellError, Unsupported
from recell.model.deployment import Client, Deployment, OtherWriter, ServiceRecord
from recell.planning.split import plan_split
from recell.preflight import check
from tests.sim.cloud import LAYOUT, REMOVE, build, layout, scan

Plant = Callable[[Deployment], Deployment]


def healthy() -> Deployment:
    return scan(build())


def each(role: str, **changes: Any) -> Plant:
    return lambda d: replace(
        d, services=tuple(replace(s, **changes) if s.role == role else s for s in d.services)
    )


def one_host(name: str, **changes: Any) -> Plant:
    return lambda d: replace(d, hosts=tuple(replace(h, **changes) if h.name == name else h for h in d.hosts))


def writer(kind: str, where: str) -> Plant:
    return lambda d: replace(
        d, writers=(OtherWriter("ctl1", kind, where, "nova-manage db archive_deleted_rows"),)
    )


def record(**changes: Any) -> Plant:
    row = replace(ServiceRecord("c", 1, "u", "ctl1", "nova-scheduler", 70, False, 5.0), **changes)
    return lambda d: replace(d, records=(row,))


def consoleauth(version: str, workaround: str = "") -> Plant:
    """A nova-consoleauth beside the conductor of ctl1."""

    def plant(d: Deployment) -> Deployment:
        model = next(s for s in d.role("conductor") if s.host == "ctl1")
        options = {"workarounds/enable_consoleauth": workaround} if workaround else {}
        d = each("api", options=options)(replace(d, nova_version=version))
        return replace(d, services=(*d.services, replace(model, unit="nova-consoleauth", role="consoleauth")))

    return plant


def without_proxy(d: Deployment) -> Deployment:
    return replace(d, proxies=())


def one_down(d: Deployment) -> Deployment:
    return replace(
        d, proxies=tuple(replace(p, state="DOWN" if p.server == "ctl2" else "UP") for p in d.proxies)
    )


def mapping(**changes: Any) -> Plant:
    return lambda d: replace(
        d, mappings=tuple(replace(m, **changes) if m.name == "cell1" else m for m in d.mappings)
    )


def test_a_healthy_deployment_has_none() -> None:
    assert check(healthy(), layout()) == ()


TRAPS: list[tuple[Plant, str, set[str]]] = [
    (lambda d: replace(d, nova_version="32.0.0"), LAYOUT, {"version:old"}),
    (lambda d: replace(d, nova_version=""), LAYOUT, {"version:unknown"}),
    (
        lambda d: replace(d, remarks=("stale-process|ctl1|nova-api|/etc/nova/nova.conf",)),
        LAYOUT,
        {"stale:ctl1:nova-api"},
    ),
    (without_proxy, LAYOUT, {"no-proxy:ctl1:nova-api", "no-proxy:ctl2:nova-api"}),
    (one_down, LAYOUT, {"alone:lb1:nova-api"}),
    (mapping(transport_resolved="rabbit://nova:***@{hostname3}/"), LAYOUT, {"template:cell1:transport_url"}),
    (
        mapping(database_resolved="mysql+pymysql://None:None@None/nova"),
        LAYOUT,
        {"template:cell1:database_connection"},
    ),
    (
        each("conductor", api_database=""),
        LAYOUT,
        {"upcall:ctl1:nova-conductor", "upcall:ctl2:nova-conductor"},
    ),
    (consoleauth("16.1.8"), LAYOUT, {"version:old", "consoleauth:ctl1", "consoleauth:ctl2"}),
    (consoleauth("18.3.0", "True"), LAYOUT, {"version:old", "consoleauth:ctl1", "consoleauth:ctl2"}),
    (consoleauth("19.3.2"), LAYOUT, {"version:old"}),
    (writer("cron", "/etc/cron.d/nova"), LAYOUT, {"cron:ctl1:/etc/cron.d/nova"}),
    (writer("timer", "nova-archive.timer"), LAYOUT, {"timer:ctl1:nova-archive.timer"}),
    (writer("manager", "puppet.service"), LAYOUT, {"manager:ctl1:puppet.service"}),
    (writer("option", "nova-scheduler"), LAYOUT, {"option:ctl1:nova-scheduler"}),
    (
        lambda d: replace(
            d, brokers=tuple(replace(b, alarms=("memory",)) if b.name == "mq1" else b for b in d.brokers)
        ),
        LAYOUT,
        {"alarm:mq1:memory"},
    ),
    (one_host("ctl2", firewall=""), LAYOUT, {"firewall:ctl2"}),
    (one_host("ctl2", clock_offset_s=-30.0), LAYOUT, {"clock:ctl2"}),
    (record(host="elsewhere"), LAYOUT, {"unseen:nova-scheduler:elsewhere"}),
    (
        lambda d: replace(d, clients=(Client("mq4", "/", "nova", "cmp9", "nova-compute", 1),)),
        LAYOUT,
        {"compute-on-target:cmp9"},
    ),
]


@pytest.mark.parametrize(("plant", "text", "want"), TRAPS)
def test_a_planted_trap_is_found_and_nothing_else(plant: Plant, text: str, want: set[str]) -> None:
    found = check(plant(healthy()), layout(text))
    assert {v.id for v in found if v.severity == "stop"} == want
    assert all(v.remedy and v.what and "\n" not in v.what for v in found)


@pytest.mark.parametrize(("age_s", "want"), [(5.0, {"unseen:nova-scheduler:ctl1"}), (45.0, set())])
def test_a_service_that_was_stopped_just_now_is_no_stranger(age_s: float, want: set[str]) -> None:
    off = each("scheduler", active=False)(record(seconds_since_report=age_s)(healthy()))
    found = [v for v in check(off, layout()) if v.severity == "stop" and v.id.startswith("unseen:")]
    assert {v.id for v in found} == want
    assert all("is off there" in v.what and "wait a minute" in v.remedy for v in found)


def test_what_the_operator_knows_can_be_acknowledged() -> None:
    text = LAYOUT + "acknowledge: ['cron:ctl1:/etc/cron.d/nova', 'no:such']\n"
    found = check(writer("cron", "/etc/cron.d/nova")(healthy()), layout(text))
    assert {v.id: v.severity for v in found} == {
        "cron:ctl1:/etc/cron.d/nova": "warning",
        "acknowledge:no:such": "warning",
    }


def test_a_compute_with_an_api_database_is_told() -> None:
    plant = each("compute", api_database="mysql+pymysql://nova:***@db1/nova_api")
    want = {"compute-api-database:cmp1", "compute-api-database:cmp2"}
    assert {v.id: v.severity for v in check(plant(healthy()), layout())} == dict.fromkeys(want, "warning")
    found = check(plant(healthy()), layout(REMOVE))
    assert {v.id for v in found if v.severity == "stop"} == want


def test_an_upcall_that_would_be_needed_keeps_the_api_database() -> None:
    plant = each("compute", options={"cinder/cross_az_attach": "False"})
    assert check(plant(healthy()), layout()) == ()
    assert {v.id for v in check(plant(healthy()), layout(REMOVE))} == {
        "upcall:cross_az_attach:cmp1",
        "upcall:cross_az_attach:cmp2",
    }


def test_a_wsgi_metadata_service_stays_with_the_api_level() -> None:
    def plant(d: Deployment) -> Deployment:
        model = d.role("api")[0]
        argv = ("/usr/bin/uwsgi", "--ini", "/x")
        wsgi = replace(model, role="metadata", unit="nova-api-metadata", argv=argv)
        return replace(d, services=(*d.services, wsgi))

    assert plan_split(plant(healthy()), layout(), 0.0).steps
    with pytest.raises(Unsupported, match="WSGI"):
        plan_split(plant(healthy()), layout(LAYOUT + "services: {metadata: cell}\n"), 0.0)


@pytest.mark.parametrize(
    ("plant", "text", "kind", "says"),
    [
        (lambda d: d, LAYOUT.replace("mq4", "nowhere"), BadInput, "nowhere"),
        (lambda d: d, LAYOUT.replace("mq4", "mq1"), BadInput, "today's broker"),
        (lambda d: d, LAYOUT.replace("mq4", "ctl1"), BadInput, "no running RabbitMQ"),
        (lambda d: d, LAYOUT.replace("cell1", "cell7"), BadInput, "cell1"),
        (lambda d: d, LAYOUT + "  cell2: {}\n", BadInput, "2 cells"),
        (
            lambda d: replace(
                d, services=tuple(s for s in d.services if (s.host, s.role) != ("ctl2", "scheduler"))
            ),
            LAYOUT,
            Unsupported,
            "only one host",
        ),
        (
            lambda d: replace(d, services=tuple(s for s in d.services if s.role != "conductor")),
            LAYOUT,
            Unsupported,
            "nova-conductor",
        ),
        (lambda d: replace(d, mappings=d.mappings[:1]), LAYOUT, Unsupported, "0 cells"),
        (
            lambda d: replace(d, remarks=("in-web-server|ctl1|apache2|apachectl",)),
            LAYOUT,
            Unsupported,
            "on ctl1 runs inside apachectl",
        ),
        (
            each("scheduler", transport_url="rabbit://nova:***@mq4:5672/"),
            LAYOUT,
            Unsupported,
            "another broker",
        ),
        (
            each(
                "api",
                origins={
                    "DEFAULT/transport_url": "/etc/nova/nova.conf.d/a.conf",
                    "database/connection": "/etc/nova/nova.conf.d/a.conf",
                },
            ),
            LAYOUT,
            Unsupported,
            "configuration directory",
        ),
        (
            each("api", origins={"DEFAULT/transport_url": "/a", "database/connection": "/b"}),
            LAYOUT,
            Unsupported,
            "/a and /b",
        ),
    ],
)
def test_what_can_not_be_planned_is_refused_in_one_sentence(
    plant: Plant,
    text: str,
    kind: type[RecellError],
    says: str,
) -> None:
    with pytest.raises(kind) as error:
        plan_split(plant(healthy()), layout(text), 0.0)
    assert says in error.value.sentence and error.value.remedy
    assert any(v.id == f"plan:{kind.word}" for v in check(plant(healthy()), layout(text)))


def test_cells_v1_are_refused_in_words() -> None:
    with pytest.raises(Unsupported, match="cells v1"):
        plan_split(replace(healthy(), generation="v1"), layout(), 0.0)
