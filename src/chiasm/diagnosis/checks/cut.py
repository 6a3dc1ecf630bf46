"""Checks for captions that the context cuts, and reports the lengths of all captions."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import tokenizers

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.histogram import histogram
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting

_AROUND = 60  # characters shown on each side of the cut


class Cut(Check):
    """Tokenises every caption that training may draw, without truncation."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._lengths, self._cut = array("l"), FlaggedRows()
        self._tokenizer = setting.processor.caption_tokenizer if setting.processor is not None else None
        self._whole: tokenizers.Tokenizer | None = None
        if self._tokenizer is not None:
            self._whole = tokenizers.Tokenizer.from_str(self._tokenizer.backend.to_str())
            self._whole.no_truncation()

    def see(self, seen: Seen) -> None:
        if self._whole is None or self._tokenizer is None:
            return
        context = self._tokenizer.rules.context
        texts = seen.texts[:1] if self.setting.recipe.data.captions == "first" else seen.texts
        for text, encoding in zip(texts, self._whole.encode_batch(list(texts)), strict=True):
            self._lengths.append(len(encoding.ids))
            if len(encoding.ids) > context:
                detail = f"{len(encoding.ids)} tokens: {self._shown(text)}"
                self._cut.add(seen.name, detail, seen.images)

    def _shown(self, text: str) -> str:
        """The text around the cut, which stands as ✂."""
        assert self._tokenizer is not None
        kept = self._tokenizer.backend.encode(text)
        end_of_kept = max((end for _, end in kept.offsets), default=0)
        before, after = text[:end_of_kept], text[end_of_kept:]
        start = "…" if len(before) > _AROUND else ""
        end = "…" if len(after) > _AROUND else ""
        return f"{start}{before[-_AROUND:]} ✂ {after[:_AROUND].lstrip()}{end}"

    def findings(self) -> Iterator[Finding]:
        if not self._lengths or self._tokenizer is None:
            return
        rules = self._tokenizer.rules
        lengths = np.asarray(self._lengths)
        if self._cut.count:
            yield self.found(
                "warning",
                f"captions longer than the context of {rules.context} tokens",
                "What stands behind the cut is never learned, though the picture shows it.",
                f"Raise processor.text.context and the tower's context (the longest has {int(lengths.max())} tokens), "
                "or shorten the captions.",
                rows=self._cut,
                of=len(lengths),
            )
        median, p95, longest = (float(length) for length in np.percentile(lengths, (50, 95, 100)))
        title = f"lengths of captions: {median:.0f} tokens in the middle, {p95:.0f} at 95%, {longest:.0f} at most"
        figures = {"median": median, "p95": p95, "longest": longest}
        why = ""
        if rules.padding == "context":
            padding = 1 - np.minimum(lengths, rules.context).mean() / rules.context
            why = f"This model pads to its context: {padding:.0%} of its text tokens are padding."
        elif longest < rules.context:
            why = f"None fills the context of {rules.context}."
        lines = histogram(lengths, limit=rules.context)
        yield self.found("note", title, why, figures=figures, lines=lines, count=len(lengths), of=len(lengths))
