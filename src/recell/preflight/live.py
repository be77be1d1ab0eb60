"""Checks that need the world as it is this minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from recell.adapters.conf import parse_config, transport_url_of
from recell.adapters.mysql.grants import granted
from recell.adapters.ports import NovaPort, World
from recell.errors import BadInput, RecellError, Unsupported
from recell.model.deployment import Deployment
from recell.model.hosts import HostsMove
from recell.model.layout import Layout
from recell.model.moving import Ends, Login
from recell.model.plan import Plan
from recell.model.urls import parse_url
from recell.model.violation import Violation
from recell.planning.changes import apply_changes
from recell.planning.ini import get
from recell.preflight import doors, rooms

ROOM_BYTES = 64 * 1024 * 1024
WAY_BACK_S = 86400.0
"""How long the way back of a moved database has to stay open at least."""


def check(world: World, deployment: Deployment, layout: Layout, plan: Plan) -> Iterator[Violation]:
    rules = (
        _files, _edits, _room, _account, _new_files_are_new, _new_containers_are_new, _databases, _hosts,
        _lookups, _guests, _replicas, _ports, _doors,
        rooms.check,
    )  # fmt: skip
    yield from _each(rules, world, plan)


def _doors(world: World, plan: Plan) -> Iterator[Violation]:
    yield from doors.check(world, plan)


def check_files(world: World, plan: Plan) -> Iterator[Violation]:
    """What needs no Nova: the files of the plan, and room for what is kept of them."""
    yield from _each((_files, _room, _new_files_are_new), world, plan)


def check_brokers(world: World, plan: Plan) -> Iterator[Violation]:
    """Whether those that a plan leads services to answer there, know the account, and are free."""
    yield from _each((_account, _doors), world, plan)


def _each(
    rules: tuple[Callable[[World, Plan], Iterator[Violation]], ...], world: World, plan: Plan
) -> Iterator[Violation]:
    for rule in rules:
        try:
            yield from rule(world, plan)
        except RecellError as error:
            yield Violation(
                f"{error.word}:{rule.__name__.strip('_')}", "stop", "live", error.sentence, error.remedy
            )


def _files(world: World, plan: Plan) -> Iterator[Violation]:
    for known in plan.fingerprints:
        stat = world.host(known.host).stat(known.path)
        now = stat.sha256 if stat else ""
        if known.sha256 and now != known.sha256:
            yield Violation(
                f"changed:{known.host}:{known.path}",
                "stop",
                known.host,
                f"{known.path} was changed since the scan",
                "See who changed it; then scan and plan again",
            )


def _edits(world: World, plan: Plan) -> Iterator[Violation]:
    """Every change that begins with a file of today can be made of it."""
    for step in plan.steps:
        if step.kind not in ("edit-config", "copy-config"):
            continue
        path = str(step.params.get("source") or step.params["path"])
        content = world.host(step.where).read(path)
        if content is None:
            continue
        try:
            apply_changes(content.decode(), step.params["changes"], lambda cell: "")
        except (Unsupported, BadInput) as error:
            yield Violation(
                f"edit:{step.where}:{path}", "stop", step.where, f"{path}: {error.sentence}", error.remedy
            )


def _new_files_are_new(world: World, plan: Plan) -> Iterator[Violation]:
    for known in plan.fingerprints:
        if not known.sha256 and world.host(known.host).stat(known.path):
            yield Violation(
                f"in-the-way:{known.host}:{known.path}",
                "stop",
                known.host,
                f"{known.path} is there already, where recell will write a file of its own",
                "Move it away, or choose another name in the layout",
            )


def _new_containers_are_new(world: World, plan: Plan) -> Iterator[Violation]:
    for step in plan.steps:
        if step.kind != "sibling-container":
            continue
        engine, name = str(step.params["engine"]), str(step.params["name"])
        if world.host(step.where).container(engine, name) is not None:
            yield Violation(
                f"in-the-way:{step.where}:{name}",
                "stop",
                step.where,
                f"a container {name} is there already, where recell will make one",
                f"{engine} rm it if it is left over, or write another super_conductor_unit in the layout",
            )


def _room(world: World, plan: Plan) -> Iterator[Violation]:
    for name in sorted({s.where for s in plan.steps}):
        ended = world.host(name).query(["df", "-B1", "--output=avail", "/etc", "/var/lib"])
        free = [int(x) for x in ended.stdout.split() if x.isdigit()]
        if free and min(free) < ROOM_BYTES:
            yield Violation(
                f"room:{name}",
                "stop",
                name,
                f"only {min(free) // 2**20} MiB are free in /etc or /var/lib",
                "Make room: old files are kept there until finish",
            )


def _account(world: World, plan: Plan) -> Iterator[Violation]:
    for step in plan.steps:
        if step.kind != "broker-account":
            continue
        broker = world.broker(str(step.params["broker"]))
        user = str(step.params["user"])
        text = (world.host(str(step.params["host"])).read(str(step.params["config"])) or b"").decode()
        where = f"{step.params['config']} on {step.params['host']}"
        url = transport_url_of(parse_config([(where, text.encode())]))
        account = parse_url(url or "none:///").endpoints
        if user in broker.users() and account and not broker.password_works(user, account[0].password):
            yield Violation(
                f"password:{broker.name}:{user}",
                "stop",
                broker.name,
                f"user {user} exists on {broker.name} with another password than Nova's",
                "Set Nova's password there, or remove that user",
            )
        used = (
            [q.name for q in broker.queues(str(step.params["vhost"])) if q.consumers]
            if str(step.params["vhost"]) in broker.vhosts()
            else []
        )
        taken = sorted({"conductor", "scheduler"} & set(used))
        if taken:
            yield Violation(
                f"target-in-use:{broker.name}",
                "stop",
                broker.name,
                f"somebody serves {' and '.join(taken)} on {broker.name} already",
                "Another Nova uses that vhost: name another vhost or broker",
            )


def _databases(world: World, plan: Plan) -> Iterator[Violation]:
    for step in plan.steps:
        if step.kind == "follow-database":
            ends = Ends.from_json(step.params["ends"])
            user = parse_url(str(step.params["url"])).endpoints[0].user
            yield from world.mover(ends, Login("recell_check", ""), Login(user, "")).troubles(WAY_BACK_S)


def _hosts(world: World, plan: Plan) -> Iterator[Violation]:
    """Once for each pair of cells, whatever the waves."""
    pairs: dict[HostsMove, list[str]] = {}
    for step in plan.steps:
        if step.kind == "hosts-open" and step.params["forward"] == "close":
            move = HostsMove.from_json(step.params["move"])
            pairs.setdefault(replace(move, hosts=()), []).extend(move.hosts)
    for move, hosts in pairs.items():
        yield from _mapped(world, move, hosts)
        yield from world.between(replace(move, hosts=tuple(hosts)), Login("recell_check", "")).troubles()


def _mapped(world: World, move: HostsMove, hosts: list[str]) -> Iterator[Violation]:
    """The API database says the same as the cell's: else a host would be taken for moved already."""
    cells = world.nova().host_cells(hosts)
    for host in hosts:
        if cells.get(host) != move.old.cell:
            there = move.new.name if cells.get(host) == move.new.cell else cells.get(host, "no cell")
            yield Violation(
                f"hosts:mapped:{host}",
                "stop",
                host,
                f"{host} is mapped to {there}, and its service record is in {move.old.name}",
                "See nova-manage cell_v2 list_hosts; delete_host and discover_hosts --by-service map it anew",
            )


