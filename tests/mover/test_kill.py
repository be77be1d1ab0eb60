"""kill -9 of the mover at any moment, the copy included, in both directions."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recell.model.scope import Rule
from recell.mover import Move, Options
from tests.mover import schema
from tests.mover.writers import HOSTS, Load, fill
from tests.private_server import Pair

_ROOT = Path(__file__).resolve().parents[2]


def _killed(clouds: Pair, rules: str, rate: float, after_s: float) -> list[str]:
    """What a mover said until it was killed ``after_s`` seconds after it had begun."""
    asked = json.dumps({"ends": [(str(s.directory), s.number) for s in clouds], "rules": rules, "rate": rate})
    process = subprocess.Popen([sys.executable, "-m", "tests.mover.runner", asked], cwd=_ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    first = process.stdout.readline()
    timer = threading.Timer(after_s, process.kill)
    timer.start()
    rest, complaint = process.communicate()
    timer.cancel()
    assert process.returncode == -9, complaint
    return [first.strip(), *rest.split()]


@pytest.mark.parametrize(("rules", "chosen", "hosts"), [("whole", schema.WHOLE, ()),
                                                        ("hosts", schema.BY_HOST, HOSTS[:3])],
                         ids=["whole", "hosts"])
@pytest.mark.parametrize(("seed", "kills"), [
    (7, 3), *[pytest.param(s, 12, marks=pytest.mark.thorough) for s in range(20, 30)]])
def test_killed_and_gone_on(clouds: Pair, rules: str, chosen: dict[str, Rule],
                            hosts: tuple[str, ...], seed: int, kills: int) -> None:
    source, target = clouds
    fill(source, seed)
    schema.gap(target)
    dice = random.Random(seed)
    scope = schema.scope(schema.read(source), chosen, hosts)
    seen: list[str] = []
    with Load(source, seed):
        # Slow at first, so that it's killed in the copy on any machine (the copy takes longer than all
        # who are killed in it live); then as fast as it goes.
        slow = 60 if rules == "whole" else 15
        for number in range(kills):
            seen += _killed(clouds, rules, slow if number < kills / 2 else 0, dice.uniform(0.05, 2.0))
        assert seen.count("copying") > 1, seen
        move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
        move.prepare()
        move.copy()
        move.follow()
        move.set_rate(0)
        move.catch_up(120, lag_s=10)
        assert move.verify().differences == ()
    move.drain(120)
    assert schema.differing(source, target, scope) == []
    move.reverse()
    move.close()
    with Load(target, seed + 50, base=schema.GAP):
        for _ in range(max(1, kills // 3)):
            assert _killed(clouds, rules, 0, dice.uniform(0.05, 1.5))[0] == "following"
        assert move.prepare() == "following"
        assert move.backward
        move.follow()
        move.catch_up(120, lag_s=10)
    move.drain(120)
    assert schema.differing(source, target, scope) == []
    move.finish()
