"""RabbitMQ's split in its parts: configuration, walls, the cut's order, the node's words, discovery."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recell.adapters import cutting, walls
from recell.adapters.ports import CutNode, FileStat, Finished, ProcessInfo, UnitState
from recell.adapters.rabbit_node import RabbitNode, handling_word
from recell.cli.desk import hosts_of
from recell.cli.main import main
from recell.discovery.rabbit import look_at_rabbit
from recell.errors import BadInput, StepFailed, Unreachable, Unsupported
from recell.model.deployment import Address, Deployment, dump_deployment, load_deployment
from recell.model.layout import RABBIT_EXAMPLE, BrokerLayout, load_any_layout, load_layout
from recell.model.measure import Measurement, UserRequest, Window
from recell.model.plan import dump_plan
from recell.model.rabbit import QueueHome
from recell.planning import apart, rabbit_conf
from recell.planning.rabbit import plan_rabbit
from recell.probe.record import Recorder
from recell.report.write import document
from tests.sim.desk import Desk
from tests.sim.test_bridge import FRESH, build_fresh, scan_fresh
from tests.sim.test_rabbit import TEXT, build, layout, scan

# -- layout and commands ---------------------------------------------------------------------------


def test_a_layout_may_hold_rabbitmq_alone() -> None:
    found = load_any_layout(RABBIT_EXAMPLE, "layout.yaml")
    assert isinstance(found, BrokerLayout) and found.rabbitmq.keep.clients == ("*",)
    with pytest.raises(BadInput, match="about RabbitMQ alone"):
        load_layout(RABBIT_EXAMPLE, "layout.yaml")
    with pytest.raises(BadInput, match="two conversions"):
        load_any_layout(RABBIT_EXAMPLE + "cells: {}\n", "layout.yaml")
    with pytest.raises(BadInput, match=r"rabbitmq\.new\.hosts"):
        load_any_layout("rabbitmq: {keep: {hosts: [a]}, new: {hosts: []}}", "layout.yaml")


def _desk(top: Path, deployment: Deployment) -> Path:
    (top / "deployment.json").write_bytes(dump_deployment(deployment))
    (top / "layout.yaml").write_text(TEXT)
    return top


def test_the_commands_plan_and_check_it_without_a_nova(tmp_path: Path) -> None:
    deployment = scan(build())
    assert load_deployment(dump_deployment(deployment), "x") == deployment
    top = str(_desk(tmp_path, deployment))
    said = CliRunner().invoke(main, ["plan", "--dir", top])
    assert said.exit_code == 0, said.output
    assert "rabbitmq/part  (on mq1)" in said.stdout and "s3cret" not in said.stdout
    assert "users:   queues can't be declared for about a second" in said.stdout
    said = CliRunner().invoke(main, ["check", "--offline", "--dir", top])
    assert said.exit_code == 0 and "Nothing stands in the way" in said.stdout
    said = CliRunner().invoke(main, ["plan", "--example", "--rabbitmq"])
    assert said.stdout == RABBIT_EXAMPLE


@pytest.mark.parametrize("method", ["split", "fresh"])
def test_every_host_that_is_changed_is_claimed(method: str) -> None:
    """The bridge's account is made on the old cluster, whichever of its hosts answers."""
    found = scan_fresh(build_fresh()) if method == "fresh" else scan(build())
    plan = plan_rabbit(found, layout(FRESH if method == "fresh" else TEXT), 0.0)
    assert set(hosts_of(plan)) == {"mq1", "mq2", "mq3", "mq4", "mq5", "mq6", "net1", "net2", "tel1"}


