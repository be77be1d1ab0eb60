"""The lab's second Nova: its hosts and files, how it becomes fit for a tree of cells v1, where boots go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from recell.adapters.conf import parse_config
from recell.adapters.inventory import parse_inventory
from recell.model.urls import parse_url
from recell.planning.v1_child import plan_child
from recell_lab import children, keys, state
from recell_lab.children import FIRST, MORE, SURE, Trial
from recell_lab.cloud import layout, prepared, second, topology
from recell_lab.cloud.novaconf import nova_conf
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.second import CELL
from recell_lab.cloud.topology import Cloud
from recell_lab.layer import HostSpec
from tests.sim.v1_child_world import fresh, scan
from tests.unit.stein_cloud import layout_v1

LAYOUT = Path(__file__).parents[2] / "lab/layouts/cells-v1-second-child.yaml"
TWO = Cloud.of("19.3.2", 2, 4, second=True)
PASSWORDS = Passwords.random()
CONF = "/etc/nova/nova.conf"


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with the files that descriptions of Nova's hosts read."""
    monkeypatch.setattr(state, "CACHE_DIR", tmp_path)
    place = tmp_path / "nova-19.3.2"
    (place / "etc/nova").mkdir(parents=True)
    for name in ("api-paste.ini", "rootwrap.conf"):
        (place / "etc/nova" / name).write_text(f"{name}\n")
    (place / "lib/python3.6/site-packages/nova/virt").mkdir(parents=True)


def files(host: HostSpec) -> dict[str, str]:
    part = layout.part_of(host, TWO, PASSWORDS)
    written = [f.path for f in part.files if f.content is not None]
    assert len(written) == len({*written}), host.name
    return {f.path: f.content.decode() for f in part.files if f.content is not None}


def option(text: str, group: str, name: str) -> str:
    return parse_config([("nova.conf", text.encode())]).get(group, name)


def test_the_second_nova_s_hosts_are_beside_the_first_s_and_one_blank_broker_is_its_own() -> None:
    assert [h.name for h in TWO.second] == ["ctl3", "db3", "mq5", "cmp5", "cmp6"]
    names = [h.name for h in TWO.hosts]
    assert len(names) == len({*names}) == len({h.ip for h in TWO.hosts})
    assert {h.role for h in TWO.second} == {*keys.SECOND} <= {*keys.GROUPS}
    assert [b.name for b in TWO.spare_brokers] == ["mq4", "mq6"]
    alone = Cloud.of("19.3.2", 2, 4)
    assert {h.name for h in alone.hosts} == {*names} - {"ctl3", "db3", "cmp5", "cmp6"}
    assert alone.second == () and [b.name for b in alone.spare_brokers] == ["mq4", "mq5", "mq6"]


def test_one_inventory_names_all_and_one_leaves_the_second_nova_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INVENTORY", "FIRST_INVENTORY", "KNOWN_HOSTS", "SSH_CONFIG"):
        monkeypatch.setattr(keys, name, tmp_path / name)
    monkeypatch.setattr(keys, "_host_key", lambda name: tmp_path / name)
    monkeypatch.setattr(keys, "_public", lambda path: f"ssh-ed25519 AAAA{path.name}")
    keys.write_files(TWO.hosts)
    every, first = (
        [name for name, _ in parse_inventory((tmp_path / file).read_text(), file)]
        for file in ("INVENTORY", "FIRST_INVENTORY")
    )
    assert sorted(every) == sorted(h.name for h in TWO.hosts)
    assert sorted(first) == sorted({*every} - {h.name for h in TWO.second})


