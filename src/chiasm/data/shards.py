"""Where the samples of a .tar shard lie in it: an index made from the headers of its members, once."""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

from chiasm.data.file_cache import FileCache, cache_folder, copy_name, write_whole
from chiasm.data.files import read_json
from chiasm.data.locations import Location, Url
from chiasm.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BLOCK = 512  # bytes; a tar file is made of such blocks, and one of zeros ends it


@dataclass(slots=True)
class ShardEntry:
    """A sample in a shard: where the members are, by ending, as (first byte, size); or why it cannot be read."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""

    def endings(self) -> str:
        """The endings of its members in words."""
        return ", ".join(f".{ending}" for ending in self.members)


class Entries:
    """The samples of a shard, in arrays: some 90 bytes a sample, where objects take 770. Millions are kept."""

    def __init__(self, entries: Iterable[ShardEntry]) -> None:
        self._problems: dict[int, str] = {}
        kinds: dict[str, int] = {}  # a number for each ending
        keys = bytearray()
        # Sample i has the key keys[key_ends[i - 1] : key_ends[i]], and such a range of members.
        self._key_ends, self._member_ends = array("q", [0]), array("q", [0])
        self._kinds, self._firsts, self._sizes = array("i"), array("q"), array("q")
        for index, entry in enumerate(entries):
            keys += entry.key.encode("utf-8", "surrogateescape")
            for ending, (first, size) in entry.members.items():
                self._kinds.append(kinds.setdefault(ending, len(kinds)))
                self._firsts.append(first)
                self._sizes.append(size)
            self._key_ends.append(len(keys))
            self._member_ends.append(len(self._kinds))
            if entry.problem:
                self._problems[index] = entry.problem
        self._keys, self._names = bytes(keys), tuple(kinds)

    def __len__(self) -> int:
        return len(self._key_ends) - 1

    def __getitem__(self, index: int) -> ShardEntry:
        index = range(len(self))[index]
        key = self._keys[self._key_ends[index] : self._key_ends[index + 1]].decode("utf-8", "surrogateescape")
        members = range(self._member_ends[index], self._member_ends[index + 1])
        found = {self._names[self._kinds[at]]: (self._firsts[at], self._sizes[at]) for at in members}
        return ShardEntry(key, found, self._problems.get(index, ""))


def expand(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for, in order: `{000..010}` a range, `{a,b}` a choice."""
    pieces = _BRACES.split(pattern)
    choices = [[piece] if number % 2 == 0 else _choices(piece, pattern) for number, piece in enumerate(pieces)]
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


def index_of(shard: Location, copies: FileCache) -> Entries:
    """The samples of a shard, in order. That of a shard in a store is kept, so that it is fetched for this only once.

    Raises DataError for a shard that is absent, empty or no tar file. One that is cut short has its whole samples, and
    a last entry that tells what is lost.
    """
    if isinstance(shard, Url):
        kept = cache_folder() / "indexes" / f"{copy_name(shard)}.json"
        if kept.exists():
            rows = read_json(kept)
            return Entries(
                ShardEntry(key, {e: (a, n) for e, (a, n) in members.items()}, no) for key, members, no in rows
            )
        with copies.open(shard) as file:
            entries = read_index(shard, file)
        rows = [(entry.key, entry.members, entry.problem) for entry in entries]
        write_whole(kept, json.dumps(rows, ensure_ascii=False).encode())
        return Entries(entries)
    with shard.open("rb") as file:
        return Entries(read_index(shard, file))


def read_index(shard: Location, file: BinaryIO) -> list[ShardEntry]:
    """The samples of a shard from the headers of its members."""
    entries: list[ShardEntry] = []
    size = file.seek(0, 2)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            keys: set[str] = set()
            for member in archive:
                _add(entries, keys, member, size)
            end = archive.offset
    except (tarfile.TarError, ValueError) as error:  # ValueError: a number in a header that is none
        if not entries:
            raise DataError(
                f"the shard {shard} is not a tar file that can be read ({error}); write it again"
            ) from error
        end = size
    file.seek(end)
    whole = file.read(_BLOCK) == bytes(_BLOCK)  # tarfile itself takes any end, and broken headers, for the end
    if not entries:
        raise DataError(f"the shard {shard} holds no samples; write it again, or leave it out")
    if not whole:
        _tell_the_cut(entries, end, size)
    return entries


def _tell_the_cut(entries: list[ShardEntry], end: int, size: int) -> None:
    """Marks the last entry of a shard that is cut short as unreadable: it counts as one sample, and stands for many."""
    last = entries[-1].members
    in_member = any(first + length > size for first, length in last.values())
    # With fewer members than the one before, the last sample lost some between two of them.
    in_sample = len(entries) > 1 and last.keys() < entries[-2].members.keys()
    if not (in_member or in_sample):
        entries.append(ShardEntry(f"after {entries[-1].key}"))
    kept = sum(not entry.problem for entry in entries[:-1])
    entries[-1].problem = (
        f"the shard is cut short or broken at byte {min(end, size)}; {kept} whole samples before that are kept, "
        "and all that followed is lost; copy it again"
    )


def _add(entries: list[ShardEntry], keys: set[str], member: tarfile.TarInfo, size: int) -> None:
    """Puts a member to the sample it belongs to: the last one, or a new one."""
    folder, slash, file = member.name.removeprefix("./").rpartition("/")
    stem, _, ending = file.partition(".")
    if member.isdir() or not stem or not ending:  # such as .DS_Store; the webdataset package passes them over, too
        return
    key, ending = folder + slash + stem, ending.lower()
    if not entries or entries[-1].key != key or ending in entries[-1].members:
        again = f"another sample of the shard has the same key '{key}'; only the first is read" if key in keys else ""
        entries.append(ShardEntry(key, problem=again))
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
        return f"its member '{member.name}' is cut short"
    return ""
