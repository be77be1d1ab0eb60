"""A client's connection, and the server's that goes with it."""

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Iterator, List, Optional, Tuple

from . import wire
from .login import Login
from .settings import LARGEST_STATEMENT, Settings

if TYPE_CHECKING:
    from .relay import Relay

CONNECT_S = 5.0
_MOST = LARGEST_STATEMENT * 2  # bytes of a client's that wait here; then it isn't read from any more
_UNKNOWN_COMMAND, _CANT_CONNECT, _HANDSHAKE = 1047, 2003, 1043

DOOR, LOGIN, READY, GONE = "door", "login", "ready", "gone"


def _kept_alive(transport: asyncio.BaseTransport) -> None:
    """A peer that vanished without a word is noticed, some day."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Upstream(asyncio.Protocol):
    """A connection to a server: a client's, or one that the relay talks through itself."""

    def __init__(self) -> None:
        self.link: Optional[Link] = None
        self.side = ""
        self.status = wire.AUTOCOMMIT
        self.lost = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._packets = wire.Packets()
        self._more: Optional[asyncio.Future[None]] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        _kept_alive(transport)

    def data_received(self, data: bytes) -> None:
        if self.link is not None:
            self.link.from_server(data)
            return
        self._packets.feed(data)
        self._wake()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.lost = True
        self._wake()
        if self.link is not None:
            self.link.server_lost(self)

    def pause_writing(self) -> None:
        if self.link is not None:
            self.link.choked(True)

    def resume_writing(self) -> None:
        if self.link is not None:
            self.link.choked(False)

    def close(self, politely: bool = True) -> None:
        """As a client does that has no more to say; one that is logging in says nothing."""
        self.link = None
        if not self.lost:
            if politely:
                self.transport.write(wire.command(wire.QUIT))
            self.transport.close()

    def early(self) -> bytes:
        """What came before it had a link."""
        return self._packets.rest()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def packet(self) -> Tuple[int, bytes]:
        """The next one, of a connection without a link. :raises wire.Broken: it was closed."""
        while True:
            got = self._packets.take()
            if got is not None:
                return got
            if self.lost:
                raise wire.Broken("it closed the connection")
            self._more = asyncio.get_event_loop().create_future()
            await self._more

    async def log_in(self, hello: wire.Hello, password: bytes) -> None:
        login = Login(hello, password)
        while True:
            sequence, payload = await self.packet()
            reply = login.answer(sequence, payload)
            if reply is None:
                self.status = login.status
                return
            self.transport.write(reply)

    async def say(self, commands: List[bytes]) -> None:
        """Commands that are answered by one packet each, all sent at once.

        :raises wire.Broken: one was refused, with its words.
        """
        self.transport.write(b"".join(commands))
        refused = ""
        for said in commands:
            _, payload = await self.packet()
            if payload[:1] == b"\xff":
                words = said[5:205].decode("utf-8", "replace")
                refused = refused or "it refuses {} ({})".format(words, wire.error_text(payload))
            elif payload[:1] == b"\0":
                self.status = wire.ok_status(payload)[0]
        if refused:
            raise wire.Broken(refused)


