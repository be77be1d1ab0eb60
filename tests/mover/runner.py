"""A mover in a process of its own, to be killed: goes as far as it gets, then follows for ever.

Arguments, as JSON: source and target (socket, number), rules ("whole", "hosts"), rate.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from recell.mover import Move, Options
from tests.mover import schema
from tests.mover.writers import HOSTS
from tests.private_server import Server


def main() -> None:
    asked = json.loads(sys.argv[1])
    source, target = (Server(Path(directory), number, "nova") for directory, number in asked["ends"])
    rules = schema.WHOLE if asked["rules"] == "whole" else schema.BY_HOST
    scope = schema.scope(schema.read(source), rules, HOSTS[:3] if asked["rules"] == "hosts" else ())
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    print(move.prepare(), flush=True)
    move.set_rate(asked["rate"])
    if not move.backward:
        move.copy()
    move.follow()
    print("following", flush=True)
    while True:
        time.sleep(0.2)
        move.catch_up(60, lag_s=30)


if __name__ == "__main__":
    main()
