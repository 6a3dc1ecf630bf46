"""WebDataset shards: .tar files whose members 17.jpg, 17.txt, 17.json, named alike up to a dot, are one sample."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import PIL.Image

from chiasm.data.files import to_json, to_text
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BLOCK = 512  # bytes; a tar file is made of such blocks, and one of zeros ends it
_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # formats that go into shards as they are


@dataclass(slots=True)
class _Entry:
    """A sample in a shard: where the members are, by ending, as (first byte, size); or why it cannot be read."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class WebDataset(Source):
    """One sample a key, in the order of the shards; the key is "shard/key".

    shards: uncompressed .tar files, as paths or patterns: "data/shard-{000000..000009}.tar", "{train,val}.tar".
    pictures: the endings of members that are pictures; one part each, in the order of the shard.
    Captions are a .txt member (one) and "caption" or "captions" of a .json member, each text once; what else the .json
    holds is `meta`. A .cls member is meta["label"], a number where it is one. Other members are passed over.
    A shard is indexed once, by the headers of its members, and read at random afterwards; nothing is ever unpacked.
    Raises DataError for a shard that is absent, empty or no tar file; and when a sample is read that has no picture,
    neither caption nor label, a key that another has, or a member that is cut short, a link, or named out of the
    archive. The other samples of such a shard stay readable.
    """

    shards: str | tuple[str, ...]
    pictures: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")

    def __post_init__(self) -> None:
        if not self._paths:
            raise DataError("webdataset: name at least one shard")
        for path in self._paths:
            if not path.is_file():
                raise DataError(f"there is no shard at {path}; shards are local .tar files")

    @cached_property
    def _paths(self) -> list[Path]:
        patterns = [self.shards] if isinstance(self.shards, str) else self.shards
        return [Path(path) for pattern in patterns for path in expand(pattern)]

    @cached_property
    def _entries(self) -> list[_Entry]:
        return [entry for path in self._paths for entry in _index(path)]

    @cached_property
    def _root(self) -> Path:
        """The folder that all shards are in: keys need not be longer than what lies below it."""
        return Path(os.path.commonpath([path.parent.absolute() for path in self._paths]))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        where = f"{entry.shard}, sample '{entry.key}'"
        if entry.problem:
            raise DataError(f"{where}: {entry.problem}")
        images = tuple(Image(_read(entry, ending)) for ending in entry.members if ending in self.pictures)
        if not images:
            raise DataError(f"{where} has no picture, only {_endings(entry)}")
        captions = [to_text(_read(entry, "txt"), f"{where}, .txt").strip()] if "txt" in entry.members else []
        meta: dict[str, object] = {}
        if "json" in entry.members:
            told, meta = _facts(to_text(_read(entry, "json"), f"{where}, .json"), f"{where}, .json")
            captions += told
        if "cls" in entry.members:
            label = to_text(_read(entry, "cls"), f"{where}, .cls").strip()
            meta["label"] = int(label) if label.isdecimal() else label
        captions = list(dict.fromkeys(caption for caption in captions if caption))
        if not captions and "cls" not in entry.members:
            raise DataError(f"{where} has neither a caption nor a label, only {_endings(entry)}")
        shard = entry.shard.absolute().relative_to(self._root).with_suffix("").as_posix()
        return Sample(key=f"{shard}/{entry.key}", parts=images, captions=tuple(captions), meta=meta)


