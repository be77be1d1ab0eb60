"""The phase in which a cell's database moves to a server of its own, after the split or with it.

Nova's processes read a cell's address at their start, and a start must not fall into the moment in which
writers wait. So the cell's mapping is first rolled to a relay, which leads to today's server; the relay
changes sides; then the new server's own address is rolled in, and the relay goes.

Undo is the list backward: the new server's address is taken back to the relay, the relay changes sides,
today's address is put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recell.errors import BadInput, Unsupported
from recell.model.deployment import CellMapping, Deployment, HostFacts, NovaService
from recell.model.layout import CellDatabase
from recell.model.moving import End, Ends
from recell.model.plan import Acts, ExpectedChange
from recell.model.urls import Url, is_template, parse_url
from recell.planning.draft import Draft
from recell.planning.names import called_like

MYSQL_PORT = 3306
ENGINES = ("mysql", "mariadb")
NOTICE = "writes to the cell wait, up to 1.5 s at a time"


@dataclass(frozen=True)
class Member:
    """A process that reaches the cell's database. ``file``: in which its own configuration names it; ""
    when it knows it from the cell's mapping only. ``broker``, ``vhost``, ``topics``: of an RPC server;
    ``url``, ``servers``: of a WSGI service, where it answers and in which HAProxy backends it stands."""

    host: str
    unit: str
    role: str
    nova_host: str
    reads: tuple[str, ...] = ()
    file: str = ""
    broker: str = ""
    vhost: str = ""
    topics: tuple[str, ...] = ()
    url: str = ""
    servers: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class DatabaseMove:
    """``relay``: host and port that Nova's URLs get meanwhile; ``relay_addresses``: from which it
    connects. ``first``: the controller on which the mapping's old URLs are kept."""

    cell: CellMapping
    ends: Ends
    relay: tuple[str, int]
    relay_addresses: tuple[str, ...]
    first: str
    members: tuple[Member, ...]
    proofs: list[dict[str, Any]] = field(default_factory=list)
    reports: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.cell.name or self.cell.uuid


def find_ends(
    deployment: Deployment, cell: CellMapping, wanted: CellDatabase
) -> tuple[Ends, tuple[str, int], tuple[str, ...]]:
    """Both servers; the relay's address; from where it connects.

    :raises BadInput: the layout names hosts that don't fit. :raises Unsupported: TLS, or no MySQL.
    """
    url = parse_url(cell.database_resolved)
    refuse_what_cant_be_relayed(url)
    now = url.endpoints[0]
    old = host_of(deployment, now.host, wanted.source)
    new = deployment.host(wanted.host)
    if new.name == old.name and wanted.port == (now.port or MYSQL_PORT):
        raise BadInput(
            f"the layout moves {cell.name}'s database to {new.name}, where it is today",
            "Write database: keep, or name another host",
        )
    if (old.name, wanted.relay_port) in ((new.name, wanted.port), (old.name, now.port or MYSQL_PORT)):
        raise BadInput(f"relay_port {wanted.relay_port} is a database server's own", "Choose a free port")
    ends = Ends(
        End(old.name, now.host, now.port or MYSQL_PORT, addresses(old)),
        End(
            new.name,
            wanted.address or called_like(deployment, now.host, new),
            wanted.port,
            addresses(new),
        ),
        url.path,
    )
    own = now.host if now.host in _names(old) else old.address.host
    return ends, (own, wanted.relay_port), tuple(sorted({*_names(old), "localhost", "127.0.0.1", "::1"}))


def can_be_read(url: str) -> bool:
    """Whether a cell's database is of a kind that recell knows; a template is filled before anybody asks."""
    return is_template(url) or parse_url(url).scheme.partition("+")[0] in ENGINES


def refuse_what_cant_be_relayed(url: Url) -> None:
    if url.scheme.partition("+")[0] not in ENGINES or len(url.endpoints) != 1 or not url.path:
        raise Unsupported(
            f"the cell's database URL ({url.shown()}) is none of one MySQL or MariaDB server",
            "Write database: keep; recell moves nothing else",
        )
    if "ssl" in url.query:
        raise Unsupported(
            "the cell's database URL asks for TLS, which a relay in the middle can't carry",
            "Let the relay's host and the controllers share a trusted network for the time of the move, take"
            " the ssl options out of the URL, restart Nova, and scan again; or write database: keep",
        )


def _names(host: HostFacts) -> set[str]:
    return {host.name, host.hostname, host.address.host, *host.ips, *host.aliases} - {""}


def addresses(host: HostFacts) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ip for ip in (*host.ips, host.address.host) if ip[:1].isdigit() or ":" in ip))


def host_of(deployment: Deployment, address: str, named: str) -> HostFacts:
    if named:
        return deployment.host(named)
    for host in deployment.hosts:
        if address in _names(host):
            return host
    raise BadInput(
        f"no host of the inventory is {address}, where the cell's database is today",
        "Add the database server to the inventory and scan again; when that is a virtual address or a proxy,"
        " write the server's inventory name as from: in the layout",
    )


