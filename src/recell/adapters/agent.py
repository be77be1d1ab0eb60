"""What recell runs on a host, on its own Python (3.6 or newer) and the standard library alone.

Shipped over SSH's standard input. Requests and answers are frames: a decimal length, a newline, that
many bytes of JSON; bytes inside are base64. Every request is served in a thread of its own. Nothing is
taken from a command line, and nothing of a request is logged.

Changes are fenced. ``/var/lib/recell/owner`` says which journal may change this host, and with which
epoch at least; a change holds a shared lock while it runs and a claim waits for the exclusive one, so
that a change that an older recell has begun never ends after a newer one took over.
"""

import base64
import contextlib
import errno
import fcntl
import glob
import grp
import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Set, Tuple
from urllib.parse import urlsplit

MARKER = b"recell-agent 1\n"
STATE = "/var/lib/recell"
TAKEN = 1000000  # epochs from here on are those of runs after a takeover
LARGEST_FILE = 64 * 1024 * 1024
_PLAN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_COPIED_ATTRIBUTES = ("security.selinux", "system.posix_acl_access")
_UNIT_PROPERTIES = (
    "Id,LoadState,ActiveState,UnitFileState,MainPID,ExecMainStartTimestampMonotonic,FragmentPath,"
    "DropInPaths,ExecStart,NeedDaemonReload,User,Environment,EnvironmentFiles,WantedBy,RequiredBy"
)

Request = Dict[str, Any]
_changes = threading.Lock()


class Refusal(Exception):
    """An answer other than success: ``kind`` says which error recell makes of it."""

    def __init__(self, kind: str, text: str) -> None:
        Exception.__init__(self, text)
        self.kind, self.text = kind, text


