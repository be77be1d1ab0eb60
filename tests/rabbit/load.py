"""RPC clients as OpenStack's: a server that notes what it receives, or a caller that notes what it sent.

Runs on a Python that has oslo.messaging, beside recell's. Lines: time, kind, sequence, outcome, seconds.
Calls are C, casts S, fanouts F; what arrives at a server is RC, RS, RF with the server's name.
"""

import argparse
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import oslo_messaging
from oslo_config import cfg


def main() -> None:
    words = argparse.ArgumentParser()
    for name in ("role", "--config-file", "--name", "--topic", "--log"):
        words.add_argument(name)
    words.add_argument("--rate", type=float, default=10.0)
    told = words.parse_args()
    conf = cfg.CONF  # oslo.messaging's metrics look nowhere else
    conf([], project="load", default_config_files=[told.config_file], default_config_dirs=[])
    transport = oslo_messaging.get_rpc_transport(conf)
    log = open(told.log, "a", buffering=1)  # noqa: SIM115, PTH123 -- until the process ends
    lock, over = threading.Lock(), threading.Event()

    def note(*fields: object) -> None:
        with lock:
            log.write(f"{time.time():.3f} " + " ".join(str(f) for f in fields) + "\n")

    signal.signal(signal.SIGTERM, lambda *_: over.set())
    if told.role == "server":
        serve(told, transport, note, over)
    else:
        call(told, transport, note, over)
    note("DOWN", told.name)
    os._exit(0)


def serve(told: Any, transport: Any, note: Any, over: threading.Event) -> None:
    class Endpoint:
        def echo(self, _: object, seq: str) -> str:
            note("RC", seq, told.name)
            return seq

        def note(self, _: object, seq: str) -> None:
            note("RS", seq, told.name)

        def fan(self, _: object, seq: str) -> None:
            note("RF", seq, told.name)

    target = oslo_messaging.Target(topic=told.topic, server=told.name)
    server = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor="threading")
    server.start()
    note("UP", told.name)
    over.wait()
    server.stop()
    server.wait()


def call(told: Any, transport: Any, note: Any, over: threading.Event) -> None:
    client = oslo_messaging.get_rpc_client(transport, oslo_messaging.Target(topic=told.topic), timeout=60)
    everybody = client.prepare(fanout=True)
    sends = {
        "C": lambda seq: client.call({}, "echo", seq=seq),
        "S": lambda seq: client.cast({}, "note", seq=seq),
        "F": lambda seq: everybody.cast({}, "fan", seq=seq),
    }
    pool = ThreadPoolExecutor(300)
    left: dict[str, tuple[str, float]] = {}

    def send(kind: str, seq: str) -> None:
        began = time.time()
        try:
            sends[kind](seq)
            note(kind, seq, "ok", f"{time.time() - began:.3f}")
        except Exception as error:
            words = " ".join(str(error).split())[:120]
            note(kind, seq, "ERR", f"{time.time() - began:.3f}", type(error).__name__, words)
        left.pop(seq, None)

    note("UP", told.name)
    began, number = time.time(), 0
    # Its process number is in each sequence: one that was restarted begins anew.
    base = f"{told.name}.{os.getpid()}.{int(began)}"
    while not over.is_set():
        number += 1
        for kind in "CSF" if number % 5 == 0 else "CS":
            seq = f"{base}.{kind}.{number}"
            left[seq] = kind, time.time()
            pool.submit(send, kind, seq)
        over.wait(max(0.0, began + number / told.rate - time.time()))
    deadline = time.time() + 65
    while left and time.time() < deadline:
        time.sleep(0.1)
    # A publisher that still waits for its confirm is a failure too, and the quietest one.
    for seq, (kind, began) in sorted(left.copy().items()):
        note(kind, seq, "ERR", f"{time.time() - began:.3f}", "Unanswered", "neither done nor failed")


if __name__ == "__main__":
    main()
