"""What a model has responded so far, on disk as it comes, so that an evaluation that was stopped resumes.

Several processes may ask at once: each writes files of its own, and reads those of all others when it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chiasm.data.image import Image
from chiasm.errors import DataError
from chiasm.evaluation.files import write_file
from chiasm.evaluation.request import Failed, Response, image_key
from chiasm.models.remote import Usage


class EmbeddingCache:
    """Embeddings by key, each appended to a file as soon as it is there.

    `file`.keys holds a first line that says whose they are and how wide, then one key a line; `file`.f32 holds the
    rows. Rows are written before keys, so what a kill leaves is cut back to whole rows. Without a file they
    stay in memory. identity: of the model and its processor; rows of another one, or of "", are discarded.
    others: files of other processes, read but never written.
    """

    def __init__(self, file: Path | None = None, identity: str = "", others: Sequence[Path] = ()) -> None:
        self.places: dict[str, int] = {}
        self._chunks: list[NDArray[np.float32]] = []
        self._count = 0
        self._file, self._identity = file, identity
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            keys, rows = _pair(file)
            head, names, rows_ND = _sound(file, identity)
            if head:
                with rows.open("r+b") as text:
                    text.truncate(rows_ND.nbytes)
                _write_lines(keys, [head, *map(json.dumps, names)])
            else:
                keys.unlink(missing_ok=True)
                rows.unlink(missing_ok=True)
            self._take(names, rows_ND)
        for other in others:
            self._take(*_sound(other, identity)[1:])

    def add(self, keys: Sequence[str], rows_ND: NDArray[np.float32]) -> None:
        """Keeps the embeddings of new keys."""
        self._take(keys, rows_ND)
        if self._file is not None:
            names, rows = _pair(self._file)
            with rows.open("ab") as file:
                file.write(np.ascontiguousarray(rows_ND, np.float32).tobytes())
            with names.open("a", encoding="utf-8") as text:
                if text.tell() == 0:
                    text.write(json.dumps({"identity": self._identity, "width": rows_ND.shape[1]}) + "\n")
                text.write("".join(json.dumps(key) + "\n" for key in keys))

    def matrix(self) -> NDArray[np.float32]:
        """(N, D): all rows, in the order of `places`."""
        if len(self._chunks) != 1:
            self._chunks = [np.concatenate(self._chunks) if self._chunks else np.zeros((0, 0), np.float32)]
        return self._chunks[0]

    def _take(self, keys: Sequence[str], rows_ND: NDArray[np.float32]) -> None:
        if len(keys):
            for at, key in enumerate(keys):
                self.places.setdefault(key, self._count + at)
            self._chunks.append(rows_ND)
            self._count += len(rows_ND)


class ResponseCache:
    """The responses to a task's requests, one JSON object a line, each flushed as it comes.

    A file of another model or protocol is begun anew. Failures are recorded, and asked again in the next run, unless
    `keep_failed`. others: files of other processes, read but never written.
    images: the folder for responses that are images, each a PNG named by the hash of the file; one that is gone or no
        longer has its hash counts as never answered. Without a file nothing is written.
    """

    def __init__(
        self,
        file: Path | None = None,
        identity: str = "",
        protocol: str = "",
        others: Sequence[Path] = (),
        *,
        images: Path | None = None,
        keep_failed: bool = False,
    ) -> None:
        self._found: dict[tuple[str, str], Response] = {}
        self.usages: list[Usage] = []  # what a remote model reported beside its responses, in no order
        self._file, self._images = None, images
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"identity": identity, "protocol": protocol})
        lines = _whole_lines(file)
        lines = lines if identity and lines[:1] == [head] else [head]
        _write_lines(file, lines)
        self._read(lines[1:], keep_failed)
        for other in others:
            lines = _whole_lines(other)
            if identity and lines[:1] == [head]:
                self._read(lines[1:], keep_failed)
        self._file = file.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, run: str, key: str) -> Response | None:
        """The response to a request in a run ("" for the model's own, or a baseline's name), if it is known."""
        return self._found.get((run, key))

    def add(self, run: str, key: str, response: Response, usage: Usage | None = None) -> None:
        """Keeps a response. usage: what a remote model reports beside it: which model answered, at which price."""
        if isinstance(response, Image):
            response = self._saved(response)
        self._found[run, key] = response
        if usage:
            self.usages.append(usage)
        if self._file is not None:
            beside = {"usage": dict(usage)} if usage else {}
            self._file.write(json.dumps({"run": run, "key": key, **_written(response), **beside}) + "\n")
            self._file.flush()

    def _saved(self, image: Image) -> Response:
        """The image as a PNG of its pixels and nothing else; in the folder, if there is one."""
        try:
            png = Image(np.asarray(image.decode())).encoded()
        except DataError as error:
            return Failed(f"the model's image cannot be read: {error}")
        if self._images is None or self._file is None:
            return Image(png)
        key = Image(png).key
        file = self._images / f"{key}.png"
        if image_key(Image(file)) != key:  # not there, or damaged
            write_file(file, png)
        return Image(file)

    def _read(self, lines: Sequence[str], keep_failed: bool) -> None:
        for line in lines:
            record = json.loads(line)
            name, response = (record["run"], record["key"]), self._parsed(record)
            if "usage" in record:
                self.usages.append(record["usage"])
            if response is None:
                continue
            if not isinstance(response, Failed):
                self._found[name] = response
            elif keep_failed:
                self._found.setdefault(name, response)

    def _parsed(self, record: Mapping[str, object]) -> Response | None:
        if "failed" in record:
            return Failed(str(record["failed"]))
        if "image" in record:
            image = Image((self._images or Path()) / f"{record['image']}.png")
            return image if image_key(image) == record["image"] else None
        return str(record["text"]) if "text" in record else np.array(record["scores"], np.float32)


def _written(response: Response) -> dict[str, object]:
    if isinstance(response, Failed):
        return {"failed": response.reason}
    if isinstance(response, str):
        return {"text": response}
    if isinstance(response, Image):
        return {"image": response.key}
    return {
        "scores": [[float(f"{score:.9g}") for score in row] for row in response.tolist()]
    }  # 9 digits: exact float32


def _pair(file: Path) -> tuple[Path, Path]:
    return file.with_suffix(".keys"), file.with_suffix(".f32")


def _sound(file: Path, identity: str) -> tuple[str, list[str], NDArray[np.float32]]:
    """The first line, the keys and the rows of a cache, as far as both are whole; nothing of another identity's."""
    keys, rows = _pair(file)
    lines = _whole_lines(keys)
    head = json.loads(lines[0]) if lines else {}
    if not identity or head.get("identity") != identity or not rows.exists():
        return "", [], np.zeros((0, 0), np.float32)
    width = head["width"]
    count = min(len(lines) - 1, rows.stat().st_size // (4 * width))
    names = [json.loads(line) for line in lines[1 : count + 1]]
    return lines[0], names, np.fromfile(rows, np.float32, count * width).reshape(count, width)


def _whole_lines(file: Path) -> list[str]:
    """The lines of a file, without a last one that a kill cut short."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    write_file(file, "".join(f"{line}\n" for line in lines))
