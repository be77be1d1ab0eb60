"""An SSH connection to one host and, over it, the conversation with the agent there.

One OpenSSH master per host (``ControlMaster``), its socket in a private directory; the agent and
the forwards to databases are sessions of it. Host keys are always checked.
"""

from __future__ import annotations

import atexit
import itertools
import json
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from recell.adapters import agent
from recell.errors import Denied, RecellError, Unreachable, Unsupported
from recell.model.deployment import Address

CONNECT_TIMEOUT = 10
PERSIST_S = 60
"""How long a connection that nobody uses outlives a recell that was killed."""
_START_TIMEOUT = 30.0
_GRACE = 20.0
"""Seconds beyond a request's own limit after which a silent session counts as dead."""

# A constant: nothing that differs between runs or hosts ever stands on a command line.
_BOOTSTRAP = (
    "python3 -I -u -c '"
    "import sys;n=int(sys.stdin.buffer.readline());"
    'exec(compile(sys.stdin.buffer.read(n),"recell-agent","exec"))'
    "'"
)
_KEY_TROUBLE = re.compile(
    r"Host key verification failed|host key is known|IDENTIFICATION HAS CHANGED"
)
_USER_TROUBLE = re.compile(r"Permission denied|Too many authentication failures|Load key")
_NO_PYTHON = re.compile(r"python3: (command )?not found|python3: No such file|python3: not found")


def agent_source() -> bytes:
    """The agent as it is shipped to every host."""
    return resources.files("recell.adapters").joinpath("agent.py").read_bytes()


class SessionLost(Exception):
    """The SSH session ended before the answer came: nobody knows what became of the request."""


class AgentRefusal(Exception):
    """The agent answered that it did not do it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class _Private:
    """The process's directory for control sockets: 0700, and short, for a unix socket's path may
    have 108 bytes at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._numbers = itertools.count(1)

    def path(self, kind: str) -> Path:
        with self._lock:
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix="recell-", dir="/tmp"))
                atexit.register(shutil.rmtree, self._path, ignore_errors=True)
            return self._path / f"{kind}{next(self._numbers)}"


_private = _Private()


