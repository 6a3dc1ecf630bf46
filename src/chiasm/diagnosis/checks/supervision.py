"""Checks for chats with no target tokens, and reports the share of tokens that are targets."""

from __future__ import annotations

from collections.abc import Iterator

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRow, FlaggedRows, Severity
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting
from chiasm.diagnosis.spans import collapsed

_LITTLE = 0.01  # of the tokens


class Supervision(Check):
    """Counts target tokens, by the spans that the label mask is made of."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._samples = self._tokens = self._targets = self._image_tokens = 0
        self._none, self._example = FlaggedRows(), FlaggedRows()

    def see(self, seen: Seen) -> None:
        if seen.preview is None:
            return
        self._samples += 1
        self._tokens += seen.preview.tokens
        self._targets += seen.preview.target_tokens
        self._image_tokens += seen.preview.image_tokens
        if not seen.preview.target_tokens:
            self._none.add(seen.name, seen.preview.text[-160:], seen.images)
        elif not self._example.count:
            self._example.add(seen.name, self._marked(seen), seen.images)

    def _marked(self, seen: Seen) -> str:
        """The sample as the model reads it, what is learned between ⟦ and ⟧."""
        assert seen.preview is not None
        pieces = collapsed(seen.preview.text, seen.preview.spans, seen.preview.image_token)
        return "".join(f"⟦{piece.text}⟧" if piece.kind == "learned" else piece.text for piece in pieces)

    def findings(self) -> Iterator[Finding]:
        if not self._samples:
            return
        if self._none.count:
            yield self.found(
                "error",
                "samples with nothing to learn",
                "No text of them is a target, so they cannot be trained on; in chats only the assistant's words are.",
                "Check the roles of the turns, or take the samples out.",
                rows=self._none,
                of=self._samples,
            )
        part, words = self._targets / self._tokens, self._targets / max(1, self._tokens - self._image_tokens)
        title = f"{part:.1%} of all tokens are learned, {words:.1%} of those that are words"
        why = "Between ⟦ and ⟧ stands what is learned." if self._example.count else ""
        rows: tuple[FlaggedRow, ...] = tuple(self._example.kept)
        figures = {"learned": part, "learned words": words}
        severity: Severity = "warning" if words < _LITTLE else "note"
        mend = "Look at the example: most of the work is spent on what is not learned." if words < _LITTLE else ""
        yield Finding(self.chosen(), severity, title, why, mend, self._samples, self._samples, rows, figures)
