"""Every table that a cell database of Nova had between Juno (2014.2) and 34, and what it holds.

Read from the models and migrations of 2014.2.4, 15.1.5, 19.3.2, 33.0.2 and 34.0.0, and from live
databases of the first, the third and the fourth. One line a table; ``shadow_x`` follows ``x``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from recell.model.scope import ByHost, ByParent, Left, Rule, Shared

__all__ = ["BOOKKEEPING", "KNOWN", "SEEDED_BY_SYNC", "SHADOW", "VERSION_TABLES", "Known", "owner_like"]

SHADOW = "shadow_"
BOOKKEEPING = "recell_mover_"
VERSION_TABLES = frozenset({"alembic_version", "migrate_version"})
SEEDED_BY_SYNC = frozenset({"instance_types", "quota_classes"})
"""Tables that `db sync` of some releases puts rows into: an API cell's are cleared before an import."""

ApiCell = Literal["whole", "left"]


@dataclass(frozen=True)
class Known:
    """``hosts``: rules for a move of hosts, the first whose column is there. ``api``: whether a v1
    API cell reads it. ``owners``: columns that look as if they said whose row it is, all understood.
    """

    hosts: tuple[Rule, ...]
    api: ApiCell
    owners: frozenset[str] = frozenset()
    api_why: str = ""


_INSTANCE = ByParent("instance_uuid", "instances", "uuid")
_API_LEVEL = Left("the API database has these since Pike; a cell's services don't read them")
_NETWORK = Left("nova-network's, which no release with cells v2 has")
_PLACEMENT = Left("Placement's own database has these")
_NOVA_VOLUME = Left("nova-volume's, gone since Grizzly")
_CONSOLES = Left("open XenAPI consoles: a user opens a new one")
_VERSION = Left("the target's own schema says its version")
_CHILD = "asked of the child through nova-cells, or its own"


def _known(hosts: Rule | tuple[Rule, ...], api: ApiCell, owners: str = "", api_why: str = _CHILD) -> Known:
    return Known(hosts if isinstance(hosts, tuple) else (hosts,), api, frozenset(owners.split()), api_why)


