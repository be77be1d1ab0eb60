"""The cloud on the lab's hosts: what each host has, and how it all comes up."""

from __future__ import annotations

from recell_lab.cloud.bringup import up

__all__ = ["up"]
