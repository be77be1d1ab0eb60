"""Split the super-conductor from cell1: the plan that takes a collapsed deployment apart.

The order is the whole point. The API level gets the new broker, so no compute is touched; the
conductors that run today stay what they are, unrestarted, and become cell1's; the super-conductor
and a scheduler serve on the new broker before the first nova-api publishes there; the last
scheduler leaves the old broker only when nothing that was begun through it is under way.

Undo walks the same list backward, so what undo needs (a restart after a file is put back) stands in
the list as a step that acts only backward, before the step whose undo it has to follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from recell.errors import BadInput, Unsupported
from recell.model.deployment import Deployment, NovaService
from recell.model.layout import Layout
from recell.model.plan import ExpectedChange, Plan
from recell.model.urls import parse_url
from recell.planning import contained, database, hosts, hosts_phases, moves, phases, topology, upcalls
from recell.planning.draft import (
    CELL0,
    Draft,
    Facts,
    cell_path,
    edited_file,
    refuse_web_servers,
    unread_cells,
)

KIND = "split-super-conductor"


def make_plan(
    deployment: Deployment, layout: Layout, made_at: float, only: Sequence[str] = ()
) -> Plan:
    """What leads from the deployment to the layout: the split, with the cell's database moved after it
    when the layout says so; or that move alone, where the API level is split off already; or hosts that
    move to other cells.

    :param only: patterns of hosts that move; the others stay for now.

    :raises BadInput, Unsupported: as :func:`plan_split`.
    """
    if hosts.wanted(layout):
        return hosts_phases.make_hosts_plan(deployment, layout, made_at, only)
    moves_database = any(cell.database != "keep" for cell in layout.cells.values())
    if deployment.generation == "v2" and moves_database and is_split(deployment):
        return moves.after_split(deployment, layout, made_at)
    return plan_split(deployment, layout, made_at)


def plan_split(deployment: Deployment, layout: Layout, made_at: float) -> Plan:
    """:raises BadInput: the layout contradicts the deployment or itself.
    :raises Unsupported: the deployment is of a shape that this plan can't take apart."""
    facts = _decide(deployment, layout)
    draft = Draft()
    phases.prepare(facts, draft)
    phases.undo_epilogue(facts, draft)
    phases.roll(facts, draft)
    if layout.cells[facts.cell_name].api_database == "remove":
        upcalls.remove_api_database(facts, draft)
    phases.conclude(facts, draft)
    remarks, picture = _remarks(facts), topology.after_split(deployment, layout, facts.cell_name)
    wanted = layout.cells[facts.cell_name].database
    moved: tuple[ExpectedChange, ...] = ()
    if wanted != "keep":
        move = moves.with_split(facts, wanted)
        moved = database.add_phase(move, draft)
        remarks = (*remarks[:-1], *database.remarks(move), remarks[-1])
        picture = moves.moved_topology(picture, move)
    changes = [
        *(
            ExpectedChange("api", "cell_mappings", f"uuid={m.uuid}", "its URLs become literal")
            for m in (facts.cell0, facts.cell)
            if m.templated
        ),
        ExpectedChange(
            facts.cell.name or facts.cell.uuid, "services", "*", "the API level's services leave the cell"
        ),
        ExpectedChange("cell0", "services", "*", "the API level's services report there"),
        *moved,
    ]
    return draft.plan(
        KIND,
        deployment,
        layout.digest(),
        made_at,
        changes=changes,
        remarks=remarks,
        before=topology.before(deployment),
        after=picture,
    )


def is_split(deployment: Deployment) -> bool:
    """Whether nova-api and the computes are on different brokers, or vhosts of one, already."""
    apis = {_home(deployment, s) for s in deployment.role("api") if s.active}
    computes = {_home(deployment, s) for s in deployment.role("compute") if s.active}
    return bool(apis and computes) and not apis & computes


def _home(deployment: Deployment, service: NovaService) -> tuple[str, str]:
    """Broker and vhost."""
    url = service.transport_url
    broker = deployment.broker_of(url)
    return broker.name if broker else url, parse_url(url).vhost if url else "/"


