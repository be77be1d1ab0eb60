"""Pictures and words for people, shared by the live page and the report. Pure: nouns in, SVG out.

:mod:`.words` lengths, counts and escaping; :mod:`.groups` who is where before, now and after;
:mod:`.topology` draws that; :mod:`.waits` sums up what users waited; :mod:`.timeline` draws it over
the steps. Colours come from ``style.css``, which both pages use; nothing is said by colour alone.
"""

from __future__ import annotations

from importlib import resources


def stylesheet() -> str:
    """What every picture needs of CSS: the colours of both themes and the pictures' classes."""
    return resources.files("recell.drawing").joinpath("style.css").read_text("utf-8")
