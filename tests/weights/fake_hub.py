"""A Hub on this machine: the few answers of huggingface.co that its client asks for, from folders."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT, OLD = "a" * 40, "b" * 40


class Hub:
    """Repositories by name, each a folder a commit; what was asked for, file by file."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.fetched: list[str] = []
        self.address = ""

    def add(self, name: str, folder: Path, **others: Path) -> None:
        self.repositories[name] = {COMMIT: folder, **others}

    def answer(self, path: str, body: bool) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for a path."""
        parts = [unquote(one) for one in urlsplit(path).path.split("/") if one]
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"}, b"{}"
        if name not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        rest = parts[4:] if api else parts[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        commit = {"main": COMMIT, "v1": OLD}.get(revision, revision)
        folder = self.repositories[name].get(commit)
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b"{}"
        if api:
            return (
                200,
                {"Content-Type": "application/json"},
                json.dumps(self._told(rest, name, commit, folder)).encode(),
            )
        file = folder / "/".join(rest[2:])
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = file.read_bytes()
        if body:
            self.fetched.append("/".join(rest[2:]))
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return 200, {"X-Repo-Commit": commit, "ETag": etag, "Content-Type": "application/octet-stream"}, content

    def _told(self, rest: list[str], name: str, commit: str, folder: Path) -> Any:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
        if rest[:1] == ["tree"]:
            return [
                {
                    "type": "file",
                    "path": path,
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for path, file in zip(names, files, strict=True)
            ]
        return {"id": name, "modelId": name, "sha": commit, "siblings": [{"rfilename": path} for path in names]}


@contextmanager
def served() -> Iterator[Hub]:
    """A Hub that answers at `hub.address` while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(body=True)

        def do_HEAD(self) -> None:
            self._reply(body=False)

        def _reply(self, body: bool) -> None:
            status, headers, content = hub.answer(self.path, body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
