"""The SSH layer and the agent, over a private sshd on loopback."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from recell.adapters import session
from recell.adapters.dry import DryHost
from recell.adapters.dry_record import Record
from recell.adapters.ssh import Fence, SshHost, parse_unit
from recell.errors import (
    Denied,
    Locked,
    StalePlan,
    StepFailed,
    Unknowable,
    Unreachable,
    Unsupported,
)
from recell.model.deployment import Address
from tests.private_server import free_ports

_SHOW = """Id=nova-conductor.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
MainPID=4711
ExecMainStartTimestampMonotonic=90000000
FragmentPath=/etc/systemd/system/nova-conductor.service
DropInPaths=/etc/systemd/system/nova-conductor.service.d/a.conf /run/b.conf
ExecStart={ path=/usr/bin/nova-conductor ; argv[]=/usr/bin/nova-conductor --x a b ; ignore_errors=no }
NeedDaemonReload=yes
User=nova
Environment=A=1 "B=2 3"
EnvironmentFiles=/etc/default/nova (ignore_errors=yes)
EnvironmentFiles=/etc/default/more (ignore_errors=no)
WantedBy=multi-user.target
"""


@dataclass
class Sshd:
    address: Address
    directory: Path
    state: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if program is None or shutil.which("ssh") is None:
        pytest.fail("OpenSSH is missing: apt-get install openssh-server openssh-client")
    directory = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name],
                       check=True)
    shutil.copy(directory / "user.pub", directory / "authorized")
    tools = directory / "bin"
    tools.mkdir()
    (tools / "systemctl").write_text(
        '#!/bin/sh\necho "$@" >> ' + str(directory / "systemctl.log") + "\n"
        'case "$*" in show*) cat ' + str(directory / "show") + ";;\n"
        'list-units*) echo "b.service loaded"; echo "getty@.service x";;\n'
        'list-unit-files*) echo "a.service enabled";;\n'
        '*broken*) echo "Job for broken.service failed." >&2; exit 1;; esac\n'
    )
    (tools / "busctl").write_text(
        '#!/bin/sh\necho \'{"type":"a(sasbttttuii)","data":[["/usr/bin/nova-conductor",'
        '["/usr/bin/nova-conductor","--x","a b"],false,0,0,0,0,0,0,0]]}\'\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (directory / "show").write_text(_SHOW)
    Path("/run/sshd").mkdir(exist_ok=True)
    (port,) = free_ports(1)
    (directory / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        f"SetEnv PATH={tools}:/usr/local/bin:/usr/bin:/bin\n"
    )
    process = subprocess.Popen([program, "-D", "-f", directory / "config", "-E",
                                directory / "log"])
    known = (directory / "host.pub").read_text().split()[:2]
    (directory / "known").write_text(f"[127.0.0.1]:{port} {' '.join(known)}\n")
    for _ in range(5000):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.02)
    else:
        pytest.fail(f"sshd does not answer: {(directory / 'log').read_text()}")
    user = pwd.getpwuid(os.getuid()).pw_name
    address = Address("127.0.0.1", port, user, str(directory / "user"), str(directory / "known"))
    yield Sshd(address, directory, directory / "state", process)
    process.terminate()
    process.wait()


@pytest.fixture
def host(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshHost]:
    source = session.agent_source().replace(b'"/var/lib/recell"', repr(str(sshd.state)).encode())
    monkeypatch.setattr(session, "agent_source", lambda: source)
    shutil.rmtree(sshd.state, ignore_errors=True)
    made = SshHost("ctl1", sshd.address)
    yield made
    made.close()


def _me() -> dict[str, str]:
    return {"owner": str(os.getuid()), "group": str(os.getgid())}


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _agent(host: SshHost) -> int:
    """The agent's own process, the parent of what it runs."""
    return int(host.query(["sh", "-c", "echo $PPID"]).stdout)


def test_runs_commands(host: SshHost) -> None:
    done = host.query(["sh", "-c", "cat; echo no >&2; exit 3"], stdin=b"\0\xffraw")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"\0\xffraw", b"no\n")
    assert host.query(["/no/such/program"]).returncode == 127
    assert host.run(["id", "-un"], user="nobody").stdout == b"nobody\n"
    # Nothing is ever interpreted by a shell on the way.
    assert host.query(["echo", "$HOME 'a'; b"]).stdout == b"$HOME 'a'; b\n"


def test_a_command_that_does_not_end_is_ended(host: SshHost) -> None:
    with pytest.raises(Unreachable, match=r"sleep did not end within 0\.2 s on ctl1"):
        host.query(["sleep", "50"], timeout=0.2)
    with pytest.raises(StepFailed, match="sleep did not end"):
        host.run(["sleep", "50"], timeout=0.2)


