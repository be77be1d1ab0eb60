"""The pure parts of the lab's hosts: layers, units, cgroups, network, keys, packages, state."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from recell_lab import base, boot, hosts, keys, layer, network, packages, process, state, units
from recell_lab.errors import LabError
from recell_lab.layer import Accounts, HostFile, HostSpec, Layer

CTL1 = HostSpec("ctl1", "10.77.0.11", "controllers")
CMP1 = HostSpec("cmp1", "10.77.0.51", "computes", 64)


@pytest.fixture
def over(tmp_path: Path) -> Layer:
    """A layer over a small machine whose /bin is a symlink, as Debian's; its root is this user."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for directory in ("etc", "usr/bin", "usr/lib/systemd/system", "var/lib/x"):
        (lower / directory).mkdir(parents=True)
    upper.mkdir()
    (lower / "bin").symlink_to("usr/bin")
    (lower / "var/run").symlink_to("/run")
    (lower / "var/lib/x").chmod(0o2750)
    (lower / "etc/passwd").write_text(f"root:x:{os.getuid()}:0:root:/root:/bin/bash\n")
    (lower / "etc/group").write_text(f"root:x:{os.getgid()}:\n")
    return Layer(upper, lower)


def test_a_path_is_resolved_as_the_host_sees_it(over: Layer) -> None:
    assert over.resolve("/bin/nova-api") == "/usr/bin/nova-api"
    assert over.resolve("/var/run/x") == "/run/x"
    assert over.resolve("/usr/../bin/./a") == "/usr/bin/a"
    assert over.resolve("/bin") == "/bin"
    assert over.resolve("/bin", last=True) == "/usr/bin"


def test_a_circle_of_links_is_refused(over: Layer) -> None:
    over.put([HostFile("/a", None, symlink_to="/b"), HostFile("/b", None, symlink_to="/a")])
    with pytest.raises(LabError, match="too many symbolic links"):
        over.resolve("/a/x")


