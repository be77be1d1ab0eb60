"""Beside a run: the backup's word, an observation, safe points, a runbook."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from recell.adapters import dry, ports
from recell.adapters.bridge_port import BridgeEnd
from recell.adapters.dry_bridge import DryBridgeEnd
from recell.adapters.dry_broker import DryBroker
from recell.adapters.dry_guests import DryGuests
from recell.adapters.dry_hosts import DryHosts
from recell.adapters.dry_mover import DryMover
from recell.adapters.dry_nova import DryNova
from recell.adapters.dry_rabbit import DryRabbit
from recell.adapters.dry_room import DryRoom
from recell.adapters.dry_v1 import DryV1
from recell.adapters.dry_v1_hold import DryFence, DryGate
from recell.adapters.guests_port import GuestsPort
from recell.adapters.hosts_port import HostsPort
from recell.adapters.mover_port import MoverPort
from recell.adapters.v1_hold_port import FencePort, GatePort
from recell.adapters.v1_port import V1Port
from recell.cli import apply, observe
from recell.cli.main import main
from recell.errors import BadInput
from recell.journal import Journal
from recell.model.deployment import dump_deployment
from recell.model.plan import Plan, dump_plan, load_plan
from recell.model.step import Truth
from recell.planning import runbook
from recell.planning.safety import BEGINNING
from recell.planning.split import plan_split
from recell.preflight import consistency
from recell.steps.registry import KINDS
from tests.sim.cloud import LAYOUT, REMOVE, build, layout, scan
from tests.sim.rehearsing import by_hand, rehearsed
from tests.sim.world import SimFile, SimWorld


def drafted(text: str = LAYOUT) -> tuple[SimWorld, Plan]:
    world = build()
    return world, plan_split(scan(world), layout(text), 0.0)


def test_an_observation_asks_everything_and_writes_nothing(tmp_path: Path) -> None:
    world, plan = drafted()
    before, changes = world.picture(), list(world.changes)
    seen, pretended = rehearsed(world, plan, tmp_path)
    assert world.picture() == before and world.changes == changes
    assert [s.id for s, _ in seen] == [s.id for s in plan.steps]
    assert not [f for _, f in seen if f.truth is Truth.UNKNOWN]
    assert len(pretended.record.changes) > 20


def test_an_observation_goes_on_after_what_would_stop_a_run(tmp_path: Path) -> None:
    world, plan = drafted()
    old = world.hosts["ctl2"].files["/etc/nova/nova.conf"]
    world.hosts["ctl2"].files["/etc/nova/nova.conf"] = SimFile(
        old.content + b"# somebody was here\n", old.mode, old.owner, old.group, old.mtime
    )
    seen, _ = rehearsed(world, plan, tmp_path)
    wrong = {s.id: f.why for s, f in seen if f.truth is Truth.UNKNOWN}
    assert wrong and all(name.startswith("ctl2/") for name in wrong)
    assert all("changed by somebody else" in why for why in wrong.values())
    assert len(seen) == len(plan.steps)


def test_nothing_of_a_pretended_world_is_left_to_the_real_one() -> None:
    """A change that a dry class doesn't define would reach the real broker, host, proxy or database."""
    for dry_class, port in (
        (dry.DryHost, ports.HostPort),
        (DryBroker, ports.BrokerPort),
        (dry.DryProxy, ports.ProxyPort),
        (DryNova, ports.NovaPort),
        (DryRabbit, ports.RabbitNodePort),
        (dry.DryRelay, ports.RelayPort),
        (dry.DryWorld, ports.World),
        (DryHosts, HostsPort),
        (DryMover, MoverPort),
        (DryGuests, GuestsPort),
        (DryV1, V1Port),
        (DryGate, GatePort),
        (DryFence, FencePort),
        (DryBridgeEnd, BridgeEnd),
        (DryRoom, ports.WaitingRoom),
    ):
        wanted = {n for n, v in vars(port).items() if callable(v) and not n.startswith("_")}
        own = {name for cls in dry_class.__mro__[:-1] for name in vars(cls)}
        assert wanted <= own, dry_class
        assert "__getattr__" not in vars(dry_class)


# -- the backup's word -----------------------------------------------------------------------------


def desk(directory: Path) -> Path:
    world, plan = drafted()
    (directory / "plan.json").write_bytes(dump_plan(plan))
    (directory / "layout.yaml").write_text(LAYOUT)
    (directory / "deployment.json").write_bytes(dump_deployment(scan(world)))
    return directory


