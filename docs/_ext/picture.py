"""Draws docs/before-after.svg out of docs/before-after.json, the topologies of a plan of the lab's.

Run it after recell.drawing has changed: ``.venv/bin/python docs/_ext/picture.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from recell.drawing import stylesheet
from recell.drawing.groups import topology_groups
from recell.drawing.topology import draw_change

DOCS = Path(__file__).parent.parent


def draw() -> str:
    """The picture as it ought to be."""
    both = json.loads((DOCS / "before-after.json").read_text("utf-8"))
    before, after = (topology_groups(both[side]) for side in ("before", "after"))
    # Of the sheet only what topologies need: the colours, and their classes.
    sheet = stylesheet().partition("svg.timeline")[0]
    return str(draw_change(before, after, sheet))


if __name__ == "__main__":
    (DOCS / "before-after.svg").write_text(draw(), "utf-8")