def test_files_land_behind_links_and_keep_the_lower_directories_modes(over: Layer) -> None:
    over.put([HostFile("/bin/tool", b"#!\n", 0o755), HostFile("/var/lib/x/y/z", b"z", 0o600)])
    assert (over.upper / "usr/bin/tool").read_bytes() == b"#!\n"
    assert stat.S_IMODE((over.upper / "usr/bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((over.upper / "var/lib/x").stat().st_mode) == 0o2750
    assert stat.S_IMODE((over.upper / "var/lib/x/y").stat().st_mode) == 0o755
    assert stat.S_IMODE((over.upper / "var/lib/x/y/z").stat().st_mode) == 0o600
    assert not (over.upper / "bin").exists()


def test_a_second_file_of_the_same_path_wins(over: Layer) -> None:
    over.put([HostFile("/etc/f", None, symlink_to="/etc/passwd"), HostFile("/etc/f", b"new")])
    assert over.read_text("/etc/f") == "new"
    assert (over.lower / "etc/passwd").read_text().startswith("root:")


def test_who_may_read_a_directory_may_enter_it(over: Layer) -> None:
    over.put([HostFile("/etc/nova", None, 0o640)])
    assert stat.S_IMODE((over.upper / "etc/nova").stat().st_mode) == 0o750
    assert layer.directory_mode(0o600) == 0o700
    assert layer.directory_mode(0o755) == 0o755


def test_bad_files_are_refused(over: Layer) -> None:
    with pytest.raises(LabError, match="not an absolute path"):
        over.put([HostFile("etc/x", b"")])
    with pytest.raises(LabError, match="has no 'nobody-such'"):
        over.put([HostFile("/etc/x", b"", owner="nobody-such:root")])
    with pytest.raises(LabError, match="is a directory"):
        over.put([HostFile("/etc/d", None), HostFile("/etc/d", b"")])


def test_lower_files_under_a_file_of_the_upper_layer_are_hidden(over: Layer) -> None:
    (over.lower / "srv").mkdir()
    (over.lower / "srv/x").write_text("below")
    assert over.read_text("/srv/x") == "below"
    (over.upper / "srv").write_text("a file now")
    assert over.find("/srv/x") is None
    assert over.read_text("/srv/x") == ""


def test_accounts_get_the_services_users_once() -> None:
    plain = Accounts("root:x:0:0::/root:/bin/sh\n", "root:x:0:\n", "root:!:1:0::::\n", "")
    added = plain.with_users(base.USERS)
    assert "nova:x:64060:64060::/var/lib/nova:/usr/sbin/nologin\n" in added.passwd
    assert layer.ids(added.group)["keystone"] == base.USERS["keystone"]
    assert added.shadow.startswith("root:*:1:0::::\n")
    assert added.with_users(base.USERS) == added


def test_a_user_keeps_the_number_the_machine_gave_it() -> None:
    machine = Accounts("nova:x:991:990::/:/bin/sh\n", "nova:x:990:\n", "nova:!:1\n", "")
    assert layer.ids(machine.with_users({"nova": 64060}).passwd) == {"nova": 991}


def test_a_number_of_somebody_else_is_refused() -> None:
    taken = Accounts("zabbix:x:64060:1::/:/bin/sh\n", "", "", "")
    with pytest.raises(LabError, match="gives 64060 to zabbix"):
        taken.with_users({"nova": 64060})


def test_install_sections_are_read() -> None:
    text = (
        "[Unit]\nWantedBy=wrong.target\n[Install]\n# WantedBy=no.target\n"
        "WantedBy=multi-user.target \\\n other.target\nAlias=mysql.service\nAlso=a.socket\n"
    )
    found = units.parse_install(text)
    assert found.wanted_by == ("multi-user.target", "other.target")
    assert (found.alias, found.also, found.required_by) == (("mysql.service",), ("a.socket",), ())


def test_units_are_enabled_with_what_they_bring_along(over: Layer) -> None:
    place = "usr/lib/systemd/system"
    (over.lower / place / "a.service").write_text(
        "[Install]\nWantedBy=multi-user.target\nAlso=a.socket\nAlias=b.service\n"
    )
    (over.lower / place / "a.socket").write_text("[Install]\nRequiredBy=sockets.target\n")
    (over.lower / place / "t@.service").write_text("[Install]\nWantedBy=multi-user.target\n")
    units.enable(over, ["a", "t@1.service"])
    system = over.upper / "etc/systemd/system"
    wants = system / "multi-user.target.wants"
    assert str((wants / "a.service").readlink()) == f"/{place}/a.service"
    assert str((wants / "t@1.service").readlink()) == f"/{place}/t@.service"
    assert (system / "sockets.target.requires/a.socket").is_symlink()
    assert (system / "b.service").is_symlink()


def test_units_that_cannot_be_enabled_are_named(over: Layer) -> None:
    (over.lower / "usr/lib/systemd/system/static.service").write_text("[Service]\n")
    with pytest.raises(LabError, match=r"no unit gone\.service"):
        units.enable(over, ["gone"])
    with pytest.raises(LabError, match=r"no \[Install\] section"):
        units.enable(over, ["static"])


def test_what_a_host_enables_is_not_masked(over: Layer) -> None:
    for name in ("ssh", "haproxy"):
        place = over.lower / f"usr/lib/systemd/system/{name}.service"
        place.write_text("[Install]\nWantedBy=multi-user.target\n")
    # A unit of the host's own, with the name of one that hosts mask.
    over.put([HostFile("/etc/systemd/system/mariadb.service", b"[Service]\n")])
    base.choose_units(over, ["haproxy"], ["extra", "haproxy"])
    system = over.upper / "etc/systemd/system"
    assert str((system / "memcached.service").readlink()) == "/dev/null"
    assert str((system / "extra.service").readlink()) == "/dev/null"
    assert not os.path.lexists(system / "haproxy.service")
    assert (system / "mariadb.service").read_text() == "[Service]\n"
    assert (system / "multi-user.target.wants/ssh.service").is_symlink()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw", "/sys/fs/cgroup/unified"),
        ("30 25 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 none rw", "/sys/fs/cgroup"),
        (r"30 25 0:26 / /a\040b rw - cgroup2 none rw", "/a b"),
    ],
)
def test_the_cgroup_hierarchy_is_found(line: str, found: str) -> None:
    other = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    assert boot.cgroup2_mount(other + line) == ("/", Path(found))
    assert boot.cgroup2_mount(other) is None


def test_the_own_cgroup_is_the_v2_one() -> None:
    assert boot.own_cgroup("4:memory:/a/b\n1:name=systemd:/x\n0::/user.slice/s.scope\n") == (
        "/user.slice/s.scope"
    )
    assert boot.own_cgroup("4:memory:/a/b\n") == "/"


def test_hosts_names_and_addresses() -> None:
    assert network.link_name("ctl1") == "rl-ctl1"
    assert network.mac("10.77.0.11") == "02:4e:0a:4d:00:0b"
    for bad in ("a-name-too-long", "a b", "", "x;y"):
        with pytest.raises(LabError, match="cannot be a host's name"):
            network.link_name(bad)
    text = network.hosts_file("ctl1", [CTL1, CMP1])
    assert "10.77.0.51 cmp1\n" in text
    assert text.startswith("127.0.0.1 localhost\n")
    with pytest.raises(LabError, match="own lab"):
        network.hosts_file("db1", [CTL1])


def test_a_network_that_is_in_use_is_seen() -> None:
    routes: list[dict[str, object]] = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "192.168.0.0/24", "dev": "eth0"},
        {"dst": "10.77.0.0/24", "dev": "recell0"},
    ]
    assert network.overlapping(routes) == []
    assert network.overlapping([*routes, {"dst": "10.0.0.0/8", "dev": "tun0"}]) == ["tun0"]
    assert network.overlapping([{"dst": "10.77.0.9", "dev": "lo"}]) == ["lo"]


