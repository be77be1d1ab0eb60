"""A stand-in for a hypervisor's VNC server: as much of RFB 3.8 as tells a client where it has come to.

systemd gives it a connection as stdin and stdout. The lab's guests have no screens: whichever guest's console
was asked for, the desktop's name is the host's.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import BinaryIO

VERSION = b"RFB 003.008\n"
NO_SECURITY = 1  # RFB's security type None, Nova's default [vnc] auth_schemes
WIDTH, HEIGHT = 640, 400
PIXELS = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def serve(incoming: BinaryIO, outgoing: BinaryIO, name: str) -> bool:
    """One client, until it goes. Returns whether it was let in."""

    def say(data: bytes) -> None:
        outgoing.write(data)
        outgoing.flush()

    say(VERSION)
    if incoming.read(len(VERSION)) != VERSION:
        return False
    say(bytes((1, NO_SECURITY)))
    chosen = incoming.read(1)
    if not chosen:
        return False
    if chosen[0] != NO_SECURITY:
        why = b"only the security type None is spoken here"
        say(struct.pack(">II", 1, len(why)) + why)
        return False
    say(struct.pack(">I", 0))
    if not incoming.read(1):  # whether it shares the desktop: all do
        return False
    title = name.encode()
    say(struct.pack(">HH", WIDTH, HEIGHT) + PIXELS + struct.pack(">I", len(title)) + title)
    while incoming.read(1):  # there is nothing to be seen, and nobody to press keys for
        pass
    return True


def main() -> int:
    """The connection is stdin and stdout."""
    with suppress(ConnectionError):  # as clients go
        serve(sys.stdin.buffer, sys.stdout.buffer, socket.gethostname())
    return 0


if __name__ == "__main__":
    sys.exit(main())