def _lookups(world: World, plan: Plan) -> Iterator[Violation]:
    """For a flip two tables of the API database are locked. On a cluster that holds one node's sessions."""
    if not any(s.kind == "flip-hosts" for s in plan.steps):
        return
    yield from may_lock(world.nova())
    sql = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on', 'pxc_strict_mode')"
    said = {str(r["Variable_name"]): str(r["Value"]).upper() for r in world.nova().query("", sql)}
    if said.get("wsrep_on") not in ("ON", "1"):
        return
    if said.get("pxc_strict_mode") == "ENFORCING":
        yield Violation(
            "hosts:api-locks",
            "stop",
            "nova_api",
            "the API database's server refuses LOCK TABLES (pxc_strict_mode), which a flip begins with",
            "SET GLOBAL pxc_strict_mode = MASTER on all its nodes until finish",
        )
    yield Violation(
        "hosts:api-galera",
        "stop",
        "nova_api",
        "the API database is on a Galera cluster: a lock on its tables holds the sessions of one node only",
        "Let all of Nova use one node (as a proxy with one active server does) until finish; then acknowledge"
        " hosts:api-galera",
        may_accept=True,
    )


def may_lock(nova: NovaPort) -> tuple[Violation, ...]:
    """Nova's own account locks them, and may have just the rights that Nova needs."""
    lines = [str(next(iter(row.values()))) for row in nova.query("", "SHOW GRANTS")]
    if not lines or any(" ON " not in line for line in lines):
        return ()  # it has roles, which not every server resolves here
    ((database, user),) = (
        (str(r["here"]), str(r["me"]))
        for r in nova.query("", "SELECT DATABASE() AS here, CURRENT_USER() AS me")
    )
    if any(g.has("LOCK TABLES") and g.reaches(database) for g in granted(lines)):
        return ()
    return (
        Violation(
            "hosts:api-lock-right",
            "stop",
            "nova_api",
            f"Nova's account {user} may not LOCK TABLES in {database}, which a flip begins with",
            f"GRANT LOCK TABLES ON {database}.* to it until finish",
        ),
    )