def test_the_files_that_lead_to_the_hosts() -> None:
    inventory = keys.inventory([CTL1, CMP1])
    assert "[controllers]\nctl1 ansible_host=10.77.0.11 ansible_user=root " in inventory
    assert "StrictHostKeyChecking=yes'\n" in inventory
    assert all(f"[{group}]\n" in inventory for group in keys.GROUPS)
    with pytest.raises(LabError, match="'boss' is no role"):
        keys.inventory([HostSpec("x", "10.77.0.2", "boss")])
    config = keys.ssh_config([CTL1, CMP1])
    assert "Host cmp1\n    HostName 10.77.0.51\n" in config
    assert "Host ctl1 cmp1\n    User root\n" in config
    assert keys.known_hosts([(CTL1, "ssh-ed25519 AAAA root@ctl1")]) == (
        "ctl1,10.77.0.11 ssh-ed25519 AAAA\n"
    )


def test_the_topology_survives_its_file() -> None:
    topology = state.Topology((CTL1, CMP1), {"nova": "33.0.2"})
    assert state.Topology.from_json(topology.to_json()) == topology
    assert topology.host("cmp1") is CMP1
    with pytest.raises(LabError, match="it has ctl1, cmp1"):
        topology.host("cmp9")
    for broken in ("", "{}", '{"hosts": [{"nom": 1}], "facts": {}}'):
        with pytest.raises(LabError, match="cannot be read"):
            state.Topology.from_json(broken)


def test_private_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    state.write_private(path, "a")
    state.write_private(path, b"b")
    assert path.read_bytes() == b"b"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_packages_and_pins() -> None:
    status = "dbus installed\nhaproxy config-files\nmariadb-server not-installed\n"
    assert packages.missing_packages(status, ["dbus", "haproxy", "mariadb-server", "x"]) == [
        "haproxy",
        "mariadb-server",
        "x",
    ]
    pins = packages.parse_pins("# a comment\nPyMySQL==1.1.2\noslo_config == 9.0  # why\n\n")
    assert pins == {"pymysql": "1.1.2", "oslo-config": "9.0"}
    assert packages.parse_pins(packages.pins_file("33.0.2").read_text())["nova"] == "33.0.2"
    with pytest.raises(LabError, match=r"pins for .*33\.0\.2"):
        packages.pins_file("1.0")


def test_cache_keys_change_with_each_part() -> None:
    assert packages.cache_key(b"a", b"bc") == packages.cache_key(b"a", b"bc")
    assert packages.cache_key(b"a", b"bc") != packages.cache_key(b"ab", b"c")


def test_an_environment_matches_its_pins_or_not(tmp_path: Path) -> None:
    place = tmp_path / "lib/python3.11/site-packages/Foo_Bar-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0\n")
    assert packages.matches(tmp_path, {"foo-bar": "1.0"})
    assert not packages.matches(tmp_path, {"foo-bar": "1.1"})
    assert not packages.matches(tmp_path, {"other": "1"})


def test_the_machines_policy_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", policy)
    monkeypatch.setattr(packages, "POLICY_ASIDE", tmp_path / "aside")
    with packages.services_held():
        assert policy.read_text().endswith("exit 101\n")
    assert not policy.exists()
    policy.write_text("mine")
    with pytest.raises(ValueError, match="apt"), packages.services_held():
        raise ValueError("apt")
    assert policy.read_text() == "mine"


def test_processes_are_told_apart_by_their_start(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    assert process.living(path) is None
    path.write_text(process.stamp(os.getpid()))
    assert process.living(path) == os.getpid()
    path.write_text(f"{os.getpid()} 1\n")
    assert process.living(path) is None
    fields = " ".join(str(number) for number in range(4, 30))
    assert process.start_ticks(f"7 (a) b (c)) S {fields}") == 22


def test_waiting_ends() -> None:
    assert process.wait_until(lambda: True, 0)
    assert not process.wait_until(lambda: False, 0.05, 0.01)


def test_the_supervisor_has_a_scope_where_the_machine_runs_systemd() -> None:
    plain = hosts.supervisor_argv(CTL1, under_systemd=False)
    assert plain[1:] == ["-m", "recell_lab.supervisor", "ctl1", "10.77.0.11", "controllers"]
    scoped = hosts.supervisor_argv(CTL1, under_systemd=True)
    assert scoped[0] == "systemd-run"
    assert "--property=Delegate=yes" in scoped
    assert scoped[-len(plain) :] == plain


def test_a_failed_command_is_told_in_one_sentence() -> None:
    argv = ["mysql", "-e", "long", "tail"]
    assert hosts.command_failure("db1", argv, 1, b"a warning\nERROR 1045\n") == (
        "db1: `mysql -e long` ended with 1: ERROR 1045"
    )
    assert hosts.command_failure("db1", ["true"], 2, b"").endswith("it said nothing")


def test_base_files_are_the_hosts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "user_public_key", lambda: "ssh-ed25519 AAAA recell-lab\n")
    files = {file.path: file for file in base.base_files(CMP1, [CTL1, CMP1])}
    assert files["/etc/hostname"].content == b"cmp1\n"
    assert files["/root/.ssh/authorized_keys"].mode == 0o600
    assert b"PermitRootLogin prohibit-password" in (files["/etc/ssh/sshd_config"].content or b"")
    assert len(base.machine_id("cmp1")) == 32
    assert base.machine_id("cmp1") != base.machine_id("ctl1")
