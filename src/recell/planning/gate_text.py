"""HAProxy's configuration with a gate before one backend, and without it again. Text to text, no I/O.

All that is added is marked, and taken away by its marks alone: what others have changed meanwhile stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recell.errors import Unsupported
from recell.model.gate import GateServer

__all__ = ["action_of", "concluded", "is_taught", "leads_here", "new_backend", "taught", "untaught"]

_SECTIONS = frozenset((
    "global", "defaults", "frontend", "backend", "listen", "userlist", "peers", "resolvers", "mailers",
    "program", "cache", "http-errors", "ring", "log-forward", "log-profile", "fcgi-app", "crt-store",
    "traces", "acme",
))  # fmt: skip
_OF_A_LISTEN = frozenset((
    "mode", "balance", "option", "http-check", "timeout", "retries", "retry-on", "default-server",
    "cookie", "hash-type", "fullconn", "http-reuse", "log", "acl", "source",
))  # fmt: skip
"""Of a ``listen``, what its second backend needs; its rules for requests are applied before anyway."""
_FRONTEND_OPTIONS = frozenset((
    "httplog", "tcplog", "httpslog", "dontlognull", "dontlog-normal", "logasap", "http-buffer-request",
    "http-ignore-probes", "clitcpka", "contstats", "socket-stats", "accept-invalid-http-request",
    "http-use-proxy-header",
))  # fmt: skip
_OWN_VALUE = frozenset(("cookie", "id", "track", "addr", "guid", "redir"))
_OWN_FLAG = frozenset(("backup", "disabled"))
_NAME = re.compile(r"[A-Za-z0-9_.:-]+\Z")


@dataclass(frozen=True)
class _Section:
    """Lines [start, end) of the file; ``start`` is its header. ``http``: its mode, defaults included."""

    kind: str
    name: str
    start: int
    end: int
    http: bool


def action_of(backend: str) -> str:
    """What its gate is called in Lua, in HAProxy's variables and in file names."""
    digest = hashlib.sha256(backend.encode()).hexdigest()[:6]
    return f"recell_{re.sub('[^A-Za-z0-9]', '_', backend)}_{digest}"


def new_backend(backend: str) -> str:
    return f"{backend}-recell"


def is_taught(text: str, backend: str) -> bool:
    return _begin(backend) in text.splitlines()


def leads_here(text: str, backend: str) -> bool:
    """Whether this file has the backend, or something that leads there."""
    words = (_words(line) for line in text.splitlines())
    return any(
        len(w) > 1 and w[0] in ("listen", "backend", "default_backend", "use_backend") and w[1] == backend
        for w in words
    )


def taught(text: str, backend: str, servers: Sequence[GateServer], lua: str, holds: bool = True) -> str:
    """The configuration with a second backend beside ``backend``, and with a gate before both.

    :param lua: path of the gate's program.
    :param holds: false where nobody will ever have to wait: then TCP may pass as well.
    :raises Unsupported: requests to this backend can't be told from others, or can't be held.
    """
    lines = untaught(text, backend).splitlines()
    sections = tuple(_sections(lines))
    home = _home(sections, backend)
    if not _NAME.match(backend):
        raise Unsupported(f"the backend {backend!r} has an unusual name", "Rename it")
    inserted: dict[int, list[str]] = {}
    entries = [s for s in sections if s.kind in ("frontend", "listen")]
    held = sum(_enter(lines, s, s == home, backend, inserted, holds) for s in entries)
    if not held:
        raise Unsupported(
            f"no frontend of this HAProxy leads to {backend} in the same file",
            "Name it in a default_backend or use_backend beside it",
        )
    out = [_begin(backend), "global", f"    lua-load {lua}", _end(backend)]
    for number, line in enumerate(lines):
        out += inserted.get(number, [])
        out.append(line)
    out += inserted.get(len(lines), [])
    out += [_begin(backend), f"backend {new_backend(backend)}"]
    out += _second(lines, home, servers)
    out.append(_end(backend))
    return "\n".join(out) + "\n"


