"""Stand-ins for what the lab has no room for, each named as one: Cinder, and hypervisors' VNC servers."""

from __future__ import annotations

from recell_lab.cloud import unitfiles
from recell_lab.cloud.parts import INSIDE, LIB, Part, text
from recell_lab.cloud.topology import PORTS, public_url
from recell_lab.layer import HostFile
from recell_lab.units import SYSTEM

# A host's own: nothing in them is for an older one.
PYTHON = "/usr/bin/python3"
VNC_PORT = 5900
CINDER = "cinder-stand-in"
CINDER_STATE = f"/var/lib/{CINDER}"

VNC_SOCKET = f"""\
[Unit]
Description=Stand-in for a hypervisor's VNC server

[Socket]
ListenStream=0.0.0.0:{VNC_PORT}
Accept=yes
MaxConnections=64

[Install]
WantedBy=sockets.target
"""
VNC = f"""\
[Unit]
Description=Stand-in for a hypervisor's VNC server, one client
CollectMode=inactive-or-failed

[Service]
User=nova
ExecStart={PYTHON} {LIB}/vnc_stand_in.py
StandardInput=socket
StandardOutput=socket
StandardError=journal
"""


def vnc() -> Part:
    """On a compute host, at the port that its guests' consoles are said to be at."""
    return Part(
        (
            HostFile(LIB, None),
            program("vnc_stand_in.py"),
            text(f"{SYSTEM}/vnc-stand-in.socket", VNC_SOCKET),
            text(f"{SYSTEM}/vnc-stand-in@.service", VNC),
        ),
        ("vnc-stand-in.socket",),
    )


def cinder() -> Part:
    """On the services' host. It needs no account: a token is checked by itself."""
    command = [
        PYTHON, f"{LIB}/cinder_stand_in.py", f"--port={PORTS[CINDER]}", f"--state={CINDER_STATE}",
        f"--keystone={public_url('keystone', '/v3')}", f"--glance={public_url('glance-api')}",
    ]  # fmt: skip
    unit = unitfiles.service("Stand-in for OpenStack Block Storage", "nova", command)
    return Part(
        (
            HostFile(LIB, None),
            program("cinder_stand_in.py"),
            HostFile(CINDER_STATE, None, 0o755, "nova:nova"),
            text(f"{SYSTEM}/{CINDER}.service", unit),
        ),
        (CINDER,),
    )


def program(name: str) -> HostFile:
    """A program of ours that a host's own Python runs."""
    return HostFile(f"{LIB}/{name}", (INSIDE / name).read_bytes())
