"""Stand-ins for what the lab has no room for, each named as one: the VNC servers of hypervisors."""

from __future__ import annotations

from recell_lab.cloud.parts import INSIDE, LIB, Part, text
from recell_lab.layer import HostFile
from recell_lab.units import SYSTEM

# A host's own: nothing in them is for an older one.
PYTHON = "/usr/bin/python3"
VNC_PORT = 5900

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


def program(name: str) -> HostFile:
    """A program of ours that a host's own Python runs."""
    return HostFile(f"{LIB}/{name}", (INSIDE / name).read_bytes())
