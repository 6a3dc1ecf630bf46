"""WebDataset shards: .tar files whose members 17.jpg, 17.txt, 17.json, named alike up to a dot, are one sample."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from chiasm.data import decoding
from chiasm.data.file_cache import FileCache, cache_folder
from chiasm.data.files import to_json, to_text
from chiasm.data.image import Image
from chiasm.data.locations import Location, Url, place, short_names
from chiasm.data.order import Blocks
from chiasm.data.sample import Sample
from chiasm.data.shards import Entries, ShardEntry, expand, index_of
from chiasm.data.source import Source
from chiasm.errors import DataError

_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # formats that go into shards as they are
_AT_ONCE = 8  # shards of a store that are looked at or fetched at a time
_TOGETHER = 8
_GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class WebDataset(Source):
    """One sample a key, in the order of the shards; the key is "shard/key".

    shards: uncompressed .tar files, as paths, URLs or patterns: "data/shard-{000000..000009}.tar", "{train,val}.tar",
        "s3://bucket/train/{0000..0099}.tar".
    pictures: the endings of members that are pictures; one part each, in the order of the shard.
    together: shards whose samples are shuffled together (see data.order.BlockShuffle); by default 8 where any shard
        lies in a store, and all of them where all lie on this machine, as a disk reads any sample as fast as the next.
    gigabytes: of shards from stores that are kept in the cache folder; twice `together` of them stay in any case.
    Captions are a .txt member (one) and "caption" or "captions" of a .json member, each text once; what else the .json
    holds is `meta`. A .cls member is the label. Other members are passed over.
    A shard is indexed once, by the headers of its members, and read at random afterwards; nothing is ever unpacked.
    Of a store's shards whole copies are fetched, each in one request at the full speed of the line, and read here:
    ranges would cost a round trip for every sample of some 100 KB. An epoch fetches each shard once, none where all fit
    into `gigabytes`. To be indexed, every shard is fetched once before the first step; the index is kept.
    Raises DataError for a shard that is absent, empty, no tar file or named twice; and when a sample is read that has
    no picture, neither caption nor label, a key that another has, or a member that is cut short, a link, or named out
    of the archive. The other samples of such a shard stay readable.
    """

    shards: str | tuple[str, ...]
    pictures: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
    together: int | None = None
    gigabytes: float = 20.0

    def __post_init__(self) -> None:
        if not self._locations:
            raise DataError("webdataset: name at least one shard")
        if (self.together is not None and self.together < 1) or self.gigabytes < 0:
            raise DataError("webdataset: together must be at least 1, and gigabytes not negative")
        name, times = Counter(str(location) for location in self._locations).most_common(1)[0]
        if times > 1:
            raise DataError(f"the shard {name} is named {times} times; each of its samples would be there as often")
        asked = [location for location in self._locations if isinstance(location, Path)] or self._locations[
            :1
        ]  # a store is slow to ask
        for path in asked:
            if not path.is_file():
                raise DataError(f"there is no shard at {path}; give .tar files, by paths or URLs")

    @cached_property
    def _locations(self) -> list[Location]:
        patterns = [self.shards] if isinstance(self.shards, str) else self.shards
        return [place(name) for pattern in patterns for name in expand(pattern)]

    @cached_property
    def _copies(self) -> FileCache:
        return FileCache(cache_folder() / "shards", int(self.gigabytes * _GIGABYTE), 2 * (self.together or _TOGETHER))

    @cached_property
    def _shards(self) -> list[Entries]:
        """The samples of each shard."""
        with ThreadPoolExecutor(_AT_ONCE if self._remote else 1) as pool:
            return list(pool.map(lambda shard: index_of(shard, self._copies), self._locations))

    @cached_property
    def _ends(self) -> list[int]:
        """How many samples there are up to the end of each shard."""
        return list(accumulate(len(entries) for entries in self._shards))

    @cached_property
    def _names(self) -> list[str]:
        """The names of the shards in the keys of their samples."""
        return short_names(self._locations)

    @property
    def _remote(self) -> bool:
        return any(isinstance(location, Url) for location in self._locations)

    @property
    def in_shards(self) -> bool:
        return True

    def __len__(self) -> int:
        return self._ends[-1]

    def blocks(self) -> Blocks | None:
        if self.together is None and not self._remote:
            return None
        return Blocks(tuple(len(entries) for entries in self._shards), self.together or _TOGETHER)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        shard = self._locations[number]
        entry = self._shards[number][index - self._ends[number]]  # counted from the end of the shard
        where = f"{shard}, sample '{entry.key}'"
        if entry.problem:
            raise DataError(f"{where}: {entry.problem}")
        content = self._content(shard, entry)
        images = tuple(Image(content[ending]) for ending in entry.members if ending in self.pictures)
        if not images:
            raise DataError(f"{where} has no picture, only {entry.endings()}")
        captions = [to_text(content["txt"], f"{where}, .txt").strip()] if "txt" in content else []
        meta: dict[str, object] = {}
        if "json" in content:
            described, meta = _facts(to_text(content["json"], f"{where}, .json"), f"{where}, .json")
            captions += described
        label = to_text(content["cls"], f"{where}, .cls").strip() if "cls" in content else None
        captions = list(dict.fromkeys(caption for caption in captions if caption))
        if not captions and "cls" not in content:
            raise DataError(f"{where} has neither a caption nor a label, only {entry.endings()}")
        key = f"{self._names[number]}/{entry.key}"
        return Sample(key, images, captions=tuple(captions), label=label, meta=meta)

    def _content(self, shard: Location, entry: ShardEntry) -> dict[str, bytes]:
        """The members of a sample that are used, by their endings."""
        content = {}
        try:
            with self._open(shard) as file:
                for ending, (first, size) in entry.members.items():
                    if ending in self.pictures or ending in ("txt", "json", "cls"):
                        file.seek(first)
                        content[ending] = file.read(size)
        except OSError as error:
            raise DataError(f"cannot read the shard {shard}: {error.strerror}") from error
        return content

    def _open(self, shard: Location) -> BinaryIO:
        return self._copies.open(shard) if isinstance(shard, Url) else shard.open("rb")


def _facts(text: str, where: str) -> tuple[list[str], dict[str, object]]:
    """The captions that a .json member holds, and its other entries."""
    value = to_json(text, where)
    if not isinstance(value, dict):
        raise DataError(f"{where} must hold an object, not {type(value).__name__}")
    captions: list[str] = []
    for key in ("caption", "captions"):
        caption = value.pop(key, None)
        texts = [] if caption is None else [caption] if isinstance(caption, str) else caption
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: '{key}' must be a text or a list of texts")
        captions += [text.strip() for text in texts]
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
    while batch := list(itertools.islice(left, per_shard)):
        path = folder / f"shard-{len(paths):06d}.tar"
        part = path.with_suffix(".part")
        with tarfile.open(part, "w") as archive:
            for sample in batch:
                for ending, content in _members(sample):
                    member = tarfile.TarInfo(f"{written:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                written += 1
        paths.append(part.rename(path))
    return paths


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """The members that a shard holds of a sample, as (ending, content)."""
    if not sample.captions and sample.label is None:
        raise DataError(f"sample '{sample.key}' has neither a caption nor a label to write")
    content = sample.image.encoded()
    _ = sample.image.size  # so that a broken picture is named as such
    ending = _KEPT.get(decoding.format_of(content, sample.image.name))
    if ending is None:
        buffer = io.BytesIO()
        sample.image.decode().save(buffer, format="PNG")
        ending, content = "png", buffer.getvalue()
    yield ending, content
    if sample.captions:
        yield "txt", sample.captions[0].encode()
    if sample.label is not None:
        yield "cls", sample.label.encode()
    try:
        facts = json.dumps({**sample.meta, "key": sample.key, "captions": sample.captions}, ensure_ascii=False)
    except TypeError as error:
        raise DataError(f"sample '{sample.key}' has meta that JSON cannot hold: {error}") from error
    yield "json", facts.encode()