def _guests(world: World, plan: Plan) -> Iterator[Violation]:
    """The guest that goes along with the first host could be booted."""
    for step in plan.steps:
        if step.kind == "canary-guest":
            said = step.params["guest"]
            guests = world.guests(str(said["cloud"]))
            for sentence in guests.troubles(str(said["flavor"]), str(said["image"])):
                yield Violation(
                    f"canary-guest:{said['cloud']}",
                    "stop",
                    str(said["cloud"]),
                    sentence,
                    "Correct moving: canary_guest in the layout, or clouds.yaml",
                )


def _replicas(world: World, plan: Plan) -> Iterator[Violation]:
    """A second URL, for reading: it would go on leading to the old server."""
    copies = {(s.where, s.params["path"]): s.params["source"] for s in plan.steps if s.kind == "copy-config"}
    files = {
        (s.where, copies.get((s.where, s.params["path"]), s.params["path"]))
        for s in plan.steps
        if s.kind == "edit-config"
        and any((c["section"], c["op"]) == ("database", "nodes") for c in s.params["changes"])
    }
    for host, path in sorted(files):
        text = (world.host(host).read(path) or b"").decode()
        if get(text, "database", "slave_connection"):
            yield Violation(
                f"replica:{host}:{path}",
                "stop",
                host,
                f"[database] slave_connection in {path} would go on leading to the old server",
                "Remove it, restart the services that read it, then scan and plan again",
            )


def _ports(world: World, plan: Plan) -> Iterator[Violation]:
    for step in plan.steps:
        if step.kind != "relay" or step.params["forward"] != "install":
            continue
        port = int(step.params["port"])
        listed = world.host(step.where).query(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout.decode()
        if any(_listens(line.split(), port) for line in listed.splitlines()):
            yield Violation(
                f"port:{step.where}:{port}",
                "stop",
                step.where,
                f"something listens on port {port} already, which the relay needs",
                "Write another relay_port in the layout",
            )


def _listens(words: list[str], port: int) -> bool:
    """A line of /proc/net/tcp: number, local address:port, remote one, state (0A: it listens)."""
    return len(words) > 3 and words[3] == "0A" and words[1].endswith(f":{port:04X}")
