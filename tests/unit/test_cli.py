"""The command line teaches: help, completion, colours; the same words everywhere."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from recell.cli.doctor import show
from recell.cli.main import main
from recell.errors import EXIT_CODES
from recell.model.health import Diagnosis
from recell.model.plan import dump_plan
from recell.planning.split import plan_split
from tests.sim.cloud import build, layout, scan


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself(name: str) -> None:
    command = main.commands[name]
    assert command.help and len(command.help) > 40
    options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    assert name == "completion" or {"--json", "--dir"} <= options
    for p in command.params:
        assert not isinstance(p, click.Option) or p.help or p.prompt, f"{name} {p.opts}"
    said = CliRunner().invoke(main, [name, "--help"])
    assert said.exit_code == 0 and f"recell {name}" in said.output.replace("main", "recell")


def test_help_lists_every_exit_code_in_words() -> None:
    said = CliRunner().invoke(main, ["--help"]).output
    for code, kind in EXIT_CODES.items():
        line = next(x for x in said.splitlines() if x.strip().startswith(f"{code} "))
        assert kind.word in line and len(line.split()) > 3


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_shells(shell: str) -> None:
    said = CliRunner().invoke(main, ["completion", shell])
    assert said.exit_code == 0 and "_RECELL_COMPLETE" in said.stdout


def test_steps_of_the_plan_are_completed(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(dump_plan(plan_split(scan(build()), layout(), 0.0)))
    complete = ShellComplete(main, {}, "recell", "_RECELL_COMPLETE")
    words = ["apply", "--dir", str(tmp_path), "--pause-before"]
    found = {c.value for c in complete.get_completions(words, "ctl1/n")}
    assert "ctl1/nova-conf" in found and all(f.startswith("ctl1/n") for f in found)
    assert complete.get_completions(["apply", "--dir", str(tmp_path / "none"), "--pause-before"], "") == []


def test_status_names_every_step_before_the_first_apply(tmp_path: Path) -> None:
    plan = plan_split(scan(build()), layout(), 0.0)
    (tmp_path / "plan.json").write_bytes(dump_plan(plan))
    said = CliRunner().invoke(main, ["status", "--dir", str(tmp_path)])
    assert said.exit_code == 0 and said.stdout.startswith(f"{plan.kind} {plan.id}: new")
    assert all(f"  {s.id} " in said.stdout for s in plan.steps) and "not begun" in said.stdout


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [Diagnosis("a:b", "error", "ctl1", "it is [bold] wrong", "it matters", "mend it")]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    show(found)
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    show(found)
    plain = capsys.readouterr().out
    assert (
        "\x1b[3" not in plain
        and "it is [bold] wrong" in plain
        and "ERROR   a:b" in plain.replace("\x1b[1m", "").replace("\x1b[0m", "")
    )
