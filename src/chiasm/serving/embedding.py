"""The features of a source's pictures and captions, in files that numpy maps.

images.npy   images.keys.jsonl   texts.npy   texts.keys.jsonl   skipped.jsonl   facts.json"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from chiasm import __version__
from chiasm.config import dump
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.vectors import GrowingArray
from chiasm.errors import CapabilityError, ChiasmError, DataError
from chiasm.evaluation.protocol import fingerprint, processor_hash
from chiasm.models.model import Embedder, Model, TokenEmbedder
from chiasm.progress import Bars
from chiasm.serving.images import vectors_of

FACTS, SKIPPED = "facts.json", "skipped.jsonl"
_SAMPLES = 64  # embedded together; after each such batch everything is on the disk
_LOOKED_AT = 32  # samples from which the size of the whole is estimated
What = Literal["images", "texts", "both"]
Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class _Feature:
    """One of the two kinds of rows. shape: of a row. encode: things to rows; lengths: how many tokens each has."""

    name: str
    shape: tuple[int, ...]
    things: Callable[[Sample], Sequence[Any]]
    encode: Callable[[Sequence[Any]], Tensor]
    lengths: Callable[[Sequence[Any]], list[int]] | None = None


@dataclass(frozen=True)
class Embedded:
    """What a folder of features holds after `embed`: rows by file, and how many samples or parts were skipped."""

    rows: Mapping[str, int]
    skipped: int


def embed(
    model: Model,
    source: Source,
    folder: Path,
    *,
    what: What = "both",
    tokens: bool = False,
    dtype: Dtype = "float32",
    about: str = "",
    console: Console | None = None,
) -> Embedded:
    """Writes the features of a source's pictures and captions; goes on where an earlier call was stopped.

    Rows are unit vectors in the shared space, or with `tokens` what a tower makes before pooling: (P, D) a picture,
    (context, D) a text, zero after its last token. `*.keys.jsonl` names each row's sample, line by line. A kill loses
    at most the batch that was being made, and going on leads to the same bytes. about: the model, in words.
    Raises ChiasmError if the folder holds features of something else or the disk is too small, CapabilityError for a
    model that does not embed. What cannot be read is skipped, and listed in skipped.jsonl.
    """
    features = _features(model, what, tokens)
    head = {
        "chiasm": __version__,
        "model": {
            "name": about or model.config.chosen(),
            "family": model.config.chosen(),
            "fingerprint": f"{fingerprint(model)}-{processor_hash(model)}",
        },
        "data": dump(source),
        "samples": len(source),
        "features": "tokens" if tokens else "pooled",
        "dtype": dtype,
        "files": [f"{feature.name}.npy" for feature in features],
    }
    files = _Files(folder, head, features, dtype)
    _check_disk(source, features, files, dtype)
    with Bars(console or Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("samples", total=len(source), completed=files.done)
        while files.done < len(source):
            rows = range(files.done, min(files.done + _SAMPLES, len(source)))
            samples = dict(_samples(source, rows, files))
            for feature in features:
                _add(feature, samples, files)
            files.commit(rows.stop)
            progress.advance(bar, len(rows))
    return Embedded({feature.name: files.arrays[feature.name].count for feature in features}, files.skipped())


class _Files:
    """The folder: all that is written is cut back to what facts.json says was finished."""

    def __init__(self, folder: Path, head: dict[str, Any], features: Sequence[_Feature], dtype: Dtype) -> None:
        self.folder, self.head = folder, head
        folder.mkdir(parents=True, exist_ok=True)
        written = self._written()
        self.done, shapes, sizes = int(written["done"]), written["shapes"], written["bytes"]
        self._write(written)  # from the very first on, the folder says whose it is
        self.lines = [f"{feature.name}.keys.jsonl" for feature in features] + [SKIPPED]
        for name in self.lines:
            (folder / name).touch()
            os.truncate(folder / name, sizes.get(name, 0))
        self.arrays = {
            feature.name: GrowingArray(folder / f"{feature.name}.npy", feature.shape, dtype) for feature in features
        }
        for name, array in self.arrays.items():
            array.truncate(shapes.get(f"{name}.npy", [0])[0])
        self.commit(self.done)

    def write_lines(self, name: str, entries: Sequence[Mapping[str, object]]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)

    def skip(self, **entry: object) -> None:
        self.write_lines(SKIPPED, [entry])

    def skipped(self) -> int:
        with (self.folder / SKIPPED).open("rb") as file:
            return sum(1 for _ in file)

    def commit(self, done: int) -> None:
        """Marks the samples before `done` as finished, so that an interruption costs nothing of them."""
        written = self.head | {
            "done": done,
            "finished": done == self.head["samples"],
            "shapes": {f"{name}.npy": [array.count, *array.shape] for name, array in self.arrays.items()},
            "bytes": {name: (self.folder / name).stat().st_size for name in self.lines},
        }
        self._write(written)
        self.done = done

    def _write(self, facts: Mapping[str, Any]) -> None:
        aside = self.folder / f"{FACTS}.new"
        aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        aside.replace(self.folder / FACTS)

    def _written(self) -> dict[str, Any]:
        file = self.folder / FACTS
        if not file.exists():
            if any(self.folder.glob("*.npy")):
                raise ChiasmError(f"{self.folder} holds .npy files that are not chiasm's; give another folder")
            return self.head | {"done": 0, "finished": False, "shapes": {}, "bytes": {}}
        try:
            facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            changed = [key for key, value in self.head.items() if facts.get(key) != value]
        except (ValueError, AttributeError) as error:
            raise ChiasmError(f"{file} is damaged; remove the folder, and it will be made anew: {error}") from error
        if changed:
            raise ChiasmError(
                f"{self.folder} holds features of another {', '.join(changed)}; give another folder, or remove this one"
            )
        return facts


def _features(model: Model, what: What, tokens: bool) -> list[_Feature]:
    images = what in ("images", "both")
    texts = what in ("texts", "both")
    if not isinstance(model, Embedder) or (tokens and not isinstance(model, TokenEmbedder)):
        missing = "a feature for every token" if tokens else "one vector a picture or text"
        raise CapabilityError(f"a model of the family '{model.config.chosen()}' does not make {missing}")
    if tokens:
        assert isinstance(model, TokenEmbedder)
        made = [_image_tokens(model)] if images else []
        return made + ([_text_tokens(model)] if texts else [])
    width = model.embed_texts(["width"]).shape[1]
    made = [_Feature("images", (width,), lambda sample: sample.images, model.embed_images)] if images else []
    return made + ([_Feature("texts", (width,), _texts, model.embed_texts)] if texts else [])


def _image_tokens(model: TokenEmbedder) -> _Feature:
    grey = Image(np.full((32, 32, 3), 127, np.uint8))
    shape = tuple(model.embed_image_tokens([grey]).shape[1:])
    return _Feature("images", shape, lambda sample: sample.images, model.embed_image_tokens)


def _text_tokens(model: TokenEmbedder) -> _Feature:
    shape = tuple(model.embed_text_tokens(["width"]).shape[1:])
    return _Feature("texts", shape, _texts, model.embed_text_tokens, model.text_token_counts)


def _texts(sample: Sample) -> Sequence[str]:
    return (*sample.captions, *(text.text for text in sample.texts))


def _samples(source: Source, rows: range, files: _Files) -> Iterator[tuple[int, Sample]]:
    for row in rows:
        try:
            yield row, source[row]
        except DataError as error:
            files.skip(row=row, what="sample", reason=str(error))


def _add(feature: _Feature, samples: Mapping[int, Sample], files: _Files) -> None:
    """The batch's rows of one kind, with their keys."""
    named = [
        ({"row": row, "sample": sample.key, "index": index}, thing)
        for row, sample in samples.items()
        for index, thing in enumerate(feature.things(sample))
    ]
    if not named:
        return
    things = [thing for _, thing in named]
    indices, rows, broken = vectors_of(things, feature.encode)
    for index, reason in broken:
        files.skip(**named[index][0], what=feature.name.removesuffix("s"), reason=reason)
    if not indices:
        return
    keys: list[dict[str, object]] = [dict(named[index][0]) for index in indices]
    if feature.lengths is not None:
        for key, length in zip(keys, feature.lengths([things[index] for index in indices]), strict=True):
            key["tokens"] = length
    files.arrays[feature.name].append(rows)
    files.write_lines(f"{feature.name}.keys.jsonl", keys)


