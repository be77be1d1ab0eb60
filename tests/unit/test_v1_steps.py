"""What recell makes of an old release's configuration; which rows differ in what a step compares."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recell.errors import Unsupported
from recell.model.scope import Assignment
from recell.mover.rows import TableRows
from recell.planning.ini import get
from recell.planning.v1 import plan_v1
from recell.planning.v1_facts import main_file
from recell.steps.base import Context
from recell.steps.units import begun_as_written, named_files
from recell.steps.v1 import V1Config
from recell_bench.schemas import STEIN, load
from tests.unit.stein_cloud import CONF, layout_v1, service, stein

JUNO_CONF = """\
[DEFAULT]
rpc_backend = rabbit
rabbit_hosts = mq1:5672,mq2:5672
rabbit_userid = nova
rabbit_password = s%crt
rabbit_virtual_host = /nova
sql_connection = mysql://nova:dbpw@db1/nova?charset=utf8
host = ctl1
my_ip = 10.1.0.2
vncserver_listen = 0.0.0.0
novncproxy_host = 10.1.0.2
[database]
slave_connection = mysql://nova:dbpw@replica/nova
"""


def config_step() -> V1Config:
    spec = next(s for s in plan_v1(stein(), layout_v1(), 0.0).steps if s.id == "api1/api-config")
    nowhere = cast(Context, SimpleNamespace(world=None))
    return V1Config(replace(spec, params={**spec.params, "vhost": "/nova"}), nowhere)


def test_what_an_old_release_says_in_many_options_becomes_one_url() -> None:
    text = config_step()._moved(JUNO_CONF, "nova.conf")
    assert get(text, "DEFAULT", "transport_url") == (
        "rabbit://nova:s%25crt@mq4:5672,nova:s%25crt@mq5:5672,nova:s%25crt@mq6:5672/nova"
    )
    assert get(text, "database", "connection") == "mysql://nova:dbpw@db2:3306/nova_api_cell?charset=utf8"
    assert get(text, "database", "slave_connection") is None
    for gone in ("rabbit_hosts", "sql_connection", "host"):
        assert get(text, "DEFAULT", gone) is None, gone
    assert get(text, "DEFAULT", "my_ip") == get(text, "DEFAULT", "novncproxy_host") == "10.1.0.4"
    assert get(text, "DEFAULT", "vncserver_listen") == "0.0.0.0"


def test_a_configuration_without_a_broker_or_a_database_is_refused() -> None:
    with pytest.raises(Unsupported, match="lacks the URL of the broker"):
        config_step()._moved("[database]\nconnection = mysql://nova@db1/nova\n", "nova.conf on ctl1")
    with pytest.raises(Unsupported, match="lacks the URL of the database"):
        config_step()._moved("[DEFAULT]\ntransport_url = rabbit://nova@mq1/\n", "nova.conf on ctl1")


def test_the_file_of_an_old_release_is_the_one_with_its_database() -> None:
    old = service("ctl1", "conductor", origins={"database/connection": CONF})
    assert main_file(old) == CONF
    for origins in ({}, {"DEFAULT/transport_url": CONF}, {"database/connection": "/etc/nova/nova.conf.d/x"}):
        with pytest.raises(Unsupported):
            main_file(service("ctl1", "conductor", origins=origins))


def test_quotas_are_kept_in_a_table_until_ocata() -> None:
    for version, keeps in (("15.1.5", True), ("2014.2.4", True), ("16.0.0", False), ("19.3.2", False)):
        plan = plan_v1(stein(nova_version=version), layout_v1(), 0.0)
        follow = next(s for s in plan.steps if s.id == "state/follow")
        assert follow.params["conversion"]["keeps_usage"] is keeps, version
        assert follow.params["conversion"]["cell0"] == "nova_cell0"


def test_a_value_with_a_quote_or_a_percent_sign_is_given_as_it_is() -> None:
    table = load(STEIN).table("instances")
    odd = Assignment("instances", "cell_name", "a'%s!b", "deleted", 0)
    rows = TableRows(table, given=(odd,))
    assert b"a'%s!b".hex() in rows.row and "%s!b" not in rows.row
    assert TableRows(table).row != rows.row


@pytest.mark.parametrize(
    ("argv", "files"),
    [
        (["/usr/bin/nova-api"], []),
        (["/usr/bin/nova-api", "--config-file", "/a", "--config-file=/b"], ["/a", "/b"]),
        (["/usr/bin/python3", "/usr/bin/nova-api", "--config-file"], []),
    ],
)
def test_files_that_a_command_line_names(argv: list[str], files: Any) -> None:
    assert named_files(argv) == files


def test_what_an_init_script_begins_is_known_by_the_files_that_the_step_reads() -> None:
    script = ("/etc/init.d/nova-api", "systemd-start")
    begun = ("/usr/bin/nova-api", "--config-file=/etc/nova/nova.conf")
    assert begun_as_written(begun, script, ["/etc/nova/nova.conf"])
    assert not begun_as_written(begun, script, ["/etc/nova/nova-cell1.conf"])
    assert begun_as_written(begun, begun, [])
    assert not begun_as_written(begun, (*begun, "--config-file=/x"), [])
