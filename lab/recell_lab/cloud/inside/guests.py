"""The lab's compute driver: a guest is a real process that outlives nova-compute.

Laid down on every compute host as nova/virt/guests.py and used with
`compute_driver = guests.GuestDriver`. nova-compute asks a small socket-activated unit
(guest-runner) to start `guest@UUID.service`, as it would ask libvirtd for a domain, so restarting
nova-compute touches no guest. What runs is read from /proc, never remembered.

Files of a guest under STATE:
UUID.json is its definition (there while the guest is defined on this host);
UUID.volumes says which volumes are attached to it here: {volume's uuid: device}, none while there are none;
UUID.jsonl is its journal: one line per thing that happened to it here, never deleted. A line has
time (seconds since the epoch), op, request_id (of the API request that caused it, or null), pid
and start (clock ticks since the host's kernel booted; both null when the guest is off).
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import nova.conf
import os_resource_classes as orc  # type: ignore[import-not-found]
from nova import exception
from nova.compute import power_state, task_states
from nova.console import type as console_type
from nova.objects import fields, migrate_data
from nova.virt import driver, hardware
from oslo_context import context as thread_context  # type: ignore[import-not-found]

try:
    from nova.image.glance import API as ImageAPI
except ImportError:  # Stein and older have it elsewhere
    from nova.image import API as ImageAPI
try:
    from nova.virt.node import get_local_node_uuid
except ImportError:  # older than 2023.1: Nova gives each node a uuid of its own choice
    get_local_node_uuid = None

CONF = nova.conf.CONF
STATE = Path("/var/lib/nova/guests")
RUNNER = "/run/guest-runner.sock"
RUNNER_TIMEOUT = 30.0  # seconds
DEATH_TIMEOUT = 10.0  # seconds
MAPPING = "block_device_mapping"  # of block_device_info
VCPUS, MEMORY_MB, DISK_GB = 64, 65536, 1000
IMAGE_BYTES = 4096  # of a snapshot
VNC_PORT = 5900  # vnc-stand-in.socket, whichever the guest


class Guest(NamedTuple):
    """A guest's definition on this host. pid and start are of its latest process, 0 before."""

    uuid: str
    name: str
    vcpus: int
    memory_mb: int
    disk_gb: int
    pid: int = 0
    start: int = 0

    def alive(self) -> bool:
        """Whether its latest process runs (a recycled pid has another start time)."""
        return self.pid > 0 and _start_ticks(self.pid) == self.start


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat, or 0 when there is no such process or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    rest = text.rpartition(")")[2].split()
    return 0 if rest[0] in "ZX" else int(rest[19])


