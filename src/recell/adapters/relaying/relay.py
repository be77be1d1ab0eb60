"""Hold, switch, release: what the relay does with all connections at once."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import deque
from typing import Any, Awaitable, Callable, Deque, Dict, List, Optional, Set

from . import wire
from .link import CONNECT_S, DOOR, LOGIN, READY, Link, Upstream

PREPARE_S = 30.0  # for the logins before a hold, with nobody waiting
SWITCH_S = 3.0  # for the sessions' settings at the other side, with all waiting
LOGINS_AT_ONCE = 8
_SPARES_S = 60.0
_LOGIN_S = 1.0  # who was greeted so long before a hold, and says nothing, isn't waited for
_SIDES = ("old", "new")


def _bytes(password: str) -> bytes:
    """As PyMySQL, which Nova uses, sends it."""
    try:
        return password.encode("latin-1")
    except UnicodeEncodeError:
        return password.encode()


class Refused(Exception):
    """An answer other than success: ``kind`` says which error recell makes of it."""

    def __init__(self, kind: str, text: str) -> None:
        Exception.__init__(self, text)
        self.kind, self.text = kind, text


class Hold:
    """One hold, from its first moment. ``busy``: who has not come to rest."""

    def __init__(self, name: str, busy: Set[Link]) -> None:
        self.name = name
        self.began = time.monotonic()
        self.until = float("inf")
        self.lease = 0.0
        self.switching = False
        self.busy = busy
        self.timer: Optional[asyncio.TimerHandle] = None
        self.rested: asyncio.Future[None] = asyncio.get_event_loop().create_future()
        self.lasts()

    def forget_silent(self) -> None:
        """Who was greeted and says nothing, as a port's checker does, keeps nobody waiting."""
        self.busy = {link for link in self.busy if link.phase != LOGIN or link.hello is not None}
        self.lasts()

    def lasts(self) -> None:
        if not self.busy and not self.rested.done():
            self.rested.set_result(None)


