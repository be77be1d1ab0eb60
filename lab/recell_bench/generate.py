"""A Nova database of N instances, made by the server itself out of sequences.

About 31 rows an instance, with the sizes that a long-lived cloud has: one tenth of the instances is
deleted, one hundredth is shelved and has no host; names with letters of two to four bytes, JSON with
quotes, FLOATs that need all their digits.
"""

from __future__ import annotations

from recell.model.scope import Schema
from recell_bench.servers import Server

_UUID = ("LOWER(CONCAT(LPAD(HEX((i * 2654435761) & 4294967295), 8, '0'), '-0000-4000-8000-',"
         " LPAD(HEX(i), 12, '0')))")
_THEN = "'2024-01-01' + INTERVAL i * 300 SECOND"
_GONE = "IF(i % 10 = 0, '2025-01-01' + INTERVAL i SECOND, NULL)"
_DELETED = "IF(i % 10 = 0, i, 0)"


def _host(hosts: int, shift: str = "0") -> str:
    return f"CONCAT('cmp-', LPAD((i + {shift}) % {hosts}, 4, '0'))"


def _json(size: int) -> str:
    return (f"CONCAT('{{\"nova_object.name\": \"Flavor\", \"id\": ', i, ', \"data\": \"',"
            f" REPEAT(MD5(i), {size // 32}), '\"}}')")


