"""What the lab looks at while hosts move: answers, cells, allocations."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from recell_lab import keys, proof, watching
from recell_lab.cloud import layout, topology
from recell_lab.cloud.novaconf import nova_conf
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.errors import LabError
from recell_lab.proof import Homes
from recell_lab.watching import Answer

ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


def test_a_further_cells_broker_is_there_when_it_is_asked_for_and_blank() -> None:
    usual, more = Cloud.of("33.0.2", 2, 4), Cloud.of("33.0.2", 2, 4, 1)
    assert [h.name for h in more.hosts if h not in usual.hosts] == ["mq5"]
    assert topology.CELL_BROKERS[0] in more.foundation and usual.cell_brokers == ()
    passwords = Passwords.random()
    files = {f.path: f.content for f in layout.part_of(more.cell_brokers[0], more, passwords).files}
    assert b"cluster_name" not in (files["/etc/rabbitmq/rabbitmq.conf"] or b"")
    assert "[rabbitmq_cell]\nmq5 " in keys.inventory(more.hosts)
    assert Cloud.of("19.3.2", 2, 4, 2).cell_brokers == (), "there mq5 and mq6 are blank anyway"


def test_how_long_a_host_did_not_answer(tmp_path: Path) -> None:
    told = [
        Answer(10, 0.1, "cmp3", 200),
        Answer(11, 0.1, "cmp4", 200),
        Answer(12, 20.5, "cmp3", 200),
        Answer(13, 5, "cmp4", 504, "away"),
        Answer(19, 0.1, "cmp4", 200),
        Answer(40, 0.1, "cmp3", 200),
        Answer(99, 30, "cmp3", 200),
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(asdict(a)) + "\n" for a in told) + '{"t0": 1')
    found = watching.read_answers(path)
    assert found == tuple(told)
    assert watching.longest_silence(found, "cmp3", 11, 39) == pytest.approx(22.4)
    assert watching.longest_silence(found, "cmp4", 11, 39) == pytest.approx(8.0)
    with pytest.raises(LabError, match="not watched"):
        watching.longest_silence(found, "cmp5", 0, 100)


def test_a_host_is_compared_with_its_own_restarts_or_else_those_of_as_many() -> None:
    restarts = [
        {"host": "cmp1", "together": 1, "silence_s": 20.0, "lost": 0},
        {"host": "cmp1", "together": 2, "silence_s": 31.0, "lost": 0},
        {"host": "cmp2", "together": 2, "silence_s": 30.0, "lost": 0},
        {"host": "cmp3", "together": 2, "silence_s": 62.0, "lost": 1},
        {"host": "cmp3", "together": 3, "silence_s": 63.0, "lost": 1},
    ]
    assert watching.like_restarts("cmp5", ["cmp4,cmp5"], restarts) == [31.0, 30.0]
    assert watching.like_restarts("cmp3", ["cmp4,cmp5"], restarts) == [20.0]
    assert watching.like_restarts("cmp3", ["cmp3,cmp4"], restarts) == [31.0, 30.0]
    assert watching.like_restarts("cmp3", ["cmp3,cmp4,cmp5"], restarts) == [63.0]
    assert watching.like_restarts("cmp3", ["cmp3,cmp4,cmp5,cmp6"], restarts) == []
    assert watching.like_restarts("cmp2", ["cmp1,cmp2"], restarts) == [30.0]


def test_rows_in_a_cell_that_they_do_not_belong_to_are_named() -> None:
    def homes(*rows: tuple[str, str]) -> Homes:
        own = (("services", "cmp3"), ("instances", TWO))
        return Homes(
            {"cmp1": "cell1", "cmp3": "cell2"}, {ONE: "cell1", TWO: "cell2"},
            {"cell1": (("instances", ONE), *rows), "cell2": own}, {}, {},
        )  # fmt: skip

    assert proof.strays(homes(("instance_faults", "somebody unknown"))) == []
    assert proof.strays(homes(("services", "cmp3"), ("instance_extra", TWO))) == [
        "services of cell1 has cmp3, which belongs to cell2",
        f"instance_extra of cell1 has {TWO}, which belongs to cell2",
    ]


def test_allocations_are_compared_but_for_those_of_instances_that_ended() -> None:
    held = {ONE: {"cmp3": {"VCPU": 1}}, TWO: {"cmp3": {}}}
    before: dict[str, dict[str, Any]] = {"providers": {"cmp3": "u"}, "allocations": held}
    assert proof.allocations_that_differ(before, before, [ONE, TWO]) == []
    ended = {**before, "allocations": {ONE: {"cmp3": {"VCPU": 1}}}}
    assert proof.allocations_that_differ(before, ended, [ONE]) == []
    assert proof.allocations_that_differ(before, ended, [ONE, TWO]) == [f"{TWO} has lost its allocation"]
    grown = {**before, "allocations": {**before["allocations"], ONE: {"cmp3": {"VCPU": 2}}}}
    assert "holds" in proof.allocations_that_differ(before, grown, [ONE, TWO])[0]
    other = {**before, "providers": {"cmp3": "v"}}
    assert proof.allocations_that_differ(before, other, [ONE, TWO]) == ["the resource providers are others"]


def test_the_table_of_list_hosts_is_read() -> None:
    text = (
        "+-----------+--------------------------------------+----------+\n"
        "| Cell Name |              Cell UUID               | Hostname |\n"
        "+-----------+--------------------------------------+----------+\n"
        f"|   cell1   | {ONE} |   cmp1   |\n"
        f"|   cell2   | {TWO} |   cmp3   |\n"
        "+-----------+--------------------------------------+----------+\n"
    )
    assert proof.parse_list_hosts(text) == {"cmp1": "cell1", "cmp3": "cell2"}


def test_the_share_of_operations_that_was_about_hosts_that_move(tmp_path: Path) -> None:
    def line(t0: float, method: str, instance: str, ok: bool = True, phase: str = "run") -> str:
        one = {"t0": t0, "method": method, "instance": instance, "ok": ok, "phase": phase, "kind": "stop"}
        return json.dumps(one) + "\n"

    path = tmp_path / "requests.jsonl"
    path.write_text(
        line(5, "POST", ONE) + line(15, "POST", ONE) + line(16, "POST", TWO) + line(17, "GET", TWO)
        + line(18, "POST", TWO, ok=False) + line(19, "DELETE", TWO, phase="setup")
        + '{"kind": "summary", "t0": 30}\n'
    )  # fmt: skip
    window = {"start": 10, "end": 20}
    assert proof.share_of_operations(path, window, {ONE: "cmp1", TWO: "cmp3"}, ["cmp3"]) == (1, 2)


def test_a_host_with_libvirt_says_so_in_its_configuration_and_keeps_disks() -> None:
    cloud = Cloud.of("33.0.2", 2, 4, 1, "cmp4")
    passwords = Passwords.random()
    usual, qemu = (nova_conf(host, cloud, passwords) for host in cloud.computes[2:])
    assert "compute_driver = guests.GuestDriver" in usual and "[libvirt]" not in usual
    assert "compute_driver = libvirt.LibvirtDriver" in qemu and "guests.GuestDriver" not in qemu
    assert qemu.count("[vnc]\n\n") == 1 and "virt_type = qemu" in qemu
    assert qemu.count("helper_command = ") == 4
    assert [h.size_mb for h in cloud.computes] == [512, 512, 512, 65536]


def test_qemus_are_compared_but_for_those_that_users_changed() -> None:
    before = {ONE: [7, 100], TWO: [8, 101]}
    assert proof.qemu_that_differ(before, before, []) == []
    assert proof.qemu_that_differ(before, {ONE: [7, 100], TWO: [9, 500]}, [TWO]) == []
    assert "was [8, 101] and is [9, 500]" in proof.qemu_that_differ(before, {**before, TWO: [9, 500]}, [])[0]
    assert "is []" in proof.qemu_that_differ(before, {TWO: [8, 101]}, [])[0]