class Master:
    """The OpenSSH master connection to one host.

    :raises Unreachable, Denied: from every method that needs the connection.
    """

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self.address = address
        self._lock = threading.RLock()
        self._control: Path | None = None

    @property
    def where(self) -> str:
        port = f" port {self.address.port}" if self.address.port != 22 else ""
        return f"{self.name} ({self.address.host}{port})"

    def _options(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": str(CONNECT_TIMEOUT),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "StreamLocalBindUnlink": "yes",
            "ControlPath": str(self._control),
            "Port": str(self.address.port),
            "User": self.address.user,
        }
        if self.address.key_file:
            options |= {"IdentityFile": self.address.key_file, "IdentitiesOnly": "yes"}
        if self.address.known_hosts:
            options["UserKnownHostsFile"] = self.address.known_hosts
        return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def ensure(self) -> None:
        """Connect unless connected."""
        with self._lock:
            if self._control is not None and self._control.exists() and self._ask("check") == 0:
                return
            self._control = _private.path("c")
            # The background master keeps its stderr open: a pipe would never end.
            with tempfile.TemporaryFile() as stderr:
                argv = ["ssh", *self._options(), "-o", "ControlMaster=yes",
                        "-o", f"ControlPersist={PERSIST_S}", "-f", "-N", "--", self.address.host]
                try:
                    done = subprocess.run(
                        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
                        timeout=CONNECT_TIMEOUT + 20, check=False, start_new_session=True,
                    )
                except subprocess.TimeoutExpired:
                    raise Unreachable(f"{self.where} does not answer by SSH",
                                      "Check that the host is up and reachable from here") from None
                except FileNotFoundError:
                    raise Unsupported("there is no ssh program on this machine",
                                      "Install the OpenSSH client") from None
                stderr.seek(0)
                if done.returncode != 0:
                    raise self.failure(stderr.read().decode("utf-8", "replace"))

    def failure(self, stderr: str) -> RecellError:
        """What ssh's own words mean to an operator."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        last = lines[-1].removeprefix("ssh: ") if lines else "no reason given"
        if _KEY_TROUBLE.search(stderr):
            changed = "IDENTIFICATION HAS CHANGED" in stderr
            what = "is not the one that is known" if changed else "is not known"
            files = self.address.known_hosts or "the known_hosts file"
            return Denied(f"the SSH host key of {self.where} {what}",
                          f"Check the key on the host itself, then correct {files}")
        if "sudo:" in stderr:
            return Denied(f"{self.address.user} may not become root on {self.where}",
                          "Allow it sudo without a password, or connect as root")
        if _NO_PYTHON.search(stderr):
            return Unsupported(f"there is no python3 on {self.where}",
                               "Install Python 3.6 or newer")
        if _USER_TROUBLE.search(stderr):
            return Denied(f"{self.where} refuses the SSH login of {self.address.user}",
                          "Give the inventory the right user and key, or authorise the key there")
        return Unreachable(f"{self.where} does not answer by SSH ({last})",
                           "Check that the host is up and reachable from here")

    def _ask(self, command: str, *words: str) -> int:
        argv = ["ssh", *self._options(), "-O", command, *words, "--", self.address.host]
        try:
            return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=20, check=False).returncode
        except subprocess.TimeoutExpired:
            return 255

    def forward(self, host: str, port: int) -> Path:
        """A local unix socket that leads, from the host, to ``host:port``."""
        with self._lock:
            self.ensure()
            local = _private.path("f")
            target = f"[{host}]" if ":" in host else host
            if self._ask("forward", "-L", f"{local}:{target}:{port}") != 0:
                raise Denied(f"sshd on {self.where} does not forward connections",
                             "Set AllowTcpForwarding yes there")
            return local

    def unforward(self, local: Path, host: str, port: int) -> None:
        with self._lock:
            if self._control is not None and self._control.exists():
                target = f"[{host}]" if ":" in host else host
                self._ask("cancel", "-L", f"{local}:{target}:{port}")
            local.unlink(missing_ok=True)

    def forward_socket(self, path: str) -> Path:
        """A local unix socket that leads to the unix socket ``path`` of the host, opened as this user."""
        with self._lock:
            self.ensure()
            local = _private.path("f")
            if self._ask("forward", "-L", f"{local}:{path}") != 0:
                raise Denied(f"sshd on {self.where} does not forward unix sockets",
                             "Set AllowStreamLocalForwarding yes there")
            return local

    def unforward_socket(self, local: Path, path: str) -> None:
        with self._lock:
            if self._control is not None and self._control.exists():
                self._ask("cancel", "-L", f"{local}:{path}")
            local.unlink(missing_ok=True)

    def agent_command(self) -> list[str]:
        become = "" if self.address.user == "root" else "sudo -n "
        return ["ssh", *self._options(), "-o", "ControlMaster=no", "-T", "--", self.address.host,
                become + _BOOTSTRAP]

    def close(self) -> None:
        with self._lock:
            if self._control is not None and self._control.exists():
                self._ask("exit")
            self._control = None


class Session:
    """A running agent. Thread-safe; every request waits for its own answer."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._numbers = itertools.count(1)
        self._writing = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._lost = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the session
        master.ensure()
        self._process = subprocess.Popen(
            master.agent_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._stderr, start_new_session=True,
        )
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        self._reader = threading.Thread(target=self._read, name=f"agent-{master.name}", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return not self._lost and self._process.poll() is None

    def _begin(self) -> None:
        source = agent_source()
        # A host that hangs between login and agent is ended, which ends the reading below.
        watchdog = threading.Timer(_START_TIMEOUT, self._process.kill)
        watchdog.start()
        try:
            assert self._process.stdin and self._process.stdout  # noqa: S101 -- both are pipes
            with suppress(OSError):
                self._process.stdin.write(b"%d\n" % len(source) + source)
                self._process.stdin.flush()
            # A login shell's greetings may come first.
            for _ in range(1000):
                line = self._process.stdout.readline(4096)
                if line == agent.MARKER:
                    return
                if not line:
                    break
        finally:
            watchdog.cancel()
        self._process.kill()
        self._process.wait()
        self._stderr.seek(0)
        raise self._master.failure(self._stderr.read(65536).decode("utf-8", "replace"))

    def _read(self) -> None:
        source = self._process.stdout
        assert source is not None  # noqa: S101 -- it is a pipe
        with suppress(OSError, ValueError):
            while line := source.readline():
                reply = json.loads(source.read(int(line)))
                waiting = self._waiting.get(reply["id"])
                if waiting is not None:
                    waiting.put(reply)
        self._lost = True
        for waiting in list(self._waiting.values()):
            waiting.put(None)

    def call(self, request: Mapping[str, Any], limit: float) -> Any:
        """The value of the agent's answer.

        :raises AgentRefusal: it was not done.
        :raises SessionLost: no answer.
        """
        number = next(self._numbers)
        data = json.dumps({**request, "id": number}).encode()
        waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._waiting[number] = waiting
        try:
            if self._lost:
                raise SessionLost
            try:
                with self._writing:
                    assert self._process.stdin is not None  # noqa: S101 -- it is a pipe
                    self._process.stdin.write(b"%d\n" % len(data) + data)
                    self._process.stdin.flush()
            except (OSError, ValueError):
                raise SessionLost from None
            try:
                reply = waiting.get(timeout=limit + _GRACE)
            except queue.Empty:
                self.close()
                raise SessionLost from None
        finally:
            self._waiting.pop(number, None)
        if reply is None:
            raise SessionLost
        if not reply["ok"]:
            raise AgentRefusal(reply["kind"], reply["text"])
        return reply["value"]

    def close(self) -> None:
        """End it; changes under way on the host still end there."""
        self._lost = True
        with suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        deadline = time.monotonic() + 1
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._stderr.close()