def test_what_it_has_is_a_standard_nova_whose_nova_cells_is_off(venv: None) -> None:
    controller = TWO.second_controllers[0]
    units = layout.part_of(controller, TWO, PASSWORDS).units
    assert units == ("nova-scheduler", "nova-conductor", "nova-api")
    there = files(controller)
    assert "/etc/systemd/system/nova-cells.service" in there
    own = option(there[CONF], "api_database", "connection")
    assert own == option(there["/etc/nova/nova-scheduler.conf"], "api_database", "connection")
    for host in (controller, *TWO.second_computes):
        assert parse_url(option(files(host)[CONF], "DEFAULT", "transport_url")).hosts == ("mq5",)
        assert option(files(host)[CONF], "oslo_messaging_notifications", "driver") == "noop"
    for name, group in (("nova", "database"), ("nova_api", "api_database")):
        url = parse_url(option(there[CONF], group, "connection"))
        assert (url.hosts, url.path) == (("db3",), name)
        assert (url.endpoints[0].user, url.endpoints[0].password) == ("nova2", PASSWORDS.db_nova_second)
    for host in TWO.second:
        for text in files(host).values():
            assert PASSWORDS.db_nova not in text.replace(PASSWORDS.db_nova_second, "")
            assert PASSWORDS.mq_nova not in text
    first = files(TWO.controllers[0])
    assert all("db3" not in text and "mq5" not in text for text in first.values())