def test_check_names_every_reason_at_once(tmp_path: Path) -> None:
    from dataclasses import replace

    deployment = scan(build())
    nodes = tuple(replace(n, alarms=("disk",), container=True) for n in deployment.rabbit)
    hosts = tuple(replace(h, firewall="") for h in deployment.hosts)
    top = str(_desk(tmp_path, replace(deployment, rabbit=nodes, hosts=hosts)))
    said = CliRunner().invoke(main, ["check", "--offline", "--json", "--dir", top])
    found = json.loads(said.stdout)
    assert said.exit_code == 7
    assert len([v for v in found if "alarm" in v["what"]]) == 6
    assert len([v for v in found if "container" in v["what"]]) == 6
    assert len([v for v in found if v["id"].startswith("firewall:mq")]) == 6
    assert CliRunner().invoke(main, ["plan", "--dir", top]).exit_code == Unsupported.exit_code


def test_the_report_has_the_same_keys_and_null_for_what_is_nova_s(tmp_path: Path) -> None:
    world = build()
    top = _desk(tmp_path, scan(world))
    desk = Desk(world, tmp_path, plan_rabbit(scan(world), layout(), 0.0))
    (top / "plan.json").write_bytes(dump_plan(desk.plan))
    for direction in ("forward", "backward", "forward"):
        desk.go(direction)
    said = CliRunner().invoke(main, ["report", "--json", "--dir", str(top)])
    assert said.exit_code == 0, said.output
    told = json.loads((top / "report.json").read_text())
    assert json.loads(said.stdout) == told
    nothing = Measurement("", "", Window(0.0, 0.0), 0.0)
    assert told.keys() == document(nothing).keys()
    assert told["outcome"] == "succeeded" and told["kind"] == "split-rabbitmq"
    assert [told[k] for k in ("api", "operations", "guests", "rows")] == [None] * 4
    forward = [s.id for s in desk.plan.steps if s.acts != "backward"]
    assert [s["name"] for s in told["steps"]] == forward and all(s["verified"] for s in told["steps"])
    # One cut of two that the journal knows: only the last turn's runs are the report's.
    assert sum(s["attempts"] for s in told["steps"] if s["name"] == "rabbitmq/part") == 1
    assert (told["freeze_s"], told["deliveries_held_s"]) == (0.5, 0.2)
    assert "s3cret" not in (top / "report.html").read_text()
    asked = tmp_path / "requests.jsonl"
    amid = (told["window"]["start"] + told["window"]["end"]) / 2  # the ends themselves are rounded
    with Recorder(asked) as log:
        log.request(UserRequest(amid, 0.1, "show", "GET", "i", 200, "req-1", True))
        log.request(UserRequest(amid, 0.3, "show", "GET", "i", 500, "req-2", False))
    said = CliRunner().invoke(main, ["report", "--requests", str(asked), "--dir", str(top)])
    told = json.loads((top / "report.json").read_text())
    assert said.exit_code == 0 and (told["api"]["requests"], told["api"]["failed"]) == (2, 1)
    assert told["operations"] is None
    other = tmp_path / "earlier.jsonl"
    with Recorder(other) as log:
        log.request(UserRequest(amid, 0.2, "show", "GET", "i", 200, "req-0", True))
    both = [f"--requests={path}" for path in (asked, other)]
    said = CliRunner().invoke(main, ["report", *both, "--dir", str(top)])
    told = json.loads((top / "report.json").read_text())
    assert said.exit_code == 0 and (told["api"]["requests"], told["api"]["failed"]) == (3, 1)
    said = CliRunner().invoke(main, ["report", "--of", "undo", "--dir", str(top)])
    told = json.loads((top / "undo" / "report.json").read_text())
    assert said.exit_code == 0 and told["outcome"] == "undone"


# -- rabbitmq.conf ---------------------------------------------------------------------------------


