"""Checks for images that occur more than once in the training data, as the same bytes or as near copies."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import KEPT, Finding, FlaggedRow, FlaggedRows, Severity
from chiasm.diagnosis.prints import MOST, Prints, alike
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting
from chiasm.errors import DataError

_CONFIRMED = 500  # candidates that are looked at again; of more, only the first


class ImagesCheck(Check):
    """Finds repeated images by their hashes and prints, 128 bytes an image."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._keys, self._indexes, self._prints = array("q"), array("q"), Prints()

    def see(self, seen: Seen) -> None:
        for image in seen.decoded:
            self._keys.append(key_number(image.key))
            self._indexes.append(seen.index)
            self._prints.add(len(self._keys) - 1, image.print_)

    def findings(self) -> Iterator[Finding]:
        keys, indexes = np.asarray(self._keys), np.asarray(self._indexes)
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        # Chats often ask several times about one picture.
        severity: Severity = "warning" if self.setting.contrastive else "note"
        if (again := int((counts - 1).sum())) > 0:
            rows = FlaggedRows(count=again)
            for group in np.argsort(-counts, kind="stable")[:KEPT]:
                if counts[group] > 1:
                    rows.kept.append(self._row(indexes[inverse == group].tolist(), f"{counts[group]:,} times"))
            yield self.found(
                severity,
                "pictures that are there again, byte by byte",
                "They weigh more than others, and in a contrastive batch they deny each other's captions.",
                "Keep one sample of each, with all captions.",
                rows=rows,
                of=len(keys),
            )
        near = FlaggedRows()
        for candidate, (first, second) in enumerate(self._prints.pairs()):
            if candidate == _CONFIRMED:
                break
            if keys[first] != keys[second]:
                row = self._row([int(indexes[first]), int(indexes[second])], "alike")
                if len(row.images) == 2 and alike(*row.images):
                    near.add(row.name, row.detail, row.images)
        if near.count:
            yield self.found(
                "note",
                "pairs of pictures that are nearly alike",
                "Copies in another size or quality weigh like further pictures, but teach nothing more."
                + self._limits(),
                "Keep the better one of each.",
                rows=near,
                of=len(keys),
            )

    def _limits(self) -> str:
        return f" Only {MOST:,} pictures, evenly spread, were compared." if len(self._prints) > MOST else ""

    def _row(self, indexes: list[int], detail: str) -> FlaggedRow:
        shown = list(dict.fromkeys(indexes))[:5]
        samples = []
        for index in shown:
            try:
                samples.append(self.setting.recipe.data.train[index])
            except DataError:  # read once before; a source that changes meanwhile is not our finding
                continue
        more = f" and {len(indexes) - 5:,} more" if len(indexes) > 5 else ""
        named = ", ".join(f"{index} ({sample.key})" for index, sample in zip(shown, samples, strict=False))
        return FlaggedRow(
            f"training {named}{more}", detail, tuple(sample.images[0] for sample in samples if sample.images)[:2]
        )


def key_number(key: str) -> int:
    """The first 64 bits of a picture's key."""
    return int.from_bytes(bytes.fromhex(key)[:8], signed=True)