KNOWN: dict[str, Known] = {
    # Of a host.
    "services": _known(ByHost("host", (("binary", "nova-compute"),)), "left", "host uuid"),
    "compute_nodes": _known(
        (ByHost("host"), ByParent("service_id", "services", "id")), "left",
        "host host_ip hypervisor_hostname service_id uuid",
    ),
    "pci_devices": _known(
        ByParent("compute_node_id", "compute_nodes", "id"), "left",
        "compute_node_id instance_uuid numa_node uuid",
    ),
    "task_log": _known(ByHost("host"), "left", "host"),
    # Of an instance.
    "instances": _known(
        ByHost("host"), "whole",
        "host hostname node launched_on compute_id cell_name uuid instance_type_id ephemeral_key_uuid",
    ),
    "instance_extra": _known(_INSTANCE, "whole", "instance_uuid"),
    "instance_info_caches": _known(_INSTANCE, "whole", "instance_uuid"),
    "instance_system_metadata": _known(_INSTANCE, "whole", "instance_uuid"),
    "instance_metadata": _known(_INSTANCE, "whole", "instance_uuid"),
    "instance_faults": _known(_INSTANCE, "whole", "instance_uuid host"),
    "instance_actions": _known(_INSTANCE, "whole", "instance_uuid action"),
    "instance_actions_events": _known(
        ByParent("action_id", "instance_actions", "id"), "whole", "action_id host"),
    "block_device_mapping": _known(_INSTANCE, "whole", "instance_uuid uuid encryption_secret_uuid"),
    "virtual_interfaces": _known(_INSTANCE, "whole", "instance_uuid uuid"),
    "migrations": _known(
        _INSTANCE, "whole",
        "instance_uuid source_compute dest_compute dest_compute_id dest_host source_node dest_node"
        " old_instance_type_id new_instance_type_id cross_cell_move uuid",
    ),
    "instance_id_mappings": _known(ByParent("uuid", "instances", "uuid"), "whole", "uuid"),
    "tags": _known(ByParent("resource_id", "instances", "uuid"), "whole", "resource_id"),
    "share_mapping": _known(_INSTANCE, "left", "instance_uuid uuid"),
    "console_auth_tokens": _known(_INSTANCE, "left", "host instance_uuid"),
    "volume_usage_cache": _known(_INSTANCE, "left", "instance_uuid"),
    "bw_usage_cache": _known(ByParent("uuid", "instances", "uuid"), "whole", "uuid"),
    "security_group_instance_association": _known(_INSTANCE, "whole", "instance_uuid"),
    # Of nobody, and read by guests or by rows that move.
    "s3_images": _known(Shared(), "whole", "uuid"),
    "volume_id_mappings": _known(Shared(), "whole", "uuid"),
    "snapshot_id_mappings": _known(Shared(), "whole", "uuid"),
    "security_groups": _known(Shared(), "whole"),
    # Of the API level.
    "aggregates": _known(_API_LEVEL, "whole", "uuid"),
    "aggregate_hosts": _known(_API_LEVEL, "whole", "host"),
    "aggregate_metadata": _known(_API_LEVEL, "whole"),
    "instance_groups": _known(_API_LEVEL, "whole", "uuid"),
    "instance_group_member": _known(_API_LEVEL, "whole", "instance_id"),
    "instance_group_metadata": _known(_API_LEVEL, "whole"),
    "instance_group_policy": _known(_API_LEVEL, "whole"),
    "instance_types": _known(_API_LEVEL, "whole"),
    "instance_type_extra_specs": _known(_API_LEVEL, "whole", "instance_type_id"),
    "instance_type_projects": _known(_API_LEVEL, "whole", "instance_type_id"),
    "key_pairs": _known(_API_LEVEL, "whole"),
    "quotas": _known(_API_LEVEL, "whole", "resource"),
    "quota_classes": _known(_API_LEVEL, "whole", "resource"),
    "quota_usages": _known(_API_LEVEL, "whole", "resource"),
    "project_user_quotas": _known(_API_LEVEL, "whole", "resource"),
    "reservations": _known(_API_LEVEL, "whole", "resource uuid"),
    "security_group_rules": _known(Left("Neutron's rules filter; these belong to no host"), "whole"),
    "security_group_default_rules": _known(
        Left("Neutron's rules filter; these belong to no host"), "whole"),
    "certificates": _known(Left("a project's, of the EC2 API that left in Mitaka"), "whole"),
    "agent_builds": _known(Left("XenAPI's, registered for each cell by its operator"), "whole"),
    # Gone, or another program's.
    "cells": _known(
        Left("cells v1's own tree"), "left", api_why="each side of cells v1 has records of its own"),
    "consoles": _known(_CONSOLES, "left", "instance_uuid instance_name"),
    "console_pools": _known(_CONSOLES, "left", "host compute_host public_hostname"),
    "networks": _known(_NETWORK, "left", "host multi_host uuid"),
    "fixed_ips": _known(_NETWORK, "left", "host instance_uuid"),
    "floating_ips": _known(_NETWORK, "left", "host"),
    "dns_domains": _known(_NETWORK, "left"),
    "provider_fw_rules": _known(_NETWORK, "left"),
    "volumes": _known(_NOVA_VOLUME, "whole", "host instance_uuid"),
    "snapshots": _known(_NOVA_VOLUME, "whole"),
    "iscsi_targets": _known(_NOVA_VOLUME, "left", "host"),
    "resource_providers": _known(_PLACEMENT, "left", "uuid can_host"),
    "resource_provider_aggregates": _known(_PLACEMENT, "left"),
    "inventories": _known(_PLACEMENT, "left"),
    "allocations": _known(_PLACEMENT, "left"),
    "alembic_version": _known(_VERSION, "left", api_why="the API cell's own schema says its version"),
    "migrate_version": _known(_VERSION, "left", api_why="the API cell's own schema says its version"),
}

_OWNER = re.compile(r"(?:^|_)(?:host|hosts|hostname|node|compute|instance|service|cell)(?:_|$)|uuid$")


def owner_like(column: str) -> bool:
    """Whether a column's name says that it may tell whose row this is."""
    return _OWNER.search(column) is not None