def untaught(text: str, backend: str) -> str:
    """Without all that :func:`taught` has added."""
    out: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        if bare == _begin(backend):
            inside = True
        elif bare == _end(backend):
            inside = False
        elif not inside and not bare.endswith(_mark(backend)):
            out.append(line)
    return "".join(out)


def concluded(text: str, backend: str) -> str:
    """Without the gate, and ``backend`` has the servers of the second one. As it is, when it isn't taught."""
    if not is_taught(text, backend):
        return text
    servers: list[str] = []
    inside = False
    for line in text.splitlines():
        inside = line == _begin(backend) or (inside and line != _end(backend))
        if inside and _words(line)[:1] == ["server"]:
            servers.append(line)
    lines = untaught(text, backend).splitlines()
    home = _home(tuple(_sections(lines)), backend)
    old = [n for n in range(home.start, home.end) if _words(lines[n])[:1] == ["server"]]
    out = []
    for number, line in enumerate(lines):
        if old and number == old[0]:
            out += servers
        if number not in old:
            out.append(line)
    return "\n".join(out) + "\n"


def _mark(backend: str) -> str:
    return f" # recell {backend}"


def _begin(backend: str) -> str:
    return f"# recell: begin {backend}"


def _end(backend: str) -> str:
    return f"# recell: end {backend}"


def _bare(line: str) -> str:
    """Without its comment."""
    quote = ""
    skip = False
    for at, char in enumerate(line):
        if skip:
            skip = False
        elif char == "\\" and quote != "'":
            skip = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#":
            return line[:at].strip()
    return line.strip()


def _words(line: str) -> list[str]:
    return _bare(line).split()


def _sections(lines: Sequence[str]) -> Iterator[_Section]:
    starts = [n for n, line in enumerate(lines) if (_words(line) or [""])[0] in _SECTIONS]
    modes: dict[str, bool] = {}
    last = ""
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        header = _words(lines[start])
        name = header[1] if len(header) > 1 and header[1] != "from" else ""
        base = header[header.index("from") + 1] if "from" in header[1:-1] else last
        own = [_words(lines[n])[1] for n in range(start + 1, end) if _words(lines[n])[:1] == ["mode"]]
        http = own[-1] == "http" if own else modes.get(base, False)
        if header[0] == "defaults":
            last = name or f"#{start}"
            modes[last] = http
        yield _Section(header[0], name, start, end, http)


def _home(sections: Sequence[_Section], backend: str) -> _Section:
    found = [s for s in sections if s.kind in ("backend", "listen") and s.name == backend]
    if len(found) != 1:
        raise Unsupported(
            f"HAProxy's configuration has no backend {backend}, or several", "Scan and plan again"
        )
    return found[0]


def _enter(
    lines: Sequence[str], section: _Section, is_home: bool, backend: str, inserted: dict[int, list[str]],
    holds: bool,
) -> bool:  # fmt: skip
    """The gate in one frontend; whether any of its requests go to the backend."""
    span = range(section.start + 1, section.end)
    routes = [(n, *_route(lines[n])) for n in span if _words(lines[n])[:1] == ["use_backend"]]
    default = [_words(lines[n])[1] for n in span if _words(lines[n])[:1] == ["default_backend"]]
    if any("%" in name for _, name, _, _ in routes) or any("%" in name for name in default):
        raise Unsupported(
            f"{section.kind} {section.name} of HAProxy chooses its backend by an expression, so recell can't"
            f" tell which requests go to {backend}",
            f"Name {backend} in a use_backend line",
        )
    falls = default[-1] == backend if default else is_home
    mine = [r for r in routes if r[1] == backend]
    if not mine and not falls:
        return False
    if holds and not section.http:
        raise Unsupported(
            f"{section.kind} {section.name} of HAProxy passes TCP on, where requests can't be held",
            "Set mode http there",
        )
    action, beside = action_of(backend), new_backend(backend)
    rule = "http-request" if section.http else "tcp-request content"
    new = f"{{ var(txn.{action}) -m str new }}"
    for number, _, word, condition in mine:
        inserted.setdefault(number, []).extend(
            f"    use_backend {beside} {text}{_mark(backend)}" for text in _also(word, condition, new)
        )
    if falls:
        others = [r for r in routes if r[1] != backend]
        if any(word != "if" for _, _, word, _ in others):
            raise Unsupported(
                f"{section.kind} {section.name} of HAProxy has a use_backend without an if, so recell can't"
                f" tell which requests go to {backend}",
                "Write its condition with if",
            )
        but = " or ".join(condition for _, _, _, condition in others)
        gates = [f"    {rule} lua.{action}{f' unless {but}' if but else ''}{_mark(backend)}"]
        inserted.setdefault(_after(lines, section), []).append(
            f"    use_backend {beside} if {new}{_mark(backend)}"
        )
    else:
        gates = [
            f"    {rule} lua.{action}{f' {word} {condition}' if word else ''}{_mark(backend)}"
            for _, _, word, condition in mine
        ]
    before = [n for n in span if _words(lines[n])[:1] in (["acl"], rule.split()[:1])]
    at = before[-1] + 1 if before else section.start + 1
    inserted[at] = [*gates, *inserted.get(at, [])]
    return True


