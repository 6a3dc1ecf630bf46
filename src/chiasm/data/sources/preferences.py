"""Pairs of answers of which one is preferred, as DPO learns from them (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chiasm.data.files import Rows, json_lines, json_list, picture
from chiasm.data.image import Image
from chiasm.data.locations import Location
from chiasm.data.sample import Part, Preference, Sample, Text
from chiasm.data.source import Source
from chiasm.errors import DataError

_READERS = {".json": json_list, ".jsonl": json_lines}
_IMAGES = ("images", "image")
_READ = frozenset({"prompt", "question", "chosen", "rejected", *_IMAGES})
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Preferences(Source):
    """One sample a row: what is asked in `parts`, both answers in `preference`; the rest of the row is `meta`.

    path: a .json file with one list of rows, or a .jsonl file with one row a line. A row is in one of these forms:
        {"question": text, "chosen": text, "rejected": text}, RLAIF-V's: a user's turn and two assistant's turns;
        {"prompt": messages, "chosen": messages, "rejected": messages}, TRL's conversations, a message being
            {"role": ..., "content": a text, or a list of {"type": "image"} and {"type": "text", "text": ...}};
            without "prompt", the messages with which both answers begin are what is asked;
        {"prompt": text, "chosen": text, "rejected": text}, TRL's plain texts, without roles: no chat.
        Its images are named under "image" or "images", one name or a list.
    images: the folder that holds the images; by default that of the file.
    Where messages say at which places images stand, they must be as many as the row names; else images come first, in
    front of the first user's text. A row that is none of these, or whose answers are the same, raises DataError.
    """

    path: Location
    images: Location | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file() or self.path.suffix not in _READERS:
            raise DataError(f"there is no file of preferences at {self.path}; give the path of a .json or .jsonl file")
        if self.images is not None and not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the images of {self.path}")

    @cached_property
    def _rows(self) -> Rows:
        return _READERS[self.path.suffix](self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        row, where = self._rows[index], self._rows.where(index)
        folder = self.images if self.images is not None else self.path.parent
        images = [picture(folder, name) for name in _names(row, where)]
        prompt, chosen, rejected = _sides(row, where)
        parts = _with_images(prompt, images, where)
        try:
            preference = Preference(_answer(chosen, where), _answer(rejected, where))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        meta = {key: value for key, value in row.items() if key not in _READ}
        return Sample(key=str(index), parts=parts, preference=preference, meta=meta)


@dataclass(frozen=True)
class _Place:
    """Where the next image stands. role: of the message; "" where the row does not say at which place."""

    role: str = ""


_Item = Text | _Place


def _sides(row: dict[str, Any], where: str) -> tuple[list[_Item], list[_Item], list[_Item]]:
    """The prompt and both answers, as texts and image placeholders."""
    answers = [row.get(name) for name in ("chosen", "rejected")]
    asked = row.get("prompt", row.get("question"))
    if all(isinstance(answer, list) for answer in answers):
        sides = [[*_messages(answer, where)] for answer in answers]
        prompt = [*_messages(asked, where)] if asked is not None else _shared(*sides)
        rest = 0 if asked is not None else len(prompt)
        return prompt, sides[0][rest:], sides[1][rest:]
    if not isinstance(asked, str) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(
            f"{where} needs 'chosen' and 'rejected' beside 'prompt' or 'question', all as texts or as lists of messages"
        )
    role, answer_role = ("user", "assistant") if "prompt" not in row else ("", "")
    return [Text(asked, role)], *([Text(str(answer), answer_role)] for answer in answers)  # type: ignore[return-value]


def _messages(given: object, where: str) -> Iterator[_Item]:
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    for message in given if isinstance(given, list) else [given]:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if role not in _ROLES or not isinstance(content, str | list):
            raise DataError(f"{where}: a message needs 'role' (one of {', '.join(_ROLES)}) and 'content'")
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = block.get("type") if isinstance(block, dict) else None
            if kind == "image":
                yield _Place(role)
            elif kind == "text" and isinstance(block.get("text"), str):
                yield Text(block["text"], role)
            else:
                raise DataError(f"{where}: content is made of blocks of the types 'image' and 'text', not {block!r}")


def _shared(first: list[_Item], second: list[_Item]) -> list[_Item]:
    """The turns that both conversations begin with."""
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    return first[:same]


def _with_images(items: list[_Item], images: list[Image], where: str) -> tuple[Part, ...]:
    placeholders = sum(isinstance(item, _Place) for item in items)
    if placeholders not in (0, len(images)):
        raise DataError(f"{where} has {placeholders} places for images but names {len(images)}; they must agree")
    if not placeholders:
        first = next((at for at, item in enumerate(items) if isinstance(item, Text) and item.role != "system"), 0)
        items = [*items[:first], *[_Place()] * len(images), *items[first:]]
    rest = iter(images)
    return tuple(item if isinstance(item, Text) else next(rest).placed(item.role) for item in items)


def _answer(items: list[_Item], where: str) -> tuple[Part, ...]:
    """The texts of an answer, the assistant's (or all, outside of chats) being what is learned."""
    texts = [item for item in items if isinstance(item, Text)]
    if len(texts) != len(items):
        raise DataError(f"{where}: an answer holds an image, where only texts are read")
    return tuple(Text(text.text, text.role, target=text.role in ("assistant", "")) for text in texts)


def _names(row: dict[str, Any], where: str) -> list[str]:
    given: object = next((row[key] for key in _IMAGES if row.get(key) is not None), [])
    names: list[Any] = given if isinstance(given, list) else [given]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: 'image' must name a file, or 'images' several in a list, not {given!r}")
    return names
