"""The relay's process: ``python3 relay.pyz DIRECTORY``, with config.json in that directory."""

import asyncio
import json
import os
import signal
import sys
from typing import List

from .link import Link
from .relay import Relay, serve_control


async def _begin(relay: Relay, control: str) -> None:
    loop = asyncio.get_event_loop()
    address, port = relay.config["listen"]
    await loop.create_server(lambda: Link(relay), address or None, port, backlog=512)
    if os.path.exists(control):
        os.unlink(control)  # a process that was killed has left it
    await asyncio.start_unix_server(lambda r, w: serve_control(relay, r, w), control)
    relay.say("relay: port {}, {} side".format(port, relay.side))


def main(arguments: List[str]) -> int:
    """Until it is told to end. 1: it can't begin."""
    directory = arguments[0]
    os.umask(0o077)
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    relay = Relay(config, os.path.join(directory, "state.json"))
    control = os.path.join(directory, "control")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loop.stop)
    try:
        loop.run_until_complete(_begin(relay, control))
    except OSError as error:
        print("the relay can't begin: {}".format(error.strerror or error), file=sys.stderr)
        return 1
    loop.run_forever()
    os.unlink(control)
    return 0
