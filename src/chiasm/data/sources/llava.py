"""LLaVA's instruction data: conversations about pictures, a JSON list (Liu et al. 2023, arXiv:2304.08485)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chiasm.data.files import Rows, json_lines, json_list, picture
from chiasm.data.locations import Location
from chiasm.data.sample import Part, Sample, Text
from chiasm.data.source import Source
from chiasm.errors import DataError

PLACEHOLDER = "<image>"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_READERS = {".json": json_list, ".jsonl": json_lines}


@dataclass(frozen=True)
class Llava(Source):
    """One sample a conversation: its texts and pictures in reading order, the assistant's turns being what is learned.

    path: a .json file with one list of rows, or a .jsonl file with one row a line. A row holds "id", "conversations"
        ([{"from": "human" or "gpt", "value": "..."}, ...]) and, unless it is text alone, "image": one name, or a list.
    images: the folder that holds the pictures; by default that of the file.
    Each `<image>` in a turn becomes the next picture of the row, in its place; line breaks around it are dropped, as
    they only set it apart and the chat template has its own. Ids repeat in LLaVA's own mixture, so the key is
    "row/id". A row with more or fewer placeholders than pictures raises DataError with its id and both counts.
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
        names = _names(row, where)
        wanted = sum(text.count(PLACEHOLDER) for _, text in turns)
        if wanted != len(names):
            raise DataError(f"{where} has {wanted} {PLACEHOLDER} placeholders but {len(names)} images; they must agree")
        folder = self.images if self.images is not None else self.path.parent
        images = iter([picture(folder, name) for name in names])
        parts: list[Part] = []
        for role, text in turns:
            for place, piece in enumerate(text.split(PLACEHOLDER)):
                if place:
                    parts.append(next(images))
                words = piece.strip("\n") if PLACEHOLDER in text else piece
                if words.strip():
                    parts.append(Text(words, role, target=role == "assistant"))
        meta = {key: value for key, value in row.items() if key not in ("conversations", "image")}
        return Sample(key=f"{index}/{row.get('id', '')}", parts=tuple(parts), meta=meta)


def _turns(row: dict[str, Any], where: str) -> list[tuple[str, str]]:
    """(role, text) of each turn."""
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


def _names(row: dict[str, Any], where: str) -> list[str]:
    image = row.get("image")
    names = [] if image is None else image if isinstance(image, list) else [image]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: 'image' must name a file, or several in a list, not {image!r}")
    return names