class Guests:
    """The guests of this host: their definitions, processes and journals."""

    def __init__(self, state: Path) -> None:
        self._state = state
        state.mkdir(mode=0o755, parents=True, exist_ok=True)

    def _definition(self, uuid: str) -> Path:
        return self._state / f"{uuid}.json"

    def get(self, uuid: str) -> Guest | None:
        """The guest of that uuid, None when it is not defined here."""
        try:
            return Guest(**json.loads(self._definition(uuid).read_text()))
        except FileNotFoundError:
            return None

    def all(self) -> list[Guest]:
        """All guests defined here."""
        found = (self.get(path.stem) for path in sorted(self._state.glob("*.json")))
        return [guest for guest in found if guest is not None]

    def save(self, guest: Guest) -> None:
        """Write a guest's definition, whole or not at all."""
        path = self._definition(guest.uuid)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(guest._asdict()))
        temporary.replace(path)

    def undefine(self, guest: Guest) -> None:
        """Forget a guest (its journal stays)."""
        self.keep_volumes(guest.uuid, {})
        with suppress(FileNotFoundError):
            self._definition(guest.uuid).unlink()

    def volumes(self, uuid: str) -> dict[str, str]:
        """Device by volume, of those that are attached to a guest."""
        try:
            found = json.loads((self._state / f"{uuid}.volumes").read_text())
        except FileNotFoundError:
            return {}
        return {str(volume): str(device) for volume, device in found.items()}

    def keep_volumes(self, uuid: str, attached: Mapping[str, str]) -> None:
        """Write down which volumes are attached, whole or not at all."""
        path = self._state / f"{uuid}.volumes"
        if not attached:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        temporary = path.with_suffix(".volumes-new")
        temporary.write_text(json.dumps(attached))
        temporary.replace(path)

    def start(self, guest: Guest) -> Guest:
        """Start a guest's process unless it runs."""
        if guest.alive():
            return guest
        pid = self._ask_runner(guest.uuid)
        started = guest._replace(pid=pid, start=_start_ticks(pid))
        if not started.alive():
            raise exception.InstancePowerOnFailure(reason=f"the process of guest {guest.uuid} died")
        self.save(started)
        return started

    @staticmethod
    def _ask_runner(uuid: str) -> int:
        with socket.socket(socket.AF_UNIX) as runner:
            runner.settimeout(RUNNER_TIMEOUT)
            runner.connect(RUNNER)
            runner.sendall(f"{uuid}\n".encode())
            with runner.makefile() as answers:
                answer = answers.readline().strip()
        if not answer.isdigit():
            raise exception.InstancePowerOnFailure(reason=f"guest-runner did not start {uuid}")
        return int(answer)

    @staticmethod
    def stop(guest: Guest) -> None:
        """Kill a guest's process, if it runs, and wait until it is gone."""
        if not guest.alive():
            return
        os.kill(guest.pid, signal.SIGKILL)
        deadline = time.monotonic() + DEATH_TIMEOUT
        while guest.alive():
            if time.monotonic() > deadline:
                raise exception.InstancePowerOffFailure(reason=f"guest {guest.uuid} does not end")
            time.sleep(0.005)

    def note(self, guest: Guest, operation: str, context: Any = None, **more: str) -> None:
        """Append a line to a guest's journal."""
        context = context or thread_context.get_current()
        alive = guest.alive()
        line = {
            "time": time.time(),
            "op": operation,
            "request_id": getattr(context, "request_id", None),
            "pid": guest.pid if alive else None,
            "start": guest.start if alive else None,
            **more,
        }
        journal = self._state / f"{guest.uuid}.jsonl"
        descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(line) + "\n")

    def journal(self, uuid: str) -> str:
        """The text of a guest's journal on this host."""
        try:
            return (self._state / f"{uuid}.jsonl").read_text()
        except FileNotFoundError:
            return ""