def test_rabbitmq_conf_keeps_every_other_line() -> None:
    text = (
        "# cluster_partition_handling = autoheal\n"
        "cluster_partition_handling = pause_minority\n\n"
        "cluster_formation.classic_config.nodes.1 = rabbit@a\n"
        "cluster_formation.classic_config.nodes.2 = rabbit@b\n"
        "cluster_partition_handling=autoheal # the last one counts\n"
        "log.file.level = info\n"
    )
    assert rabbit_conf.get(text, "cluster_partition_handling") == "autoheal"
    new = rabbit_conf.edit(
        text,
        {
            "cluster_formation.classic_config.nodes.*": None,
            "cluster_formation.classic_config.nodes.1": "rabbit@x",
            "cluster_partition_handling": "ignore",
        },
    )
    assert new == (
        "# cluster_partition_handling = autoheal\n"
        "cluster_partition_handling = ignore\n\n"
        "cluster_formation.classic_config.nodes.1 = rabbit@x\n"
        "log.file.level = info\n"
    )
    assert rabbit_conf.edit("", {"a": "1"}) == "a = 1\n"
    assert rabbit_conf.edit("a = 1\nb = 2\n", {"a": None}) == "b = 2\n"


# -- walls -----------------------------------------------------------------------------------------


@dataclass
class Firewalled:
    """A host whose nft or iptables remembers what it was told."""

    which: str
    name: str = "mq1"
    table: str = ""
    chains: dict[str, list[str]] = field(default_factory=dict)
    links: set[str] = field(default_factory=set)

    def query(self, argv: Sequence[str], **_: Any) -> Finished:
        words = [w for w in argv if w not in ("-w", "-n")]
        if argv[0] == "nft":
            there = self.which == "nft" and (argv[2] == "tables" or bool(self.table))
            return Finished(0 if there else 1, self.table.encode(), b"")
        if self.which != "iptables" or words[0] == "ip6tables":
            return Finished(1, b"", b"")
        if words[1] == "-C":
            return Finished(0 if words[-1] in self.links else 1, b"", b"")
        if words[1] == "-S":
            return Finished(0, "\n".join(self.chains.get(words[2], [])).encode(), b"")
        return Finished(0 if words[2] == "INPUT" or words[2] in self.chains else 1, b"", b"")

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", **_: Any) -> Finished:
        words = [w for w in argv if w not in ("-w", "-n")]
        if argv[0] == "nft":
            script = stdin.decode()
            self.table = "" if script.startswith("delete table") else script
        elif argv[0] == "iptables-restore":
            for line in stdin.decode().splitlines():
                if line.startswith(":"):
                    self.chains[line[1:].split()[0]] = []
                elif line.startswith("-A"):
                    self.chains[line.split()[1]].append(line)
        elif words[1] == "-I":
            self.links.add(words[-1])
        elif words[1] == "-D":
            self.links.discard(words[-1])
        elif words[1] == "-F":
            self.chains[words[2]] = []
        elif words[1] == "-X":
            del self.chains[words[2]]
        return Finished(0, b"", b"")


@pytest.mark.parametrize("which", ["nft", "iptables"])
def test_a_wall_comes_changes_and_goes(which: str) -> None:
    host: Any = Firewalled(which)
    assert walls.state(host) == ""
    walls.up(host, "drop", ["10.0.0.4", "10.0.0.5"], [25672])
    walls.up(host, "drop", ["10.0.0.4", "10.0.0.5"], [25672])
    assert walls.state(host) == "drop"
    walls.up(host, "reject", ["10.0.0.4"], [25672])
    assert walls.state(host) == "reject"
    walls.down(host)
    walls.down(host)
    assert walls.state(host) == "" and not host.table and not host.chains and not host.links


def test_a_wall_covers_both_ends_and_both_directions() -> None:
    drop = walls.nft_script("drop", ["10.0.0.4", "fe80::4"], [25672])
    for words in (
        "ip saddr { 10.0.0.4 } tcp dport { 25672 } drop",
        "ip saddr { 10.0.0.4 } tcp sport { 25672 } drop",
        "ip daddr { 10.0.0.4 } tcp dport { 25672 } drop",
        "ip6 daddr { fe80::4 } tcp sport { 25672 } drop",
    ):
        assert words in drop
    reject = walls.nft_script("reject", ["10.0.0.4"], [25672])
    assert "hook input" not in reject and reject.count("reject with tcp reset") == 2
    text = walls.iptables_script("reject", ["10.0.0.4"], [25672])
    assert text.count("-A") == 2 and "RECELL-SPLIT-IN -s" not in text
    with pytest.raises(ValueError, match="address"):
        walls.nft_script("drop", ["10.0.0.4 } accept; #"], [25672])


