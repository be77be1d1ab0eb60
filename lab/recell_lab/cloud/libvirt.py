"""A compute host with libvirt and QEMU, without acceleration: only when `up --libvirt-host` asks for it.

Its guests have an empty disk. They get no further than their BIOS, which is enough to see whether a QEMU
process goes on or is another one.
"""

from __future__ import annotations

from pathlib import Path

from recell_lab.cloud import unitfiles
from recell_lab.cloud.conffile import Option, Section, option
from recell_lab.cloud.parts import LIB, Part, programs, text
from recell_lab.cloud.topology import Cloud
from recell_lab.errors import LabError
from recell_lab.layer import HostFile
from recell_lab.units import SYSTEM

PACKAGES = (
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "qemu-system-x86",
    "qemu-utils",
    "python3-libvirt",
)
# Debian's binding is for the Python that the environment was made with.
BINDING = Path("/usr/lib/python3/dist-packages")
CONFIG = "/etc/nova/nova.conf"
PRIVILEGED = (
    "nova_sys_admin",
    "privsep_osbrick",
    "vif_plug_linux_bridge_privileged",
    "vif_plug_ovs_privileged",
)


def part(cloud: Cloud) -> Part:
    """What the host has beside Nova's own files. Raises LabError when Debian's packages are missing."""
    binding = sorted(BINDING.glob("libvirt*"))
    if not binding:
        raise LabError(f"there is no libvirt in {BINDING}; `recell-lab up --libvirt-host` installs it")
    own = f"{LIB}/libvirt"
    unit = unitfiles.service(
        "OpenStack Compute",
        "root",
        ["/usr/bin/nova-compute"],
        environment={"PYTHONPATH": own},
        after=("libvirtd.service",),
    )
    return Part(
        (
            *programs(cloud, ["nova-compute"]),
            HostFile(LIB, None),
            HostFile(own, None),
            *(HostFile(f"{own}/{path.name}", None, symlink_to=str(path)) for path in binding),
            text(f"{SYSTEM}/nova-compute.service", unit),
        ),
        ("libvirtd", "nova-compute"),
    )


def default_options() -> list[Option]:
    """Of [DEFAULT], beside what every compute host has."""
    return [
        option("compute_driver", "libvirt.LibvirtDriver", "Driver of the hypervisor, below nova.virt.", ""),
        option("shutdown_timeout", 2, "Seconds that a guest may take to shut down by itself.", "60"),
        option("reserved_host_disk_mb", 0, "Disk kept for the host itself, MiB."),
    ]


def sections() -> list[Section]:
    """Further sections of its nova.conf."""
    helper = option(
        "helper_command",
        f"/usr/bin/privsep-helper --config-file {CONFIG}",
        "What does the things that need root; nova-compute is root here.",
    )
    return [
        Section(
            "libvirt",
            [
                option("virt_type", "qemu", "Without acceleration.", "kvm"),
                option("cpu_mode", "none", "What the emulator offers by itself."),
                option("hw_machine_type", "x86_64=pc", "Machine type, for each architecture."),
                option("tb_cache_size", 32, "Memory of a guest's emulator for translated code, MiB."),
                option("images_type", "qcow2", "How a guest's disk is kept.", "default"),
                option("wait_soft_reboot_seconds", 2, "Until a soft reboot becomes a hard one.", "120"),
            ],
        ),
        *(Section(name, [helper]) for name in PRIVILEGED),
    ]
