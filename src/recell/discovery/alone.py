"""A Nova without cells: what its one database says of its services.

Before Ocata nobody has to have mappings, so there is no API database to begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from recell.adapters.nova_db import Gateway
from recell.discovery.cells_v1 import CellDatabases, Secrets, believed
from recell.discovery.trouble import Trouble
from recell.errors import RecellError, Unsupported
from recell.model.deployment import NovaService, ServiceRecord

NAME = "nova"


def look_alone(
    services: Sequence[NovaService],
    gates: Mapping[str, Gateway],
    secrets: Callable[[NovaService], Secrets],
    note: Trouble,
) -> tuple[tuple[ServiceRecord, ...], dict[str, int]]:
    """Records of services, of no cell (""), and how many instances there are.

    Without them nobody would see a conductor on a host that the inventory lacks: it would go on as if
    there were no cells. Nothing where no controller names a database that recell can read: plans refuse that.
    """
    first = next((s for s in sorted(services, key=believed) if s.active and s.database), None)
    if first is None:
        return (), {}
    databases = CellDatabases()
    try:
        databases.add(NAME, gates[first.host], secrets(first))
    except Unsupported:
        return (), {}
    try:
        rows = databases.services(NAME)
        records = tuple(
            ServiceRecord("", r.id, r.uuid, r.host, r.binary, r.version, r.disabled, r.seconds_since_report)
            for r in rows
        )
        return records, {NAME: databases.count(NAME)}
    except RecellError as error:
        note("service records", error)
        return (), {}
    finally:
        databases.close()