# -- the cut ---------------------------------------------------------------------------------------


def _in_a_network(lines: Sequence[str]) -> str:
    """Run a unit's lines in a network namespace of their own; what nft or iptables-save says then."""
    script = "".join(
        f"{line[1:]} 2>/dev/null || true\n" if line.startswith("-") else f"{line}\n" for line in lines
    )
    show = "nft list ruleset 2>/dev/null; iptables-save 2>/dev/null; ip6tables-save 2>/dev/null; true"
    done = subprocess.run(
        ["unshare", "-n", "sh", "-e"], input=f"{script}{show}\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("which", ["nft", "iptables"])
def test_the_lasting_rules_come_twice_and_go(which: str) -> None:
    text = apart.unit_text(which, "mq-4.example", ["10.0.0.4", "fd00::4"], [25672, 4369])
    up = [ln.partition("=")[2] for ln in text.splitlines() if ln.startswith("ExecStart=")]
    down = [ln.partition("=")[2] for ln in text.splitlines() if ln.startswith("ExecStop=")]
    once, twice = _in_a_network(up), _in_a_network([*up, *up])
    for address in ("10.0.0.4", "fd00::4"):
        assert address in once
    rules = [[ln for ln in said.splitlines() if "reset" in ln] for said in (once, twice)]
    assert rules[0] == rules[1] and all("4369" in "".join(r) and "25672" in "".join(r) for r in rules)
    gone = _in_a_network([*up, *down])
    assert "reset" not in gone and "recell" not in gone.lower()
    assert "WantedBy=multi-user.target" in text and len(apart.chain_name("a" * 40)) <= 28


class Armed:
    """A node that notes the order in which things are done to all of them."""

    def __init__(
        self, host: str, story: list[tuple[str, str]], *, slow: Any = None, deaf: bool = False
    ) -> None:
        self.host, self.story, self.slow, self.deaf = host, story, slow, deaf
        self.told = threading.Event()
        self.is_armed = threading.Event()

    before = ""

    def arm(self, opposite: Sequence[str], word: str) -> tuple[str, ...]:
        self.story.append(("armed", self.host))
        self.is_armed.set()
        if not self.told.wait(60):
            raise StepFailed("no word")
        return tuple(opposite) if self.deaf else ()

    def armed(self, word: str) -> bool:
        # The clock is a fake one: it must not run ahead of the thread that arms.
        return self.is_armed.wait(60)

    def wall(self, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None:
        self.story.append((kind, self.host))
        if self.slow:
            self.slow()

    def walled(self) -> str:
        return self.before

    def unwall(self) -> None:
        self.story.append(("unwall", self.host))

    def give_word(self, word: str, *, go: bool = True) -> None:
        self.story.append(("word" if go else "never mind", self.host))
        self.told.set()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def _cut(nodes: Sequence[Any], clock: Clock) -> float:
    pairs = [(n, CutNode(n.host, ("rabbit@other",), ("10.0.0.9",))) for n in nodes]
    return cutting.cut(pairs, [25672], 15.0, wait=clock.wait, clock=clock)


def test_all_walls_stand_before_any_node_is_told() -> None:
    story: list[tuple[str, str]] = []
    _cut([Armed(h, story) for h in ("a", "b", "c")], Clock())
    words = [w for w, _ in story]
    assert sorted(words[:3]) == ["armed"] * 3 and words[3:6] == ["drop"] * 3
    assert words[6:] == ["word"] * 3 + ["reject"] * 3


def test_walls_that_take_too_long_are_taken_down_again() -> None:
    story: list[tuple[str, str]] = []
    clock = Clock()
    nodes = [Armed(h, story, slow=(lambda: clock.wait(20)) if h == "b" else None) for h in ("a", "b")]
    with pytest.raises(StepFailed, match="more than 15"):
        _cut(nodes, clock)
    assert [w for w, _ in story][-4:] == ["unwall", "never mind"] * 2
    assert "word" not in [w for w, _ in story]
    story.clear()
    again = [Armed(h, story, slow=(lambda: clock.wait(20)) if h == "b" else None) for h in ("a", "b")]
    again[0].before = "drop"
    with pytest.raises(StepFailed, match="more than 15"):
        _cut(again, clock)
    assert "unwall" not in [w for w, _ in story], "an earlier run's walls: a node may have cut behind them"


def test_a_node_that_stays_linked_is_named() -> None:
    story: list[tuple[str, str]] = []
    with pytest.raises(StepFailed, match="b to rabbit@other"):
        _cut([Armed("a", story), Armed("b", story, deaf=True)], Clock())
    assert "unwall" not in [w for w, _ in story], "the others have cut: the walls have to stand"


# -- a node's words --------------------------------------------------------------------------------

VIEW = {
    "name": "rabbit@mq1", "version": "3.10.8", "erlang": "25", "khepri": False, "members": ["rabbit@mq1"],
    "on_disk": ["rabbit@mq1"], "running": ["rabbit@mq1"], "up": True, "linked": [], "partitions": [],
    "handling": "ignore", "unheeding": 0, "ticktime": 60, "alarms": [], "queues": 1, "vhosts": 1, "users": 2,
    "coordinator": False, "policies": 0, "home": "/var/lib/rabbitmq",
    "config": ["/etc/rabbitmq/rabbitmq.conf"], "port": 25672,
}  # fmt: skip
SETTINGS = {
    "given": False, "discovery": "rabbit_peer_discovery_classic_config", "peers": [],
    "main": "/etc/rabbitmq/rabbitmq", "listeners": [["amqp", "::", 5672], ["clustering", "::", 25672]],
    "parameters": [], "shovels": [], "naming": [], "epmd": 4369,
}  # fmt: skip
QUEUES = [
    {"vhost": "/", "name": "q", "kind": "quorum", "leader": "rabbit@mq1", "members": ["rabbit@mq1"],
     "synced": ["rabbit@mq1"], "durable": True, "exclusive": False, "policy": "",
     "auto_delete": True},
]  # fmt: skip


@dataclass
class Host:
    """A host whose RabbitMQ answers; it has files, and processes of a client."""

    name: str = "mq1"
    view: dict[str, Any] = field(default_factory=lambda: dict(VIEW))
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))
    said: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    code: int = 0
    ran: list[list[str]] = field(default_factory=list)
    wrote: list[tuple[str, bytes, int]] = field(default_factory=list)
    found: tuple[ProcessInfo, ...] = ()

    def query(self, argv: Sequence[str], **_: Any) -> Finished:
        if argv[0] == "getent":
            return Finished(0, b"rabbitmq:x:1:1::/var/lib/rabbitmq:/bin/false\n", b"")
        if argv[0] == "hostname":
            return Finished(0, f"{self.name}-ip ".encode(), b"")
        if self.code:
            return Finished(self.code, b"", b"Error: unable to perform an operation on node 'rabbit@mq1'.")
        words = list(argv[4:])
        if words[0] == "eval" and "rabbit_json" in words[1]:
            known = {"on_disk": self.view, "peer_discovery": self.settings, "amqqueue:get_name": QUEUES}
            answer: Any = next((said for word, said in known.items() if word in words[1]), [])
            return Finished(0, f"noise\n{json.dumps(answer)}\nok\n".encode(), b"")
        for begin, text in self.said.items():
            if " ".join(words).startswith(begin):
                return Finished(0, text.encode(), b"")
        return Finished(0, b"ok\n", b"")

    def run(self, argv: Sequence[str], **more: Any) -> Finished:
        self.ran.append(list(argv[4:]))
        return self.query(argv, **more)

    def unit(self, name: str) -> UnitState:
        there = name == "neutron-server"
        return UnitState(name, there, "active", True, 7, 1.0, "", (), (f"/usr/bin/{name}",), False)

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def stat(self, path: str) -> FileStat | None:
        content = self.files.get(path)
        if content is None:
            return None
        return FileStat(hashlib.sha256(content).hexdigest(), 0o400, "rabbitmq", "rabbitmq", len(content), 1.0)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return ()

    def keep(self, plan: str, content: bytes) -> str:
        self.files[f"kept:{hashlib.sha256(content).hexdigest()}"] = content
        return hashlib.sha256(content).hexdigest()

    def kept(self, plan: str, sha256: str) -> bytes:
        return self.files[f"kept:{sha256}"]

    def write(self, path: str, content: bytes, *, mode: int, **_: Any) -> None:
        self.wrote.append((path, content, mode))

    def processes(self) -> tuple[ProcessInfo, ...]:
        return self.found

    def hello(self) -> dict[str, Any]:
        return {"hostname": self.name}


