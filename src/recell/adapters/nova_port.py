"""What the layers above may ask of Nova's databases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recell.model.hosts import Flipped

__all__ = ["NovaPort", "RawMapping", "ServiceRow"]


@dataclass(frozen=True)
class RawMapping:
    """A row of nova_api.cell_mappings, as stored: URLs may be templates and hold passwords."""

    uuid: str
    name: str
    transport_url: str
    database_connection: str
    disabled: bool


@dataclass(frozen=True)
class ServiceRow:
    """A live row of a cell database's services table."""

    id: int
    uuid: str
    host: str
    binary: str
    version: int
    disabled: bool
    seconds_since_report: float


class NovaPort(Protocol):
    """Nova's own databases: the API database and those of the cells, by cell uuid."""

    def mappings(self) -> tuple[RawMapping, ...]: ...
    def set_mapping(self, old: RawMapping, new: RawMapping) -> None:
        """Compare-and-set in one transaction; StalePlan when the row is not ``old``."""
        ...

    def add_mapping(self, new: RawMapping) -> None:
        """A further cell. :raises StalePlan: its uuid or name is taken."""
        ...

    def remove_mapping(self, old: RawMapping) -> None:
        """:raises StalePlan: the row is not ``old``. :raises StepFailed: hosts or instances belong to it."""
        ...

    def host_cells(self, hosts: Sequence[str]) -> dict[str, str]:
        """Cell uuids by host, of those that are mapped."""
        ...

    def hold_mappings(self, limit_s: float, settle_s: float) -> float:
        """Lookups of host and instance mappings wait until :meth:`let_mappings_go`, or the session's end.

        Returns after another ``settle_s``: those that looked just before have gone on by then. How long
        somebody may have waited already, in seconds: to get there takes longer, and nobody waits for that.

        :raises StepFailed: a transaction doesn't end within ``limit_s``; nobody waits.
        """
        ...

    def flip(
        self, hosts: Sequence[str], instances: Sequence[str], source: str, target: str
    ) -> Flipped:
        """While lookups are held: these hosts and instances belong to cell ``target``, in one transaction.

        :raises StalePlan: a host does not belong to ``source``; nothing was changed.
        """
        ...

    def let_mappings_go(self) -> None:
        """Nothing when none are held. Never raises."""
        ...

    def services(self, cell: str) -> tuple[ServiceRow, ...]: ...
    def retire_service(self, cell: str, row: ServiceRow) -> None:
        """What ``nova-manage`` does when a service is deleted: soft-delete exactly this row."""
        ...

    def restore_service(self, cell: str, row_id: int) -> None: ...
    def keep_up(self, cell: str, hosts: Sequence[str], down_s: float) -> None:
        """The service records of nova-compute on these hosts say that it is up; but for one that is down by
        now, for it has not reported for ``down_s``."""
        ...

    def swap_task(self, cell: str, uuid: str, old: str, new: str | None) -> bool:
        """An instance's task_state, compare-and-set; None: it has no task. Whether it was ``old``."""
        ...

    def busy(self, cell: str, before: float, since: float) -> tuple[str, ...]:
        """Work begun through the API in [since, before) (seconds since 1970) and not yet ended:
        build requests and unfinished conductor_* action events. One short text each."""
        ...

    def now(self) -> float:
        """The database server's clock, seconds since 1970: what rows are stamped against."""
        ...

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        """A read-only statement on a cell's database ("" is the API database)."""
        ...