def test_without_a_backups_name_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a host was asked")

    monkeypatch.setattr(apply, "_ready", never)
    top = desk(tmp_path)
    for words in ([], ["--backup", "  "]):
        said = CliRunner().invoke(main, ["apply", "--dir", str(top), *words])
        assert said.exit_code == 3 and "api, cell0, cell1" in said.stderr and "--backup" in said.stderr
    assert not (top / "journal.sqlite").exists()


def test_the_words_are_in_the_journal_and_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def drive(d: Any, plan: Plan, journal: Journal, *_: Any, said: Any = None, **__: Any) -> None:
        kept.append(said)
        with journal.writing("apply", "forward"):
            for key, value in (said or {}).items():
                journal.remember("operator", key, value)

    monkeypatch.setattr(apply, "_ready", lambda *_, **__: None)
    monkeypatch.setattr(apply, "drive", drive)
    top = desk(tmp_path)
    words = ["apply", "--dir", str(top), "--no-measure"]
    assert CliRunner().invoke(main, [*words, "--backup", "tape 7, read back"]).exit_code == 0
    assert CliRunner().invoke(main, words).exit_code == 0
    assert [bool(s) for s in kept] == [True, False]
    state = json.loads(CliRunner().invoke(main, ["status", "--dir", str(top), "--json"]).stdout)
    assert state["backup"]["words"] == "tape 7, read back"
    assert state["backup"]["of"] == ["api", "cell0", "cell1"]


def test_a_run_that_died_before_it_wrote_the_words_asks_again(tmp_path: Path) -> None:
    top = desk(tmp_path)
    plan = load_plan((top / "plan.json").read_bytes(), "plan.json")
    Journal.create(top / "journal.sqlite", plan.digest).close()
    said = CliRunner().invoke(main, ["resume", "--dir", str(top)])
    assert said.exit_code == 3 and "backup" in said.stderr


def test_on_a_terminal_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = drafted()
    monkeypatch.setattr(click, "prompt", lambda text, **_: f"answer to: {text}")
    said = apply.backup_words(plan, None, ask=True)
    assert "api, cell0, cell1" in said["words"]
    with pytest.raises(BadInput):
        apply.backup_words(plan, None, ask=False)
    assert apply.backup_words(replace(plan, expected_changes=()), None, ask=True)["words"] == ""


# -- safe points -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LAYOUT, REMOVE])
def test_every_step_names_its_last_safe_point(text: str) -> None:
    _, plan = drafted(text)
    forward = [s for s in plan.steps if s.acts != "backward"]
    order = {BEGINNING: -1, **{s.id: n for n, s in enumerate(forward)}}
    for number, s in enumerate(forward):
        assert order[s.safe_point] <= number
        point = s.safe_point
        assert point == BEGINNING or next(o for o in forward if o.id == point).safe_point == point
    points = {s.id: s.safe_point for s in forward}
    assert points["ctl1/nova-conf"] == points["ctl1/drain"] != "ctl1/drain"
    assert points["ctl1/ready"] == "ctl1/ready" and points["ctl2/nova-api"] == "ctl1/ready"
    assert forward[-1].safe_point == forward[-1].id
    assert all(s.safe_point == "" for s in plan.steps if s.acts == "backward")
    assert load_plan(dump_plan(plan), "plan.json") == plan


def test_a_plan_from_before_safe_points_keeps_its_digest() -> None:
    _, plan = drafted()
    old = replace(plan, steps=tuple(replace(s, safe_point="") for s in plan.steps)).sealed()
    content = json.loads(dump_plan(old))
    for s in content["steps"]:
        del s["safe_point"]
    assert load_plan(json.dumps(content).encode(), "plan.json").digest == old.digest


def test_a_host_without_a_proxy_is_half_moved_while_its_file_is_ahead() -> None:
    _, plan = drafted(REMOVE)
    points = {s.id: s.safe_point for s in plan.steps}
    assert points["cmp1/upcall-conf"] == "ctl2/ready" and points["cmp1/nova-compute"] == "cmp1/nova-compute"


def test_the_plan_says_so_in_words(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["plan", "--dir", str(desk(tmp_path))])
    assert said.exit_code == 0
    assert "leave:   not here for long; the last safe point is ctl1/ready" in said.stdout
    assert "leave:   after this step" in said.stdout


# -- the runbook -----------------------------------------------------------------------------------


def test_every_kind_of_step_can_be_done_by_hand() -> None:
    assert set(runbook._KINDS) == set(KINDS)