class Relay:
    """All connections, and which side they go to.

    :param config: ``listen`` [address, port], ``upstreams`` {side: [host, port]}, ``accounts`` {user:
        password}, ``side``: the one to begin with.
    :param state_file: where the side is committed.
    """

    def __init__(self, config: Dict[str, Any], state_file: str) -> None:
        self.accounts: Dict[str, bytes] = {u: _bytes(p) for u, p in config["accounts"].items()}
        self.config = config
        self.side: str = config["side"]
        self.links: Set[Link] = set()
        self.bytes_up = self.bytes_down = 0
        self._state_file = state_file
        self._hold: Optional[Hold] = None
        self._preparing = False
        self._tasks: Set[asyncio.Future[Any]] = set()
        self._errors: Deque[str] = deque(maxlen=20)
        self._started = time.time()
        self._holds = self._carried = self._closed = 0
        self._longest_hold = self._last_hold = self._longest_wait = 0.0
        with contextlib.suppress(FileNotFoundError), open(state_file) as file:
            self.side = json.load(file)["side"]

    # What links tell

    @property
    def held(self) -> bool:
        return self._hold is not None

    def arrived(self, link: Link) -> None:
        self.links.add(link)
        if not self.held:
            self._start(link.connect())

    def left(self, link: Link) -> None:
        self.links.discard(link)
        self.rested(link)

    def rested(self, link: Link) -> None:
        if self._hold is not None:
            self._hold.busy.discard(link)
            self._hold.lasts()

    def waited(self, seconds: float) -> None:
        self._longest_wait = max(self._longest_wait, seconds)

    def trouble(self, sentence: str) -> None:
        self._errors.append(sentence)
        self.say(sentence)

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr)  # systemd's journal has the time

    def _start(self, work: Awaitable[Any]) -> None:
        """In the background; the set keeps it from being collected half done."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.trouble("an error of the relay's own: {!r}".format(task.exception()))

    # Servers

    async def open(self, side: str) -> Upstream:
        """:raises wire.Broken: no connection, in a clause."""
        host, port = self.config["upstreams"][side]
        connecting = asyncio.get_event_loop().create_connection(Upstream, host, port)
        try:
            _, upstream = await asyncio.wait_for(connecting, CONNECT_S)
        except asyncio.TimeoutError:
            text = "no answer within {:g} s".format(CONNECT_S)
        except OSError as error:
            text = error.strerror or str(error)
        else:
            return upstream
        raise wire.Broken("{}:{} can't be reached ({})".format(host, port, text))

    async def _logged_in(self, side: str, hello: wire.Hello) -> Upstream:
        user = hello.user.decode("utf-8", "replace")
        upstream = await self.open(side)
        try:
            await upstream.log_in(hello, self.accounts[user])
        except BaseException as error:
            upstream.close(politely=False)
            if isinstance(error, wire.Broken):
                host, port = self.config["upstreams"][side]
                text = "{}:{} refuses the relay's login as {} ({})"
                raise wire.Broken(text.format(host, port, user, error))
            raise
        return upstream

    async def try_logins(self) -> List[str]:
        """What was refused, a sentence each."""
        refused = []
        plain = wire.PROTOCOL_41 | wire.SECURE_CONNECTION | wire.PLUGIN_AUTH | wire.MYSQL
        for side in _SIDES:
            for user in sorted(self.accounts):
                hello = wire.Hello(plain, 1 << 24, 33, b"\0" * 4, user.encode(), b"", b"")
                try:
                    upstream = await asyncio.wait_for(self._logged_in(side, hello), 2 * CONNECT_S)
                except wire.Broken as error:
                    refused.append(str(error))
                except asyncio.TimeoutError:
                    refused.append("the {} side does not answer the login of {}".format(side, user))
                else:
                    upstream.close()
        return refused

    # Hold

    async def hold(self, name: str, limit: float, lease: float) -> Dict[str, Any]:
        if self._hold is not None or self._preparing:
            raise Refused("locked", "another hold is going on")
        began = time.monotonic()
        self._preparing = True
        try:
            await asyncio.wait_for(self._prepare(self._other()), PREPARE_S)
        except asyncio.TimeoutError:
            text = "the logins at the other side take longer than {:g} s".format(PREPARE_S)
            raise Refused("refused", text) from None
        finally:
            self._preparing = False
        prepared = time.monotonic() - began
        for link in self.links:
            link.step_back()
        hold = self._hold = Hold(name, {link for link in self.links if self._unrest(link, limit)})
        self._holds += 1
        for link in list(hold.busy):
            link.ask()
        await asyncio.wait([hold.rested], timeout=limit)
        hold.forget_silent()
        waited = time.monotonic() - hold.began
        links = [link for link in self.links if link.phase == READY]
        told = {"connections": len(links), "waited_s": waited, "prepared_s": prepared,
                "busy": [self._client(link, link.doing) for link in hold.busy],
                "stateful": self._stateful()}
        if self._hold is not hold:
            raise Refused("gone", "somebody has released it while it began")
        if hold.busy:
            self.say("hold: {} of {} connections did not come to rest in {:.3f} s".format(
                len(hold.busy), len(links), waited))
            self.release()
            return told
        self.say("hold: {} connections rest after {:.3f} s".format(len(links), waited))
        self._lease(lease)
        return told

    def _unrest(self, link: Link, limit: float) -> bool:
        if link.phase == LOGIN:
            silent = link.hello is None and time.monotonic() - link.since >= max(_LOGIN_S, limit)
            return not silent
        return link.phase == READY and not link.quiet

    async def _prepare(self, side: str) -> None:
        """Log in at ``side`` for every connection that can be carried over, and rehearse its settings."""
        places = asyncio.Semaphore(LOGINS_AT_ONCE)
        refused: List[str] = []

        async def one(link: Link) -> None:
            async with places:
                link.obstacle = ""
                if refused or link.phase != READY or link.reasons():
                    return
                try:
                    spare = await self._spare(link, side)
                except wire.Broken as error:
                    if link.phase == READY:  # else its client left meanwhile, and needs no other session
                        refused.append(str(error))
                    return
                try:
                    await self._replay(link, database=False)
                except wire.Broken as error:
                    if spare.lost:
                        return  # nothing was refused: the switch makes another one
                    link.obstacle = "can't have its settings at the other side: {}".format(error)

        await self._all([one(link) for link in list(self.links)])
        if refused:
            raise Refused("refused", refused[0])

    async def _spare(self, link: Link, side: str) -> Upstream:
        if link.spare is None or link.spare.lost or link.spare.side != side:
            link.drop_spare()
            if link.hello is None:
                raise wire.Broken("a client that has not logged in")
            spare = await self._logged_in(side, link.hello)
            spare.side = side
            if link.phase != READY:
                spare.close()
                raise wire.Broken("the client has gone")
            link.spare = spare
        return link.spare

    async def _replay(self, link: Link, database: bool) -> None:
        """:raises wire.Broken: the other side won't have these settings; its session is given up then."""
        spare = link.spare
        if spare is None:
            raise wire.Broken("it has no session at the other side")
        try:
            await self._liken(link, spare, database)
        except BaseException:
            link.drop_spare()
            raise

    async def _liken(self, link: Link, upstream: Upstream, database: bool) -> None:
        await upstream.say(link.replay(database))
        if not link.same(upstream):
            raise wire.Broken("autocommit differs")

    async def _all(self, works: List[Awaitable[None]]) -> None:
        """To their ends; when one fails, or this is cancelled, no other goes on."""
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _lease(self, seconds: float) -> None:
        hold = self._hold
        if hold is None:
            return
        if hold.timer is not None:
            hold.timer.cancel()
        hold.lease = seconds
        hold.until = time.monotonic() + seconds
        hold.timer = asyncio.get_event_loop().call_later(seconds, self._expired)

    def _expired(self) -> None:
        self.trouble("nobody has renewed the hold in time: it ended on the {} side".format(self.side))
        self.release()

    def _own(self, name: str) -> Hold:
        """:raises Refused: this caller holds nothing, any more."""
        hold = self._hold
        if hold is None or hold.name != name or hold.switching or hold.busy:
            raise Refused("gone", "the hold has ended, or it is another's")
        if time.monotonic() > hold.until:
            # The timer is late, as this whole process may be: whoever holds may not believe it either.
            self._expired()
            raise Refused("gone", "the hold was not renewed in time")
        return hold

    def renew(self, name: str) -> None:
        self._lease(self._own(name).lease)

    def release(self) -> None:
        """Let everybody go on, on the side that was committed last."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        if hold.timer is not None:
            hold.timer.cancel()
        self._last_hold = time.monotonic() - hold.began
        self._longest_hold = max(self._longest_hold, self._last_hold)
        self.say("release: {:.3f} s, {} side".format(self._last_hold, self.side))
        for link in list(self.links):
            if link.phase == DOOR:
                self.waited(time.monotonic() - link.since)
                self._start(link.connect())
            elif link.phase == READY and link.upstream is None:
                self._start(self._again(link))
            elif link.phase == READY:
                link.pump()
        asyncio.get_event_loop().call_later(_SPARES_S, self._drop_spares)

    def _drop_spares(self) -> None:
        """Sessions that the next attempt would have used, and that nobody came for."""
        if not self.held and not self._preparing:
            for link in self.links:
                link.drop_spare()

    async def _again(self, link: Link) -> None:
        """Its server's session has ended while it rested: it gets another one of the same side."""
        try:
            if link.reasons():
                raise wire.Broken(link.reasons()[0])
            await asyncio.wait_for(self._restored(link), 2 * CONNECT_S)
        except (wire.Broken, asyncio.TimeoutError) as error:
            # While all are held it rests on, and is given one by a switch or by the next release.
            if link.phase == READY and link.upstream is None and not self.held:
                text = "{} was cut: its session at the server had ended ({})"
                self.trouble(text.format(link.address, error))
                link.close()

    async def _restored(self, link: Link) -> None:
        side, hello = self.side, link.hello
        if hello is None:
            raise wire.Broken("a client that has not logged in")
        # Not its spare: a hold that begins meanwhile makes that one, at the other side.
        upstream = await self._logged_in(side, hello)
        try:
            await self._liken(link, upstream, database=True)
            if upstream.lost:
                raise wire.Broken("it closed the connection")
        except BaseException:
            upstream.close()
            raise
        if link.phase != READY or link.upstream is not None or side != self.side:
            upstream.close()  # the client has gone, or has got another one meanwhile
            return
        link.take(upstream)
        link.pump()

    # Switch

    def _other(self) -> str:
        return "new" if self.side == "old" else "old"

    async def switch(self, name: str, side: str) -> Dict[str, Any]:
        hold = self._own(name)
        if side not in _SIDES:
            raise Refused("bad", "no such side")
        if side == self.side:
            self._lease(hold.lease)
            return {"carried": 0, "closed": 0, "reasons": []}
        if hold.timer is not None:
            hold.timer.cancel()
        hold.switching = True
        try:
            return await self._switch(side)
        finally:
            hold.switching = False
            if self._hold is hold:
                self._lease(hold.lease)

    async def _switch(self, side: str) -> Dict[str, Any]:
        going: Set[Link] = set()
        refused: List[str] = []
        try:
            await asyncio.wait_for(self._ready_to_go(side, going, refused), SWITCH_S)
        except asyncio.TimeoutError:
            refused.append("the other side takes longer than {:g} s".format(SWITCH_S))
        if self._hold is None:
            raise Refused("gone", "somebody has released it meanwhile")
        if refused:
            self.trouble("switch: {}".format(refused[0]))
            raise Refused("refused", refused[0])
        self._commit(side)
        carried, reasons = 0, []
        for link in list(self.links):
            spare, link.spare = link.spare, None
            if link.phase == READY and link in going and spare is not None:
                link.take(spare)
                carried += 1
            elif link.phase in (READY, LOGIN):
                why = link.reasons() or ["was logging in"]
                reasons.append("{} at {} {}".format(link.account or "somebody", link.address, why[0]))
                link.close()
        self._carried += carried
        self._closed += len(reasons)
        text = "switch: {} side, {} connections carried over, {} closed"
        self.say(text.format(side, carried, len(reasons)))
        return {"carried": carried, "closed": len(reasons), "reasons": reasons}

    async def _ready_to_go(self, side: str, going: Set[Link], refused: List[str]) -> None:
        """Whole sessions at ``side`` for all that rest, also for who has come to rest meanwhile."""
        async def one(link: Link) -> None:
            try:
                await self._spare(link, side)
                await self._replay(link, database=True)
            except wire.Broken as error:
                if link.phase == READY:
                    refused.append("{} can't be carried over: {}".format(link.address, error))

        while not refused:
            lacking = [link for link in self.links if link.phase == READY and not link.reasons()
                       and (link not in going or link.spare is None or link.spare.lost)]
            if not lacking:
                return
            going.update(lacking)
            await self._all([one(link) for link in lacking])

    def _commit(self, side: str) -> None:
        """From here on, and after any crash, it is ``side``."""
        with open(self._state_file + ".new", "w") as file:
            json.dump({"side": side}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(self._state_file + ".new", self._state_file)
        directory = os.open(os.path.dirname(self._state_file), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self.side = side

    # State

    def _client(self, link: Link, what: str) -> Dict[str, Any]:
        return {"address": link.address, "account": link.account, "what": what,
                "seconds": time.monotonic() - link.since}

    def _stateful(self) -> List[Dict[str, Any]]:
        return [self._client(link, link.reasons()[0]) for link in self.links
                if link.phase == READY and link.reasons()]

    def state(self) -> Dict[str, Any]:
        hold, now = self._hold, time.monotonic()
        ready = [link for link in self.links if link.phase == READY]
        longest = max(self._longest_hold, now - hold.began if hold else 0.0)
        return {
            "side": self.side, "listen": self.config["listen"], "upstreams": self.config["upstreams"],
            "held": hold is not None,
            "lease_s": max(0.0, hold.until - now) if hold and hold.timer else 0.0,
            "connections": len(ready), "in_transaction": sum(not link.quiet for link in ready),
            "waiting": sum(link.phase == DOOR for link in self.links), "longest_hold_s": longest,
            "last_hold_s": self._last_hold, "longest_wait_s": self._longest_wait, "holds": self._holds,
            "carried": self._carried, "closed": self._closed, "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down, "started_at": self._started,
            "clients": sorted({link.address.rpartition(":")[0] for link in self.links}),
            "stateful": self._stateful(), "errors": list(self._errors),
        }


async def serve_control(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, a line of JSON, and its answer."""
    try:
        request = json.loads((await reader.readline()).decode())
        verbs: Dict[str, Callable[[], Any]] = {
            "state": relay.state, "try": relay.try_logins, "release": relay.release,
            "hold": lambda: relay.hold(request["hold"], float(request["limit_s"]), float(request["lease_s"])),
            "renew": lambda: relay.renew(request["hold"]),
            "switch": lambda: relay.switch(request["hold"], request["side"]),
        }
        value = verbs[request["verb"]]()
        if asyncio.iscoroutine(value):
            value = await value
        answer = {"ok": True, "value": value}
    except Refused as refused:
        answer = {"ok": False, "kind": refused.kind, "text": refused.text}
    except (ValueError, KeyError, TypeError) as error:
        answer = {"ok": False, "kind": "bad", "text": type(error).__name__}
    except OSError as error:
        answer = {"ok": False, "kind": "os", "text": error.strerror or str(error)}
    except Exception as error:
        relay.trouble("an error of the relay's own: {!r}".format(error))
        answer = {"ok": False, "kind": "os", "text": type(error).__name__}
    writer.write(json.dumps(answer).encode() + b"\n")
    with contextlib.suppress(OSError):
        await writer.drain()
    writer.close()