def _node(host: Host) -> RabbitNode:
    one: Any = host
    return RabbitNode(one)


@pytest.mark.parametrize("what", ["queues", "users"])
def test_a_node_that_is_starting_is_not_taken_for_blank(what: str) -> None:
    host = Host(view={**VIEW, "up": False, "running": [], what: "undefined"})
    with pytest.raises(Unreachable, match="mq1 is still starting"):
        _node(host).view()


def test_a_node_tells_what_it_is() -> None:
    host = Host()
    host.said["list_consumers"] = "queue_name\tchannel_pid\nq\t<rabbit@mq2.1.2.3>\n"
    view = _node(host).view()
    assert (view.name, view.running, view.handling) == ("rabbit@mq1", ("rabbit@mq1",), "ignore")
    assert view.used == ("1 queues", "2 users")
    (queue,) = _node(host).queues()
    assert queue.kind == "quorum" and queue.takers == ("rabbit@mq2",) and queue.auto_delete
    host.view["up"] = False
    assert _node(host).view().running == ()
    assert handling_word("{pause_if_all_down,[a],ignore}") == "pause_if_all_down"
    host.code = 69
    with pytest.raises(Unreachable, match="mq1"):
        _node(host).view()


def test_a_cookie_is_in_no_command_and_in_no_readable_file() -> None:
    host = Host()
    host.files["/var/lib/rabbitmq/.erlang.cookie"] = b"OLD"
    node = _node(host)
    sha = node.keep_cookie("p", new=True)
    secret = host.kept("p", sha)
    node.take_cookie("p", node, sha)
    assert len(secret) >= 32 and host.wrote == [("/var/lib/rabbitmq/.erlang.cookie.recell", secret, 0o400)]
    (words,) = host.ran
    assert secret.decode() not in " ".join(words)
    assert "file:rename" in words[1] and "set_cookie(node()" in words[1]


