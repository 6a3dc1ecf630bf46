"""A web server for tests: files of a folder, with ranges and a count of what was asked, in a thread."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class Ranged(http.server.SimpleHTTPRequestHandler):
    """SimpleHTTPRequestHandler with ranges (RFC 9110, section 14), an ETag, and a record of each GET."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content are two writes

    def __init__(self, *arguments: Any, asked: list[tuple[str, str]], gone: threading.Event, **named: Any) -> None:
        self.asked, self.gone = asked, gone
        super().__init__(*arguments, **named)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's own name
        """Not on the terminal."""

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range", "")))
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        if self.gone.is_set():  # connections that are kept outlive the server
            self.close_connection = True
            return
        path = Path(self.translate_path(self.path))
        if "forbidden" in self.path:
            self.send_error(403)
        elif path.is_dir():
            super().do_GET() if body else super().do_HEAD()
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send(path.read_bytes(), body)

    def _send(self, content: bytes, body: bool) -> None:
        span, whole = self.headers.get("Range"), content
        first = 0
        if span is not None:
            start, _, end = span.removeprefix("bytes=").partition("-")
            first = int(start) if start else len(whole) - int(end)
            content = whole[first : int(end) + 1 if start and end else None]
        self.send_response(200 if span is None else 206)
        if span is not None:
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hash(whole)}"')
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def serve(folder: Path, handler: type[Ranged] = Ranged) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address of a server of this folder, and the (path, range) of each GET so far."""
    asked: list[tuple[str, str]] = []
    gone = threading.Event()
    made = partial(handler, directory=str(folder), asked=asked, gone=gone)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            gone.set()
            server.shutdown()
            thread.join()
