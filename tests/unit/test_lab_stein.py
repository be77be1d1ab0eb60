"""The pure parts of the lab's Stein: an old interpreter, programs for it, and the hosts' parts."""

from __future__ import annotations

import ast
import json
import types
from pathlib import Path

import pytest

from recell_lab import interpreters, keys, packages, state
from recell_lab.cloud import layout, older, parts, topology
from recell_lab.cloud.conffile import Section, option, render
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.errors import LabError

STEIN = Cloud.of("19.3.2", 2, 3)


def _python(path: Path, version: tuple[int, int, int], prefix: Path) -> Path:
    """A program that answers as an interpreter of that version does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{json.dumps([version, str(prefix)])}'\n")
    path.chmod(0o755)
    return path


def test_a_short_version_is_the_one_there_are_pins_for() -> None:
    assert packages.full_version("19") == "19.3.2"
    assert packages.full_version("33") == packages.full_version("33.0.2") == "33.0.2"
    with pytest.raises(LabError, match=r"Nova 1;.*19\.3\.2, 33\.0\.2"):
        packages.full_version("1")
    assert packages.parse_pins(packages.pins_file("19").read_text())["nova"] == "19.3.2"
    assert packages.python_of(packages.pins_file("19")) == "3.6"


def test_the_interpreter_is_found_on_path_first_and_the_newest_of_pyenv_s_else(tmp_path: Path) -> None:
    root = tmp_path / "pyenv"
    for patch in (9, 15):
        _python(root / f"versions/3.6.{patch}/bin/python3.6", (3, 6, patch), root / f"versions/3.6.{patch}")
    environment = {"PATH": str(tmp_path / "bin"), "PYENV_ROOT": str(root), "HOME": str(tmp_path)}
    assert interpreters.find(["3.6", "3.7"], environment).dotted == "3.6.15"
    shim = tmp_path / "bin/python3.6"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho 'no version is set' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert interpreters.find(["3.6"], environment).dotted == "3.6.15"
    _python(shim, (3, 6, 8), Path("/usr/local"))
    assert interpreters.find(["3.6"], environment).dotted == "3.6.8"


def test_the_second_version_will_do_and_none_is_said_in_a_sentence(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    with pytest.raises(LabError, match=r"needs Python 3\.6 or Python 3\.7.*pyenv install 3\.6"):
        interpreters.find(["3.6", "3.7"], environment)
    _python(tmp_path / "python3.7", (3, 7, 16), Path("/usr/local"))
    assert interpreters.find(["3.6", "3.7"], environment).version == (3, 7, 16)


def test_a_program_that_lies_about_its_version_is_not_taken(tmp_path: Path) -> None:
    _python(tmp_path / "python3.6", (3, 11, 2), Path("/usr"))
    with pytest.raises(LabError):
        interpreters.find(["3.6"], {"PATH": str(tmp_path), "HOME": str(tmp_path)})


def test_an_interpreter_that_hosts_see_is_used_where_it_is() -> None:
    found = interpreters.Interpreter(Path("/x/venv/bin/python3.6"), (3, 6, 15), Path("/opt/python"))
    assert interpreters.shared(found) == Path("/opt/python/bin/python3.6")


def test_a_copy_that_needs_the_original_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CACHE_DIR", tmp_path / "cache")
    monkeypatch.setattr(state, "make_directories", lambda: (tmp_path / "cache").mkdir(exist_ok=True))
    prefix = tmp_path / "home/python"
    (prefix / "lib/python3.6/test").mkdir(parents=True)
    (prefix / "include").mkdir()
    program = prefix / "bin/python3.6"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho True\n")
    program.chmod(0o755)
    found = interpreters.Interpreter(program, (3, 6, 15), prefix)
    with pytest.raises(LabError, match="below /opt"):
        interpreters.shared(found)
    answers = f'case "$3" in *maps*) echo False ;; *) echo \'[[3,6,15],"{prefix}"]\' ;; esac'
    program.write_text(f"#!/bin/sh\n{answers}\n")
    copy = interpreters.shared(found)
    assert copy == tmp_path / "cache/python-3.6.15/bin/python3.6"
    assert (tmp_path / "cache/python-3.6.15/lib/python3.6/site-packages").is_dir()
    assert not (tmp_path / "cache/python-3.6.15/lib/python3.6/test").exists()
    program.unlink()
    assert interpreters.shared(found) == copy

    (tmp_path / "cache/python-3.6.15/lib/libpython3.6m.so.1.0").write_bytes(b"lib")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib").mkdir()
    (venv / "bin/uwsgi").write_bytes(b"\x7fELF\0" + str(prefix / "lib").encode() + b"\0")
    (venv / "bin/nova-api").write_text(f"#!{prefix}/lib\n")
    interpreters.adopt(venv, copy)
    interpreters.adopt(venv, copy)
    assert (venv / "bin/uwsgi").read_bytes().startswith(b"\x7fELF\0$ORIGIN/../lib\0")
    assert (venv / "bin/nova-api").read_text() == f"#!{prefix}/lib\n"
    assert (venv / "lib/libpython3.6m.so.1.0").read_bytes() == b"lib"


def test_a_relocated_program_keeps_its_length_and_other_strings() -> None:
    old = b"ELF\0/opt/pythons/some/3.6.15/lib\0/opt/pythons/some/3.6.15/libexec\0"
    new = interpreters.relocated(old, Path("/opt/pythons/some/3.6.15"))
    assert len(new) == len(old)
    assert b"\0$ORIGIN/../lib\0" in new
    assert new.endswith(b"/opt/pythons/some/3.6.15/libexec\0")
    assert interpreters.relocated(b"\0/p/lib\0", Path("/p")) == b"\0/p/lib\0"


@pytest.mark.parametrize("name", ["guests.py", "make_flavors.py", "notification_consumer.py"])
def test_programs_of_the_hosts_are_put_in_words_that_python_3_6_knows(name: str) -> None:
    text = parts.inside(name, STEIN).decode()
    tree = ast.parse(text, feature_version=(3, 6))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
        if isinstance(node, ast.arg):
            assert node.annotation is None
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("__future__", "dataclasses")
    assert parts.inside(name, Cloud.of("33.0.2", 1, 1)) == (parts.INSIDE / name).read_bytes()


def test_what_python_3_6_can_t_read_is_refused_and_fields_stay() -> None:
    source = b"from __future__ import annotations\nclass A:\n    x: list[int] | None = None\n    y: int\n"
    module = types.ModuleType("old")
    code = compile(older.for_python36(source), "old.py", "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102  our own program
    assert module.A.__annotations__ == {"x": object, "y": object}
    with pytest.raises(SyntaxError):
        older.for_python36(b"if (n := 1):\n    pass\n")


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with the files that descriptions of hosts read."""
    monkeypatch.setattr(state, "CACHE_DIR", tmp_path)
    place = tmp_path / "nova-19.3.2"
    for service, names in (
        ("nova", ("api-paste.ini", "rootwrap.conf")),
        ("glance", ("glance-api-paste.ini", "policy.json")),
        ("neutron", ("api-paste.ini",)),
    ):
        (place / "etc" / service).mkdir(parents=True)
        for name in names:
            (place / "etc" / service / name).write_text(f"{name}\n")
    (place / "lib/python3.6/site-packages/nova/virt").mkdir(parents=True)
    return place


