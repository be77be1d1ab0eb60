"""Editing nova.conf: what oslo.config reads afterwards, and what stays byte for byte."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.adapters.conf import parse_config
from recell.planning import ini

BLANKS = "   "  # some editors leave them
CONF = f"""\
# top comment
[DEFAULT]
# how to reach the bus
transport_url = rabbit://old/{BLANKS}
debug=false
my_list = a,
    b,
    c
; odd comment

[database]
#connection = mysql://example
connection : mysql://old/nova

[empty]
"""


def read(text: str, section: str, option: str) -> str:
    return parse_config([("nova.conf", text.encode())]).get(section, option)


def test_set_in_place_keeps_everything_else() -> None:
    new = ini.set_option(CONF, "DEFAULT", "transport_url", "rabbit://new/")
    assert read(new, "DEFAULT", "transport_url") == "rabbit://new/"
    assert [a for a, b in zip(CONF.splitlines(), new.splitlines(), strict=True) if a != b] == [
        f"transport_url = rabbit://old/{BLANKS}"
    ]


def test_a_commented_option_is_not_an_option() -> None:
    new = ini.set_option(CONF, "database", "connection", "mysql://new/")
    assert "#connection = mysql://example" in new
    assert read(new, "database", "connection") == "mysql://new/"


def test_a_value_over_several_lines_is_replaced_whole() -> None:
    new = ini.set_option(CONF, "DEFAULT", "my_list", "z")
    assert "    b," not in new and read(new, "DEFAULT", "my_list") == "z"


def test_new_option_in_a_section_and_in_none() -> None:
    new = ini.set_option(CONF, "empty", "x", "1")
    assert read(new, "empty", "x") == "1"
    new = ini.set_option(CONF, "brand_new", "x", "1")
    assert read(new, "brand_new", "x") == "1"
    assert new.startswith(CONF)


def test_the_last_of_two_wins_and_the_other_goes() -> None:
    text = "[a]\nx = 1\nx = 2\n"
    assert ini.get(text, "a", "x") == "2"
    assert ini.set_option(text, "a", "x", "3") == "[a]\nx = 3\n"


def test_unset_leaves_comments() -> None:
    new = ini.unset_option(CONF, "DEFAULT", "transport_url")
    assert "# how to reach the bus" in new and not read(new, "DEFAULT", "transport_url")


def test_dashes_and_underscores_are_one() -> None:
    assert ini.get("[a]\nmy-opt = 1\n", "a", "my_opt") == "1"


@pytest.mark.parametrize("tail", ["", "\n", "\n\n", "\n# end"])
def test_files_that_end_in_any_way(tail: str) -> None:
    new = ini.set_option("[a]\nx = 1" + tail, "a", "y", "2")
    assert read(new, "a", "x") == "1" and read(new, "a", "y") == "2"


_NAME = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6)
_VALUE = st.text(string.ascii_letters + string.digits + ":/@,.%$#; ", max_size=20).map(str.strip)
_LINE = st.one_of(
    st.builds("{} = {}".format, _NAME, _VALUE),
    st.builds("# {}".format, _VALUE),
    st.just(""),
    st.builds("[{}]".format, _NAME),
)


@given(st.lists(_LINE, max_size=30), _NAME, _NAME, _VALUE)
def test_what_is_set_is_read_and_nothing_else_moves(
    lines: list[str],
    section: str,
    option: str,
    value: str,
) -> None:
    text = "[first]\n" + "\n".join(lines) + "\n"
    before = parse_config([("f", text.encode())])
    new = ini.set_option(text, section, option, value)
    after = parse_config([("f", new.encode())])
    assert after.get(section, option) == value
    assert ini.get(new, section, option) == value
    for group in set(before.groups) | set(after.groups):
        for name in set(before.values.get(group, {})) | set(after.values.get(group, {})):
            if (group, name) != (section if section != "default" else "DEFAULT", option):
                assert before.get(group, name) == after.get(group, name)
    comments = [x for x in text.splitlines() if x.startswith("#")]
    assert [x for x in new.splitlines() if x.startswith("#")] == comments
