"""Word order: a caption against itself with its words in another order (COCO-Order and Flickr30k-Order of ARO).

Yuksekgonul et al. 2023, arXiv:2210.01936. The official script takes the first best score, and the true caption stands
first: a scorer that gives all captions one score gets 100% there. Here a tie of k earns 1/k; the facts hold both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from chiasm.data.files import json_lines
from chiasm.data.sample import Sample
from chiasm.errors import DataError
from chiasm.evaluation.choice import Choice, if_ties
from chiasm.evaluation.perturbations import perturbations, words_of
from chiasm.evaluation.request import Request, Response, ScoreRequest
from chiasm.evaluation.task import Measured

_TRIES = 20


@dataclass(frozen=True)
class WordOrder(Choice):
    """One item a caption, against reorderings of it: the four of ARO with tags, else the two that need none.

    captions: all of a sample's captions, or only the first.
    tags: a file of one object a line, {"caption": "...", "words": [...], "tags": [...]}, with Penn Treebank tags
        (spaCy's `tag_`); captions are found in it as they stand, and reordered as they were split there.
    A reordering that gives the caption itself again is drawn anew; one that can give nothing else is left out, and a
    caption of which none is left is not asked. All candidates, the true one too, are in lower case and without marks.
    """

    captions: Literal["all", "first"] = "all"
    tags: Path | None = None
    seed: int = 0

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        captions = sample.captions if self.captions == "all" else sample.captions[:1]
        if not captions:
            raise DataError(f"sample '{sample.key}' has no captions to reorder")
        for number, caption in enumerate(captions):
            true, false = self._reordered(f"{sample.key}/{number}", caption)
            if false:
                texts = tuple((text,) for text in (true, *false))
                yield ScoreRequest(f"{sample.key}/{number}", (sample.image,), texts, (0,), sample_key=sample.key)

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        facts = if_ties(requests, responses, "won, as officially")
        return Measured((self.accuracy(requests, responses),), facts)

    def _reordered(self, key: str, caption: str) -> tuple[str, list[str]]:
        """The caption as it is scored, and its reorderings, none twice."""
        seed = int.from_bytes(hashlib.blake2b(f"{self.seed}/{key}".encode(), digest_size=8).digest())
        rng, words, tags = np.random.default_rng(seed), words_of(caption), None
        if self.tags is not None:
            if caption not in self._tagged:
                raise DataError(f"{self.tags} has no tags for the caption '{caption}' of '{key}'")
            words, tags = self._tagged[caption]
        true = " ".join(words_of(" ".join(words)))
        found: dict[str, None] = {}
        for perturb in perturbations(words, tags):
            tries = (" ".join(words_of(" ".join(perturb(rng)))) for _ in range(_TRIES))
            if (other := next((text for text in tries if text != true and text not in found), None)) is not None:
                found[other] = None
        return true, list(found)

    @cached_property
    def _tagged(self) -> dict[str, tuple[list[str], list[str]]]:
        """Words and tags by caption."""
        assert self.tags is not None
        if not self.tags.is_file():
            raise DataError(f"there is no file of tags at {self.tags}; give one object a line: caption, words, tags")
        rows, found = json_lines(self.tags), {}
        for at in range(len(rows)):
            row = rows[at]
            caption, words, tags = (row.get(name) for name in ("caption", "words", "tags"))
            sound = isinstance(caption, str) and all(
                isinstance(several, list) and all(isinstance(word, str) for word in several)
                for several in (words, tags)
            )
            if not sound or not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
                raise DataError(f"{rows.where(at)} needs a caption, and as many words as tags")
            found[str(caption)] = (words, tags)
        return found