class GuestDriver(driver.ComputeDriver):  # type: ignore[misc]
    """What nova-compute needs of a hypervisor, over Guests."""

    capabilities = {  # noqa: RUF012  (Nova's own interface)
        **driver.ComputeDriver.capabilities,
        "supports_evacuate": True,
        "supports_migrate_to_same_host": False,
        "supports_image_type_raw": True,
    }

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        super().__init__(virtapi)
        self._guests = Guests(STATE)
        self._host = CONF.host

    # -- the host ----------------------------------------------------------------------------------

    def init_host(self, host: str) -> None:
        self._host = host

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self._host]

    def get_host_ip_addr(self) -> str:
        return str(CONF.my_ip)

    def get_host_uptime(self) -> str:
        return Path("/proc/uptime").read_text().split()[0]

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        guests = self._guests.all()
        return {
            **({"uuid": get_local_node_uuid()} if get_local_node_uuid else {}),
            "hypervisor_hostname": nodename,
            "hypervisor_type": fields.HVType.FAKE,
            "hypervisor_version": 1,
            "cpu_info": json.dumps({"arch": fields.Architecture.X86_64}),
            "vcpus": VCPUS,
            "memory_mb": MEMORY_MB,
            "local_gb": DISK_GB,
            "vcpus_used": sum(guest.vcpus for guest in guests),
            "memory_mb_used": sum(guest.memory_mb for guest in guests),
            "local_gb_used": sum(guest.disk_gb for guest in guests),
            "disk_available_least": DISK_GB,
            "numa_topology": None,
            "supported_instances": [(fields.Architecture.X86_64, fields.HVType.FAKE, fields.VMMode.HVM)],
        }

    def update_provider_tree(self, provider_tree: Any, nodename: str, allocations: Any = None) -> None:
        reserved = {
            orc.VCPU: CONF.reserved_host_cpus,
            orc.MEMORY_MB: CONF.reserved_host_memory_mb,
            orc.DISK_GB: self._get_reserved_host_disk_gb_from_config(),
        }
        totals = {orc.VCPU: VCPUS, orc.MEMORY_MB: MEMORY_MB, orc.DISK_GB: DISK_GB}
        ratios = self._get_allocation_ratios(provider_tree.data(nodename).inventory)
        inventory = {
            name: {
                "total": total,
                "reserved": reserved[name],
                "min_unit": 1,
                "max_unit": total,
                "step_size": 1,
                "allocation_ratio": ratios[name],
            }
            for name, total in totals.items()
        }
        provider_tree.update_inventory(nodename, inventory)

    # -- what there is -----------------------------------------------------------------------------

    def list_instances(self) -> list[str]:
        return [guest.name for guest in self._guests.all()]

    def list_instance_uuids(self) -> list[str]:
        return [guest.uuid for guest in self._guests.all()]

    def get_info(self, instance: Any, use_cache: bool = True) -> Any:
        running = self._known(instance).alive()
        state = power_state.RUNNING if running else power_state.SHUTDOWN
        return hardware.InstanceInfo(state=state)

    def instance_on_disk(self, instance: Any) -> bool:
        return False  # no shared storage: an evacuated guest begins anew

    def get_console_output(self, context: Any, instance: Any) -> str:
        return self._guests.journal(instance.uuid)

    def get_vnc_console(self, context: Any, instance: Any) -> Any:
        self._known(instance)
        # A string, as libvirt's is: nova-consoleauth of old releases compares it with one.
        return console_type.ConsoleVNC(host=CONF.vnc.server_proxyclient_address, port=str(VNC_PORT))

    def _known(self, instance: Any) -> Guest:
        guest = self._guests.get(instance.uuid)
        if guest is None:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return guest

    def _define(self, instance: Any) -> Guest:
        """Define a guest; one that is defined keeps its process and takes the new flavor."""
        old = self._guests.get(instance.uuid)
        guest = Guest(
            uuid=instance.uuid,
            name=instance.name,
            vcpus=instance.flavor.vcpus,
            memory_mb=instance.flavor.memory_mb,
            disk_gb=instance.flavor.root_gb,
            pid=old.pid if old else 0,
            start=old.start if old else 0,
        )
        self._guests.save(guest)
        return guest

    def _run(self, guest: Guest, operation: str, context: Any, **more: str) -> None:
        self._guests.note(self._guests.start(guest), operation, context, **more)

    # -- volumes -----------------------------------------------------------------------------------

    def get_volume_connector(self, instance: Any) -> dict[str, Any]:
        return {
            "host": self._host,
            "ip": CONF.my_ip,
            "platform": "x86_64",
            "os_type": "linux",
            "multipath": False,
            "initiator": f"iqn.2026-01.org.example:{self._host}",
        }

    def attach_volume(
        self, context: Any, connection_info: Any, instance: Any, mountpoint: str, *args: Any, **kwargs: Any
    ) -> None:
        guest, volume = self._known(instance), self._volume(connection_info)
        attached = {**self._guests.volumes(guest.uuid), volume: mountpoint}
        self._guests.keep_volumes(guest.uuid, attached)
        self._guests.note(guest, "attach_volume", context, volume=volume, device=mountpoint)

    def detach_volume(
        self, context: Any, connection_info: Any, instance: Any, mountpoint: str, *args: Any, **kwargs: Any
    ) -> None:
        volume = self._volume(connection_info)
        attached = self._guests.volumes(instance.uuid)
        if attached.pop(volume, None) is None:
            raise exception.DiskNotFound(location=f"{volume} at {mountpoint} of {instance.uuid}")
        self._guests.keep_volumes(instance.uuid, attached)
        self._guests.note(self._known(instance), "detach_volume", context, volume=volume, device=mountpoint)

    @staticmethod
    def _volume(connection_info: Any) -> str:
        return str(connection_info.get("serial") or connection_info["data"]["volume_id"])

    def _plug(self, uuid: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """What a call says of all volumes of a guest holds; one that says nothing of them changes nothing.

        Where among the arguments block_device_info comes differs between releases: it is the one of its kind.
        """
        told = [one for one in (*args, *kwargs.values()) if isinstance(one, dict) and MAPPING in one]
        if told:
            attached = [one for one in told[0][MAPPING] or () if one.get("connection_info")]
            self._guests.keep_volumes(
                uuid, {self._volume(one["connection_info"]): str(one["mount_device"]) for one in attached}
            )

    # -- snapshots ---------------------------------------------------------------------------------

    def snapshot(
        self, context: Any, instance: Any, image_id: str, update_task_state: Any, *args: Any, **kwargs: Any
    ) -> None:
        """The image holds the guest's definition: one can see whose it is."""
        guest = self._known(instance)
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        about = {"disk_format": "raw", "container_format": "bare", "properties": {"image_state": "available"}}
        content = json.dumps(guest._asdict()).encode().ljust(IMAGE_BYTES)
        update_task_state(
            task_state=task_states.IMAGE_UPLOADING, expected_state=task_states.IMAGE_PENDING_UPLOAD
        )
        ImageAPI().update(context, image_id, about, io.BytesIO(content), purge_props=False)
        self._guests.note(guest, "snapshot", context, image=image_id)

    # -- a guest's life ----------------------------------------------------------------------------

    def spawn(self, context: Any, instance: Any, *args: Any, power_on: bool = True, **kwargs: Any) -> None:
        guest = self._define(instance)
        self._plug(guest.uuid, args, kwargs)
        if power_on:
            self._run(guest, "spawn", context)
        else:
            self._guests.note(guest, "define", context)

    def power_on(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        guest = self._known(instance)
        self._plug(guest.uuid, args, kwargs)
        self._run(guest, "power_on", context)

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        guest = self._known(instance)
        self._guests.stop(guest)
        self._guests.note(guest, "power_off")

    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        # As with libvirt, a hard reboot also brings back a guest that is not even defined.
        guest = self._guests.get(instance.uuid) or self._define(instance)
        self._guests.stop(guest)
        if reboot_type.lower() == "hard":  # a soft one is the guest's own affair
            self._plug(guest.uuid, args, kwargs)
        self._run(guest, "reboot", context, type=reboot_type.lower())

    def resume_state_on_host_boot(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        guest = self._guests.get(instance.uuid) or self._define(instance)
        self._plug(guest.uuid, args, kwargs)
        self._run(guest, "resume_on_host_boot", context)

    def destroy(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        self._remove(context, instance, "destroy")

    def _remove(self, context: Any, instance: Any, operation: str, **more: str) -> None:
        guest = self._guests.get(instance.uuid)
        if guest is not None:
            self._guests.stop(guest)
            self._guests.undefine(guest)
            self._guests.note(guest, operation, context, **more)

    def cleanup(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing is left of a guest but its journal."""

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """Guests have no interfaces."""

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        """Guests have no interfaces."""

    # -- cold migration and resize -----------------------------------------------------------------

    def migrate_disk_and_power_off(
        self, context: Any, instance: Any, dest: str, *args: Any, **kwargs: Any
    ) -> str:
        guest = self._known(instance)
        self._guests.stop(guest)
        self._guests.keep_volumes(guest.uuid, {})
        self._guests.note(guest, "migrate_out", context, dest=dest)
        return "[]"

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        guest = self._define(instance)
        self._plug(guest.uuid, args, kwargs)
        if self._wanted_on(args, kwargs):
            self._run(guest, "migrate_in", context, source=migration.source_compute)
        else:
            self._guests.note(guest, "migrate_in", context, source=migration.source_compute)

    @staticmethod
    def _wanted_on(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """power_on, which is the last argument in each release, whatever comes before it."""
        return bool(kwargs.get("power_on", args[-1] if args else True))

    def confirm_migration(self, context: Any, migration: Any, instance: Any, network_info: Any) -> None:
        if migration.source_compute != migration.dest_compute:
            self._remove(context, instance, "confirm_migration")

    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        guest = self._define(instance)
        self._plug(guest.uuid, args, kwargs)
        if self._wanted_on(args, kwargs):
            self._run(guest, "revert_migration", context)
        else:
            self._guests.note(guest, "revert_migration", context)

    # -- live migration ----------------------------------------------------------------------------

    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: Any,
        src_compute_info: Any,
        dst_compute_info: Any,
        block_migration: bool = False,
        disk_over_commit: bool = False,
    ) -> Any:
        # The manager only takes part in cleaning up for kinds of data that it knows.
        data = migrate_data.LibvirtLiveMigrateData(
            filename="",
            image_type="raw",
            disk_available_mb=DISK_GB * 1024,
            is_shared_block_storage=True,
            is_shared_instance_path=True,
        )
        if block_migration is not None:
            data.block_migration = block_migration
        if disk_over_commit is not None:
            data.disk_over_commit = disk_over_commit
        return data

    def cleanup_live_migration_destination_check(self, context: Any, dest_check_data: Any) -> None:
        """The check leaves nothing behind."""

    def check_can_live_migrate_source(
        self, context: Any, instance: Any, dest_check_data: Any, block_device_info: Any = None
    ) -> Any:
        return dest_check_data

    def get_instance_disk_info(self, instance: Any, block_device_info: Any = None) -> str:
        return "[]"

    def pre_live_migration(
        self,
        context: Any,
        instance: Any,
        block_device_info: Any,
        network_info: Any,
        disk_info: Any,
        migrate_data: Any,
    ) -> Any:
        # The destination's process waits for the state, as `qemu -incoming` does.
        guest = self._define(instance)
        self._plug(guest.uuid, (block_device_info,), {})
        self._run(guest, "live_migrate_in", context)
        return migrate_data

    def live_migration(
        self,
        context: Any,
        instance: Any,
        dest: str,
        post_method: Any,
        recover_method: Any,
        block_migration: bool = False,
        migrate_data: Any = None,
    ) -> None:
        try:
            self._remove(context, instance, "live_migrate_out", dest=dest)
        except Exception:
            recover_method(context, instance, dest, migrate_data=migrate_data)
            raise
        post_method(context, instance, dest, block_migration, migrate_data)

    def post_live_migration_at_source(self, context: Any, instance: Any, network_info: Any) -> None:
        """The guest is gone from here already."""

    def post_live_migration_at_destination(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_migration: bool = False,
        block_device_info: Any = None,
    ) -> None:
        self._guests.start(self._known(instance))

    def rollback_live_migration_at_destination(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._remove(context, instance, "live_migrate_rollback")

    # -- asked for now and then, with nothing to do ------------------------------------------------

    def poll_rebooting_instances(self, timeout: int, instances: Any) -> None:
        """A reboot here cannot hang."""

    def manage_image_cache(self, context: Any, all_instances: Any) -> None:
        """Guests are made of no image."""
