"""What a decoder is asked to continue: embedded tokens, wherever they come from (words, pictures)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.errors import DataError
from chiasm.generation.cache import Cache
from chiasm.nn.attention_mask import cuts_block
from chiasm.nn.decoder import Decoder, positions_of
from chiasm.nn.visible_images import VisibleImages


@dataclass(frozen=True)
class Prompt:
    """R packed sequences, without padding.

    x_TD: embedded tokens. lengths: of each sequence. positions: (T,), or (3, T) for three axes.
    ends: the position of the token that comes next, a row. ids: the tokens of each row, for penalties; what stands for
    a picture counts too. visible: what the tokens see beside each other; what a row's last token sees, all that come
    after it see too. blocks_T: within which blocks they attend to each other both ways, see `nn/attention_mask.py`.
    """

    x_TD: Tensor
    lengths: tuple[int, ...]
    positions: Tensor
    ends: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    visible: VisibleImages | None = None
    blocks_T: Tensor | None = None

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
        flat = torch.tensor([id_ for row in ids for id_ in row], dtype=torch.long, device=device)
        start = torch.tensor(list(ends), device=device).repeat_interleave(torch.tensor(lengths, device=device))
        positions = positions_of(lengths, device) + start
        if decoder.rotary is not None and decoder.rotary.sections:
            positions = positions.expand(3, -1)
        after = tuple(end + length for end, length in zip(ends, lengths, strict=True))
        return cls(decoder.embed(flat), lengths, positions, after, tuple(tuple(row) for row in ids))

    def heads(self, counts: Sequence[int]) -> Prompt:
        """The first so many tokens of each row.

        Raises ValueError where one of them sees a token that is left out.
        """
        if self.blocks_T is not None:
            for blocks, count in zip(torch.split(self.blocks_T, list(self.lengths)), counts, strict=True):
                if cuts_block(blocks, count):
                    raise ValueError(f"the first {count} of {len(blocks)} tokens see others, and cannot be read alone")
        lengths = torch.tensor(self.lengths)
        index_T = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        kept = (index_T < torch.tensor(list(counts)).repeat_interleave(lengths)).to(self.x_TD.device)
        positions = self.positions[..., kept]
        parts = torch.split(positions, list(counts), dim=-1)
        return Prompt(
            self.x_TD[kept],
            tuple(counts),
            positions,
            tuple(int(part.max()) + 1 if part.numel() else 0 for part in parts),
            tuple(row[:count] for row, count in zip(self.ids, counts, strict=True)),
            self.visible.at(kept.nonzero()[:, 0].cpu()) if self.visible is not None else None,
            self.blocks_T[kept] if self.blocks_T is not None else None,
        )


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
    cache.expect(prompt.lengths, prompt.visible, prompt.blocks_T)
    h_TD = decoder(prompt.x_TD, prompt.positions, cache)
    last = torch.tensor(prompt.lengths, device=h_TD.device).cumsum(0) - 1
    return decoder.logits(h_TD[last])
