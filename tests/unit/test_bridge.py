"""The bridge between two RabbitMQ clusters in its parts: what must cross, and how a cluster is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.adapters.bridge_end import RabbitEnd
from recell.adapters.dry_bridge import DryBridgeEnd
from recell.adapters.dry_record import Record
from recell.adapters.ports import Finished, UnitState
from recell.errors import StepFailed
from recell.planning.bridge import (
    PREFIX,
    Lane,
    Side,
    Taken,
    bridged,
    copied,
    helper,
    lacking,
    lanes,
    namesakes,
    shovels,
)


def taken(name: str, takers: int, kind: str = "classic") -> Taken:
    return Taken("/", name, kind, takers)


def test_a_queue_is_led_to_the_only_side_that_takes_from_it() -> None:
    keep = [taken("t", 2), taken("both", 1), taken("nobody", 0), taken("amq.gen-1", 1)]
    new = [taken("reply_1", 1), taken("both", 1), taken("t", 0)]
    assert lanes(keep, new) == {Lane("/", "t", "keep", "t"), Lane("/", "reply_1", "new", "reply_1")}


def test_who_is_about_to_come_counts_already() -> None:
    keep, new = [taken("t", 0), taken("u", 1)], [taken("t", 0), taken("u", 0)]
    coming: dict[tuple[str, str], Side] = {("/", "t"): "new", ("/", "u"): "new", ("/", "never made"): "new"}
    assert lanes(keep, new, coming) == {Lane("/", "t", "new", "t")}


def test_what_others_take_from_is_led_to_them_before_its_last_taker_ends() -> None:
    keep = [taken("t", 1), taken("u", 2), taken("own", 1), taken("s", 1, "stream")]
    new = [taken("t", 1), taken("u", 1), taken("own", 0), taken("s", 1, "stream")]
    both = lanes(keep, new)
    assert Lane("/", "t", "new", "t") not in both and Lane("/", "own", "keep", "own") in both
    leaving: dict[tuple[str, str, Side], int] = {
        ("/", name, "keep"): 1 for name in ("t", "u", "own", "s", "gone")
    }
    assert lanes(keep, new, leaving=leaving) == both | {Lane("/", "t", "new", "t")}
    ended = [taken("t", 0), *keep[1:]]
    assert lanes(ended, new, leaving=leaving) == both | {Lane("/", "t", "new", "t")}


def test_who_rises_on_a_side_gets_nothing_there_even_when_it_takes() -> None:
    keep = [taken("x.cmp1", 0), taken("x.cmp2", 1), taken("x", 2)]
    new = [taken("x.cmp1", 1), taken("x.cmp2", 0), taken("x", 1), taken("agent.cmp1", 1)]
    rising: dict[tuple[str, str], Side] = {
        ("/", "x.cmp1"): "new", ("/", "x.cmp2"): "new", ("/", "never made"): "keep",
    }  # fmt: skip
    assert lanes(keep, new, rising=rising) == {
        Lane("/", "x.cmp1", "keep", "x.cmp1"),
        Lane("/", "x.cmp2", "keep", "x.cmp2"),
        Lane("/", "agent.cmp1", "new", "agent.cmp1"),
    }, "and what else is on its host goes on"


def test_a_stream_comes_from_a_helper_to_each_side_that_reads_it() -> None:
    keep, new = [taken("s", 1, "stream")], [taken("s", 1, "stream"), taken(helper("s"), 0)]
    assert lanes(keep, new) == {Lane("/", "s", side, helper("s")) for side in ("keep", "new")}
    assert not bridged(helper("s")), "a helper's own messages go nowhere else"


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.tuples(st.integers(0, 2), st.integers(0, 2))),
    st.sampled_from(["classic", "quorum", "stream"]),
)
def test_nothing_goes_in_circles(counts: dict[str, tuple[int, int]], kind: str) -> None:
    keep, new = ([taken(n, c[side], kind) for n, c in counts.items()] for side in (0, 1))
    found = lanes(keep, new)
    written = {(lane.toward, lane.queue) for lane in found}
    read = {("new" if lane.toward == "keep" else "keep", lane.source) for lane in found}
    assert not written & read, "no queue is both a shovel's source and another's target"
    assert len({lane.name for lane in found}) == len(found)


def _binding(source: str, destination: str, kind: str = "queue") -> dict[str, str]:
    at = {"vhost": "/", "destination_type": kind, "routing_key": destination}
    return {**at, "source": source, "destination": destination}


DEFINITIONS: dict[str, list[dict[str, Any]]] = {
    "queues": [
        {"vhost": "/", "name": "t", "durable": False, "arguments": {"x-expires": 5}, "type": "classic"},
        {"vhost": "/", "name": "s", "durable": True, "arguments": {"x-queue-type": "stream"}},
        {"vhost": "/", "name": "other", "durable": True, "arguments": {}},
    ],
    "exchanges": [
        {"vhost": "/", "name": "nova", "type": "topic"},
        {"vhost": "/", "name": "idle", "type": "topic"},
    ],
    "bindings": [
        _binding("nova", "t"), _binding("nova", "s"), _binding("nova", "t", "exchange"), _binding("", "t")
    ],
}  # fmt: skip


def test_a_namesake_is_declared_as_its_model_and_bound_alike() -> None:
    sources = {"t": "t", "s": helper("s"), "gone": "gone"}
    wanted = [Lane("/", queue, "keep", source) for queue, source in sources.items()]
    made = namesakes(wanted, [], DEFINITIONS)
    assert made["queues"] == [
        {"vhost": "/", "name": helper("s"), "durable": True, "auto_delete": False,
         "arguments": {"x-expires": 1800000}},
        DEFINITIONS["queues"][0],
    ]  # fmt: skip
    bound = [(b["source"], b["destination"]) for b in made["bindings"]]
    assert bound == [("nova", helper("s")), ("nova", "t")]
    assert [e["name"] for e in made["exchanges"]] == ["nova"]
    assert namesakes(wanted[:1], [("/", "t")], DEFINITIONS)["queues"] == []


def test_a_shovel_confirms_before_it_acknowledges() -> None:
    uris: dict[Side, dict[str, list[str]]] = {"keep": {"/": ["amqp://k"]}, "new": {"/": ["amqp://n"]}}
    (one,) = shovels([Lane("/", "t", "keep", "t")], uris)
    assert (one["component"], one["vhost"]) == ("shovel", "/") and one["name"].startswith(PREFIX)
    assert one["value"]["src-uri"] == ["amqp://n"] and one["value"]["dest-uri"] == ["amqp://k"]
    assert one["value"]["ack-mode"] == "on-confirm"
    old, young = (shovels([Lane("/", "t", "keep", "t")], uris, v)[0]["value"] for v in ("3.8.35", "3.10.8"))
    assert "src-consumer-args" not in old, "it would be refused"
    assert young["src-consumer-args"] == {"x-priority": 1}


def test_mirroring_is_not_copied_to_a_release_without_mirrors() -> None:
    found = {
        "vhosts": [{"name": "/", "limits": [], "metadata": {"tags": []}}],
        "users": [{"name": "os", "password_hash": "x"}, {"name": PREFIX, "password_hash": "y"}],
        "permissions": [{"user": "os", "vhost": "/"}, {"user": PREFIX, "vhost": "/"}],
        "policies": [
            {"vhost": "/", "name": "ha", "definition": {"ha-mode": "all"}},
            {"vhost": "/", "name": "ttl", "definition": {"ha-mode": "all", "expires": 9}},
        ],
        "queues": [{"name": "t"}],
    }
    old, new = copied(found, "3.12.1").definitions(), copied(found, "4.1.0").definitions()
    assert [u["name"] for u in old["users"]] == ["os"] and len(old["policies"]) == 2
    assert [p["definition"] for p in new["policies"]] == [{"expires": 9}]
    assert "queues" not in old
    empty = copied({}, "3.12.1")
    words = lacking(copied(found, "3.12.1"), empty)
    assert "user os" in words and "vhost /" in words and {"policy ha", "permission of os"} <= set(words)
    assert lacking(copied(found, "4.0"), copied(found, "4.0")) == ()


# -- a cluster, through rabbitmqctl ----------------------------------------------------------------


@dataclass
class Host:
    """A host whose RabbitMQ answers with what was prepared."""

    name: str = "mq4"
    said: dict[str, str] = field(default_factory=dict)
    ran: list[tuple[list[str], bytes]] = field(default_factory=list)
    code: int = 0

    def query(self, argv: Sequence[str], *, stdin: bytes = b"", **_: Any) -> Finished:
        words = list(argv[4:]) if argv[0] == "env" else list(argv)
        for begin, text in self.said.items():
            if " ".join(words).startswith(begin):
                return Finished(self.code, text.encode(), b"")
        return Finished(self.code, b"", b"refused" if self.code else b"")

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", **_: Any) -> Finished:
        self.ran.append((list(argv[4:]) if argv[0] == "env" else list(argv), stdin))
        return self.query(argv)

    def unit(self, name: str) -> UnitState:
        return UnitState(name, False, "inactive", False, 0, 0.0, "", (), (), False)


def _end(host: Host) -> RabbitEnd:
    one: Any = host
    return RabbitEnd([one])


def test_takers_are_clients_and_not_shovels() -> None:
    host = Host(said={
        "list_channels": "pid\tuser\n<r@a.1.1.0>\tos\n<r@a.1.2.0>\trecell-bridge\n",
        "list_queues": "name\ttype\tmessages_ready\tmessages_unacknowledged\towner_pid\n"
        "t\tclassic\t3\t1\t\nu\tquorum\t\t\t\nmine\tclassic\t0\t0\t<r@a.1.9.0>\n",
        "list_consumers": "queue_name\tchannel_pid\nt\t<r@a.1.1.0>\nt\t<r@a.1.2.0>\nu\t<r@a.1.2.0>\n"
        "u\t<r@a.1.3.0>\n",
    })  # fmt: skip
    found = _end(host).taken(["/"], PREFIX)
    assert found == (Taken("/", "t", "classic", 1, 4), Taken("/", "u", "quorum", 0, 0))


def test_shovels_are_its_own_and_known_by_whether_they_run() -> None:
    names = [{"name": f"recell-bridge-{n}", "vhost": "/", "runs": n == 1} for n in (1, 2)]
    host = Host(said={"eval": json.dumps([*names, {"name": "own", "vhost": "/", "runs": True}]) + "\nok\n"})
    assert _end(host).shovels() == {("/", "recell-bridge-1"): True, ("/", "recell-bridge-2"): False}
    host.said["eval"] = "[]\nok\n"
    assert _end(host).shovels() == {}
    host.said["eval"] = "crashed"
    with pytest.raises(StepFailed, match="mq4 answers crashed"):
        _end(host).shovels()


def test_secrets_go_to_standard_input_and_names_can_not_break_out() -> None:
    host = Host(said={"export_definitions": 'noise\n{"queues": []}', "eval node()": "ok"})
    end = _end(host)
    assert end.definitions() == {"queues": []}
    end.load({"parameters": [{"value": {"src-uri": "amqp://recell-bridge:s3cret@a"}}]})
    end.clear_shovels([("/", 'x">>), init:stop(), (<<"')])
    end.drop_queues([("/", 'x">>), init:stop(), (<<"')])
    argv = " ".join(word for words, _ in host.ran for word in words)
    assert "s3cret" not in argv and b"s3cret" in host.ran[0][1] and "init:stop" not in argv
    assert "(Q, true, not false," in host.ran[2][0][1], "only when it is unused and empty"
    end.drop_queues([("/", "reply_1")], full=True)
    assert "(Q, true, not true," in host.ran[3][0][1]
    many = [("/", str(n)) for n in range(250)]
    before = len(host.ran)
    end.clear_shovels(many)
    assert len(host.ran) - before == 3


def test_the_account_gets_its_password_even_when_it_was_left_behind() -> None:
    host = Host(said={"list_users": "user\ttags\nrecell-bridge\t[]\n", "authenticate_user": ""})
    host.said["eval rabbit_misc:version()"] = '"3.10.8"\n'
    _end(host).set_account(PREFIX, "s3cret", ["/", "v"])
    assert [w[0] for w, _ in host.ran] == ["set_permissions", "set_permissions"]
    assert host.ran[0][0][-3:] == ["^$", ".*", ".*"], "a shovel that declares a queue declares it wrongly"
    _end(host).drop_account(PREFIX)
    assert host.ran[-1][0] == ["delete_user", PREFIX]


def test_a_plugin_that_can_not_be_enabled_is_told() -> None:
    host = Host(said={"rabbitmq-plugins -q list": "rabbitmq_shovel\namqp_client\n"})
    assert _end(host).plugged() == ("mq4",)
    _end(host).plug("mq4", True)
    assert host.ran == [(["rabbitmq-plugins", "-q", "enable", "rabbitmq_shovel"], b"")]
    host.code = 1
    with pytest.raises(StepFailed, match="enable rabbitmq_shovel failed on mq4"):
        _end(host).plug("mq4", True)


def test_a_dry_end_changes_nothing() -> None:
    host, record = Host(said={"eval": "[]\nok\n"}), Record()
    dry = DryBridgeEnd(_end(host), record)
    dry.load({"queues": [{}], "users": []})
    dry.clear_shovels([("/", "a")])
    dry.drop_queues([("/", "a")])
    dry.plug("mq4", True)
    dry.set_account(PREFIX, "s3cret", ["/"])
    dry.drop_account(PREFIX)
    assert host.ran == [] and len(record.changes) == 6 and "s3cret" not in str(record.changes)
    assert dry.shovels() == {}
