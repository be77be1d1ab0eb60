"""Inventories, configuration files, mapping templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from recell.adapters.conf import parse_config
from recell.adapters.inventory import parse_inventory, read_inventory
from recell.errors import BadInput
from recell.model.deployment import Address
from recell.planning.templates import resolve_mapping, resolve_template

_INI = """\
# a comment
lonely ansible_ssh_host=192.0.2.9 ansible_ssh_port=2222

[controllers]
ctl[01:02].example.org ansible_user=stack  # trailing
ctl1 ansible_host=10.77.0.11 ansible_ssh_common_args='-o UserKnownHostsFile=/k/h -o StrictHostKeyChecking=yes'

[computes]
cmp-[a:c]
[fd00::7]:2200

[nova:children]
controllers
computes

[nova:vars]
ansible_user=root
ansible_ssh_private_key_file="/keys/nova"
[computes:vars]
ansible_ssh_private_key_file=/keys/computes
[all:vars]
ansible_port=22
ansible_user=nobody
"""


def test_ini() -> None:
    found = dict(parse_inventory(_INI, "hosts"))
    assert list(found) == ["lonely", "ctl01.example.org", "ctl02.example.org", "ctl1", "cmp-a",
                           "cmp-b", "cmp-c", "fd00::7"]
    assert found["lonely"] == Address("192.0.2.9", 22, "nobody")
    assert found["ctl01.example.org"] == Address("ctl01.example.org", 22, "stack", "/keys/nova")
    assert found["ctl1"] == Address("10.77.0.11", 22, "root", "/keys/nova", "/k/h")
    assert found["cmp-b"].key_file == "/keys/computes"
    assert found["fd00::7"].port == 2200


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yml"
    path.write_text("""\
all:
  vars: {ansible_user: root}
  hosts:
    lb1: {ansible_host: 10.77.0.5}
  children:
    computes:
      hosts:
        cmp[1:2]:
          ansible_port: 2022
      vars:
        ansible_ssh_private_key_file: "{{ inventory_dir }}/id"
        ansible_ssh_common_args: -o UserKnownHostsFile=~/kh
""")
    found = dict(read_inventory(path))
    assert found["lb1"] == Address("10.77.0.5")
    assert found["cmp2"] == Address("cmp2", 2022, "root", f"{tmp_path}/id",
                                    str(Path("~/kh").expanduser()))


@pytest.mark.parametrize(("text", "sentence"), [
    ("[controllers\nctl1\n", "hosts line 1: the section header is malformed"),
    ("a\nctl1 user\n", "hosts line 2: user is not name=value"),
    ("ctl1 x='open\n", "hosts line 1: a quote is not closed"),
    ("[a:children]\nnone\n[b]\nx\n", "hosts line 2: there is no group none"),
    ("[a:vars]\nx\n", "hosts line 2: a variable is written name=value"),
    ("ctl[3:1]\n", "hosts line 1: the range 3:1 is malformed"),
    ("ctl[1:\n", "hosts line 1: the range in ctl[1: is malformed"),
    ("ctl[01:9]\n", "hosts line 1: the ends of 01:9 differ in length"),
    ("ctl1 ansible_port=ssh\n", "hosts: the port of ctl1 is not a port number"),
    ("ctl1 ansible_connection=docker\n", "hosts: ctl1 is reached by docker, not by SSH"),
    ("ctl1 ansible_host='{{ ip }}'\n", "hosts: the address of ctl1 holds a template"),
    ("ctl1 ansible_host=-oProxyCommand=x\n", "hosts: the address of ctl1 begins with a dash"),
    ("ctl1 ansible_ssh_common_args='-o ProxyCommand=x'\n", "ansible_ssh_common_args of ctl1 holds"),
    ("# nothing\n", "hosts names no host"),
    ("all:\n  hosts:\n   a: [\n", "hosts line 4"),
    ("all:\n  hots:\n", "hosts line 2: hots is none of hosts, children, vars"),
    ("all:\n  hosts: ctl1\n", "hosts line 2: hosts of all is not a mapping"),
])
def test_malformed_inventories(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_inventory(text, "hosts")
    assert sentence in caught.value.sentence


def test_groups_in_a_circle_end() -> None:
    text = "[a]\nh\n[a:children]\nb\n[b:children]\na\n[b:vars]\nansible_user=x\n"
    assert dict(parse_inventory(text, "hosts"))["h"].user == "x"


def test_an_inventory_that_is_not_there() -> None:
    with pytest.raises(BadInput, match="can't be read"):
        read_inventory(Path("/nonexistent/inventory"))


def test_config() -> None:
    first = b"""\
