"""The journal: durable, one writer, fenced, and honest about a full disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from recell.errors import BadInput, Locked, StalePlan, StepFailed
from recell.journal import Journal


def test_what_is_written_is_there(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", "digest")
    with journal.writing("apply", "forward"):
        journal.append("a", "forward", "started")
        journal.remember("a", "old", {"sha": "x"})
        journal.append("a", "forward", "finished", seconds=1.5)
    again = Journal.open(tmp_path / "j", read_only=True)
    assert [e.phase for e in again.entries()] == ["started", "finished"]
    assert again.recall("a", "old") == {"sha": "x"} and again.attempts("a", "forward") == 1
    assert again.runs()[0].outcome == "done"
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    Journal.create(tmp_path / "j", "d")
    first, second = Journal.open(tmp_path / "j"), Journal.open(tmp_path / "j")
    with (
        first.writing("apply", "forward"),
        pytest.raises(Locked, match="recell apply"),
        second.writing("undo", "backward"),
    ):
        pass


def test_a_killed_writer_leaves_the_lock_and_no_end(tmp_path: Path) -> None:
    Journal.create(tmp_path / "j", "d")
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom recell.journal import Journal\n"
        f"j = Journal.open(Path({str(tmp_path / 'j')!r}))\n"
        "with j.writing('apply', 'forward'):\n"
        "    j.append('a', 'forward', 'started')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -9
    journal = Journal.open(tmp_path / "j")
    last = journal.last("a")
    assert last is not None and last.phase == "started" and journal.runs()[0].outcome is None
    with journal.writing("resume", "forward") as epoch:
        assert epoch == 2


def test_a_writer_that_was_taken_over_is_refused(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", "d")
    with pytest.raises(Locked, match="took over"), journal.writing("apply", "forward"):
        db = sqlite3.connect(tmp_path / "j")
        db.execute("UPDATE meta SET value = '9' WHERE key = 'epoch'")
        db.commit()
        journal.append("a", "forward", "started")


def test_a_full_disk_stops_before_the_step(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", "d")
    with pytest.raises(StepFailed, match="can't be written"), journal.writing("apply", "forward"):
        journal._db.execute("PRAGMA max_page_count = 1")
        for _ in range(100):
            journal.append("a" * 1000, "forward", "started")


@pytest.mark.parametrize("content", [b"", b"not a database at all, just some text that is long enough"])
def test_something_else_is_no_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(BadInput):
        Journal.open(tmp_path / "j")


def test_another_plans_journal(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", "d")
    with pytest.raises(StalePlan):
        journal.belongs_to("e")
    with pytest.raises(BadInput, match="there already"):
        Journal.create(tmp_path / "j", "d")
    assert [p.name for p in tmp_path.iterdir()] == ["j"]
