"""A consumer of notifications, as a billing or audit service is: one JSON line for each.

Reads a configuration file of oslo.messaging ([DEFAULT] transport_url, [consumer] topics, log) given
with --config-file, runs until SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import oslo_messaging
from oslo_config import cfg

OPTIONS = [
    cfg.ListOpt("topics", default=["notifications"], help="Topics to listen on."),
    cfg.StrOpt("log", default="/var/log/notification-consumer.log", help="File of JSON lines."),
]


class Endpoint:
    """Writes what arrives, whatever its priority, in the order of arrival."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def _write(self, context: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        body = payload if isinstance(payload, dict) else {}
        data = body.get("nova_object.data", body)
        line = {
            "event_type": event_type,
            "timestamp": metadata.get("timestamp"),
            "publisher": publisher_id,
            "message_id": metadata.get("message_id"),
            "request_id": context.get("request_id") if isinstance(context, dict) else None,
            "instance": data.get("instance_id") or data.get("uuid"),
        }
        with self._lock:
            self._file.write(json.dumps(line) + "\n")

    audit = debug = info = warn = error = critical = sample = _write


def main() -> int:
    """Listen until told to stop."""
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTIONS, group="consumer")
    conf(sys.argv[1:], project="notification-consumer")
    listener = oslo_messaging.get_notification_listener(
        oslo_messaging.get_notification_transport(conf),
        [oslo_messaging.Target(topic=topic) for topic in conf.consumer.topics],
        [Endpoint(Path(conf.consumer.log))],
        executor="threading",
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    listener.start()
    ended.wait()
    listener.stop()
    listener.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