def same_database(service: NovaService, cell: CellMapping) -> bool:
    """Whether a service's own URL leads where the cell's mapping does, by the same account."""
    if not service.database:
        return False
    mine, theirs = parse_url(service.database), parse_url(cell.database_resolved)
    return [(e.host, e.port or MYSQL_PORT, e.user) for e in mine.endpoints] == [
        (e.host, e.port or MYSQL_PORT, e.user) for e in theirs.endpoints
    ] and mine.path == theirs.path


# -- the phase -------------------------------------------------------------------------------------


def add_phase(move: DatabaseMove, draft: Draft) -> tuple[ExpectedChange, ...]:
    """Append the steps; what they change by themselves."""
    _prepare(move, draft)
    _addresses_change(move, draft, "relay", move.relay, "today's address")
    _database_step(
        move,
        draft,
        "relayed",
        "relayed",
        move.ends.old.host,
        "wait until nobody is connected to the database but through the relay",
        undone="(nothing to undo)",
        acts="forward",
        estimate=5,
        relay_addresses=list(move.relay_addresses),
    )
    _database_step(
        move,
        draft,
        "switch",
        "switch-database",
        move.ends.old.host,
        f"hold writers, prove both servers equal, and let them go on at {move.ends.new.where}",
        undone=f"the same, back to {move.ends.old.where}, with all that was written since",
        notice=NOTICE,
        estimate=15,
    )
    _database_step(
        move,
        draft,
        "undo-relayed",
        "relayed",
        move.ends.old.host,
        "on undo: wait until nobody is connected to the new server but through the relay",
        undone="(acts on undo only)",
        acts="backward",
        estimate=5,
        relay_addresses=list(move.relay_addresses),
    )
    _addresses_change(
        move, draft, "direct", (move.ends.new.address, move.ends.new.port), "the relay's address"
    )
    _relay(move, draft, "remove")
    _prove(move, draft, "database-prove", "forward")
    return (
        ExpectedChange("api", "cell_mappings", f"uuid={move.cell.uuid}", "its database moves"),
        ExpectedChange(move.name, "recell_mover_state", "*", "recell's bookkeeping, until finish"),
    )


def epilogue(move: DatabaseMove, draft: Draft) -> None:
    """Stands first in a plan of its own, so that undo meets it last."""
    _prove(move, draft, "undo/prove", "backward")


def remarks(move: DatabaseMove) -> tuple[str, ...]:
    new = move.ends.new
    return (
        f"{move.name}'s database gets a second home at {new.where}; on {move.ends.old.where} its rows stay,"
        " kept equal by undo until recell finish, and are yours to drop afterwards. Rights that Nova's"
        " accounts had on it there are taken away, and stay so.",
        f"The way back needs the binary log of {new.where} from the switch on: undo works until that server"
        " purges it (recell status says when), and it takes disk there until recell finish.",
        "Open consoles end twice, when the console proxies are restarted; users open them again.",
        "Programs of your own that use this database at its old address are refused from the switch on:"
        f" give them {new.where}.",
    )


def _database_step(
    move: DatabaseMove, draft: Draft, mark: str, kind: str, where: str, title: str, **more: Any
) -> None:
    draft.add(
        f"{move.name}-db/{mark}",
        kind,
        where,
        title,
        cell=move.cell.uuid,
        ends=move.ends.to_json(),
        url=move.cell.database_resolved,
        **more,
    )


def _prepare(move: DatabaseMove, draft: Draft) -> None:
    old, new, database = move.ends.old, move.ends.new, move.ends.database
    _database_step(
        move,
        draft,
        "old-account",
        "database-things",
        old.host,
        f"an account of recell's own on {old.where}",
        undone="it is removed",
        side="old",
        things=["recell"],
    )
    _database_step(
        move,
        draft,
        "new-server",
        "database-things",
        new.host,
        f"on {new.where}: an account of recell's own, an empty database {database} with the same tables,"
        " Nova's account with the same password and rights",
        undone="what was made is removed, the copied rows with it",
        estimate=10,
        side="new",
        things=["recell", "database", "nova"],
    )
    _database_step(
        move,
        draft,
        "follow",
        "follow-database",
        new.host,
        f"copy the rows to {new.where}, follow what changes, compare everything once",
        notice="queries are a little slower while rows are copied",
        undone="nothing is followed any more; recell's bookkeeping tables are removed",
        estimate=60,
    )
    _relay(move, draft, "install")


def _relay(move: DatabaseMove, draft: Draft, forward: str) -> None:
    there, gone = "installed, leading to the new server", "stopped and removed"
    _database_step(
        move,
        draft,
        "relay" if forward == "install" else "relay-gone",
        "relay",
        move.ends.old.host,
        f"a relay on {move.ends.old.host}, port {move.relay[1]}, that leads to {move.ends.old.where}"
        if forward == "install"
        else "remove the relay, once nobody is connected through it",
        undone=gone if forward == "install" else there,
        estimate=5,
        forward=forward,
        port=move.relay[1],
    )