def _tables(n: int, hosts: int) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Statements' parts by table: FROM ... and values by column. ``i`` is the instance's number."""
    one = f"(SELECT seq AS i FROM seq_1_to_{n}) s"
    common = {"created_at": _THEN, "updated_at": f"{_THEN} + INTERVAL 40 SECOND"}
    mine = {**common, "instance_uuid": _UUID, "deleted": _DELETED, "deleted_at": _GONE}

    def many(times: int) -> str:
        return f"(SELECT seq AS i FROM seq_1_to_{n}) s JOIN (SELECT seq AS k FROM seq_0_to_{times - 1}) t"

    machines = f"(SELECT seq AS i FROM seq_1_to_{hosts}) s"
    on = "CONCAT('cmp-', LPAD(i - 1, 4, '0'))"
    return {
        "services": [(machines, {
            **common, "id": "i", "host": on, "`binary`": "'nova-compute'", "topic": "'compute'",
            "report_count": "i", "deleted": "0", "version": "70", "uuid": "UUID()",
            "last_seen_up": "UTC_TIMESTAMP()"})],
        "compute_nodes": [(machines, {
            **common, "id": "i", "host": on, "hypervisor_hostname": on, "deleted": "0", "uuid": "UUID()",
            "service_id": "i", "vcpus": "96", "memory_mb": "786432", "hypervisor_type": "'QEMU'",
            "cpu_info": _json(900), "stats": _json(300), "numa_topology": _json(3000),
            "ram_allocation_ratio": "1.2345678806 + i / 7", "cpu_allocation_ratio": "16"})],
        "pci_devices": [(
            f"{machines} JOIN (SELECT seq AS k FROM seq_0_to_3) t", {
                **common, "id": "(i - 1) * 4 + k + 1", "deleted": "0", "compute_node_id": "i",
                "address": "CONCAT('0000:81:00.', k)", "product_id": "'1572'", "vendor_id": "'8086'",
                "dev_type": "'type-VF'", "dev_id": "'pci'", "label": "'l'", "status": "'available'"})],
        "instances": [(one, {
            **common, "id": "i", "uuid": _UUID, "deleted": _DELETED, "deleted_at": _GONE,
            "user_id": "MD5(i % 900)", "project_id": "MD5(i % 500)", "image_ref": "UUID()",
            "vm_state": "IF(i % 10 = 0, 'deleted', IF(i % 100 = 1, 'shelved_offloaded', 'active'))",
            "power_state": "1", "memory_mb": "2048", "vcpus": "4", "hostname": "CONCAT('vm-', i)",
            "host": f"IF(i % 100 = 1, NULL, {_host(hosts)})", "node": _host(hosts),
            "launched_on": _host(hosts), "display_name": "CONCAT('vm-', i, ELT(1 + i % 3, '-web',"
                                                         " '-Größe', '-測試'))",
            "user_data": "IF(i % 4 = 0, REPEAT('I2Nsb3VkLWNvbmZpZwo=', 20), NULL)",
            "key_data": "IF(i % 3, CONCAT('ssh-rsa ', REPEAT(MD5(i), 11)), NULL)",
            "availability_zone": "CONCAT('az', i % 3)", "instance_type_id": "i % 20",
            "compute_id": f"i % {hosts} + 1", "reservation_id": "CONCAT('r-', i)"})],
        "instance_extra": [(one, {
            **mine, "id": "i", "flavor": _json(900), "vcpu_model": _json(800),
            "numa_topology": f"IF(i % 2, {_json(1000)}, NULL)", "keypairs": _json(500),
            "pci_requests": "'[]'", "device_metadata": _json(300)})],
        "instance_info_caches": [(one, {**mine, "id": "i", "network_info": _json(1700)})],
        "instance_id_mappings": [(one, {**common, "id": "i", "uuid": _UUID, "deleted": "0"})],
        "instance_system_metadata": [(many(10), {
            **mine, "id": "(i - 1) * 10 + k + 1", "`key`": "CONCAT('image_property_', k)",
            "value": "MD5(i * 10 + k)"})],
        "instance_metadata": [(f"{many(2)} WHERE i % 3 = 0", {
            **mine, "id": "i * 2 + k", "`key`": "CONCAT('key', k)", "value": "CONCAT('värde-', i)"})],
        "instance_actions": [(many(3), {
            **common, "id": "(i - 1) * 3 + k + 1", "action": "ELT(k + 1, 'create', 'stop', 'start')",
            "instance_uuid": _UUID, "request_id": "CONCAT('req-', UUID())", "deleted": "0",
            "start_time": _THEN, "user_id": "MD5(i % 900)", "project_id": "MD5(i % 500)"})],
        "instance_actions_events": [(many(12), {
            **common, "id": "(i - 1) * 12 + k + 1", "action_id": "(i - 1) * 3 + k DIV 4 + 1",
            "event": "'compute__do_build_and_run_instance'", "result": "'Success'", "deleted": "0",
            "start_time": _THEN, "finish_time": _THEN, "host": _host(hosts)})],
        "block_device_mapping": [(f"{many(2)} WHERE k = 0 OR i % 2", {
            **mine, "id": "i * 2 + k", "uuid": "UUID()", "device_name": "CONCAT('/dev/vd', ELT(k + 1,"
                                                                        " 'a', 'b'))",
            "source_type": "'volume'", "destination_type": "'volume'", "volume_size": "20",
            "connection_info": f"IF(k OR i % 3 = 0, {_json(650)}, NULL)", "boot_index": "k"})],
        "virtual_interfaces": [(one, {
            **mine, "id": "i", "uuid": "UUID()", "network_id": "NULL",
            "address": "CONCAT('fa:16:3e/', UUID())"})],
        "instance_faults": [(f"{one} WHERE i % 33 = 0", {
            **common, "id": "i", "instance_uuid": _UUID, "code": "500", "message": "'Build aborted'",
            "details": "REPEAT('  File \"/usr/lib/python3/nova/compute/manager.py\"\\n', 12)", "deleted": "0",
            "host": _host(hosts)})],
        "migrations": [(f"{one} WHERE i % 10 = 0", {
            **common, "id": "i", "instance_uuid": _UUID, "uuid": "UUID()", "status": "'finished'",
            "source_compute": _host(hosts), "dest_compute": _host(hosts, "1"), "deleted": "0",
            "migration_type": "ELT(1 + i % 4, 'migration', 'resize', 'live-migration', 'evacuation')"})],
        "tags": [(f"{one} WHERE i % 20 = 0", {"resource_id": _UUID, "tag": "CONCAT('tag-', i % 7)"})],
    }


def fill(server: Server, schema: Schema, instances: int, hosts: int) -> int:
    """Number of rows. Columns that this release doesn't have are left out."""
    rows = 0
    with server.connect(schema.database) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = '', foreign_key_checks = 0, unique_checks = 0, sql_log_bin = 0")
        for table, parts in _tables(instances, hosts).items():
            if table not in schema:
                continue
            there = {c.name for c in schema.table(table).columns}
            for source, values in parts:
                chosen = {c: v for c, v in values.items() if c.strip("`") in there}
                cursor.execute(f"INSERT INTO `{table}` ({', '.join(chosen)})"
                               f" SELECT {', '.join(chosen.values())} FROM {source}")
                rows += cursor.rowcount
        cursor.execute("SHOW TABLES")
        listed = ", ".join(f"`{name}`" for (name,) in cursor.fetchall())
        cursor.execute(f"ANALYZE TABLE {listed}")
    return rows
