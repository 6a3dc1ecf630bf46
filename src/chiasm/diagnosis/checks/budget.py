"""Chats longer than the context, and how much of them is pictures."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, Rows
from chiasm.diagnosis.histogram import histogram
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting


class Budget(Check):
    """Counts the tokens and slots of every sample; nothing is decoded for it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._lengths, self._slots = array("l"), array("l")
        self._long, self._filled, self._refused = Rows(), Rows(), Rows()

    def see(self, seen: Seen) -> None:
        if seen.refused:
            self._refused.add(seen.name, seen.refused, seen.images)
        if seen.chat is None or self.setting.chats is None:
            return
        chat, context = seen.chat, self.setting.chats.settings.context
        self._lengths.append(chat.tokens)
        self._slots.append(chat.slots)
        told = f"{chat.tokens:,} tokens, {chat.slots:,} of them for {len(seen.pictures)} pictures"
        if chat.slots > context:
            self._filled.add(seen.name, told, seen.images)
        elif chat.tokens > context:
            self._long.add(seen.name, told, seen.images)

    def findings(self) -> Iterator[Finding]:
        if self.setting.chats is None:
            return
        of, context = len(self._lengths) + self._refused.count, self.setting.chats.settings.context
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
        if self._lengths:
            lengths, slots = np.asarray(self._lengths), np.asarray(self._slots)
            middle, most, pictures = float(np.median(lengths)), int(lengths.max()), slots.sum() / lengths.sum()
            yield self.found(
                "note",
                f"lengths of chats: {middle:,.0f} tokens in the middle, {most:,} at most; {pictures:.0%} for pictures",
                figures={"median": middle, "longest": float(most), "pictures": float(pictures)},
                lines=histogram(lengths, mark=context),
                count=len(lengths),
                of=len(lengths),
            )
