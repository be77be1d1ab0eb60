"""Sphinx: recell's documentation. Built by ./test with warnings as errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from recell import __version__

project = "recell"
release = version = __version__
extensions = ["myst_parser", "recell_reference"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"recell {version}"
html_copy_source = False
nitpicky = True
