"""What a release of Nova wants of a conversion to cells v1. What can be seen is read, not assumed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from recell.errors import Unsupported
from recell.model.deployment import Deployment, NovaService

LAST = 19
"""Stein. Grizzly had been the first."""
_BY_YEAR = {"2013.1": "Grizzly", "2013.2": "Havana", "2014.1": "Icehouse", "2014.2": "Juno", "2015.1": "Kilo"}
_BY_NUMBER = {12: "Liberty", 13: "Mitaka", 14: "Newton", 15: "Ocata", 16: "Pike", 17: "Queens", 18: "Rocky",
              19: "Stein"}  # fmt: skip
_COUNTS_SINCE = 16  # from Pike on usage of quotas is counted, not kept
_QUOTA_GROUP_SINCE = 15  # where [DEFAULT] quota_driver became [quota] driver
_API_DATABASE_SINCE = 14  # Newton's holds flavors, key pairs, server groups and aggregates
_NO_EC2_SINCE = 13  # Mitaka; until then nova-api serves EC2 unless it is told not to
NOOP_QUOTA = "nova.quota.NoopQuotaDriver"


@dataclass(frozen=True)
class Release:
    """``name``: Juno. ``quota``: section and option that switch quotas off in the child. ``sync``: what
    follows `nova-manage` to make a cell's schema. ``number``: 14, 0 for those named by years.
    ``shares_api_database``: whether what cells v1 would keep apart is in an API database, which the API cell
    and the child then share; its mappings stay as they are. ``keeps_usage``:
    whether usage of quotas stands in a table, which nobody keeps up in a child. ``apis``: what nova-api
    serves where nobody says."""

    version: str
    name: str
    quota: tuple[str, str]
    sync: tuple[str, ...]
    shares_api_database: bool
    keeps_usage: bool = False
    apis: str = "osapi_compute,metadata"
    number: int = 0


def release_of(deployment: Deployment, controllers: Iterable[NovaService]) -> Release:
    """:raises Unsupported: a release without cells v1, or none that is known."""
    version = deployment.nova_version
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise Unsupported(
            "recell could not tell which Nova this is: no host of the inventory said its version",
            "See that nova-manage --version answers on a controller, and scan again",
        )
    major, by_year = int(found[1]), _BY_YEAR.get(f"{found[1]}.{found[2]}", "")
    name = by_year or _BY_NUMBER.get(major, "")
    if not name:
        raise Unsupported(
            f"Nova {version} has no cells v1: Grizzly (2013.1) brought them and Stein (19) was the last",
            "Write generation: v2" if LAST < major < 1000 else "Upgrade it to a release that has them",
        )
    services = tuple(controllers)
    number = 0 if by_year else major
    shares = number >= _API_DATABASE_SINCE and any(s.api_database for s in services)
    return Release(
        version,
        name,
        # The release's own name, whatever is set today: it wins over the older one where both are read (Ocata
        # to Queens), and the other one is read by no release but these.
        ("quota", "driver") if number >= _QUOTA_GROUP_SINCE else ("DEFAULT", "quota_driver"),
        # With mappings, a plain sync goes on to cell0's database as well.
        ("db", "sync", "--local_cell") if shares else ("db", "sync"),
        shares,
        number < _COUNTS_SINCE,
        "osapi_compute,metadata" if number >= _NO_EC2_SINCE else "ec2,osapi_compute,metadata",
        number,
    )