def _route(line: str) -> tuple[str, str, str]:
    """(backend, if or unless, condition) of a use_backend."""
    words = [*_bare(line).split(None, 3), "", "", ""]
    return words[1], words[2], words[3]


def _also(word: str, condition: str, new: str) -> Iterator[str]:
    """The condition, and ``new`` as well. "or" binds weaker than what stands side by side."""
    if not word:
        yield f"if {new}"
    elif word == "unless":
        yield f"unless {condition} or !{new}"
    else:
        for part in re.split(r"\s+(?:or|\|\|)\s+", condition):
            yield f"if {part} {new}"


def _after(lines: Sequence[str], section: _Section) -> int:
    """Where a line at a section's end goes: before the blank lines and comments that follow it."""
    at = section.end
    while at > section.start + 1 and not _words(lines[at - 1]):
        at -= 1
    return at


def _second(lines: Sequence[str], home: _Section, servers: Sequence[GateServer]) -> Iterator[str]:
    model: list[str] = []
    span = range(home.start + 1, home.end)
    if not any(_words(lines[number])[:1] == ["mode"] for number in span):
        # It stands at the file's end, where other defaults may hold.
        yield f"    mode {'http' if home.http else 'tcp'}"
    for number in span:
        words = _words(lines[number])
        if not words or words[0] in ("id", "guid"):
            continue
        if words[0] == "server-template":
            raise Unsupported(
                f"{home.name} of HAProxy finds its servers by a template", "List them as server lines"
            )
        if words[0] == "server":
            model = model or words
        elif home.kind == "backend" or (
            words[0] in _OF_A_LISTEN and not (words[0] == "option" and words[-1] in _FRONTEND_OPTIONS)
        ):
            yield f"    {_bare(lines[number])}"
    if not model:
        raise Unsupported(f"{home.name} of HAProxy has no server", "Look at its configuration")
    port = model[2].rpartition(":")[2]
    for server in servers:
        if not _NAME.match(server.name) or not _NAME.match(server.address):
            raise Unsupported(f"{server.name} or {server.address} can't be written into HAProxy's"
                              " configuration", "Rename it in the inventory")
        host = f"[{server.address}]" if ":" in server.address else server.address
        yield " ".join(["    server", server.name, f"{host}:{server.port}",
                        *_settings(model[3:], server, port)])


def _settings(words: Sequence[str], server: GateServer, port: str) -> Iterator[str]:
    """A server line's settings for another server."""
    rest = iter(words)
    for word in rest:
        if word in _OWN_FLAG:
            continue
        if word in _OWN_VALUE:
            next(rest, "")
            if word == "cookie":
                yield from ("cookie", server.name)
        elif word == "port":
            value = next(rest, "")
            yield from ("port", str(server.port) if value == port else value)
        else:
            yield word
