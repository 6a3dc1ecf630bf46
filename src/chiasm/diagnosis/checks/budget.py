"""Checks for chats longer than the context or than a batch, and reports the share of image tokens."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from chiasm.data.processor import Cost
from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.histogram import histogram
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting


class Budget(Check):
    """Compares every sample's tokens and image tokens with the context and with a batch's bounds; decodes nothing."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._lengths, self._image_tokens = array("l"), array("l")
        self._context = 0  # that of the processor, known by the first sample that it takes
        self._long, self._filled, self._refused, self._over = FlaggedRows(), FlaggedRows(), FlaggedRows(), FlaggedRows()

    def see(self, seen: Seen) -> None:
        if seen.refused:
            self._refused.add(seen.name, seen.refused, seen.images)
        if seen.preview is None:
            return
        cost, self._context = Cost(seen.preview.tokens, seen.preview.image_tokens), seen.preview.limit
        self._lengths.append(cost.tokens)
        self._image_tokens.append(cost.image_tokens)
        detail = f"{cost.tokens:,} tokens, {cost.image_tokens:,} of them for {len(seen.decoded)} pictures"
        if cost.image_tokens > self._context:
            self._filled.add(seen.name, detail, seen.images)
        elif cost.tokens > self._context:
            self._long.add(seen.name, detail, seen.images)
        elif (budget := self.setting.recipe.data.budget) is not None and not budget.holds(cost):
            self._over.add(seen.name, detail, seen.images)

    def findings(self) -> Iterator[Finding]:
        of, context = len(self._lengths) + self._refused.count, self._context
        if self._refused.count:
            why = "Training leaves such samples out and counts them as unreadable."
            mend = "Mend the samples, or the chat template."
            title = "samples that the processor refuses"
            yield self.found("error", title, why, mend, rows=self._refused, of=of)
        if self._filled.count:
            yield self.found(
                "error",
                f"pictures that take more than the context of {context:,} tokens by themselves",
                "No word fits beside them; a sample is never cut, so training leaves it out.",
                "Give fewer or smaller pictures, or set a smaller limit in processor.layout.",
                rows=self._filled,
                of=of,
            )
        if self._long.count:
            yield self.found(
                "error",
                f"samples longer than the context of {context:,} tokens",
                "A sample is never cut, so training leaves it out, and stops where there are many.",
                f"Raise processor.context (the longest has {max(self._lengths):,}), or split the samples.",
                rows=self._long,
                of=of,
            )
        if self._over.count:
            allowed = self._over.count / of <= self.setting.recipe.data.max_skipped
            yield self.found(
                "warning" if allowed else "error",
                f"samples that alone need more than a batch holds, {self.setting.recipe.data.budget}",
                "Training leaves such samples out, and stops where there are more than data.max_skipped. Several "
                "processes share a batch, so there may be more of them there.",
                f"Raise data.batch_tokens (the longest has {max(self._lengths):,}) or data.batch_image_tokens.",
                rows=self._over,
                of=of,
            )
        if self._lengths:
            lengths, image_tokens = np.asarray(self._lengths), np.asarray(self._image_tokens)
            middle, most, pictured = (
                float(np.median(lengths)),
                int(lengths.max()),
                image_tokens.sum() / lengths.sum(),
            )
            yield self.found(
                "note",
                f"lengths of chats: {middle:,.0f} tokens in the middle, {most:,} at most; {pictured:.0%} for pictures",
                figures={"median": middle, "longest": float(most), "pictures": float(pictured)},
                lines=histogram(lengths, limit=context),
                count=len(lengths),
                of=len(lengths),
            )