# comment
[DEFAULT]
transport_url = rabbit://a
  ,b
my_ip: "10.0.0.1"
[Database]
connection=mysql://one
hook=a
hook=b
"""
    second = b"[database]\nconnection = mysql://two\nhook=c\n[default]\nhost=h\n"
    config = parse_config([("1", first), ("2", second)],
                          {"OS_DEFAULT__HOST": "from-env", "OS_X": "y", "PATH": "z"})
    assert config.get("DEFAULT", "transport_url") == "rabbit://a\n,b"
    assert config.get("DEFAULT", "my_ip") == "10.0.0.1"
    assert config.get("database", "connection") == "mysql://two"
    assert config.all("database", "hook") == ("a", "b", "c")
    assert config.get("DEFAULT", "host") == "from-env"
    assert config.get("api_database", "connection", "none") == "none"
    assert not config.has("database", "no")


@pytest.mark.parametrize("text", [b"[a]\nnonsense s3cret\n", b"x = s3cret\n", b"[a\nb=s3cret\n",
                                  b"[a]\n = s3cret\n"])
def test_config_errors_name_the_line_only(text: bytes) -> None:
    with pytest.raises(BadInput, match=r"nova\.conf is not a configuration file: line \d") as caught:
        parse_config([("nova.conf", text)])
    assert "s3cret" not in str(caught.value)


_MANY = "rabbit://nova:p%40w@mq1:5672,nova:p%40w@mq2:5673/vh?ssl=1"


@pytest.mark.parametrize(("template", "own", "expected"), [
    ("{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}",
     "mysql+pymysql://nova:p%40w@db1:3306/nova?charset=utf8",
     "mysql+pymysql://nova:p%40w@db1:3306/nova?charset=utf8"),
    ("{scheme}://{username}:{password}@{hostname}/nova_cell0?{query}",
     "mysql+pymysql://nova:pw@db1/nova?charset=utf8",
     "mysql+pymysql://nova:pw@db1/nova_cell0?charset=utf8"),
    ("{scheme}://{username1}:{password1}@{hostname1}:{port1},{username2}:{password2}"
     "@{hostname2}:{port2}/{path}", _MANY, "rabbit://nova:p%40w@mq1:5672,nova:p%40w@mq2:5673/vh"),
    ("{scheme}://{hostname}:{port}/", "mysql://db1/nova", "mysql://db1:None/"),
    ("{scheme}://{hostname1}{port1}/", "rabbit://[fd00::1]:5672,[fd00::2]:5672/", ""),
    ("{username3}", _MANY, "{username3}"),
    ("{nonsense}", _MANY, "{nonsense}"),
    ("none:///", _MANY, "none:///"),
    ("{scheme}", "", "{scheme}"),
    # Without accounts Python takes what follows the first colon for one port.
    ("{scheme}://{hostname1}", "rabbit://mq1:5672,mq2:5672/", "{scheme}://{hostname1}"),
])
def test_templates(template: str, own: str, expected: str) -> None:
    assert resolve_template(template, own) == (expected or template)


def test_a_mapping_is_resolved_from_two_urls() -> None:
    assert resolve_mapping("{scheme}://{hostname}/", "{scheme}://{hostname}/x", "rabbit://mq/",
                           "mysql://db/y") == ("rabbit://mq/", "mysql://db/x")