def pack(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def unpack(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii"))


# Reads


def do_hello(_: Request) -> Dict[str, Any]:
    return {"python": sys.version.split()[0], "uid": os.getuid(), "hostname": socket.gethostname(),
            "now": time.time()}


def do_exec(request: Request) -> Dict[str, Any]:
    argv = [str(word) for word in request["argv"]]
    user = request.get("user")
    environment = dict(os.environ, LC_ALL="C", LANG="C")
    if user:
        account = _account(user)
        environment.update(HOME=account.pw_dir, USER=user, LOGNAME=user)
        if account.pw_uid != os.getuid():
            argv = ["runuser", "-u", user, "--", *argv]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, cwd="/", start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        # What a shell would say: callers ask whether a program is there by running it.
        text = pack("{}: {}".format(argv[0], error.strerror).encode())
        return {"returncode": 127, "stdout": "", "stderr": text}
    try:
        out, err = process.communicate(unpack(request.get("stdin", "")), request["timeout"])
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        text = "{} did not end within {:g} s".format(argv[0], request["timeout"])
        raise Refusal("timeout", text) from None
    return {"returncode": process.returncode, "stdout": pack(out), "stderr": pack(err)}


def do_read(request: Request) -> Dict[str, Any]:
    content = _content(request["path"])
    return {"content": None if content is None else pack(content)}


def do_stat(request: Request) -> Optional[Dict[str, Any]]:
    path = request["path"]
    content = _content(path)
    if content is None:
        return None
    found = os.stat(path)
    return {
        "sha256": hashlib.sha256(content).hexdigest(), "mode": stat.S_IMODE(found.st_mode),
        "owner": _name(pwd.getpwuid, found.st_uid), "group": _name(grp.getgrgid, found.st_gid),
        "size": len(content), "mtime": found.st_mtime,
    }


def do_glob(request: Request) -> List[str]:
    return sorted(glob.glob(request["pattern"], recursive=True))


def do_unit(request: Request) -> Dict[str, Any]:
    name = request["name"]
    wanted = "--property=" + _UNIT_PROPERTIES
    show = _output(["systemctl", "show", "--no-pager", wanted, "--", name])
    characters = name.encode().decode("latin-1")
    escaped = re.sub("[^A-Za-z0-9]", lambda found: "_{:02x}".format(ord(found.group())), characters)
    # systemctl prints an argv joined by blanks; the bus keeps its words apart.
    bus, systemd = "", "org.freedesktop.systemd1"
    of_unit = ["/org/freedesktop/systemd1/unit/" + escaped, systemd + ".Service", "ExecStart"]
    with contextlib.suppress(Refusal):
        bus = _output(["busctl", "--json=short", "get-property", systemd, *of_unit])
    return {"show": show, "bus": bus, "now": time.time(), "monotonic": time.monotonic()}


def do_units(_: Request) -> List[str]:
    names: Set[str] = set()
    for command in ("list-units", "list-unit-files"):
        argv = ["systemctl", command, "--all", "--no-legend", "--no-pager", "--plain", "--type=service"]
        names |= {line.split()[0] for line in _output(argv).splitlines() if line.strip()}
    return sorted(name for name in names if "@." not in name)


def do_processes(_: Request) -> List[Dict[str, Any]]:
    with open("/proc/uptime") as file:
        booted = time.time() - float(file.read().split()[0])
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        # A process may end at any moment between two of these reads: then it is left out.
        with contextlib.suppress(OSError, ValueError, IndexError):
            base = "/proc/" + entry
            with open(base + "/stat", "rb") as status, open(base + "/cmdline", "rb") as cmdline:
                fields = status.read().rpartition(b")")[2].split()
                argv = cmdline.read().rstrip(b"\0").split(b"\0")
            with open(base + "/status", "rb") as told:  # its number in each pid namespace, its own last
                inner = [int(line.split()[-1]) for line in told if line.startswith(b"NSpid:")]
            ticks = int(fields[19])
            found.append({
                "pid": int(entry), "ppid": int(fields[1]),
                "argv": [word.decode("utf-8", "replace") for word in argv if word],
                "user": _name(pwd.getpwuid, os.stat(base).st_uid),
                "started_at": booted + ticks / ticks_per_second, "start_ticks": ticks,
                "cgroup": _cgroup(base), "inner_pid": sum(inner),
            })
    return sorted(found, key=lambda process: int(str(process["pid"])))


def do_sockets(request: Request) -> List[Dict[str, Any]]:
    tables: Dict[str, Dict[str, Tuple[str, int, str, int, int]]] = {}
    found: List[Dict[str, Any]] = []
    for pid in request["pids"]:
        with contextlib.suppress(OSError):
            base = "/proc/{}".format(int(pid))
            namespace = os.readlink(base + "/ns/net")
            if namespace not in tables:
                tables[namespace] = _established(base)
            seen = set()
            for descriptor in os.listdir(base + "/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(base + "/fd/" + descriptor)
                    if target.startswith("socket:["):
                        seen.add(target[8:-1])
            for inode in seen & set(tables[namespace]):
                names = ("local_ip", "local_port", "remote_ip", "remote_port", "unread")
                found.append(dict(zip(names, tables[namespace][inode]), pid=int(pid)))
    return found


def do_http(request: Request) -> int:
    url = urlsplit(request["url"])
    target = (url.path or "/") + ("?" + url.query if url.query else "")
    timeout, host = request["timeout"], url.hostname or ""
    connection = http.client.HTTPConnection(host, url.port, timeout=timeout)
    if url.scheme == "https":
        # Only the status matters, and few services have a certificate for the host's own address.
        context = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(host, url.port, timeout=timeout, context=context)
    try:
        connection.request("GET", target, headers={"Connection": "close"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def do_unix(request: Request) -> Dict[str, Any]:
    """A question to a unix stream socket that answers once and closes (HAProxy's does)."""
    deadline, answer = time.monotonic() + request["timeout"], b""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(request["timeout"])
        client.connect(request["path"])
        client.sendall(unpack(request["data"]))
        while True:
            client.settimeout(max(0.01, deadline - time.monotonic()))
            part = client.recv(65536)
            if not part:
                return {"answer": pack(answer)}
            answer += part
    except socket.timeout:
        raise Refusal("timeout", "the socket {} does not answer".format(request["path"])) from None
    finally:
        client.close()


def do_kept(request: Request) -> Dict[str, Any]:
    content = _content(_kept_path(request["plan"], request["sha256"]))
    if content is None or hashlib.sha256(content).hexdigest() != request["sha256"]:
        raise Refusal("lost", "the value that was kept there is missing or damaged")
    return {"content": pack(content)}


# Changes


def do_write(request: Request) -> None:
    # A link keeps being a link: what it leads to is replaced.
    path, content = os.path.realpath(request["path"]), unpack(request["content"])
    user, group = _account(request["owner"]).pw_uid, _group(request["group"])
    _make_parents(os.path.dirname(path))
    _expect(path, request["expect"])
    directory, name = os.path.split(path)
    temporary = "{}/.{}.recell-{}".format(directory, name[:150], os.urandom(6).hex())
    try:
        _write_new(temporary, content, request["mode"], user, group, path)
        _expect(path, request["expect"])
        if request["expect"] is None:
            # link() refuses what has come into being meanwhile, rename() would replace it.
            os.link(temporary, path)
            os.unlink(temporary)
        else:
            os.rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, FileExistsError):
            raise Refusal("stale", "it exists by now") from None
        raise
    _sync_directory(os.path.dirname(path))


def do_remove(request: Request) -> None:
    path = os.path.realpath(request["path"])
    _expect(path, request["expect"])
    os.unlink(path)
    directory = os.path.dirname(path)
    # Made for a drop-in or a container's configuration: empty it means nothing to systemd or kolla.
    while (directory.endswith(".service.d") or "/etc/kolla/" in directory) and not os.listdir(directory):
        os.rmdir(directory)
        directory = os.path.dirname(directory)
    _sync_directory(directory)


def do_keep(request: Request) -> str:
    content = unpack(request["content"])
    sha256 = hashlib.sha256(content).hexdigest()
    path = _kept_path(request["plan"], sha256)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o700)
        _sync_directory(STATE)
    if _content(path) != content:
        _write_own(path, content)
    return sha256


def do_forget(request: Request) -> None:
    directory = os.path.dirname(_kept_path(request["plan"], "0" * 64))
    if os.path.isdir(directory):
        shutil.rmtree(directory)
        _sync_directory(STATE)


def do_claim(request: Request) -> Dict[str, Any]:
    """Make the request's journal and epoch this host's owner; idempotent."""
    owner = _mine(request)
    # Given back after a takeover, it is still not the first machine's.
    if max((owner or {}).get("epoch", 0), _taken(request["journal"])) > request["epoch"]:
        raise Refusal("locked", "a newer run of the same journal has taken over")
    new = {"journal": request["journal"], "epoch": request["epoch"], "who": request.get("who", "")}
    _write_own(os.path.join(STATE, "owner"), json.dumps(new).encode())
    return new


def do_release(request: Request) -> None:
    owner = _mine(request)
    if owner:
        if owner["epoch"] >= TAKEN:
            _write_own(os.path.join(STATE, "taken"), json.dumps(owner).encode())
        os.unlink(os.path.join(STATE, "owner"))
        _sync_directory(STATE)


READS: Dict[str, Callable[[Request], Any]] = {
    "hello": do_hello, "query": do_exec, "read": do_read, "stat": do_stat, "glob": do_glob,
    "unit": do_unit, "units": do_units, "processes": do_processes, "sockets": do_sockets,
    "http": do_http, "unix": do_unix, "kept": do_kept,
}
WRITES: Dict[str, Callable[[Request], Any]] = {
    "run": do_exec, "write": do_write, "remove": do_remove, "keep": do_keep, "forget": do_forget,
    "unix-run": do_unix,
}
CLAIMS: Dict[str, Callable[[Request], Any]] = {"claim": do_claim, "release": do_release}
_FILE_CHANGES = ("write", "remove", "keep", "forget")


def _output(argv: List[str]) -> str:
    done = do_exec({"argv": argv, "timeout": 30})
    if done["returncode"] != 0:
        detail = unpack(done["stderr"]).decode("utf-8", "replace").strip()[:300]
        raise Refusal("os", "{} failed: {}".format(argv[0], detail))
    return unpack(done["stdout"]).decode("utf-8", "replace")


def _content(path: str) -> Optional[bytes]:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        raise Refusal("unsupported", "it is not a regular file")
    if found.st_size > LARGEST_FILE:
        raise Refusal("unsupported", "it is larger than {} bytes".format(LARGEST_FILE))
    with open(path, "rb") as file:
        return file.read()


def _expect(path: str, expected: Optional[str]) -> None:
    content = _content(path)
    if expected is None and content is not None:
        raise Refusal("stale", "it exists already")
    if expected is not None and content is None:
        raise Refusal("stale", "it does not exist any more")
    if content is not None and hashlib.sha256(content).hexdigest() != expected:
        raise Refusal("stale", "its content is not what it was")


def _write_new(path: str, content: bytes, mode: int, user: int, group: int, like: str) -> None:
    """Write a file that must not exist, durably; extended attributes are taken from ``like``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(descriptor, user, group)
        os.fchmod(descriptor, mode)
        if like and os.path.exists(like):
            for name in os.listxattr(like):
                if name in _COPIED_ATTRIBUTES:
                    os.setxattr(descriptor, name, os.getxattr(like, name))
        os.fsync(descriptor)


def _write_own(path: str, content: bytes) -> None:
    """Replace a file of recell's own, root-only and durably."""
    temporary = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    _write_new(temporary, content, 0o600, os.getuid(), os.getgid(), "")
    os.rename(temporary, path)
    _sync_directory(os.path.dirname(path))


def _make_parents(directory: str) -> None:
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    _make_parents(parent)
    os.mkdir(directory, 0o755)
    os.chmod(directory, 0o755)
    _sync_directory(parent)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kept_path(plan: str, sha256: str) -> str:
    ours = plan in ("owner", "owner.new", "taken", "taken.new", "lock")
    if ours or not _PLAN.match(plan) or not _SHA256.match(sha256):
        raise Refusal("bad", "not a plan's name or not a sha256")
    return os.path.join(STATE, plan, sha256)


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise Refusal("os", "there is no user {}".format(name)) from None


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise Refusal("os", "there is no group {}".format(name)) from None


def _name(find: Callable[[int], Any], number: int) -> str:
    """The name is the first field of an account's as of a group's entry."""
    with contextlib.suppress(KeyError):
        return str(find(number)[0])
    return str(number)


def _cgroup(base: str) -> str:
    """systemd's own path: the unified hierarchy's, or that of name=systemd on a cgroup v1 host.

    A container may see a name=systemd of the machine around it, in which everything of its own is "/".
    """
    unified = ""
    with open(base + "/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == "name=systemd" and path != "/":
                return path
            if not controllers:
                unified = path
    return unified


def _established(base: str) -> Dict[str, Tuple[str, int, str, int, int]]:
    found = {}
    for family in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(base + "/net/" + family) as file:
            next(file, None)
            for line in file:
                fields = line.split()
                if fields[3] == "01":
                    unread = int(fields[4].partition(":")[2], 16)
                    found[fields[9]] = _address(fields[1]) + _address(fields[2]) + (unread,)
    return found


def _address(text: str) -> Tuple[str, int]:
    """``0100007F:1F90`` -> 127.0.0.1, 8080: words in host order; mapped IPv4 as IPv4."""
    raw, _, port = text.partition(":")
    words = [raw[start : start + 8] for start in range(0, len(raw), 8)]
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    if len(packed) == 16 and packed[:12] == b"\0" * 10 + b"\xff\xff":
        packed = packed[12:]
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


# Fencing


def _owner(name: str = "owner") -> Optional[Dict[str, Any]]:
    content = _content(os.path.join(STATE, name))
    return None if content is None else dict(json.loads(content.decode()))


def _mine(request: Request) -> Optional[Dict[str, Any]]:
    owner = _owner()
    if owner and owner["journal"] != request["journal"]:
        raise Refusal("locked", _owned_by(owner))
    return owner


def _taken(journal: str) -> int:
    taken = _owner("taken")
    return int(taken["epoch"]) if taken and taken["journal"] == journal else 0


def _owned_by(owner: Dict[str, Any]) -> str:
    return "it belongs to the journal {} ({})".format(owner["journal"], owner.get("who") or "no name")


@contextlib.contextmanager
def _fence(how: int, patience: float) -> Iterator[None]:
    """Hold this host's lock: shared while changing something, exclusive while claiming."""
    if not os.path.isdir(STATE):
        os.makedirs(STATE, 0o700)
        _sync_directory(os.path.dirname(STATE))
    os.chmod(STATE, 0o700)
    descriptor = os.open(os.path.join(STATE, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    raise Refusal("locked", "another run's change is still going on") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _permitted(request: Request) -> None:
    owner, journal = _owner(), request.get("journal")
    if owner is None:
        if journal is not None:
            raise Refusal("locked", "this run has not claimed it, or has given it back")
        return
    if journal != owner["journal"]:
        raise Refusal("locked", _owned_by(owner))
    if request.get("epoch", -1) < owner["epoch"]:
        raise Refusal("locked", "a newer run of the same journal has taken over")


def perform(request: Request) -> Any:
    """Serve one request; what it returns is the answer's ``value``."""
    verb = request["verb"]
    if verb in READS:
        return READS[verb](request)
    if verb in CLAIMS:
        with _fence(fcntl.LOCK_EX, request.get("patience", 200)):
            return CLAIMS[verb](request)
    if verb not in WRITES:
        raise Refusal("bad", "unknown request {}".format(verb))
    with _fence(fcntl.LOCK_SH, 30):
        _permitted(request)
        if verb in _FILE_CHANGES:
            # Two threads may name the same file; commands may last and must not wait on each other.
            with _changes:
                return WRITES[verb](request)
        return WRITES[verb](request)


def answer(request: Request) -> Dict[str, Any]:
    try:
        return {"id": request["id"], "ok": True, "value": perform(request)}
    except Refusal as refusal:
        return {"id": request["id"], "ok": False, "kind": refusal.kind, "text": refusal.text}
    except OSError as error:
        text = error.strerror or str(error)
        return {"id": request["id"], "ok": False, "kind": "os", "text": text}
    except Exception as error:
        # Only the type: the text of an unforeseen error could hold something of the request.
        return {"id": request["id"], "ok": False, "kind": "bad", "text": type(error).__name__}


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the source ends; then wait for the changes that are under way."""
    writing = threading.Lock()

    def one(request: Request) -> None:
        data = json.dumps(answer(request)).encode()
        # The other end may be gone; the change then still ends in order.
        with writing, contextlib.suppress(OSError, ValueError):
            sink.write(b"%d\n" % len(data) + data)
            sink.flush()

    sink.write(MARKER)
    sink.flush()
    while True:
        size = int(source.readline() or 0)
        data = source.read(size)
        if not data or len(data) < size:
            return
        request = json.loads(data.decode())
        thread = threading.Thread(target=one, args=(request,))
        # At the end the interpreter waits for changes; answers to questions nobody hears any more.
        thread.daemon = request.get("verb") in READS
        thread.start()


if __name__ == "__main__":
    os.umask(0o022)
    os.environ.setdefault("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    serve(sys.stdin.buffer, sys.stdout.buffer)
