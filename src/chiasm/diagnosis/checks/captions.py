"""Checks for empty captions, and for captions that several samples share."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import KEPT, Finding, FlaggedRow, FlaggedRows
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting

_MANY = 0.1  # share of samples whose caption another has, above which a contrastive loss is spoiled


class CaptionsCheck(Check):
    """Finds empty and shared captions by their hashes, 16 bytes a caption."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._hashes, self._indexes = array("q"), array("q")
        self._empty, self._samples = FlaggedRows(), 0

    def see(self, seen: Seen) -> None:
        if seen.sample is None:
            return
        captions = seen.sample.captions
        self._samples += bool(captions)
        for caption in dict.fromkeys(captions):  # a caption that a sample has twice is no harm
            if caption.strip():
                self._hashes.append(text_hash(caption))
                self._indexes.append(seen.index)
            else:
                self._empty.add(seen.name, "an empty caption", seen.images)

    def findings(self) -> Iterator[Finding]:
        if self._empty.count:
            yield self.found(
                "error",
                "empty captions",
                "They teach that a picture is nothing, and are all equal, so they deny each other.",
                "Take the captions out.",
                rows=self._empty,
                of=self._samples,
            )
        hashes, indexes = np.asarray(self._hashes), np.asarray(self._indexes)
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        shared = counts[inverse] > 1
        samples = len(np.unique(indexes[shared]))
        if not samples:
            return
        rows = FlaggedRows(count=samples)
        for group in np.argsort(-counts, kind="stable")[:KEPT]:
            if counts[group] > 1:
                members = indexes[inverse == group]
                rows.kept.append(self._row(int(hashes[inverse == group][0]), members))
        contrastive = self.setting.contrastive and samples > _MANY * self._samples
        yield self.found(
            "warning" if contrastive else "note",
            "samples that share a caption with another",
            "Where two of them meet in a batch, a contrastive loss calls the right caption of one wrong.",
            "Take boilerplate out; give captions that tell pictures apart.",
            rows=rows,
            of=self._samples,
        )

    def _row(self, hash_: int, members: NDArray[np.int64]) -> FlaggedRow:
        sample = self.setting.recipe.data.train[int(members[0])]
        text = next((caption for caption in sample.captions if text_hash(caption) == hash_), "")
        named = ", ".join(str(index) for index in members[:5].tolist())
        more = f" and {len(members) - 5:,} more" if len(members) > 5 else ""
        return FlaggedRow(f"training {named}{more}", f"{len(members):,} times “{text}”", sample.images)


def text_hash(text: str) -> int:
    """A hash of 64 bits of a text, its case and its runs of blanks disregarded."""
    same = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(same.encode(), digest_size=8).digest(), signed=True)
