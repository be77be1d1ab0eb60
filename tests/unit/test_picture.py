"""The README's picture is what recell draws today of a deployment of the lab's."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_picture_is_current_and_stands_alone() -> None:
    spec = importlib.util.spec_from_file_location("picture", DOCS / "_ext" / "picture.py")
    assert spec and spec.loader
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    kept = (DOCS / "before-after.svg").read_text("utf-8")
    assert kept == picture.draw(), "draw it again: .venv/bin/python docs/_ext/picture.py"
    root = ET.fromstring(kept)  # noqa: S314  # our own file
    words = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"before", "after", "Nova", "API level", "cell1", "cell mapping"} <= words
    assert "http" not in kept.replace("http://www.w3.org/2000/svg", "") and "<script" not in kept
    assert "***" not in kept and (DOCS.parent / "README.md").read_text("utf-8").count("docs/before-after.svg")
