"""The web application of the page: it serves pictures by the hash of their content, never by a path."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from chiasm.data.image import Image
from chiasm.errors import ChiasmError, DataError, MissingExtra
from chiasm.evaluation import report
from chiasm.evaluation.templates import OPENAI
from chiasm.serving.images import shown
from chiasm.serving.index import IndexEntry
from chiasm.serving.page.thumbnails import IndexThumbnails
from chiasm.serving.search import Finder, Sorted

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_ROOM = Path(__file__).parent
_THEME = Path(report.__file__).parent / "page.css"  # the house's colours, letters and tables
_FILES = {  # what the page is made of, by its address
    "/": (_ROOM / "page.html", "text/html"),
    "/theme.css": (_THEME, "text/css"),
    "/page.css": (_ROOM / "page.css", "text/css"),
    "/page.js": (_ROOM / "page.js", "text/javascript"),
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_HOSTS = ["127.0.0.1", "localhost"]  # another name in the request is another site's, pointed at this machine
_MOST, _WORDS, _NAMES = 500, 1000, 200  # pictures in an answer, characters of a query, names
_UPLOAD_BYTES, _UPLOAD_PIXELS = 32_000_000, 50_000_000


class Answers:
    """The answers of the page's addresses. One query runs at a time: the model is not shared between threads."""

    def __init__(self, finder: Finder, templates: Sequence[str] = OPENAI) -> None:
        self.finder, self.templates = finder, tuple(templates)
        self.entries = {entry.key: entry for entry in reversed(finder.entries)}
        names = {key: entry.name for key, entry in self.entries.items()}
        self.thumbnails = IndexThumbnails(finder.index.folder, names, finder.index.home.parent / "thumbnails")
        self._lock = threading.Lock()
        self._sorted: tuple[tuple[str, ...], Sorted] | None = None  # the page asks for it name by name

    def search(self, asked: Mapping[str, str], upload: bytes | None = None) -> dict[str, Any]:
        """Pictures by words, by a picture of the index, by an uploaded one; without any of them in order of name."""
        started, top = time.perf_counter(), _number(asked.get("top", "60"))
        words, like = asked.get("q", "").strip(), asked.get("like", "")
        if len(words) > _WORDS:
            raise DataError(f"a query may have {_WORDS:,} letters, not {len(words):,}")
        images = [_uploaded(upload)] if upload is not None else []
        if like and like not in self.entries:
            raise DataError("that picture is not in the index any more; load the page again")
        entries = [self.entries[like]] if like else []
        hits: list[tuple[IndexEntry, float | None]] = [(entry, None) for entry in self.finder.entries[:top]]
        if words or images or entries:
            with self._lock:
                found = self.finder.find(self.finder.query([words] if words else [], images, entries), top)
            hits = [(hit.entry, hit.score) for hit in found]
        return {
            "total": len(self.finder.entries),
            "seconds": round(time.perf_counter() - started, 4),
            "hits": [{"id": entry.key, "name": shown(entry.name), "score": score} for entry, score in hits],
        }

    def sort(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Counts by name, and the pictures of one name (or of all), the surest first."""
        started, top = time.perf_counter(), _number(asked.get("top", "60"))
        given = asked.get("names", "")
        if len(given) > _WORDS * 10:
            raise DataError("that is too long for a list of names")
        names = tuple(dict.fromkeys(name.strip() for name in given.replace("\n", ",").split(",") if name.strip()))
        if len(names) > _NAMES:
            raise DataError(f"at most {_NAMES} names are sorted by here, not {len(names)}; use chiasm search --names")
        with self._lock:
            if self._sorted is None or self._sorted[0] != names:
                self._sorted = names, self.finder.sort(names, self.templates)
            found = self._sorted[1]
        chosen = asked.get("name", "")
        order_N = np.argsort(-found.probability_N, kind="stable")
        if chosen in names:
            order_N = order_N[found.best_N[order_N] == names.index(chosen)]
        return {
            "total": len(found.entries),
            "seconds": round(time.perf_counter() - started, 4),
            "counts": [{"name": name, "count": count} for name, count in found.counts().items()],
            "hits": [
                {
                    "id": found.entries[at].key,
                    "name": shown(found.entries[at].name),
                    "best": names[found.best_N[at]],
                    "probability": float(found.probability_N[at]),
                }
                for at in order_N[:top].tolist()
            ],
        }

    def about(self) -> dict[str, Any]:
        """The facts that the page shows of itself: the folder, and how many pictures are indexed."""
        index = self.finder.index
        return {"folder": shown(str(index.folder.resolve())), "pictures": len(self.finder.entries)}


def make_app(finder: Finder, templates: Sequence[str] = OPENAI) -> Starlette:
    """The web application. Raises MissingExtra without chiasm[search]."""
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra("starlette", "search", "the page") from error
    answers = Answers(finder, templates)

    def file(request: Request) -> Response:
        path, kind = _FILES[request.url.path]
        return Response(path.read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})

    def answered(answer: Callable[[], dict[str, Any]]) -> Response:
        try:
            return JSONResponse(answer())
        except ChiasmError as error:
            return JSONResponse({"error": shown(str(error))}, 400)

    def about(request: Request) -> Response:
        del request
        return answered(answers.about)

    def sort(request: Request) -> Response:
        return answered(lambda: answers.sort(request.query_params))

    async def search(request: Request) -> Response:
        upload = await _body(request) if request.method == "POST" else None
        return await run_in_threadpool(answered, lambda: answers.search(request.query_params, upload))

    def picture(request: Request) -> Response:
        made = answers.thumbnails.small if request.path_params["size"] == "small" else answers.thumbnails.large
        try:
            content = made(request.path_params["key"])
        except (KeyError, DataError):
            return Response(status_code=404)
        # A key is a hash of the content, so what it names never changes.
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})

    async def too_large(request: Request, error: Exception) -> Response:
        del request
        return JSONResponse({"error": str(error)}, 413)

    routes = [
        *(Route(address, file) for address in _FILES),
        Route("/about", about),
        Route("/search", search, methods=["GET", "POST"]),
        Route("/names", sort),
        Route("/{size:str}/{key:str}", picture),
    ]
    middleware = [Middleware(_Guard), Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={_TooLarge: too_large})


class _TooLarge(Exception):
    """An upload beyond the limit."""


class _Guard:
    """Sends the headers that keep a browser from doing more than the page needs; refuses what other sites send."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        headers = dict(scope.get("headers", []))
        from_here = headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
        if not from_here and headers.get(b"sec-fetch-mode") != b"navigate":  # a link that leads here is no harm
            await guarded({"type": "http.response.start", "status": 403, "headers": []})
            await guarded({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, guarded)


async def _body(request: Request) -> bytes:
    """The request's body, given up as soon as it is too long, whatever its header claims."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _UPLOAD_BYTES:
            raise _TooLarge(f"a picture may have {_UPLOAD_BYTES // 1_000_000} MB to be uploaded; scale it down")
        parts.append(part)
    return b"".join(parts)


def _uploaded(content: bytes) -> Image:
    """A picture from outside: a format of pictures, of a size that is decoded quickly."""
    image = Image(content)
    width, height = image.size  # raises DataError for what is no picture
    if width * height > _UPLOAD_PIXELS:
        raise DataError(f"a picture may have {_UPLOAD_PIXELS:,} pixels, not {width:,} x {height:,}; scale it down")
    return image


def _number(given: str) -> int:
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= _MOST:
        raise DataError(f"between 1 and {_MOST} pictures are shown at once")
    return int(given)


def serve(finder: Finder, port: int, templates: Sequence[str] = OPENAI, console: Console | None = None) -> None:
    """Serves the page on this machine alone until it is interrupted. port: 0 takes any that is free.

    Raises ChiasmError if the port is taken, MissingExtra without chiasm[search].
    """
    app = make_app(finder, templates)
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "search", "the page") from error
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ChiasmError(f"the port {port} cannot be used ({error}); give another with --port") from error
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        (console or Console()).print(f"{address}  (Ctrl-C stops)", highlight=False, markup=False, soft_wrap=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listening])
