"""Neutron's WSGI application, made whole for a server without agents."""

from __future__ import annotations

from importlib import import_module

from neutron.wsgi.api import application  # type: ignore[import-not-found]
from sqlalchemy import orm

__all__ = ["application"]

# Neutron 28 reads Port.port_forwardings, a back reference that exists only after the mappers have
# been configured, which in a process without agents nobody has done before the first request.
for name in ("neutron.db.models.port_forwarding", "neutron.services.portforwarding.pf_plugin"):
    import_module(name)
orm.configure_mappers()