def test_names_of_queues_can_not_break_out_of_an_expression() -> None:
    host = Host()
    evil = QueueHome(
        "/", 'q">>), init:stop(), (<<"', "quorum", "rabbit@mq1", ("rabbit@mq1",), ("rabbit@mq1",)
    )
    _node(host).purge([evil])
    assert "init:stop" not in host.ran[0][1] and "<<113,34,62," in host.ran[0][1]
    with pytest.raises(Unsupported, match="no name of a RabbitMQ node"):
        _node(host).forget("rabbit@a'); init:stop()")


def test_a_quorum_queue_grows_before_its_leader_goes_and_shrinks_last() -> None:
    host = Host()
    queue = QueueHome("/", "q", "quorum", "a@x", ("a@x", "b@x"), ("a@x", "b@x"))
    _node(host).move_quorum(queue, ["c@x", "b@x"])
    order = [
        next(w for w in ("add_member", "transfer_leadership", "delete_member") if w in words[1])
        for words in host.ran
    ]
    assert order == ["add_member", "transfer_leadership", "delete_member"]
    assert "'c@x'" in host.ran[0][1] and "'a@x'" in host.ran[2][1]


def test_a_quorum_queue_that_just_changed_is_asked_again() -> None:
    class Busy(Host):
        refusals = 3

        def query(self, argv: Sequence[str], **more: Any) -> Finished:
            if "member(" in " ".join(argv) and self.refusals:
                self.refusals -= 1
                return Finished(0, b"{error,cluster_change_not_permitted}\n", b"")
            return super().query(argv, **more)

    host = Busy()
    queue = QueueHome("/", "q", "quorum", "a@x", ("a@x", "b@x"), ("a@x", "b@x"))
    _node(host).move_quorum(queue, ["b@x"])
    assert sum("delete_member" in words[1] for words in host.ran) == 4
    host.refusals = 1000
    with pytest.raises(StepFailed, match="cluster_change_not_permitted"):
        _node(host).move_quorum(queue, ["b@x"])