def _addresses_change(
    move: DatabaseMove, draft: Draft, mark: str, node: tuple[str, int], before: str
) -> None:
    """The cell gets another address: mapping, files, and a restart of each process that knows it."""
    because = f"{move.name}-db/{mark}-mapping"
    hosts = list(dict.fromkeys(m.host for m in move.members))
    for host in hosts:
        roll_host(move.members, draft, host, mark, "backward", because)
    draft.add(
        because,
        "move-mapping",
        move.first,
        f"{move.name}'s mapping: its database is at {node[0]}:{node[1]}; the same account",
        undone=f"{before} is written back",
        cell=move.cell.uuid,
        node=list(node),
    )
    files: dict[tuple[str, str], Member] = {}
    for member in move.members:
        if member.file:
            files.setdefault((member.host, member.file), member)
    for host, path in files:
        number = [p for h, p in files if h == host].index(path)
        draft.add(
            f"{host}/{move.name}-{mark}-conf{number or ''}",
            "edit-config",
            host,
            f"{path}: [database] connection: the same account on {node[0]}:{node[1]}",
            undone="the old file is put back",
            path=path,
            changes=[
                {"section": "database", "option": "connection", "op": "nodes", "nodes": [list(node)]},
            ],
        )
    for host in hosts:
        roll_host(move.members, draft, host, mark, "forward", because)


def roll_host(
    members: Sequence[Member],
    draft: Draft,
    host: str,
    mark: str,
    acts: Acts,
    because: str,
    why: str = "the cell's database has another address",
) -> None:
    """Restart, on one host, each process that has read the mapping which the step ``because`` changes.

    :param why: in words, for the plan's text.
    """
    mine = [m for m in members if m.host == host]
    word = mark if acts == "forward" else f"undo-{mark}"
    for member in mine:
        if member.topics:
            end = {"broker": member.broker, "vhost": member.vhost}
            _renew(draft, member, "renew-rpc", word, acts, because, why, topics=list(member.topics), old=end,
                   new=end, nova_host=member.nova_host)  # fmt: skip
        elif not member.url:
            _renew(draft, member, "renew-console", word, acts, because, why)
    # One at a time: the others carry nova-api's load only while it is restarted itself.
    for member in [m for m in mine if m.url]:
        servers = list(member.servers)
        if servers:
            _proxied(draft, member, word, acts, "drain", servers)
        _renew(draft, member, "renew-api", word, acts, because, why, url=member.url, servers=servers,
               warm=member.role == "api")  # fmt: skip
        if servers:
            _proxied(draft, member, word, acts, "ready", servers)


def _renew(
    draft: Draft, member: Member, kind: str, word: str, acts: Acts, because: str, why: str, **more: Any
) -> None:
    notice = "nothing"
    if kind == "renew-console":
        notice = "open consoles end; users open them again"
    elif kind == "renew-api":
        notice = "nothing while it is drained" if more["servers"] else "requests fail while it restarts"
    draft.add(
        f"{member.host}/{word}-{member.unit}",
        kind,
        member.host,
        f"restart {member.unit}, for {why}"
        + ("" if acts == "forward" else " (on undo, after that is taken back)"),
        notice=notice,
        undone="(acts on undo only)" if acts == "backward" else "seen to run; restarted once that is"
        " taken back",
        acts="both" if acts == "forward" else acts,
        estimate=12,
        unit=member.unit,
        reads=list(member.reads),
        because=because,
        **more,
    )


def _proxied(
    draft: Draft, member: Member, word: str, acts: Acts, forward: str, servers: Sequence[dict[str, str]]
) -> None:
    drain = forward == "drain"
    it = f"{member.unit} on {member.host}"
    draft.add(
        f"{member.host}/{word}-{forward}-{member.unit}",
        "proxied",
        member.host,
        f"send no new requests to {it}; wait for those inside" if drain else f"send requests to {it} again",
        notice="nothing: other servers answer" if drain else "nothing",
        undone="requests are sent there again" if drain else "it is drained",
        # A run may be killed while the host is drained; undo must not drain the next one then.
        acts="both" if drain and acts == "forward" else acts,
        estimate=3,
        forward=forward,
        servers=list(servers),
    )


def _prove(move: DatabaseMove, draft: Draft, id: str, acts: Acts) -> None:
    rpc = {(m.broker, m.vhost, t) for m in move.members for t in m.topics}
    draft.add(
        id,
        "prove",
        move.first,
        "prove the result" if acts == "forward" else "after undo: prove that all is as it was",
        undone="(nothing to undo)" if acts == "forward" else "(acts on undo only)",
        acts=acts,
        estimate=20,
        serving=[list(r) for r in sorted(rpc)],
        up={move.cell.uuid: ["nova-compute", "nova-conductor"]},
        commands=move.proofs,
        **move.reports,
    )