@pytest.mark.parametrize("text", [LAYOUT, REMOVE])
def test_the_way_back_is_the_list_from_its_end(text: str) -> None:
    _, plan = drafted(text)
    back = runbook.back(plan, lambda step, key: None)
    ids = list(dict.fromkeys(h.step for h in back))
    assert ids == [s.id for s in reversed(plan.steps) if s.acts != "forward"]
    forth = list(dict.fromkeys(h.step for h in runbook.forth(plan, lambda step, key: None)))
    assert forth == [s.id for s in plan.steps if s.acts != "backward"]
    conf = next(h for h in back if h.step == "ctl1/nova-conf")
    old = next(f.sha256 for f in plan.fingerprints if (f.host, f.path) == ("ctl1", "/etc/nova/nova.conf"))
    assert conf.commands[-1] == f"cp -- /var/lib/recell/{plan.id}/{old} /etc/nova/nova.conf"


FACTS = {"old": "0" * 64, "new": "1" * 64, "made": ["vhost", "permissions"], "retired": [3, 4]}


def known(step: str, key: str) -> Any:
    return FACTS.get(key)


@pytest.mark.parametrize("text", [LAYOUT, REMOVE])
def test_every_command_is_a_shells(text: str) -> None:
    _, plan = drafted(text)
    by_hand(plan, known)


def test_a_mapping_goes_back_without_its_passwords_on_a_command_line(tmp_path: Path) -> None:
    """What the commands print is run, with a file in place of a database."""
    _, plan = drafted()
    transport, database = "rabbit://nova:p'w@mq1/", "mysql+pymysql://nova:p\\w@db1/nova"
    content = "\0".join(("u-1", "cell1", transport, database, "")).encode()
    name = hashlib.sha256(content).hexdigest()
    (tmp_path / name).write_bytes(content)
    hand = next(
        h for h in runbook.back(plan, lambda s, k: name if k == "old" else None) if h.step == "mapping/cell1"
    )
    command = hand.commands[0]
    assert "p'w" not in command and transport not in command
    command = command.replace(f"/var/lib/recell/{plan.id}/{name}", str(tmp_path / name))
    command = command.replace(f"{runbook.SQL} nova_api", "cat")
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert said == (
        f"UPDATE cell_mappings SET transport_url = UNHEX('{transport.encode().hex()}'), database_connection ="
        f" UNHEX('{database.encode().hex()}'), updated_at = UTC_TIMESTAMP() WHERE uuid = 'u-1';\n"
    )


def test_the_command_prints_both_ways_and_no_secret(tmp_path: Path) -> None:
    top = desk(tmp_path)
    said = CliRunner().invoke(main, ["runbook", "--dir", str(top), "--forth"])
    assert said.exit_code == 0 and "printed before the change" in said.stdout
    assert "## Back, last step first" in said.stdout and "## Forth" in said.stdout
    assert "s3cret" not in said.stdout and "dbpw" not in said.stdout
    content = json.loads(CliRunner().invoke(main, ["runbook", "--dir", str(top), "--json"]).stdout)
    assert content["position"] == "new" and len(content["back"]) > 20 and "forth" not in content


def test_the_command_observes_and_says_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = drafted()
    before = world.picture()

    @contextlib.contextmanager
    def mine(_: Any) -> Any:
        yield world

    def proof(_: Any, __: Any) -> str:
        return "all is well"

    monkeypatch.setattr(observe, "world_of", mine)
    monkeypatch.setattr(observe, "scan_again", lambda deployment, at: scan(world))
    monkeypatch.setattr(consistency, "PROOFS", (("instances", proof),))
    monkeypatch.setattr(observe, "check", lambda *_: ())
    top = desk(tmp_path)
    said = CliRunner().invoke(main, ["apply", "--observe", "--dir", str(top)])
    assert said.exit_code == 0, said.output
    assert "nothing was written" in said.stdout and "ok   instances: all is well" in said.stdout
    assert world.picture() == before and not (top / "journal.sqlite").exists()
    old = world.hosts["ctl2"].files["/etc/nova/nova.conf"]
    world.hosts["ctl2"].files["/etc/nova/nova.conf"] = replace(old, content=old.content + b"# hm\n")
    said = CliRunner().invoke(main, ["apply", "--observe", "--json", "--dir", str(top)])
    content = json.loads(said.stdout)
    assert said.exit_code == 7 and {t[0] for t in content["trouble"]} >= {"plan", "ctl2/nova-conf"}