def expand(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for, in order: `{000..010}` a range, `{a,b}` a choice."""
    pieces = _BRACES.split(pattern)
    choices = [[piece] if place % 2 == 0 else _choices(piece, pattern) for place, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inner: str, pattern: str) -> list[str]:
    bounds = _RANGE.fullmatch(inner)
    if bounds is None:
        if "," not in inner:
            raise DataError(f"'{pattern}': braces hold a range, {{000..009}}, or a choice, {{a,b}}, not {{{inner}}}")
        return inner.split(",")
    first, last = bounds.groups()
    padded = any(bound.startswith("0") and bound != "0" for bound in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]


def _index(path: Path) -> list[_Entry]:
    """The samples of a shard, from the headers of its members."""
    entries: list[_Entry] = []
    try:
        with tarfile.open(path, "r:") as archive:
            size = path.stat().st_size
            keys: set[str] = set()
            for member in archive:
                _add(entries, keys, member, path, size)
            end = archive.offset
    except (tarfile.TarError, ValueError) as error:  # ValueError: a number in a header that is none
        if not entries:
            raise DataError(f"the shard {path} is not a tar file that can be read ({error}); write it again") from error
        end = path.stat().st_size
    with path.open("rb") as file:
        file.seek(end)
        whole = file.read(_BLOCK) == bytes(_BLOCK)  # tarfile itself takes any end, and broken headers, for the end
    if not entries:
        raise DataError(f"the shard {path} holds no samples; write it again, or leave it out")
    if not whole and not entries[-1].problem:
        lost = f"the shard is cut short or broken at byte {end}, and what followed is lost; copy it again"
        entries.append(_Entry(path, f"after {entries[-1].key}", problem=lost))
    return entries


def _add(entries: list[_Entry], keys: set[str], member: tarfile.TarInfo, shard: Path, size: int) -> None:
    """Puts a member to the sample it belongs to: the last one, or a new one."""
    folder, slash, file = member.name.removeprefix("./").rpartition("/")
    stem, _, ending = file.partition(".")
    if member.isdir() or not stem or not ending:  # such as .DS_Store; the webdataset package passes them over, too
        return
    key, ending = folder + slash + stem, ending.lower()
    if not entries or entries[-1].key != key or ending in entries[-1].members:
        entries.append(
            _Entry(shard, key, problem="another sample of the shard has the same key" if key in keys else "")
        )
        keys.add(key)
    entry = entries[-1]
    entry.members[ending] = (member.offset_data, member.size)
    if not entry.problem:
        entry.problem = _problem(member, size)


def _problem(member: tarfile.TarInfo, size: int) -> str:
    """Why a member cannot be read; "" if it can."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"its member '{member.name}' is named out of the archive"
    if not member.isfile() or member.issparse():
        return f"its member '{member.name}' is a link or a device; shards may only hold plain files"
    if member.offset_data + member.size > size:
        return f"its member '{member.name}' is cut short, as the shard is; copy it again"
    return ""


def _read(entry: _Entry, ending: str) -> bytes:
    first, size = entry.members[ending]
    try:
        with entry.shard.open("rb") as file:
            file.seek(first)
            return file.read(size)
    except OSError as error:
        raise DataError(f"cannot read the shard {entry.shard}: {error.strerror}") from error


def _endings(entry: _Entry) -> str:
    return ", ".join(f".{ending}" for ending in entry.members)


def _facts(text: str, where: str) -> tuple[list[str], dict[str, object]]:
    """The captions that a .json member holds, and what else."""
    value = to_json(text, where)
    if not isinstance(value, dict):
        raise DataError(f"{where} must hold an object, not {type(value).__name__}")
    captions: list[str] = []
    for key in ("caption", "captions"):
        told = value.pop(key, None)
        texts = [] if told is None else [told] if isinstance(told, str) else told
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            raise DataError(f"{where}: '{key}' must be a text or a list of texts")
        captions += [one.strip() for one in texts]
    return captions, value


def write_shards(samples: Iterable[Sample], folder: Path, per_shard: int = 1000) -> list[Path]:
    """Writes samples of one picture each as shard-000000.tar, shard-000001.tar, ... and returns their paths.

    Members are the picture as it is (PNG where it is no JPEG, PNG or WebP), the first caption as .txt, the label in
    `meta`, if any, as .cls, and all captions, the sample's key and its `meta` as .json. Boxes, questions and negatives
    have no place in this format. A shard appears when it is whole; equal samples give equal bytes.
    Raises DataError for a sample that cannot be written so, and where the folder holds shards already.
    """
    if per_shard < 1:
        raise DataError(f"a shard holds at least one sample, not {per_shard}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("shard-*.tar")):
        raise DataError(f"{folder} holds shards already; new ones beside them would be read as one set")
    left, written = iter(samples), 0
    paths: list[Path] = []
    while some := list(itertools.islice(left, per_shard)):
        path = folder / f"shard-{len(paths):06d}.tar"
        part = path.with_suffix(".part")
        with tarfile.open(part, "w") as archive:
            for sample in some:
                for ending, content in _members(sample):
                    member = tarfile.TarInfo(f"{written:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                written += 1
        paths.append(part.rename(path))
    return paths


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """(ending, content) of what a shard holds of a sample."""
    label = sample.meta.get("label")
    if not sample.captions and label is None:
        raise DataError(f"sample '{sample.key}' has neither a caption nor a label to write")
    content = sample.image.encoded()
    _ = sample.image.size  # so that a broken picture is named as such
    with PIL.Image.open(io.BytesIO(content)) as picture:
        ending = _KEPT.get(picture.format or "")
    if ending is None:
        buffer = io.BytesIO()
        sample.image.decode().save(buffer, format="PNG")
        ending, content = "png", buffer.getvalue()
    yield ending, content
    if sample.captions:
        yield "txt", sample.captions[0].encode()
    if label is not None:
        yield "cls", str(label).encode()
    try:
        facts = json.dumps({**sample.meta, "key": sample.key, "captions": sample.captions}, ensure_ascii=False)
    except TypeError as error:
        raise DataError(f"sample '{sample.key}' has meta that JSON cannot hold: {error}") from error
    yield "json", facts.encode()