def _decide(deployment: Deployment, layout: Layout) -> Facts:
    if deployment.generation == "none":
        raise Unsupported(
            "this Nova is from before cells v2",
            "Upgrade it first, or write generation: v1 (recell plan --example --cells-v1 prints a layout)",
        )
    if deployment.generation != "v2":
        raise Unsupported(
            "this deployment runs cells v1, and there is no plan for it",
            "recell doctor says what ails it; split it after the upgrade to cells v2",
        )
    mappings = {m.uuid: m for m in deployment.mappings}
    cells = [m for m in deployment.mappings if m.uuid != CELL0]
    if CELL0 not in mappings or len(cells) != 1:
        raise Unsupported(
            f"the deployment has {len(cells)} cells besides cell0; a collapsed one has one",
            "Splitting the API level off needs exactly cell0 and cell1",
        )
    cell = cells[0]
    if len(layout.cells) != 1:
        raise BadInput(
            f"the layout names {len(layout.cells)} cells, the deployment has one besides cell0",
            "Name exactly that one",
        )
    cell_name = next(iter(layout.cells))
    if cell_name not in (cell.name, "cell1") or (cell.name and cell_name != cell.name):
        raise BadInput(
            f"the layout names {cell_name}, the deployment's cell is called {cell.name or 'nothing'}",
            f"Write {cell.name or 'cell1'} in the layout",
        )
    if why := unread_cells(deployment).get(cell.name or cell.uuid):
        raise Unsupported(
            f"{cell_name} can't be split: {why}", "Convert a Nova whose databases are MariaDB or MySQL"
        )
    if is_split(deployment):
        raise Unsupported(
            "nova-api and the computes are on different brokers or vhosts: the API level is split off"
            " already",
            "There is nothing to plan; recell verify looks whether all is well",
        )
    refuse_web_servers(deployment)
    conductors, schedulers, apis = (
        tuple(s for s in deployment.role(role) if s.active) for role in ("conductor", "scheduler", "api")
    )
    for name, found in (("nova-conductor", conductors), ("nova-scheduler", schedulers), ("nova-api", apis)):
        if not found:
            raise Unsupported(
                f"no running {name} was found on the hosts of the inventory",
                "Add its host to the inventory and scan again",
            )
    moved = (*conductors, *schedulers, *apis, *(s for s in deployment.role("metadata") if s.active))
    restarted = deployment.role("compute") if layout.cells[cell_name].api_database == "remove" else ()
    contained.refuse_what_is_beyond_control((*moved, *restarted))
    old = deployment.broker_of(conductors[0].transport_url)
    if old is None:
        raise Unsupported(
            f"no host of the broker {conductors[0].transport_url} is in the inventory",
            "Add the RabbitMQ hosts to the inventory and scan again",
        )
    for service in (*conductors, *schedulers, *apis, *deployment.role("compute")):
        if _home(deployment, service) != _home(deployment, conductors[0]):
            raise Unsupported(
                f"{service.unit} on {service.host} is on another broker or vhost than {conductors[0].unit} on"
                f" {conductors[0].host}",
                "A collapsed deployment has one broker and one vhost for all of Nova",
            )
    new_nodes = layout.api.broker.nodes
    for node in new_nodes:
        deployment.host(node)
        if node in old.hosts:
            raise BadInput(
                f"{node} is a node of today's broker and can't be the API level's too",
                "Name other hosts under api: broker: nodes",
            )
    new = next((b for b in deployment.brokers if set(new_nodes) & set(b.hosts)), None)
    if new is None:
        raise BadInput(
            f"no running RabbitMQ was found on {', '.join(new_nodes)}",
            "Install and start it there, then scan again",
        )
    if not set(new_nodes) <= set(new.hosts):
        raise BadInput(
            f"{', '.join(new_nodes)} are not nodes of one RabbitMQ cluster",
            "Join them first, or name the nodes of one cluster",
        )
    url = parse_url(conductors[0].transport_url)
    metadata = [s for s in deployment.role("metadata") if s.active]
    wsgi = [s for s in metadata if not s.argv[0].endswith("nova-api-metadata")]
    if layout.services.metadata == "cell" and wsgi:
        raise Unsupported(
            f"{wsgi[0].unit} on {wsgi[0].host} is a WSGI application: its configuration can't be named on its"
            " command line, so recell does not move it into the cell",
            "Write metadata: api; it then serves every cell from the API level",
        )
    super_hosts = layout.api.hosts or tuple(dict.fromkeys(s.host for s in conductors))
    for host in super_hosts:
        if host not in {s.host for s in conductors}:
            raise BadInput(
                f"the layout wants a super-conductor on {host}, where no nova-conductor runs",
                "Name hosts that have a nova-conductor to model it on",
            )
    return Facts(
        deployment=deployment,
        layout=layout,
        cell=cell,
        cell_name=cell_name,
        cell0=mappings[CELL0],
        old=old,
        old_vhost=url.vhost,
        new_nodes=new_nodes,
        new_broker=new.name,
        new_vhost=layout.api.broker.vhost or url.vhost,
        account=url.endpoints[0].user,
        conductors=conductors,
        schedulers=schedulers,
        apis=apis,
        metadata=tuple(s for s in deployment.role("metadata") if s.active),
        consoles=tuple(s for s in deployment.role("novncproxy", "spicehtml5proxy", "serialproxy")),
        super_hosts=super_hosts,
    )


def _remarks(facts: Facts) -> tuple[str, ...]:
    first = facts.conductors[0]
    unit = contained.super_unit(facts, first)
    kept = facts.layout.cells[facts.cell_name].api_database == "keep"
    return (
        f"{facts.cell_name}'s conductors keep [api_database]: live migration, resize, evacuate and"
        " server-group boots ask it for group policy."
        if kept
        else "Without the policy upcall, racing boots of a server group may end on one host (anti-affinity)"
        " or on two (affinity): nobody checks again on the compute.",
        f"nova-manage in nova-api's containers works on cell0 from now on; for {facts.cell_name} run it in"
        f" {first.container.name} (db archive and purge: --all-cells)."
        if first.container
        else f"nova-manage on the controllers works on cell0 from now on; for {facts.cell_name} give it"
        f" --config-file {cell_path(facts, edited_file(first))} (db archive and purge: --all-cells).",
        f"Puppet, Ansible or kolla must learn the new files and the unit {unit} before their next run.",
        "Console proxies go on unrestarted, so open consoles stay open; from their next start they read"
        f" {facts.cell_name}'s own file."
        if not first.container
        else "Console proxies go on unrestarted, with the nova.conf of their own containers.",
        "nova-compute's casts to the schedulers end in the spare queue scheduler_fanout_recell on"
        f" {facts.cell_name}'s broker (the schedulers ask the database instead). Leave it there until every"
        " compute runs with [filter_scheduler] track_instance_changes = false.",
        "Undo stays open until: recell finish. Old files stay root-only on their hosts until then.",
    )