def test_requests_run_beside_each_other(host: SshHost) -> None:
    mark = f"{600 + os.getpid() % 100}.{os.getpid()}"
    threads = [threading.Thread(target=host.query, args=(["sleep", mark],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 60
    sleeping: list[int] = []
    while len(sleeping) < 6 and time.monotonic() < ends:
        sleeping = [p.pid for p in host.processes() if p.argv == ("sleep", mark)]
    for pid in sleeping:
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    assert len(sleeping) == 6, "all six were under way at once"


def test_nothing_of_a_request_is_on_a_command_line(host: SshHost) -> None:
    host.query(["true"], stdin=b"s3cret")
    agent = next(p for p in host.processes() if p.pid == _agent(host))
    assert agent.argv[1:4] == ("-I", "-u", "-c")
    assert all("s3cret" not in " ".join(p.argv) for p in host.processes())


def test_files(host: SshHost, tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "nova.conf"
    assert host.read(str(path)) is None
    assert host.stat(str(path)) is None
    host.write(str(path), b"one\n", mode=0o640, expect=None, **_me())
    found = host.stat(str(path))
    assert found is not None
    assert (found.mode, found.size, found.sha256) == (0o640, 4, _sha(b"one\n"))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    host.write(str(path), b"two\n", mode=0o600, expect=_sha(b"one\n"), **_me())
    assert host.read(str(path)) == b"two\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert host.glob(f"{tmp_path}/*/*/*.conf") == (str(path),)
    host.remove(str(path), expect=_sha(b"two\n"))
    assert not path.exists()
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_not_as_expected_is_left_alone(host: SshHost, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"theirs")
    for expect in (None, _sha(b"mine")):
        with pytest.raises(StalePlan, match=f"{path} on ctl1"):
            host.write(str(path), b"x", mode=0o644, expect=expect, **_me())
    with pytest.raises(StalePlan):
        host.remove(str(path), expect=_sha(b"mine"))
    path.unlink()
    with pytest.raises(StalePlan, match="does not exist any more"):
        host.write(str(path), b"x", mode=0o644, expect=_sha(b"theirs"), **_me())
    assert list(tmp_path.iterdir()) == []


def test_a_link_keeps_being_one(host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    host.write(str(tmp_path / "link"), b"2", mode=0o644, expect=_sha(b"1"), **_me())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"2"


def test_a_full_disk_leaves_the_old_file(host: SshHost, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], check=True)
    try:
        (small / "f").write_bytes(b"old")
        with pytest.raises(StepFailed, match=f"writing {small}/f failed on ctl1: No space left"):
            host.write(str(small / "f"), b"x" * 200_000, mode=0o644, expect=_sha(b"old"), **_me())
        assert [(p.name, p.read_bytes()) for p in small.iterdir()] == [("f", b"old")]
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_is_no_file_is_refused(host: SshHost, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="not a regular file"):
        host.read(str(tmp_path))
    with pytest.raises(StepFailed, match="there is no user nobody-at-all"):
        host.write(str(tmp_path / "f"), b"", mode=0o644, owner="nobody-at-all", group="root",
                   expect=None)


def test_old_values_are_kept_root_only(host: SshHost, sshd: Sshd) -> None:
    name = host.keep("plan-1", b"password")
    assert name == _sha(b"password")
    assert host.keep("plan-1", b"password") == name
    assert host.kept("plan-1", name) == b"password"
    kept = sshd.state / "plan-1" / name
    assert [stat.S_IMODE(p.stat().st_mode) for p in (sshd.state, kept.parent, kept)] == [
        0o700, 0o700, 0o600]
    kept.write_bytes(b"damaged")
    with pytest.raises(Unknowable, match="missing or damaged"):
        host.kept("plan-1", name)
    host.forget("plan-1")
    host.forget("plan-1")
    assert not kept.parent.exists()


def test_one_run_at_a_time(host: SshHost, sshd: Sshd, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    host.claim(Fence("journal-a", 1, "alice@desk"))
    host.claim(Fence("journal-a", 1, "alice@desk"))
    host.write(path, b"1", mode=0o644, expect=None, **_me())
    other = SshHost("ctl1", sshd.address)
    try:
        with pytest.raises(Locked, match=r"belongs to the journal journal-a \(alice@desk\)"):
            other.claim(Fence("journal-b", 9))
        with pytest.raises(Locked, match="journal-a"):
            other.run(["true"])
        other.query(["true"])
        # The same journal, resumed: the first run is shut out from now on.
        other.claim(Fence("journal-a", 2))
        with pytest.raises(Locked, match="newer run"):
            host.remove(path, expect=_sha(b"1"))
        with pytest.raises(Locked, match="newer run"):
            host.claim(Fence("journal-a", 1))
        other.remove(path, expect=_sha(b"1"))
        other.release()
        with pytest.raises(Locked, match="has not claimed it"):
            host.write(path, b"1", mode=0o644, expect=None, **_me())
    finally:
        other.close()
    assert stat.S_IMODE((sshd.state / "lock").stat().st_mode) == 0o600


def test_a_claim_waits_for_a_change_under_way(
    host: SshHost, sshd: Sshd, tmp_path: Path,
) -> None:
    host.claim(Fence("journal-a", 1))
    begun, go, done = tmp_path / "begun", tmp_path / "go", tmp_path / "done"
    change = f"touch {begun}; until [ -e {go} ]; do sleep 0.05; done; sleep 0.5; touch {done}"
    thread = threading.Thread(target=_ignoring, args=(host, ["sh", "-c", change]))
    thread.start()
    while not begun.exists():
        time.sleep(0.01)
    # The operator's machine loses the host in the midst of it.
    os.kill(host._connected()._process.pid, signal.SIGKILL)
    other = SshHost("ctl1", sshd.address)
    with pytest.raises(Locked):
        other.claim(Fence("journal-a", 2, patience_s=0))
    go.touch()
    other.claim(Fence("journal-a", 2))
    assert done.exists()
    other.close()
    thread.join()


def _ignoring(host: SshHost, argv: list[str]) -> None:
    with pytest.raises(Unreachable, match="unknown whether that happened"):
        host.run(argv)


def test_a_lost_session(host: SshHost, tmp_path: Path) -> None:
    first = _agent(host)
    os.kill(first, signal.SIGKILL)
    # A question is asked again, on a new session.
    assert _agent(host) != first
    flag = tmp_path / "flag"
    script = f"[ -e {flag} ] || {{ touch {flag}; kill -9 $PPID; }}; echo answered"
    assert host.query(["sh", "-c", script]).stdout == b"answered\n"
    # A change is not.
    counter = tmp_path / "counter"
    with pytest.raises(Unreachable, match="it is unknown whether that happened"):
        host.run(["sh", "-c", f"echo x >> {counter}; kill -9 $PPID"])
    assert counter.read_text() == "x\n"
    with pytest.raises(Unreachable, match="broke twice"):
        host.query(["sh", "-c", "kill -9 $PPID"])
    assert host.query(["echo", "well"]).stdout == b"well\n"


def test_ssh_troubles(sshd: Sshd) -> None:
    def error(**changed: object) -> tuple[type[Exception], str]:
        made = SshHost("ctl1", replace(sshd.address, **changed))  # type: ignore[arg-type]
        try:
            made.read("/etc/hostname")
        except Exception as caught:
            return type(caught), str(caught)
        finally:
            made.close()
        raise AssertionError("it worked")

    (closed,) = free_ports(1)
    kind, text = error(port=closed)
    assert kind is Unreachable
    assert "Connection refused" in text
    kind, text = error(host="no-such-host.invalid")
    assert kind is Unreachable
    kind, text = error(key_file=str(sshd.directory / "other"))
    assert kind is Denied
    assert "refuses the SSH login of" in text
    assert "ctl1" in text
    empty = sshd.directory / "empty"
    empty.write_text("")
    kind, text = error(known_hosts=str(empty))
    assert kind is Denied
    assert "is not known" in text
    assert str(empty) in text
    changed = sshd.directory / "changed"
    other = " ".join((sshd.directory / "other.pub").read_text().split()[:2])
    changed.write_text(f"[127.0.0.1]:{sshd.address.port} {other}\n")
    kind, text = error(known_hosts=str(changed))
    assert kind is Denied
    assert "is not the one that is known" in text


def test_a_host_without_python(sshd: Sshd) -> None:
    master = session.Master("cmp9", sshd.address)
    for shell_says in ("bash: line 1: python3: command not found", "sh: 1: python3: not found"):
        assert isinstance(master.failure(shell_says), Unsupported)
    denied = master.failure("sudo: a password is required")
    assert isinstance(denied, Denied)


def test_processes_and_sockets(host: SshHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        found = host.sockets([os.getpid()])
        ours = [s for s in found if s.local_port == client.getsockname()[1]]
        assert [(s.pid, s.remote_ip, s.remote_port) for s in ours] == [
            (os.getpid(), "127.0.0.1", server.getsockname()[1])]
        client.close()
        peer.close()
    me = next(p for p in host.processes() if p.pid == os.getpid())
    assert me.ppid == os.getppid()
    assert me.user == pwd.getpwuid(os.getuid()).pw_name
    assert 0 <= time.time() - me.started_at < 36000
    assert host.sockets([2**22 + 1]) == ()


def test_units(host: SshHost, sshd: Sshd) -> None:
    found = host.unit("nova-conductor.service")
    assert found.running
    assert found.enabled
    assert found.needs_reload
    assert found.exec_start == ("/usr/bin/nova-conductor", "--x", "a b")
    assert host.units() == ("a.service", "b.service")
    host.systemctl("kill", "x.service")
    host.systemctl("stop-later", "x.service")
    host.systemctl("start-later", "x.service")
    host.systemctl("daemon-reload")
    with pytest.raises(StepFailed, match=r"Job for broken.service failed\). Look at: journalctl"):
        host.systemctl("start", "broken.service")
    log = (sshd.directory / "systemctl.log").read_text().splitlines()
    assert log[-5:-1] == ["kill --signal=SIGKILL -- x.service", "stop --no-block -- x.service",
                          "start --no-block -- x.service", "daemon-reload"]


def test_parse_unit() -> None:
    found = parse_unit("u", {"show": _SHOW, "bus": "", "now": 1000.0, "monotonic": 100.0})
    assert found.started_at == 990.0
    assert found.exec_start == ("/usr/bin/nova-conductor", "--x", "a", "b")
    assert found.environment == ("A=1", "B=2 3")
    assert found.environment_files == ("/etc/default/nova", "/etc/default/more")
    assert found.dropins[1] == "/run/b.conf"
    gone = parse_unit("u", {"show": "LoadState=not-found\nMainPID=0\n", "now": 1.0, "monotonic": 1})
    assert (gone.exists, gone.running, gone.started_at) == (False, False, 0.0)


def test_http_status(host: SshHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            peer, _ = server.accept()
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 300 Multiple Choices\r\nContent-Length: 0\r\n\r\n")
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert host.http_status(f"http://127.0.0.1:{port}/") == 300
        thread.join()
    (closed,) = free_ports(1)
    assert host.http_status(f"http://127.0.0.1:{closed}/") == 0


def test_forward(host: SshHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        local = host.forward("127.0.0.1", port)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(local))
        peer, _ = server.accept()
        peer.sendall(b"hello")
        assert client.recv(5) == b"hello"
        client.close()
        peer.close()
        host.unforward(local, "127.0.0.1", port)
        assert not local.exists()


def test_a_forward_that_nobody_uses_for_long_leads_there_still(
    host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.close()
    monkeypatch.setattr("recell.adapters.session.PERSIST_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as client:
        local = host.forward("127.0.0.1", server.getsockname()[1])
        time.sleep(4)
        client.connect(str(local))
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"hello")
            assert client.recv(5) == b"hello"
    host.close()


def test_a_unix_socket_of_the_host_is_reached_as_its_user(host: SshHost, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        local = host.forward_socket(str(path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(local))
            peer, _ = server.accept()
            with peer:
                said = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                assert struct.unpack("3i", said)[1] == os.getuid()
                peer.sendall(b"hello")
                assert client.recv(5) == b"hello"
        host.unforward_socket(local, str(path))
        assert not local.exists()


def test_dry_host(host: SshHost, tmp_path: Path) -> None:
    record = Record()
    dry = DryHost(host, record)
    path = tmp_path / "f"
    path.write_bytes(b"old")
    dry.write(str(path), b"new", mode=0o600, expect=_sha(b"old"), **_me())
    dry.write(str(tmp_path / "g"), b"g", mode=0o600, expect=None, **_me())
    assert dry.read(str(path)) == b"new"
    assert path.read_bytes() == b"old"
    assert dry.glob(f"{tmp_path}/*") == (str(path), str(tmp_path / "g"))
    with pytest.raises(StalePlan):
        dry.write(str(path), b"x", mode=0o600, expect=_sha(b"old"), **_me())
    dry.remove(str(path), expect=_sha(b"new"))
    assert dry.read(str(path)) is None
    assert dry.glob(f"{tmp_path}/*") == (str(tmp_path / "g"),)
    kept = dry.keep("p", b"secret")
    assert dry.kept("p", kept) == b"secret"
    dry.systemctl("stop", "nova-conductor.service")
    assert dry.unit("nova-conductor.service").active == "inactive"
    dry.systemctl("start", "nova-conductor.service")
    assert dry.unit("nova-conductor.service").running
    assert dry.run(["reboot"]).returncode == 0
    assert [what for _, what in record.changes] == [
        f"replace {path}", f"create {tmp_path}/g", f"remove {path}", "keep 6 bytes for p",
        "systemctl stop nova-conductor.service", "systemctl start nova-conductor.service",
        "run reboot",
    ]
