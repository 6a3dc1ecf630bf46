"""What was answered so far, on disk as it comes, so that an evaluation that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.task import Answer, Failed


class Shelf:
    """Embeddings by key, each appended to a file as soon as it is there.

    `file`.keys holds a first line that says whose they are and how wide, then one key a line; `file`.f32 holds the
    rows. Rows are written before keys, so what a kill leaves behind is cut back to whole rows. Without a file they
    stay in memory. identity: of the model and its processor; rows of another one, or of "", are discarded.
    """

    def __init__(self, file: Path | None = None, identity: str = "") -> None:
        self.places: dict[str, int] = {}
        self._chunks: list[NDArray[np.float32]] = []
        self._keys, self._rows, self._identity = None, None, identity
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._keys, self._rows = file.with_suffix(".keys"), file.with_suffix(".f32")
            self._open(self._keys, self._rows)

    def _open(self, keys: Path, rows: Path) -> None:
        lines = _whole_lines(keys)
        head = json.loads(lines[0]) if lines else {}
        if not rows.exists() or not self._identity or head.get("identity") != self._identity:
            keys.unlink(missing_ok=True)
            rows.unlink(missing_ok=True)
            return
        width = head["width"]
        count = min(len(lines) - 1, rows.stat().st_size // (4 * width))
        with rows.open("r+b") as file:
            file.truncate(4 * width * count)
        _rewrite(keys, lines[: count + 1])
        self.places = {json.loads(line): at for at, line in enumerate(lines[1 : count + 1])}
        self._chunks = [np.fromfile(rows, np.float32).reshape(count, width)]

    def add(self, keys: Sequence[str], rows_ND: NDArray[np.float32]) -> None:
        """Keeps the embeddings of new keys."""
        self.places |= {key: len(self.places) + at for at, key in enumerate(keys)}
        self._chunks.append(rows_ND)
        if self._keys is not None and self._rows is not None:
            with self._rows.open("ab") as file:
                file.write(np.ascontiguousarray(rows_ND, np.float32).tobytes())
            with self._keys.open("a", encoding="utf-8") as text:
                if text.tell() == 0:
                    text.write(json.dumps({"identity": self._identity, "width": rows_ND.shape[1]}) + "\n")
                text.write("".join(json.dumps(key) + "\n" for key in keys))

    def matrix(self) -> NDArray[np.float32]:
        """(N, D): all rows, in the order of `places`."""
        if len(self._chunks) != 1:
            self._chunks = [np.concatenate(self._chunks) if self._chunks else np.zeros((0, 0), np.float32)]
        return self._chunks[0]


class Journal:
    """The answers to a task's questions, one JSON object a line, each flushed as it comes.

    A journal of another model or protocol is begun anew. Failures are recorded, and asked again in the next run.
    """

    def __init__(self, file: Path | None = None, identity: str = "", protocol: str = "") -> None:
        self._found: dict[tuple[str, str], Answer] = {}
        self._file = None
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"identity": identity, "protocol": protocol})
        lines = _whole_lines(file)
        lines = lines if identity and lines[:1] == [head] else [head]
        _rewrite(file, lines)
        for line in lines[1:]:
            record = json.loads(line)
            if "failed" not in record:
                self._found[record["run"], record["key"]] = _read(record)
        self._file = file.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, run: str, key: str) -> Answer | None:
        """The answer to a question in a run ("" for the model's own, or a baseline's name), if it is known."""
        return self._found.get((run, key))

    def add(self, run: str, key: str, answer: Answer) -> None:
        """Records an answer."""
        self._found[run, key] = answer
        if self._file is not None:
            self._file.write(json.dumps({"run": run, "key": key, **_written(answer)}) + "\n")
            self._file.flush()


def _written(answer: Answer) -> dict[str, object]:
    if isinstance(answer, Failed):
        return {"failed": answer.reason}
    if isinstance(answer, str):
        return {"text": answer}
    return {"scores": [[float(f"{score:.9g}") for score in row] for row in answer.tolist()]}  # 9 digits: exact float32


def _read(record: Mapping[str, object]) -> Answer:
    return str(record["text"]) if "text" in record else np.array(record["scores"], np.float32)


def _whole_lines(file: Path) -> list[str]:
    """The lines of a file, without a last one that a kill cut short."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _rewrite(file: Path, lines: Sequence[str]) -> None:
    aside = file.with_name(file.name + ".new")
    aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    aside.replace(file)
