"""What nova-api of a standard Nova serves, and where: users, guests' metadata, until Liberty EC2."""

from __future__ import annotations

import posixpath

from recell.model.deployment import Deployment, NovaService
from recell.planning.v1_release import Release

METADATA_PORT = 8775
_EC2_PORT = 8773
_USERS_ALONE = ("nova-api-os-compute", "nova-api-wsgi", "nova.wsgi.osapi_compute")
"""Programs that read no enabled_apis."""
_EVERYWHERE = ("", "0.0.0.0", "::", "[::]")  # noqa: S104  # nothing is bound here


def served(service: NovaService, release: Release) -> frozenset[str]:
    """``osapi_compute``, ``metadata``, ``ec2``; of a unit whose role is api or metadata."""
    if service.role == "metadata":
        return frozenset({"metadata"})
    words = {w.partition("=")[2] or w for w in service.argv}
    if any(posixpath.basename(w).partition(":")[0] in _USERS_ALONE for w in words):
        return frozenset({"osapi_compute"})
    named = service.options.get("DEFAULT/enabled_apis", release.apis)
    return frozenset(word.strip() for word in named.split(","))


def ec2_port(service: NovaService, release: Release) -> int:
    """Where it serves EC2; 0: nowhere."""
    if "ec2" not in served(service, release):
        return 0
    port = _port(service, "ec2", _EC2_PORT)
    return port if port in service.ports or not service.ports else 0


def metadata_url(deployment: Deployment, service: NovaService) -> str:
    """As its own host reaches it."""
    return _url(deployment, service, "metadata", _port(service, "metadata", METADATA_PORT))


def users_url(deployment: Deployment, service: NovaService, default: int) -> str:
    """As its own host reaches it. ``default``: the port, where no scan saw one."""
    return _url(deployment, service, "osapi_compute", service.port or default)


def _port(service: NovaService, api: str, default: int) -> int:
    named = service.options.get(f"DEFAULT/{api}_listen_port", "").strip()
    return int(named) if named.isdigit() else default


def _url(deployment: Deployment, service: NovaService, api: str, port: int) -> str:
    address = service.options.get(f"DEFAULT/{api}_listen", "").strip()
    if address in _EVERYWHERE or "$" in address:
        address = deployment.host(service.host).address.host
    bare = address.strip("[]")
    return f"http://{f'[{bare}]' if ':' in bare else bare}:{port}/"
