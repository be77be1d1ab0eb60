"""What must hold of the lab's cells after hosts have moved, asked of Nova and Placement themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recell_lab import lab, state, watching
from recell_lab.cloud import parts, ready, topology
from recell_lab.cloud.topology import Cloud, public_url
from recell_lab.errors import LabError
from recell_lab.hosts import Host

PLACEMENT = {"OpenStack-API-Version": "placement latest"}
MANAGE_TIMEOUT = 300.0
CELL0 = "cell0"
_NAME = re.compile(r"^[A-Za-z0-9_]+$")
_UUID = re.compile(r"^[0-9a-f-]{36}$")
# What of a cell's database says which hosts it has.
OF_HOSTS = {"services": " WHERE `binary` = 'nova-compute'", "compute_nodes": "", "instances": ""}


# -- placement -------------------------------------------------------------------------------------


def allocations() -> dict[str, Any]:
    """What Placement has: providers (uuid by name) and allocations (by consumer, by provider's name)."""
    admin = watching.administrator()
    url = public_url("placement-api", "/resource_providers")
    providers = {
        str(p["name"]): str(p["uuid"])
        for p in admin.call("GET", url, headers=PLACEMENT)["resource_providers"]
    }
    held: dict[str, dict[str, Any]] = {}
    for name, uuid in sorted(providers.items()):
        found = admin.call("GET", f"{url}/{uuid}/allocations", headers=PLACEMENT)["allocations"]
        for consumer, allocation in found.items():
            held.setdefault(consumer, {})[name] = allocation["resources"]
    return {"providers": providers, "allocations": held}


def allocations_that_differ(
    before: Mapping[str, Any], after: Mapping[str, Any], living: Collection[str]
) -> list[str]:
    """In words. living: instances that there are now; others may have ended meanwhile."""
    found = []
    if before["providers"] != after["providers"]:
        found.append("the resource providers are others")
    for consumer, was in sorted(before["allocations"].items()):
        now = after["allocations"].get(consumer)
        if now is None and consumer in living:
            found.append(f"{consumer} has lost its allocation")
        elif now is not None and now != was:
            found.append(f"{consumer} held {was} and holds {now}")
    return found


# -- QEMU ------------------------------------------------------------------------------------------

_QEMU = """\
import json, pathlib
found = {}
for place in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (place / "cmdline").read_bytes().decode(errors="replace").split("\\0")
        started = int((place / "stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        continue
    if "qemu-system" in words[0] and "-uuid" in words:
        found[words[words.index("-uuid") + 1]] = [int(place.name), started]
print(json.dumps(found))
"""


def qemu(name: str) -> dict[str, list[int]]:
    """(pid, start in clock ticks) of each QEMU of a host, by its instance; none for a host of "" ."""
    if not name:
        return {}
    found: dict[str, list[int]] = json.loads(lab.host(name).run(["python3", "-c", _QEMU]).stdout)
    return found


def qemu_that_differ(
    before: Mapping[str, Sequence[int]], after: Mapping[str, Sequence[int]], changed: Collection[str]
) -> list[str]:
    """In words; changed: instances that users have stopped, started, rebooted or deleted meanwhile."""
    return [
        f"the QEMU of {uuid} was {list(was)} and is {list(after.get(uuid, []))}"
        for uuid, was in sorted(before.items())
        if uuid not in changed and list(after.get(uuid, [])) != list(was)
    ]


# -- cells -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Homes:
    """hosts, instances: name of the cell that each is mapped to. rows: by cell, the pairs (table, host or
    instance) of every row there that says whose it is. placed: the host of each instance, living: of those
    that aren't deleted."""

    hosts: Mapping[str, str]
    instances: Mapping[str, str]
    rows: Mapping[str, Sequence[tuple[str, str]]]
    placed: Mapping[str, str]
    living: Mapping[str, str]


def homes() -> Homes:
    """Out of all of Nova's databases, as their root."""
    api = lab.host(topology.DATABASE.name)
    cells = {
        row[0]: _where(row[1])
        for row in ready.query(api, "SELECT name, database_connection FROM nova_api.cell_mappings")
        if row[0] != CELL0
    }
    of_cell = "SELECT {}, c.name FROM nova_api.{} m JOIN nova_api.cell_mappings c ON c.id = m.cell_id"
    hosts = dict(_pairs(api, of_cell.format("m.host", "host_mappings")))
    mapped = dict(_pairs(api, of_cell.format("m.instance_uuid", "instance_mappings")))
    rows: dict[str, list[tuple[str, str]]] = {}
    living: dict[str, str] = {}
    placed: dict[str, str] = {}
    for name, (server, database) in cells.items():
        mine = rows.setdefault(name, [])
        host = lab.host(server)
        for table, more in OF_HOSTS.items():
            sql = f"SELECT DISTINCT IFNULL(host, '') FROM `{database}`.`{table}`{more}"  # noqa: S608
            mine += [(table, found) for (found,) in ready.query(host, sql) if found]
        children = ready.query(
            host,
            "SELECT c.table_name FROM information_schema.columns c JOIN information_schema.tables t"  # noqa: S608
            " USING (table_schema, table_name) WHERE t.table_type = 'BASE TABLE'"
            f" AND c.table_schema = '{database}' AND c.column_name = 'instance_uuid'"
            " AND c.table_name NOT LIKE 'shadow%' ORDER BY 1",
        )
        for table, column in (*((t, "instance_uuid") for (t,) in children), ("instances", "uuid")):
            sql = f"SELECT DISTINCT `{column}` FROM `{database}`.`{table}`"  # noqa: S608
            mine += [(table, found) for (found,) in ready.query(host, sql) if _UUID.match(found)]
        columns = "uuid, IFNULL(host, ''), deleted"
        sql = f"SELECT {columns} FROM `{database}`.instances WHERE COALESCE(hidden, 0) = 0"  # noqa: S608
        for uuid, at, deleted in ready.query(host, sql):
            placed[uuid] = at
            if deleted == "0":
                living[uuid] = at
    return Homes(hosts, mapped, rows, placed, living)


def _pairs(database: Host, sql: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in ready.query(database, sql)]


def _where(url: str) -> tuple[str, str]:
    """The lab's host and the name of a database, out of its URL."""
    if url == topology.CELL1_DATABASE:  # before the split
        return topology.DATABASE.name, "nova"
    split = urlsplit(url)
    host, name = split.hostname or "", split.path.lstrip("/")
    if not _NAME.match(name):
        raise LabError(f"a cell's database has an odd name: {name!r}")
    return next((s.name for s in state.load().hosts if host in (s.name, s.ip)), host), name


def strays(found: Homes) -> list[str]:
    """Rows of hosts and instances in cells that they are not mapped to, in words."""
    out = []
    for cell, rows in sorted(found.rows.items()):
        for table, owner in rows:
            home = found.instances.get(owner) or found.hosts.get(owner)
            if home not in (None, cell, CELL0):
                out.append(f"{table} of {cell} has {owner}, which belongs to {home}")
    return out


# -- Nova's own tools ------------------------------------------------------------------------------


def list_hosts() -> dict[str, str]:
    """Cell by host, as `nova-manage cell_v2 list_hosts` prints it."""
    ended = lab.host("ctl1").run(
        ["nova-manage", "cell_v2", "list_hosts"], user="nova", timeout=MANAGE_TIMEOUT
    )
    return parse_list_hosts(ended.stdout.decode())


def parse_list_hosts(text: str) -> dict[str, str]:
    """Of lines ``| cell2 | <uuid> | cmp3 |``."""
    rows = ([word.strip() for word in line.strip("| \n").split("|")] for line in text.splitlines())
    return {row[2]: row[0] for row in rows if len(row) == 3 and _UUID.match(row[1])}


def audit() -> str:
    """What `nova-manage placement audit` complains of; nothing when it is clean."""
    argv = ["nova-manage", "placement", "audit", "--verbose"]
    ended = lab.host("ctl1").run(argv, user="nova", timeout=MANAGE_TIMEOUT, check=False)
    return "" if ended.returncode == 0 else f"{ended.returncode}: {ended.stdout.decode()[-500:]}"


def unverified(cloud: Cloud, uuids: Collection[str]) -> dict[str, int]:
    """What `nova-manage cell_v2 verify_instance` ends with, of those of which it isn't 0."""
    script = parts.inside("verify_instances.py", cloud).decode()
    ended = lab.host("ctl1").run(
        [str(cloud.venv / "bin/python"), "-c", script],
        input="".join(f"{uuid}\n" for uuid in sorted(uuids)).encode(),
        user="nova",
        timeout=MANAGE_TIMEOUT,
    )
    lines = [line.split() for line in ended.stdout.decode().splitlines()]
    ends = {line[0]: int(line[1]) for line in lines if len(line) == 2 and _UUID.match(line[0])}
    return {uuid: ends.get(uuid, -1) for uuid in sorted(uuids) if ends.get(uuid, -1) != 0}


# -- users -----------------------------------------------------------------------------------------


def changed_instances(requests: Path) -> set[str]:
    """Instances whose processes users may have ended, or begun."""
    lines = (json.loads(text) for text in requests.read_text().splitlines())
    return {
        line["instance"]
        for line in lines
        if line.get("method") not in (None, "GET") and not line["kind"].startswith("metadata")
    }


def share_of_operations(
    requests: Path, window: Mapping[str, float], placed: Mapping[str, str], hosts: Collection[str]
) -> tuple[int, int]:
    """(on instances of these hosts, all) of the changes that were acknowledged in the window."""
    mine = every = 0
    for text in requests.read_text().splitlines():
        line = json.loads(text)
        if line.get("phase") not in ("run", "settle") or not window["start"] <= line["t0"] <= window["end"]:
            continue
        if line["method"] == "GET" or not line["ok"]:
            continue
        every += 1
        mine += placed.get(line["instance"], "") in hosts
    return mine, every