def test_a_cloud_of_stein_has_the_hosts_of_a_conversion(venv: Path) -> None:
    names = [host.name for host in STEIN.hosts]
    assert [n for n in names if n.startswith("mq")] == ["mq1", "mq2", "mq3", "mq4", "mq5", "mq6"]
    assert [n for n in names if n.startswith("api")] == ["api1", "api2"]
    assert len({host.ip for host in STEIN.hosts}) == len(names) == len({*names})
    assert {host.role for host in STEIN.hosts} <= {*keys.GROUPS}
    modern = Cloud.of("33.0.2", 8, 4)
    assert "mq5" not in [host.name for host in modern.hosts]
    everyone = {host.name: host.ip for host in (*modern.hosts, *Cloud.of("19.3.2", 8, 4).hosts)}
    assert len({*everyone.values()}) == len(everyone)


def test_every_host_of_stein_has_each_file_once_and_a_unit_for_what_it_enables(venv: Path) -> None:
    passwords = Passwords.random()
    for host in STEIN.hosts:
        part = layout.part_of(host, STEIN, passwords)
        written = [file.path for file in part.files if file.content is not None]
        assert len(written) == len({*written}), host.name
        if host.role in ("controllers", "services"):
            units = {p.rpartition("/")[2].removesuffix(".service") for p in written if p.endswith(".service")}
            assert {*part.units} - {"memcached"} <= units, host.name
        enabled = {*part.units}
        assert "nova-cells" not in enabled
        assert ("nova-consoleauth" in enabled) == (host.role == "controllers")
        if host.role == "api_cell":
            assert not enabled
            assert "/etc/systemd/system/nova-cells.service" in written


def test_three_brokers_of_stein_are_a_cluster_and_three_are_blank(venv: Path) -> None:
    passwords = Passwords.random()
    texts = {}
    for host in (*topology.BROKERS, *STEIN.spare_brokers):
        files = {f.path: f.content for f in layout.part_of(host, STEIN, passwords).files}
        assert files["/var/lib/rabbitmq/.erlang.cookie"] == passwords.cookie.encode()
        texts[host.name] = (files["/etc/rabbitmq/rabbitmq.conf"] or b"").decode()
    assert [name for name, text in texts.items() if "cluster" in text] == ["mq1", "mq2", "mq3"]
    modern = Cloud.of("33.0.2", 1, 1)
    files = {f.path: f.content for f in layout.part_of(topology.API_BROKER, modern, passwords).files}
    assert files["/var/lib/rabbitmq/.erlang.cookie"] == passwords.cookie_api.encode()
    assert b"cloud-api" in (files["/etc/rabbitmq/rabbitmq.conf"] or b"")


def test_no_password_of_one_service_is_in_the_api_cell_s_empty_hosts(venv: Path) -> None:
    passwords = Passwords.random()
    for host in STEIN.api_cell:
        for file in layout.part_of(host, STEIN, passwords).files:
            assert not any(value.encode() in (file.content or b"") for value in vars(passwords).values())


def test_an_option_that_stein_does_not_know_is_not_written(venv: Path) -> None:
    files = {f.path: f.content for f in layout.part_of(STEIN.controllers[0], STEIN, Passwords.random()).files}
    conf = (files["/etc/nova/nova.conf"] or b"").decode()
    assert "response_validation" not in conf
    assert "\nenabled_apis = osapi_compute,metadata\n" in conf
    assert render("t", [Section("s", [option("a", None, default="1")])]).endswith("#a = 1\n")
