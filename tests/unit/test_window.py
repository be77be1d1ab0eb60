"""A time of day in which waves may begin."""

from __future__ import annotations

import pytest

from recell.errors import BadInput
from recell.model.window import Window

MIDNIGHT = 86400.0 * 20_000


def at(text: str) -> float:
    hours, minutes = text.split(":")
    return MIDNIGHT + int(hours) * 3600 + int(minutes) * 60


@pytest.mark.parametrize(
    ("window", "now", "takes_s", "waits_s"),
    [
        ("22:00-05:00", "22:00", 60, 0),
        ("22:00-05:00", "23:59", 3600, 0),
        ("22:00-05:00", "00:00", 3600, 0),
        ("22:00-05:00", "21:59", 60, 60),
        ("22:00-05:00", "05:00", 60, 17 * 3600),
        ("22:00-05:00", "04:59", 60, 0),
        ("22:00-05:00", "04:59", 61, 17 * 3600 + 60),
        ("22:00-05:00", "04:30", 7200, 17 * 3600 + 1800),
        ("08:00-09:00", "07:00", 60, 3600),
        ("08:00-09:00", "08:30", 1801, 84600),
        ("08:00-09:00", "08:00", 9999, 0),
        ("00:00-00:00", "12:00", 9999, 0),
    ],
)
def test_a_wave_begins_inside_and_when_it_fits(window: str, now: str, takes_s: int, waits_s: int) -> None:
    assert Window.parse(window).waits(at(now), takes_s) == waits_s


def test_what_never_fits_is_known() -> None:
    assert Window.parse("22:00-05:00").fits(7 * 3600)
    assert not Window.parse("22:00-05:00").fits(7 * 3600 + 1)


@pytest.mark.parametrize("text", ["", "22-5", "24:00-05:00", "22:00-05:60", "22:00 - 05:00", "22:00-05:00Z"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(BadInput, match="no window of time"):
        Window.parse(text)
