"""LLaVA's instruction data: conversations about images and videos, a JSON list (Liu et al. 2023, arXiv:2304.08485)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chiasm.data.files import Rows, json_lines, json_list, picture, video
from chiasm.data.locations import Location
from chiasm.data.sample import Image, Part, Sample, Text, Video
from chiasm.data.source import Source
from chiasm.errors import DataError

PLACEHOLDER, VIDEO = "<image>", "<video>"
_SHOWN = {PLACEHOLDER: "image", VIDEO: "video"}  # the key under which a row names what stands there
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_READERS = {".json": json_list, ".jsonl": json_lines}


@dataclass(frozen=True)
class Llava(Source):
    """One sample a conversation: its texts and pictures in reading order, the assistant's turns being what is learned.

    path: a .json file with one list of rows, or a .jsonl file with one row a line. A row holds "id", "conversations"
        ([{"from": "human" or "gpt", "value": "..."}, ...]) and, unless it is text alone, "image": one name, or a list;
        and "video" likewise.
    images: the folder that holds the images and videos; by default that of the file.
    Each `<image>` in a turn becomes the next image of the row, in its place, each `<video>` the next video; line breaks
    around them are dropped, as they only set them apart and the chat template has its own. Ids repeat in LLaVA's own
    mixture, so the key is "row/id". A row with more or fewer placeholders than images, or videos, raises DataError with
    its id and both counts.
    """

    path: Location
    images: Location | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file() or self.path.suffix not in _READERS:
            raise DataError(
                f"there is no file of conversations at {self.path}; give the path of a .json or .jsonl file"
            )
        if self.images is not None and not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the pictures of {self.path}")

    @cached_property
    def _rows(self) -> Rows:
        return _READERS[self.path.suffix](self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        row = self._rows[index]
        where = f"{self._rows.where(index)} (id {row.get('id')!r})"
        turns = _turns(row, where)
        folder = self.images if self.images is not None else self.path.parent
        shown: dict[str, Iterator[Image | Video]] = {}
        for mark, key in _SHOWN.items():
            names = _names(row, key, where)
            wanted = sum(text.count(mark) for _, text in turns)
            if wanted != len(names):
                raise DataError(f"{where} has {wanted} {mark} placeholders but {len(names)} {key}s; they must agree")
            shown[mark] = iter(
                [picture(folder, name) if mark == PLACEHOLDER else video(folder, name) for name in names]
            )
        parts: list[Part] = []
        for role, text in turns:
            pieces = re.split("|".join(f"({re.escape(mark)})" for mark in _SHOWN), text)
            for piece in (piece for piece in pieces if piece is not None):
                words = piece.strip("\n") if len(pieces) > 1 else piece
                if piece in shown:
                    parts.append(next(shown[piece]).placed(role))
                elif words.strip():
                    parts.append(Text(words, role, target=role == "assistant"))
        meta = {key: value for key, value in row.items() if key not in ("conversations", *_SHOWN.values())}
        return Sample(key=f"{index}/{row.get('id', '')}", parts=tuple(parts), meta=meta)


def _turns(row: dict[str, Any], where: str) -> list[tuple[str, str]]:
    """The turns of a conversation as (role, text)."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where} has no list of turns under 'conversations'")
    found = []
    for number, turn in enumerate(turns):
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None or not isinstance(turn.get("value"), str):
            known = ", ".join(_ROLES)
            raise DataError(f"{where}: turn {number} needs 'from' (one of {known}) and a text in 'value'")
        if not turn["value"].strip():
            raise DataError(f"{where}: turn {number}, by the {role}, is empty")
        found.append((role, turn["value"]))
    return found


def _names(row: dict[str, Any], key: str, where: str) -> list[str]:
    given = row.get(key)
    names = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: '{key}' must name a file, or several in a list, not {given!r}")
    return names
