"""From hosts that can be reached to a Deployment: what runs, what it reads, whom it talks to."""

from recell.discovery.rabbit import scan_rabbit
from recell.discovery.scan import scan

__all__ = ["scan", "scan_rabbit"]