def test_joined_its_controller_has_the_tree_s_api_database_and_its_own_database(venv: None) -> None:
    controller = TWO.second_controllers[0]
    before = nova_conf(controller, TWO, PASSWORDS)
    after = nova_conf(controller, TWO, PASSWORDS, joined=True)
    assert option(after, "api_database", "connection") == option(
        files(TWO.controllers[0])[CONF], "api_database", "connection"
    )
    changed = [b for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 1


def test_its_database_begins_as_the_first_s_and_becomes_another_s() -> None:
    sql = second.statements(TWO, PASSWORDS)
    for name in prepared.DATABASES:
        assert (f"DROP DATABASE {name};" in sql) == (not name.startswith("nova"))
        assert (f"GRANT ALL ON {name}.* TO 'nova2'@'%';" in sql) == name.startswith("nova")
    assert "DROP USER 'nova'@'%';" in sql and PASSWORDS.db_nova_second in sql
    urls = re.findall(r"database_connection = '([^']+)'", sql)
    assert [(parse_url(u).hosts, parse_url(u).path) for u in urls] == [
        (("db3",), "nova_cell0"), (("db3",), "nova"),
    ]  # fmt: skip
    assert prepared._trees(topology.SECOND_DATABASE) == prepared._trees(topology.DATABASE)


def test_the_layout_of_the_demo_plans_where_the_tree_stands() -> None:
    tree = scan(fresh())
    lab = replace(tree, services=tuple(s for s in tree.services if s.host != "ctl4"))
    found = {s.id: s for s in plan_child(lab, layout_v1(LAYOUT.read_text()), 0.0).steps}
    told = {c["option"]: c.get("value") for c in found["api1/boots"].params["changes"]}
    assert told == {"mute_child_interval": "120"}
    told = {c["option"]: c.get("value") for c in found["ctl3/child-config"].params["changes"]}
    assert told["capabilities"] == "hypervisor=kvm,os=linux,prominent_hypervisor_version=1.0"


# -- where boots go ------------------------------------------------------------------------------------


class FakeTree:
    """Nova's cells scheduler: of the children that fit and are heard of, the one that is known as the
    roomiest; what is known is up to a minute old. ``stubborn``: a child that gets all boots in any case;
    ``torn``: one guest of each wave is elsewhere; ``evened``: after so many waves users take what the other
    child has more."""

    def __init__(
        self, rooms: Mapping[str, int], *, stubborn: str = "", torn: bool = False, evened: int = 0
    ) -> None:
        self.free = dict(rooms)
        self.known = dict(rooms)
        self.stubborn = stubborn
        self.torn = torn
        self.evened = evened
        self.time = 0.0
        self.told_at = 0.0
        self.off_since: float | None = None
        self.interval_s = 120.0
        self.guests: dict[str, dict[str, int]] = {}

    def rooms(self) -> dict[str, int]:
        return dict(self.known)

    def boot(self, name: str, count: int, image: str) -> None:
        mute = self.off_since is not None and self.time - self.off_since > self.interval_s
        fit = [c for c in self.known if c == FIRST or not (mute or image == children.NEWER)]
        child = self.stubborn or max(fit, key=lambda c: self.known[c])
        self.guests[name] = dict.fromkeys(self.known, 0)
        if self.off_since is None or child == FIRST:
            self.guests[name][child] += count - self.torn
            self.guests[name][FIRST if child == CELL else CELL] += self.torn
            self.free[child] -= count
        if len(self.guests) <= self.evened:
            self.free = dict.fromkeys(self.free, min(self.free.values()))

    def found(self, name: str) -> dict[str, int]:
        return self.guests[name]

    def failed(self, name: str) -> int:
        return 0

    def mute(self) -> None:
        self.off_since = self.time

    def unmute(self) -> None:
        self.off_since = None

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        if self.time - self.told_at >= 60:
            self.told_at = self.time
            self.known = {c: self.known[c] if self.off_since is not None and c == CELL else n
                          for c, n in self.free.items()}  # fmt: skip


def trial(tree: FakeTree) -> Trial:
    return Trial(tree, lambda line: None)


@pytest.mark.parametrize("gap", [-40, -SURE, -1, 0, 1, SURE, 40])
def test_waves_go_to_both_children_by_the_room_that_is_known(gap: int) -> None:
    ours = trial(FakeTree({FIRST: 900, CELL: 900 + gap}))
    ours.spread()
    assert ours.wrong == []
    assert {w.went for w in ours.waves if w.expected} == {FIRST, CELL}
    assert all(w.asked == abs(w.rooms[FIRST] - w.rooms[CELL]) + MORE for w in ours.waves)


def test_a_child_that_gets_all_boots_and_a_wave_in_two_places_are_told() -> None:
    ours = trial(FakeTree({FIRST: 900, CELL: 950}, stubborn=FIRST))
    ours.spread()
    assert any(f"belongs to {CELL}" in said for said in ours.wrong)
    ours = trial(FakeTree({FIRST: 900, CELL: 950}, torn=True))
    ours.spread()
    assert any("asked for at once, and are" in said for said in ours.wrong)


@pytest.mark.parametrize("evened", [1, 3])
def test_users_who_even_out_what_a_wave_took_stop_nothing(evened: int) -> None:
    ours = trial(FakeTree({FIRST: 900, CELL: 950}, evened=evened))
    ours.spread()
    assert ours.wrong == []
    assert {w.went for w in ours.waves if w.expected} == {FIRST, CELL}


def test_a_wave_that_the_api_cell_never_hears_of_is_told() -> None:
    tree = FakeTree({FIRST: 900, CELL: 950})
    tree.told_at = 1e9
    ours = trial(tree)
    ours.spread()
    assert any(f"after a wave went to {CELL}" in said for said in ours.wrong)


def test_a_mute_child_gets_none_and_then_some_again() -> None:
    for rooms in ({FIRST: 900, CELL: 950}, {FIRST: 950, CELL: 900}):
        tree = FakeTree(rooms)
        ours = trial(tree)
        ours.capability()
        ours.mute(tree.interval_s)
        assert ours.wrong == [] and tree.off_since is None
        told = {w.why: w.went for w in ours.waves if w.why != "to make room"}
        assert told == {
            f"{CELL} promises an older hypervisor": FIRST, f"{CELL} is mute": FIRST,
            f"{CELL} is heard again": CELL,
        }  # fmt: skip


def test_a_child_that_is_asked_though_it_is_mute_is_told_and_switched_on_again() -> None:
    tree = FakeTree({FIRST: 900, CELL: 950})
    tree.interval_s = 300.0
    ours = trial(tree)
    ours.mute(120.0)
    assert any("asked for at once, and are" in said for said in ours.wrong)
    assert tree.off_since is None


def test_a_child_that_ignores_its_capabilities_is_told() -> None:
    ours = trial(FakeTree({FIRST: 900, CELL: 950}, stubborn=CELL))
    ours.capability()
    assert any(f"belongs to {FIRST}, and is 0 in {FIRST}, {children.FEW} in {CELL}" in s for s in ours.wrong)


def test_the_only_child_gets_every_boot() -> None:
    tree = FakeTree({FIRST: 1, CELL: 0})
    ours = trial(tree)
    ours.alone(FIRST)
    assert ours.wrong == [] and ours.waves[0].went == FIRST
