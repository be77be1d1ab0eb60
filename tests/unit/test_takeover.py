"""Two machines and one journal: the second takes over, the first is fenced, an old copy is refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from recell.adapters.agent import TAKEN
from recell.adapters.nova_db import NovaDatabases
from recell.adapters.ports import RawMapping
from recell.adapters.ssh import CLAIM_PATIENCE_S, SshHost
from recell.adapters.world import RealWorld
from recell.cli import takeover
from recell.cli.desk import Desk
from recell.cli.main import main
from recell.errors import Locked, StalePlan
from recell.journal import Journal
from recell.model.deployment import dump_deployment
from recell.model.plan import Fingerprint, Plan, PlanStep, dump_plan
from tests.sim.cloud import LAYOUT, build, scan
from tests.unit.test_adapters_ssh import Sshd, host, sshd

__all__ = ["host", "sshd"]


def plan_of(path: Path) -> Plan:
    params = {"path": str(path)}
    steps = tuple(
        PlanStep(f"ctl1/{n}", "edit-config", "ctl1", "edit", "nothing", "put back", params=params)
        for n in (1, 2)
    )
    known = Fingerprint("ctl1", str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    return Plan(1, "test", 0.0, "state", "layout", steps, (known,)).sealed()


class Machine:
    """One operator's machine: a directory, and recell's way of writing there."""

    def __init__(self, directory: Path, world: RealWorld) -> None:
        self.desk = Desk(directory)
        self.world = world

    @contextmanager
    def running(self) -> Iterator[tuple[Journal, SshHost]]:
        journal = self.desk.journal()
        try:
            with journal.writing("apply", "forward") as epoch:
                self.world.claim(self.desk.fence(journal, epoch, "recell apply"), "ctl1")
                yield journal, self.world.host("ctl1")
        finally:
            journal.close()

    def step(self, number: int, path: Path) -> None:
        """What an edit does: keep the old content, remember its name, write."""
        with self.running() as (journal, ctl1):
            name, before = f"ctl1/{number}", ctl1.read(str(path)) or b""
            after = before + b"more\n"
            journal.append(name, "forward", "started")
            journal.remember(name, "before", ctl1.keep(self.desk.plan().id, before))
            journal.remember(f"file:ctl1:{path}", "shas", _shas(journal, path, before, after))
            old = ctl1.stat(str(path))
            assert old
            ctl1.write(str(path), after, mode=0o644, owner=old.owner, group=old.group, expect=old.sha256)
            journal.append(name, "forward", "finished", seconds=0.1, verified="yes")

    def copied_to(self, directory: Path) -> Machine:
        shutil.copytree(self.desk.directory, directory, dirs_exist_ok=True)
        return Machine(directory, RealWorld(self.world.deployment))

    def takes_over(self) -> int:
        desk, plan = self.desk, self.desk.plan()
        journal = desk.journal()
        try:
            epoch = takeover.take(self.world, desk, plan, journal)
            journal.raise_epoch(epoch)
        finally:
            journal.close()
        return epoch


def _shas(journal: Journal, path: Path, *contents: bytes) -> list[str]:
    known: list[str] = journal.recall(f"file:ctl1:{path}", "shas", [])
    return [*known, *(hashlib.sha256(c).hexdigest() for c in contents)]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "nova.conf"
    path.write_text("[DEFAULT]\n")
    return path


@pytest.fixture
def first(
    host: SshHost, sshd: Sshd, tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    monkeypatch.setattr(takeover, "STATE", str(sshd.state))
    deployment = scan(build())
    deployment = replace(deployment, hosts=tuple(replace(h, address=sshd.address) for h in deployment.hosts))
    directory = tmp_path / "first"
    directory.mkdir()
    plan = plan_of(conf)
    (directory / "plan.json").write_bytes(dump_plan(plan))
    (directory / "deployment.json").write_bytes(dump_deployment(deployment))
    (directory / "layout.yaml").write_text(LAYOUT)
    Journal.create(directory / "journal.sqlite", plan.digest).close()
    machine = Machine(directory, RealWorld(deployment))
    yield machine
    machine.world.close()


def test_a_claim_outwaits_the_longest_start_of_a_run_that_was_killed(first: Machine) -> None:
    path = first.desk.layout_path
    for limits in ("{start_s: 1800}", "{start_s: 5, stop_s: 5}"):
        path.write_text(f"{LAYOUT}limits: {limits}\n")
        known, journal = first.desk.limits(), first.desk.journal()
        fence = first.desk.fence(journal, 1, "recell apply")
        journal.close()
        assert fence.patience_s >= max(CLAIM_PATIENCE_S, known["start_s"] + known["stop_s"])


def test_the_second_machine_goes_on_and_the_first_is_fenced(
    first: Machine, tmp_path: Path, conf: Path
) -> None:
    first.step(1, conf)
    second = first.copied_to(tmp_path / "second")
    epoch = second.takes_over()
    assert epoch >= TAKEN
    with pytest.raises(Locked, match="newer run"):
        first.step(2, conf)
    assert conf.read_text() == "[DEFAULT]\nmore\n"
    second.step(2, conf)
    assert conf.read_text() == "[DEFAULT]\nmore\nmore\n"
    # Given back at the end, the hosts are still not the first machine's.
    second.world.release("ctl1")
    with pytest.raises(Locked, match="newer run"):
        first.step(2, conf)
    # A third one may take over in its turn.
    third = second.copied_to(tmp_path / "third")
    assert third.takes_over() > epoch
    with pytest.raises(Locked):
        second.step(2, conf)
    for machine in (second, third):
        machine.world.close()


def test_a_copy_from_before_a_run_is_refused_and_a_new_one_is_not(
    first: Machine, tmp_path: Path, conf: Path
) -> None:
    first.step(1, conf)
    second = first.copied_to(tmp_path / "second")
    first.step(2, conf)
    with pytest.raises(StalePlan, match="runs before"):
        second.takes_over()
    # The first is fenced already: its journal stays as it is, and can be copied in peace.
    with pytest.raises(Locked):
        first.step(2, conf)
    with pytest.raises(StalePlan, match="runs before"):
        second.takes_over()
    again = first.copied_to(tmp_path / "second")
    again.takes_over()
    for machine in (second, again):
        machine.world.close()


def test_a_copy_from_the_middle_of_a_run_is_refused(first: Machine, tmp_path: Path, conf: Path) -> None:
    with first.running() as (journal, ctl1):
        second = first.copied_to(tmp_path / "second")
        journal.remember("ctl1/1", "before", ctl1.keep(first.desk.plan().id, b"an old value"))
    with pytest.raises(StalePlan, match="kept on ctl1"):
        second.takes_over()
    first.copied_to(tmp_path / "second")
    second.takes_over()
    second.world.close()


def test_a_file_that_the_copy_does_not_know_is_refused(first: Machine, tmp_path: Path, conf: Path) -> None:
    first.step(1, conf)
    second = first.copied_to(tmp_path / "second")
    conf.write_text("somebody else's\n")
    with pytest.raises(StalePlan, match="changed by somebody else"):
        second.takes_over()
    second.world.close()


def test_another_journals_hosts_are_not_taken(first: Machine, tmp_path: Path, conf: Path) -> None:
    first.step(1, conf)
    other = tmp_path / "other"
    shutil.copytree(first.desk.directory, other)
    (other / "journal.sqlite").unlink()
    Journal.create(other / "journal.sqlite", first.desk.plan().digest).close()
    stranger = Machine(other, RealWorld(first.world.deployment))
    with pytest.raises(Locked, match="belongs to the journal"):
        stranger.takes_over()
    stranger.world.close()


def test_a_fenced_run_does_not_reach_the_databases_either(
    first: Machine, tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.step(1, conf)
    reached: list[str] = []

    class Db(NovaDatabases):
        def __init__(self) -> None:
            super().__init__(
                first.world.host("ctl1"), "mysql://nova:x@db/nova_api", "", "", first.world._permit
            )
            monkeypatch.setattr(self._api, "change", lambda act: reached.append("api"))

    row = RawMapping("u", "cell1", "", "", False)
    Db().set_mapping(row, row)
    assert reached == ["api"]
    second = first.copied_to(tmp_path / "second")
    second.takes_over()
    with pytest.raises(Locked, match="newer run"):
        Db().set_mapping(row, row)
    assert reached == ["api"]
    second.world.close()


def test_the_command(first: Machine, tmp_path: Path, conf: Path) -> None:
    words = ["takeover", "--dir", str(first.desk.directory)]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 9 and "nothing was applied yet" in said.stderr
    first.step(1, conf)
    second = first.copied_to(tmp_path / "second")
    with first.running():
        said = CliRunner().invoke(main, words)
        assert said.exit_code == 9 and "is writing" in said.stderr
    said = CliRunner().invoke(main, ["takeover", "--dir", str(second.desk.directory)])
    assert said.exit_code == 8, said.output  # the run above is one more than the copy knows
    said = CliRunner().invoke(main, [*words, "--json"])
    assert said.exit_code == 0 and '"taken": true' in said.stdout
    first.step(2, conf)
    second.world.close()
