"""What runs in the containers of these tests: a service with a worker, on the broker of its nova.conf.

Asked to stop it finishes its work, which takes as long as the file ``busy`` in its configuration says.
"""

from __future__ import annotations

import configparser
import os
import signal
import socket
import time
from pathlib import Path

root = Path(os.environ["ROOT"])
conf = configparser.ConfigParser(interpolation=None)
conf.read(root / "etc/nova/nova.conf")
host, _, port = conf["DEFAULT"]["transport_url"].rpartition("@")[2].strip("/").partition(":")
stopping: list[int] = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
worker = os.fork()
if worker == 0:
    connection = socket.create_connection((host, int(port)))
while not stopping:
    time.sleep(0.02)
if worker:
    time.sleep(float(conf["DEFAULT"].get("busy", "0")))
    os.kill(worker, signal.SIGKILL)