# -- discovery -------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [
    ("python3", "/usr/bin/neutron-server"),
    ("neutron-server: rpc worker (/usr/bin/python3 /usr/bin/neutron-server)",),
])  # fmt: skip
def test_a_client_is_found_by_what_it_says_of_itself(argv: tuple[str, ...]) -> None:
    uuid = "0284c4bb-394f-417d-bc54-dc04195c85f9"
    broker = Host(view={**VIEW, "queues": 1})
    broker.found = (
        ProcessInfo(1, 0, ("/usr/lib/erlang/bin/beam.smp", "-boot", "x", "rabbit"), "rabbitmq", 1.0, 1, "/"),
    )
    broker.files |= {"/var/lib/rabbitmq/.erlang.cookie": b"C", "/etc/rabbitmq/rabbitmq.conf": b"a = 1\n"}
    row = '<rabbit@mq1.1.866.0>\t{0}\tos\t/\t{1}\t49262\t[{{"connection_name","{2}:{3}:' + uuid + '"}}]\n'
    broker.said["list_vhosts"] = "name\n/\n"
    broker.said["list_consumers -p / queue_name"] = "queue_name\tchannel_pid\n"
    broker.said["list_consumers"] = (
        "queue_name\tchannel_pid\tconsumer_tag\tack_required\tprefetch_count\tactive\targuments\n"
        "q-plugin\t<rabbit@mq1.1.875.0>\t1\ttrue\t0\ttrue\t[]\n"
        "reply_1\t<rabbit@mq1.1.875.0>\t1\ttrue\t0\ttrue\t[]\n"
    )
    broker.said["list_channels"] = "pid\tconnection\n<rabbit@mq1.1.875.0>\t<rabbit@mq1.1.866.0>\n"
    broker.said["list_connections"] = (
        "pid\tname\tuser\tvhost\tpeer_host\tpeer_port\tclient_properties\n"
        + row.format("one", "net1-ip", "neutron-server", 42)
        + row.format("two", "vip", "neutron-server", 42).replace("866", "867")
        + row.format("three", "vip", "stranger", 7).replace("866", "868")
    )
    client = Host("net1")
    client.found = (
        ProcessInfo(42, 1, argv, "neutron", 1.0, 1,
                    "/system.slice/neutron-server.service"),
    )  # fmt: skip
    client.files["/etc/neutron/neutron.conf"] = b"[DEFAULT]\ntransport_url = rabbit://os:s3cret@mq1:5672/\n"
    hosts: Any = {"mq1": broker, "net1": client}
    found = look_at_rabbit(hosts, {n: Address(n) for n in hosts}, 0.0)
    assert b"s3cret" not in dump_deployment(found)
    by_label = {c.label: c for c in found.rabbit_clients}
    mine = by_label["neutron-server@net1"]
    assert mine.connections == 2, "one of them through a proxy"
    assert mine.queues == ("q-plugin",) and mine.file == "/etc/neutron/neutron.conf"
    assert by_label["stranger@vip"].unit == ""
    assert [n.name for n in found.rabbit] == ["rabbit@mq1"] and not found.rabbit[0].old_config
    assert {f.path for h in found.hosts for f in h.config_files} == {
        "/etc/rabbitmq/rabbitmq.conf", "/etc/neutron/neutron.conf"}  # fmt: skip
