"""What recell changed, as other tools read it: each with its own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from jinja2 import Environment

from recell.adapters.conf import parse_config
from recell.cli.main import main
from recell.model.deployment import dump_deployment
from recell.model.plan import Plan, dump_plan
from recell.planning.export import TOOLS, export
from recell.planning.split import plan_split
from tests.sim.cloud import LAYOUT, REMOVE, build, layout, scan


def both(text: str = LAYOUT) -> tuple[Plan, dict[str, dict[str, str]]]:
    deployment = scan(build())
    plan = plan_split(deployment, layout(text), 0.0)
    return plan, {tool: export(plan, deployment, tool) for tool in TOOLS}


def test_kolla_gets_one_override_a_service() -> None:
    _, files = both()
    found = files["kolla-ansible"]
    assert set(found) == {
        "README",
        "config/nova/nova-api.conf",
        "config/nova/nova-scheduler.conf",
        "config/nova/nova-super-conductor.conf",
    }
    for name in set(found) - {"README"}:
        conf = parse_config([(name, found[name].encode())])
        assert conf.get("DEFAULT", "transport_url") == "rabbit://nova:{{ rabbitmq_password }}@mq4:5672/"
        assert conf.get("database", "connection").startswith(
            "mysql+pymysql://nova:{{ nova_database_password }}@db1/nova_cell0"
        )
        notify = conf.get("oslo_messaging_notifications", "transport_url")
        assert "mq1" in notify and "{{ rabbitmq_password }}" in notify


def test_kolla_takes_the_api_database_from_the_cells_conductor_only() -> None:
    _, files = both(REMOVE)
    found = files["kolla-ansible"]
    conf = parse_config([("c", found["config/nova/nova-conductor.conf"].encode())])
    assert conf.has("api_database", "connection") and conf.get("api_database", "connection") == ""
    assert "api_database" not in found["config/nova/nova-super-conductor.conf"]
    assert set(parse_config([("c", found["config/nova/nova-compute.conf"].encode())]).groups) == {
        "workarounds"
    }


def test_kolla_is_told_where_hosts_differ() -> None:
    """Kolla reads nova/<service>.conf and nova/<host>/nova.conf, and nothing between the two."""
    world = build()
    other = world.hosts["ctl2"].files["/etc/nova/nova.conf"]
    other.content = other.content.replace(b"mq2:5672/", b"mq2:5672/?ssl=1")
    for unit in world.hosts["ctl2"].units_.values():
        world.hosts["ctl2"].begin(unit)
    deployment = scan(world)
    found = export(plan_split(deployment, layout(), 0.0), deployment, "kolla-ansible")
    assert {name.count("/") for name in found if name != "README"} == {2}
    text = found["config/nova/nova-api.conf"]
    assert "{% if inventory_hostname in ['ctl2'] %}\ntransport_url = rabbit://" in text
    for host, ending in (("ctl1", "/"), ("ctl2", "/?ssl=1")):
        made = Environment(autoescape=True).from_string(text).render(
            inventory_hostname=host, rabbitmq_password="r", nova_database_password="d"
        )
        conf = parse_config([("c", made.encode())])
        assert conf.all("DEFAULT", "transport_url") == (f"rabbit://nova:r@mq4:5672{ending}",)
        assert conf.get("database", "connection").startswith("mysql+pymysql://nova:d@")


def test_openstack_ansible_gets_overrides_of_hosts() -> None:
    _, files = both()
    content = yaml.safe_load(files["openstack-ansible"]["host_vars/ctl1.yml"])["nova_nova_conf_overrides"]
    assert content["DEFAULT"]["transport_url"] == "rabbit://nova:{{ nova_oslomsg_rpc_password }}@mq4:5672/"
    assert set(files["openstack-ansible"]) == {"README", "host_vars/ctl1.yml", "host_vars/ctl2.yml"}


def test_puppet_gets_hiera() -> None:
    _, files = both(REMOVE)
    node = yaml.safe_load(files["puppet"]["data/nodes/ctl2.yaml"])["nova::config::nova_config"]
    assert node["DEFAULT/transport_url"] == {
        "value": "rabbit://nova:%{lookup('nova::rabbit_password')}@mq4:5672/",
        "secret": True,
    }
    compute = yaml.safe_load(files["puppet"]["data/nodes/cmp1.yaml"])["nova::config::nova_config"]
    assert not any(k.startswith("api_database") for k in node), "the cell's own file is not nova.conf"
    assert compute == {"workarounds/disable_group_policy_check_upcall": {"value": "true"}}


@pytest.mark.parametrize("text", [LAYOUT, REMOVE])
def test_no_secret_and_no_file_is_forgotten(text: str) -> None:
    plan, files = both(text)
    for found in files.values():
        everything = "".join(found.values())
        assert "s3cret" not in everything and "dbpw" not in everything and "***" not in everything
        for s in plan.steps:
            if s.kind in ("copy-config", "drop-in", "sibling-unit"):
                assert str(s.params["path"]) in found["README"]


def test_the_command_writes_files(tmp_path: Path) -> None:
    deployment = scan(build())
    (tmp_path / "plan.json").write_bytes(dump_plan(plan_split(deployment, layout(), 0.0)))
    (tmp_path / "deployment.json").write_bytes(dump_deployment(deployment))
    said = CliRunner().invoke(main, ["export", "--dir", str(tmp_path), "--to", "puppet"])
    assert said.exit_code == 0
    assert (tmp_path / "export/puppet/data/nodes/ctl1.yaml").read_text().startswith("---\nnova::config")
    assert CliRunner().invoke(main, ["export", "--dir", str(tmp_path), "--to", "salt"]).exit_code == 2
