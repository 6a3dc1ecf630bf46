"""What a decoder is asked to continue: embedded tokens, wherever they come from (words, pictures)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.errors import DataError
from chiasm.generation.cache import Cache
from chiasm.nn.decoder import Decoder, positions_of
from chiasm.nn.visible_images import VisibleImages


@dataclass(frozen=True)
class Prompt:
    """R sequences behind each other, without padding.

    x_TD: embedded tokens. lengths: of each sequence. positions: (T,), or (3, T) for three axes.
    ends: the position of the token that comes next, a row. ids: the tokens of each row, for penalties; what stands for
    a picture counts too. sight: what the tokens see beside each other; what a row's last token sees, all that come
    behind it see too.
    """

    x_TD: Tensor
    lengths: tuple[int, ...]
    positions: Tensor
    ends: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    visible: VisibleImages | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of_ids(cls, decoder: Decoder, ids: Sequence[Sequence[int]]) -> Prompt:
        """A prompt of text alone, read after nothing."""
        return cls.after(decoder, ids, [0] * len(ids))

    @classmethod
    def after(cls, decoder: Decoder, ids: Sequence[Sequence[int]], ends: Sequence[int]) -> Prompt:
        """Text that goes on at the positions `ends`, one a row."""
        device = decoder.embed.weight.device
        lengths = tuple(len(row) for row in ids)
        flat = torch.tensor([one for row in ids for one in row], dtype=torch.long, device=device)
        start = torch.tensor(list(ends), device=device).repeat_interleave(torch.tensor(lengths, device=device))
        positions = positions_of(lengths, device) + start
        if decoder.rotary is not None and decoder.rotary.sections:
            positions = positions.expand(3, -1)
        after = tuple(end + length for end, length in zip(ends, lengths, strict=True))
        return cls(decoder.embed(flat), lengths, positions, after, tuple(tuple(row) for row in ids))


def read(decoder: Decoder, prompt: Prompt, cache: Cache) -> Tensor:
    """Reads a prompt into a cache of as many rows; returns the scores of each row's next token, (R, V).

    Raises DataError for a prompt that is empty or goes beyond the decoder's context.
    """
    for row, (length, before) in enumerate(zip(prompt.lengths, cache.lengths, strict=True)):
        if length == 0:
            raise DataError(f"the prompt of row {row} is empty; there is nothing to continue")
        if before + length > decoder.context:
            raise DataError(
                f"a prompt of {before + length} tokens goes beyond the model's context of {decoder.context}; shorten "
                "the text, or give fewer or smaller pictures"
            )
    cache.expect(prompt.lengths, prompt.visible)
    h_TD = decoder(prompt.x_TD, prompt.positions, cache)
    last = torch.tensor(prompt.lengths, device=h_TD.device).cumsum(0) - 1
    return decoder.logits(h_TD[last])
