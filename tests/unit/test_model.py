"""URLs, layouts, command lines, units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.errors import EXIT_CODES, BadInput
from recell.model.layout import EXAMPLE, load_layout
from recell.model.urls import Endpoint, Url, is_template, parse_url
from recell.planning.unitfile import dropin, quoted, sibling

_WORD = st.text("abcXYZ019-_.", min_size=1, max_size=8)
_SECRET = st.text(min_size=1, max_size=12).filter(lambda t: t != "***" and t.isprintable())


@given(
    _WORD,
    st.lists(st.builds(Endpoint, _WORD, st.integers(1, 65535), _WORD, _SECRET), min_size=1, max_size=3),
    _WORD,
)
def test_urls_come_back(scheme: str, endpoints: list[Endpoint], path: str) -> None:
    url = Url(scheme.replace("_", "-"), tuple(endpoints), path)
    assert parse_url(url.text()) == url
    assert parse_url(url.shown()).hosts == url.hosts


def test_what_is_shown_hides_every_password() -> None:
    url = parse_url("rabbit://nova:p%40ss@a:5672,nova:other@[fe80::1]:5672/vh?ssl=1")
    assert url.endpoints[0].password == "p@ss"
    assert url.shown() == "rabbit://nova:***@a:5672,nova:***@[fe80::1]:5672/vh?ssl=1"
    moved = url.with_nodes((("mq4", 5673),))
    assert moved.text() == "rabbit://nova:p%40ss@mq4:5673/vh?ssl=1"


def test_templates_are_known() -> None:
    assert is_template("{scheme}://{username1}:{password1}@{hostname1}:{port1}/")
    assert not is_template("rabbit://nova:pw@mq1/")


def test_a_url_that_is_none_is_not_repeated() -> None:
    with pytest.raises(BadInput) as error:
        parse_url("hunter2")
    assert "hunter2" not in str(error.value)


def test_the_example_is_a_layout() -> None:
    assert load_layout(EXAMPLE, "example").api.broker.nodes == ("mq4",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a mapping"),
        ("- a", "not a mapping"),
        ("generation: v2", "api: Field required"),
        ("generation: v3\napi: {broker: {nodes: [a]}}\ncells: {cell1: {}}", "generation"),
        ("api: {broker: {nodes: []}}\ncells: {}", "api.broker.nodes"),
        ("api: {broker: {nodes: [a]}}\ncells: {}\nbrokres: 1", "brokres"),
        ("api: {broker: {nodes: [a]}}\ncells: {a: {}}\ncells: {b: {}}", "line 3: cells stands twice"),
        ("api: [", "line 1"),
        ("a: b: c", "line 1"),
    ],
)
def test_a_bad_layout_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(BadInput) as error:
        load_layout(text, "layout.yaml")
    assert says in error.value.sentence and "\n" not in error.value.sentence and error.value.remedy


def test_exit_codes_are_numbered_once() -> None:
    assert len(EXIT_CODES) == 14 and all(2 < code < 128 for code in EXIT_CODES)


def test_exec_start_quotes_what_systemd_would_expand() -> None:
    assert quoted(["/usr/bin/x", "a b", "100%", "$HOME"]) == '/usr/bin/x "a b" "100%%" "$$HOME"'
    assert dropin(["/usr/bin/x"], "why") == "# why\n[Service]\nExecStart=\nExecStart=/usr/bin/x\n"


def test_a_sibling_keeps_all_but_its_command() -> None:
    text = (
        "[Unit]\nDescription=Nova conductor\nAfter=network.target\n[Service]\nUser=nova\n"
        "ExecStart=/usr/bin/nova-conductor \\\n  --config-file /etc/nova/nova.conf\nRestart=always\n"
        "[Install]\nWantedBy=multi-user.target\nAlias=conductor.service\n"
    )
    new = sibling(text, ["/usr/bin/nova-conductor", "--config-file", "/x"], "Super")
    assert new.count("ExecStart=") == 1 and "--config-file /x" in new and "nova.conf" not in new
    assert "User=nova" in new and "WantedBy=" in new and "Alias" not in new and "Restart=always" in new
