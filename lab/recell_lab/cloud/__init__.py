"""The cloud on the lab's hosts: what each host has, and how it all comes up."""

from __future__ import annotations

from recell_lab.cloud.bringup import up
from recell_lab.cloud.libvirt import PACKAGES as QEMU
from recell_lab.cloud.topology import Cloud

__all__ = ["QEMU", "Cloud", "up"]