def _check_disk(source: Source, features: Sequence[_Feature], files: _Files, dtype: Dtype) -> None:
    """Raises ChiasmError, before anything is computed, if the rows to come will not fit on the disk."""
    left = len(source) - files.done
    looked: list[Sample] = []
    for row in range(files.done, min(files.done + _LOOKED_AT, len(source))):
        try:
            looked.append(source[row])
        except DataError:
            continue  # reported when it is its turn
    if not looked:
        return
    need = sum(
        left
        * sum(len(feature.things(sample)) for sample in looked)
        / len(looked)
        * files.arrays[feature.name].row_bytes
        for feature in features
    )
    free = shutil.disk_usage(files.folder).free
    if need > free:
        hint = "; --dtype float16 needs half of it" if dtype == "float32" else ""
        raise ChiasmError(
            f"the features will take about {need / 1e9:,.1f} GB, but {files.folder} has {free / 1e9:,.1f} GB free{hint}"
        )


def load_keys(file: Path) -> list[dict[str, Any]]:
    """The rows' keys, in order: {"row": of the source, "sample": its key, "index": which of its pictures or texts}."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def load_rows(file: Path) -> NDArray[np.floating]:
    """The rows of a finished or growing file, mapped."""
    rows: NDArray[np.floating] = np.load(file, mmap_mode="r")
    return rows