class Link(asyncio.Protocol):
    """A client, from its first byte to its last.

    Whole commands are sent on one after the other, and each waits for its answer's end: so it is known at
    every moment whether a command is under way, a transaction is open, or the client rests.
    """

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.phase = DOOR
        self.address = ""
        self.hello: Optional[wire.Hello] = None
        self.settings = Settings()
        self.upstream: Optional[Upstream] = None
        self.spare: Optional[Upstream] = None  # logged in at the other side, for a switch
        self.obstacle = ""  # why the other side won't have it, found while preparing
        self.since = time.monotonic()  # it is in its phase, its transaction or its statement since then
        self.answer = wire.Answer(False)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._greeting: Optional[wire.Greeting] = None
        self._packets, self._server_packets = wire.Packets(), wire.Packets()
        self._waiting = bytearray()  # from the client, not sent on yet
        self._withheld = 0.0
        self._passing = 0  # bytes of the packet that is being sent on
        self._goes_on = False  # and the command has another packet after it
        self._outstanding = self._asking = False
        self._command, self._said = 0, b""
        self._option = b""
        self._closed_statements = 0
        self._attempts = 0  # to connect to a server
        self._addressed = False  # a server has said something to it
        self._choked = self._unread = False

    # What the relay asks

    @property
    def account(self) -> str:
        return self.hello.user.decode("utf-8", "replace") if self.hello else ""

    @property
    def in_transaction(self) -> bool:
        return bool(self.answer.status & wire.IN_TRANS) or self.answer.doubtful

    @property
    def idle(self) -> bool:
        return self.phase == READY and not (self._outstanding or self._passing or self._goes_on)

    @property
    def quiet(self) -> bool:
        """Between two transactions."""
        return self.idle and not self.in_transaction

    @property
    def doing(self) -> str:
        if self.phase != READY:
            return "has been logging in"
        return "has had a transaction open" if self.in_transaction else "has had a statement under way"

    def reasons(self) -> List[str]:
        """Why it can't be carried over to another server, in clauses; empty when it can."""
        found = [self.settings.stateful[key] for key in sorted(self.settings.stateful)]
        if self.answer.opened > self._closed_statements:
            found.append("has prepared a statement")
        if self.phase == READY and self.account not in self.relay.accounts:
            found.append("uses an account whose password the relay wasn't given")
        return found + ([self.obstacle] if self.obstacle else [])

    # The client's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        _kept_alive(transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.address = "{}:{}".format(peer[0], peer[1])
        self.relay.arrived(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.close()

    def eof_received(self) -> None:
        self.close()

    def data_received(self, data: bytes) -> None:
        self.relay.bytes_up += len(data)
        if self.phase == READY:
            self._waiting += data
            self.pump()
        elif self.phase == LOGIN:
            if self.hello is None:
                self._packets.feed(data)
                with self._guarded():
                    got = self._packets.take()
                    if got is not None:
                        self._say_hello(*got)
            elif self.upstream is not None:
                self.upstream.transport.write(data)

    def pause_writing(self) -> None:
        if self.upstream is not None and not self.upstream.lost:
            with contextlib.suppress(RuntimeError):
                self.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.upstream is not None and not self.upstream.lost:
            with contextlib.suppress(RuntimeError):
                self.upstream.transport.resume_reading()

    def close(self) -> None:
        if self.phase == GONE:
            return
        begun, self.phase = self.phase == READY, GONE
        if self.upstream is not None:
            self.upstream.close(politely=begun)
            self.upstream = None
        self.drop_spare()
        self.transport.close()
        self.relay.left(self)

    def drop_spare(self) -> None:
        if self.spare is not None:
            self.spare.close()
            self.spare = None

    def refuse(self, sequence: int, number: int, text: str) -> None:
        """Tell the client why, and end it."""
        self.relay.trouble("{} was refused: {}".format(self.address, text))
        self.transport.write(wire.error(sequence, number, "recell's relay: " + text,
                                        "" if self._greeting is None else "08S01"))
        self.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """What is no protocol of ours ends the connection, and nothing else."""
        try:
            yield
        except (wire.Broken, IndexError, ValueError) as error:
            self.relay.trouble("{} was cut: {}".format(self.address, error))
            self.close()
        except Exception as error:
            # struct.error has no common base with those; whatever it is, one client's bytes end one client.
            self.relay.trouble("{} was cut: {}".format(self.address, type(error).__name__))
            self.close()

    # Logging in: the server asks, the client answers, the relay listens

    async def connect(self) -> None:
        """From the door to the server; while all are held, it stays there."""
        if self.phase != DOOR or self.relay.held:
            return
        self.phase, self.since = LOGIN, time.monotonic()
        self._attempts += 1
        attempt = self._attempts
        try:
            upstream = await self.relay.open(self.relay.side)
        except wire.Broken as error:
            if self.phase == LOGIN and attempt == self._attempts:
                self.refuse(0, _CANT_CONNECT, str(error))
            return
        if self.phase != LOGIN or attempt != self._attempts:
            upstream.close(politely=False)
            return
        self.upstream, upstream.link = upstream, self
        early = upstream.early()
        if early:
            self.from_server(early)

    def step_back(self) -> None:
        """To the door, where no server has said anything to it yet: any may greet it then."""
        if self.phase != LOGIN or self._addressed:
            return
        if self.upstream is not None:
            self.upstream.close(politely=False)
            self.upstream = None
        self._server_packets = wire.Packets()
        self._attempts += 1
        self.phase, self.since = DOOR, time.monotonic()

    def _say_hello(self, sequence: int, payload: bytes) -> None:
        if self.upstream is None or self._greeting is None:
            raise wire.Broken("it speaks before it was greeted")
        try:
            hello = wire.Hello.parse(payload)
        except wire.Broken as error:
            self.refuse(sequence + 1, _HANDSHAKE, str(error))
            return
        # What the server does not speak was not agreed on, whatever the client can.
        common = hello.capabilities & ~(wire.SHAPING & ~self._greeting.capabilities)
        self.hello = hello._replace(capabilities=common)
        self.upstream.transport.write(wire.packet(sequence, payload))
        rest = self._packets.rest()
        if rest:
            self.upstream.transport.write(rest)

    def _from_server_at_login(self, data: bytes) -> None:
        self._server_packets.feed(data)
        while self.phase == LOGIN:
            got = self._server_packets.take()
            if got is None:
                return
            sequence, payload = got
            if self._greeting is None and payload[:1] != b"\xff":
                self._greeting = wire.Greeting.parse(payload)
                payload = wire.Greeting.masked(payload)
            elif payload[:1] == b"\0" and self.hello is not None:
                self._begin(payload)
            self._addressed = True
            self.transport.write(wire.packet(sequence, payload))

    def _begin(self, payload: bytes) -> None:
        hello = self.hello
        assert hello is not None  # noqa: S101 -- the server says OK to a hello
        self.answer = wire.Answer(bool(hello.capabilities & wire.DEPRECATE_EOF))
        self.answer.status = wire.ok_status(payload)[0]
        self.settings = Settings(hello.database)
        self.phase, self.since = READY, time.monotonic()
        self.relay.rested(self)

    # Commands

    def pump(self) -> None:
        """Send on what the client has said, as far as it may be."""
        with self._guarded():
            while self._waiting and self.phase == READY and self._step():
                pass
        if self.phase == READY:
            self._pace()

    def _step(self) -> bool:
        """A piece of what waits. False: no more for now."""
        waiting = self._waiting
        if self._passing:
            self._pass(min(self._passing, len(waiting)))
            return True
        if self._goes_on:
            if len(waiting) < 4:
                return False
            self._packet(int.from_bytes(waiting[:3], "little"))
            return True
        if self._outstanding:
            return False
        if len(waiting) < 5:
            return False
        if self.upstream is None or (self.relay.held and not self.in_transaction):
            if waiting[4] == wire.QUIT:
                self.close()
            self._withheld = self._withheld or time.monotonic()
            return False
        size = int.from_bytes(waiting[:3], "little")
        kind = wire.ANSWERS.get(waiting[4])
        if kind is None or not size:
            return self._unknown(size)
        if len(waiting) < 4 + min(size, LARGEST_STATEMENT):
            return False
        self._send(waiting[4], kind, size)
        return True

    def _send(self, code: int, kind: str, size: int) -> None:
        now = time.monotonic()
        if self._withheld:
            self.relay.waited(now - self._withheld)
            self._withheld = 0.0
        if not self.in_transaction:
            self.since = now
        self._command, self._said = code, b""
        if code in (wire.QUERY, wire.INIT_DB, wire.SET_OPTION):
            self._said = bytes(self._waiting[5:4 + min(size, LARGEST_STATEMENT)])
        elif code == wire.CLOSE:
            self._closed_statements += 1
        self._outstanding = kind != wire.NONE
        if self._outstanding:
            self.answer.expect(kind)
        self._packet(size)

    def _packet(self, size: int) -> None:
        self._passing, self._goes_on = 4 + size, size == wire.LARGEST
        self._pass(min(self._passing, len(self._waiting)))

    def _pass(self, count: int) -> None:
        upstream = self.upstream
        if upstream is None:
            raise wire.Broken("its server is gone")
        upstream.transport.write(bytes(self._waiting[:count]))
        del self._waiting[:count]
        self._passing -= count

    def _unknown(self, size: int) -> bool:
        if len(self._waiting) < 4 + size and len(self._waiting) < _MOST:
            return False
        code = self._waiting[4] if size else 0
        text = "it carries no command {:#04x}".format(code)
        if len(self._waiting) < 4 + size or not size:
            raise wire.Broken(text)
        del self._waiting[:4 + size]
        self.relay.trouble("{} was refused: {}".format(self.address, text))
        self.transport.write(wire.error(1, _UNKNOWN_COMMAND, "recell's relay: " + text, "08S01"))
        return True

    def _pace(self) -> None:
        """Read on from the client, or not."""
        unread = self._choked or len(self._waiting) > _MOST
        if unread != self._unread:
            self._unread = unread
            with contextlib.suppress(RuntimeError):
                if unread:
                    self.transport.pause_reading()
                else:
                    self.transport.resume_reading()

    def choked(self, choked: bool) -> None:
        self._choked = choked
        if self.phase == READY:
            self._pace()

    # Answers

    def from_server(self, data: bytes) -> None:
        self.relay.bytes_down += len(data)
        if self.phase == LOGIN:
            with self._guarded():
                self._from_server_at_login(data)
            return
        if not self._outstanding:
            # Unasked: why the server ends it. A held client doesn't hear of that.
            if not (self.relay.held and self.quiet):
                self.transport.write(data)
            return
        asking = self._asking
        if not asking:
            self.transport.write(data)
        with self._guarded():
            if self.answer.feed(data):
                self._outstanding = self._asking = False
                if not asking:
                    self._note()
                if self.quiet:
                    self.relay.rested(self)
                elif self.relay.held:
                    self.ask()
        if self._waiting and self.phase == READY:
            self.pump()

    def _note(self) -> None:
        """What the command that has ended has left behind in its session."""
        several = self._several()
        if self._command == wire.QUERY and not self.answer.failed:
            began = bool(self.answer.status & (wire.IN_TRANS | wire.AUTOCOMMIT))
            self.settings.note(self._said, several, began)
        elif self._command == wire.QUERY and several:
            self.settings.doubt(self._said)
        elif not self.answer.failed:
            if self._command == wire.INIT_DB:
                self.settings.database = self._said
            elif self._command == wire.SET_OPTION:
                self._option = self._said
            elif self._command == wire.RESET_CONNECTION:
                self.settings.forget()
                self.drop_spare()  # it may have been given what is forgotten
                self._closed_statements = self.answer.opened
        self._said = b""

    def _several(self) -> bool:
        if self._option:
            return self._option[:1] == b"\0"
        return bool(self.hello and self.hello.capabilities & wire.MULTI_STATEMENTS)

    def ask(self) -> None:
        """After an error nobody knows whether its transaction goes on. A ping's answer tells it."""
        if self.idle and self.answer.doubtful and self.upstream is not None:
            self._outstanding = self._asking = True
            self.answer.expect(wire.SIMPLE)
            self.upstream.transport.write(wire.command(wire.PING))

    def server_lost(self, upstream: Upstream) -> None:
        if upstream is not self.upstream:
            return
        self.upstream = None
        # The old server is shut while its clients rest here: they get the new one, or this one again.
        if not (self.relay.held and self.quiet):
            self.close()

    # Another server's session

    def replay(self, database: bool) -> List[bytes]:
        """Commands that make a new session like this one's.

        :param database: all of it. Without, for a rehearsal: neither the default database nor what is spent
            by the next transaction.
        """
        texts = self.settings.replay(self.answer.insert_id) if database else self.settings.lasting()
        said = [wire.command(wire.QUERY, text) for text in texts]
        if self._option:
            said.append(wire.command(wire.SET_OPTION, self._option))
        if database and self.settings.database:
            said.append(wire.command(wire.INIT_DB, self.settings.database))
        return said

    def same(self, upstream: Upstream) -> bool:
        """It commits by itself, or doesn't, as the session it replaces."""
        return not (upstream.status ^ self.answer.status) & wire.AUTOCOMMIT

    def take(self, upstream: Upstream) -> None:
        """Go on with this server's session."""
        # One that has ended already is as if it ended now, while its client rests: release finds another.
        old, self.upstream = self.upstream, None if upstream.lost else upstream
        upstream.link = self
        if old is not None:
            old.close()
        self.answer.status, self.answer.doubtful = upstream.status, False
        self._choked = False
