"""What a browser may ask for: the page, its style and script, and the news. Nothing else, by GET only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Header, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recell.drawing import stylesheet
from recell.web.files import Files
from recell.web.view import Rendered, View, announcement

BEAT_S = 15.0
_HEADERS = {
    # Nothing from elsewhere, no script and no style but our own files, nobody may frame it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class _Guarded:
    """Adds the headers to every answer, streams included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, guarded)


class Watcher:
    """One look at the files serves every browser that asks within ``every`` seconds."""

    def __init__(self, files: Files, view: View, every: float) -> None:
        self.every = every
        self._files = files
        self._view = view
        self._lock = asyncio.Lock()
        self._looked = 0.0
        self._rendered: Rendered | None = None

    async def current(self, *, fresh: bool = False) -> Rendered:
        async with self._lock:
            old = time.monotonic() - self._looked >= self.every * 0.9
            if self._rendered is None or fresh or old:
                self._rendered = await asyncio.to_thread(self._look)
                self._looked = time.monotonic()
            return self._rendered

    def _look(self) -> Rendered:
        look, changed = self._files.look()
        if self._rendered is not None and not changed:
            return self._rendered
        return self._view.parts(look)


def make_app(
    directory: Path, requests: Path | None = None, *, every: float = 1.0, hosts: tuple[str, ...] = ()
) -> FastAPI:
    """The page of one directory.

    :param every: seconds between two looks at the files.
    :param hosts: names by which a browser may call this server; empty: any. A page that listens on a
        local address answers to local names only, so that no website can read it through the browser.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    view = View(directory)
    watcher = Watcher(Files(directory, requests), view, every)
    static = {
        name: (resources.files("recell.web").joinpath("static", name).read_bytes(), kind)
        for name, kind in _STATIC.items()
    }
    static["drawing.css"] = (stylesheet().encode(), "text/css")

    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(_Guarded)  # the last one is the outermost

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return view.page(await watcher.current(fresh=True))

    @app.get("/static/{name}")
    async def file(name: str) -> Response:
        if name not in static:
            return Response("not here\n", status_code=404, media_type="text/plain")
        content, kind = static[name]
        return Response(content, media_type=kind)

    @app.get("/events")
    async def events(
        last: str = Query("", max_length=40),
        last_event_id: str = Header("", max_length=40),
    ) -> StreamingResponse:
        return StreamingResponse(_news(watcher, last_event_id or last), media_type="text/event-stream")

    return app


async def _news(watcher: Watcher, state: str) -> AsyncIterator[str]:
    """Events for one browser, which has the page as of ``state``.

    What changed since the last event is sent; one that comes with another state gets every part.
    """
    sent: dict[str, str] | None = None
    beat = time.monotonic()
    yield f"retry: 1000\nevent: beat\ndata: {time.time()}\n\n"
    while True:
        now = await watcher.current()
        if now.state != state:
            parts = {k: v for k, v in now.parts.items() if sent is None or sent.get(k) != v}
            yield _event(now, parts)
            state, beat = now.state, time.monotonic()
        elif time.monotonic() - beat >= BEAT_S:
            yield f"event: beat\ndata: {time.time()}\n\n"
            beat = time.monotonic()
        sent = now.parts
        await asyncio.sleep(watcher.every)


def _event(now: Rendered, parts: dict[str, str]) -> str:
    plan = now.look.plan
    content = {
        "now": time.time(),
        "shape": now.shape,
        "parts": parts,
        "said": announcement(now.story),
        "title": f"recell: {plan.kind}, {now.story.position}" if plan else "recell",
    }
    return f"event: news\nid: {now.state}\ndata: {json.dumps(content)}\n\n"
