"""Images as tokens of a vocabulary: the codes of an image tokenizer, between a token that begins an image and one that
ends it (CM3, arXiv:2201.07520; Chameleon, arXiv:2405.09818)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chiasm.errors import DataError


@dataclass(frozen=True)
class ImageCodes:
    """The spelling of images in text. names: the token of each code, by its number. count: codes of an image.

    begin, end: the tokens around an image's codes.
    """

    names: tuple[str, ...]
    count: int
    begin: str
    end: str

    def in_vocabulary(self, id_of: Callable[[str], int]) -> CodeIds:
        """These tokens as ids of a vocabulary."""
        return CodeIds(tuple(id_of(name) for name in self.names), self.count, id_of(self.begin), id_of(self.end))


@dataclass(frozen=True)
class CodeIds:
    """The token ids that write images. ids: of each code, by its number. count: codes of an image.

    begin, end: the ids around an image's codes.
    """

    ids: tuple[int, ...]
    count: int
    begin: int
    end: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_codes", {token: code for code, token in enumerate(self.ids)})

    def parse(self, tokens: Sequence[int]) -> list[tuple[bool, list[int]]]:
        """Tokens in reading order as texts, (False, their ids), and images, (True, their codes).

        Raises DataError for codes outside of an image, and for an image with too few or too many.
        """
        codes: dict[int, int] = vars(self)["_codes"]
        parts: list[tuple[bool, list[int]]] = []
        at = 0
        while at < len(tokens):
            if tokens[at] == self.begin:
                inside = [codes.get(token, -1) for token in tokens[at + 1 : at + 1 + self.count]]
                after = at + 1 + self.count
                if -1 in inside or len(inside) < self.count or tokens[after : after + 1] != [self.end]:
                    raise DataError(f"the image that begins at token {at} has not {self.count} codes and an end")
                parts.append((True, inside))
                at = after + 1
                continue
            if tokens[at] in codes or tokens[at] == self.end:
                raise DataError(f"token {at} is a part of an image that did not begin")
            if not parts or parts[-1][0]:
                parts.append((False, []))
            parts[-1][1].append(tokens[at])
            at += 1
        return parts
