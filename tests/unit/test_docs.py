"""The documentation says something of everything that it must: exit codes, commands, layout words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recell.cli import main
from recell.errors import EXIT_CODES
from recell.model.layout import Layout

DOCS = Path(__file__).parents[2] / "docs"


def test_the_night_chapter_knows_every_exit_code() -> None:
    text = (DOCS / "three-in-the-morning.md").read_text()
    told = re.findall(r"^## (\d+) ([\w-]+)$", text, re.MULTILINE)
    assert told == [("2", "usage"), *((str(c), EXIT_CODES[c].word) for c in sorted(EXIT_CODES))]


def test_promises_name_tests_that_are_there() -> None:
    text = (DOCS / "promises.md").read_text()
    tests = Path(__file__).parents[1]
    code = "\n".join(p.read_text() for p in tests.rglob("test_*.py"))
    for name in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (tests.parent / name).exists(), name
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in code, name


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with warnings as errors."""
    out = tmp_path_factory.mktemp("docs")
    argv = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_reference_is_whole(built: Path) -> None:
    commands = (built / "reference" / "commands.html").read_text()
    for name in main.commands:
        assert f"recell {name}" in commands
    codes = (built / "reference" / "exit-codes.html").read_text()
    for code, kind in EXIT_CODES.items():
        assert f"<p>{code}</p>" in codes and kind.word in codes
    layout = (built / "reference" / "layout.html").read_text()
    schema = Layout.model_json_schema()
    words = [w for part in (schema, *schema["$defs"].values()) for w in part["properties"]]
    assert len(words) > 15
    for word in words:
        assert f">{word}</span>" in layout, word


def test_the_pages_load_nothing_from_elsewhere(built: Path) -> None:
    for path in built.rglob("*.html"):
        found = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"https?:[^\"]+", path.read_text())
        assert found == [], path.name
