"""Keys and values of the tokens that a decoder has read, so that the next token reads none of them again.

Shapes: L layers, R rows, G groups of heads, S tokens of room, E width of a head; n tokens of a row added at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.data.attention_blocks import CAUSAL
from chiasm.nn.decoder import Decoder, attention
from chiasm.nn.visible_images import VisibleImages


class Cache:
    """R rows with room for S tokens each, allocated once. Rows may hold different numbers of tokens.

    It is the `AttentionBackend` of a decoder that reads on: `expect(counts)` says how many tokens of each row come
    next, then the decoder runs over those tokens, packed row after row. There is no padding, so a row's result does
    not depend on the rows beside it.

    seen: what the last token of each row sees beside the others, as all tokens that come next will. Its encoder states
    are shared, so rows that see the same picture, such as beams, hold no copies of its keys and values.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: Sequence[int], seen: VisibleImages | None = None) -> None:
        self._keys, self._values, self._last = keys, values, seen  # (L, R, G, S, E)
        self.visible: VisibleImages | None = None
        self.lengths = list(lengths)
        self._before, self._counts = self.lengths, [0] * len(self.lengths)
        self._seen: Tensor | None = None
        self._blocks: Sequence[Tensor] | None = None

    @classmethod
    def empty(cls, decoder: Decoder, rows: int, room: int) -> Cache:
        """A cache for a decoder, on its device and in its precision."""
        layers, groups, width = decoder.cached
        weight = decoder.embed.weight
        # Zeros, not whatever the memory holds: what is masked out is still multiplied, and 0 * nan is nan.
        pair = torch.zeros(2, layers, rows, groups, room, width, dtype=weight.dtype, device=weight.device)
        return cls(pair[0], pair[1], [0] * rows)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def room(self) -> int:
        """S, the most tokens of a row."""
        return self._keys.shape[3]

    def expect(
        self, counts: Sequence[int], visible: VisibleImages | None = None, blocks_T: Tensor | None = None
    ) -> None:
        """The next call of the decoder adds so many tokens to each row.

        visible: what they see beside each other; None where they see what the last token of their row saw.
        blocks_T: within which blocks they attend to each other both ways, see `nn/attention_mask.py`; a block is read
            in one call, so tokens that are in the cache already are in none of these.
        """
        if len(counts) != len(self.lengths):
            raise ValueError(f"{len(counts)} counts for {len(self.lengths)} rows")
        longest = max(length + count for length, count in zip(self.lengths, counts, strict=True))
        if longest > self.room:
            raise ValueError(f"a row of {longest} tokens in a cache with room for {self.room}")
        self._before = self.lengths
        self._counts = list(counts)
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        self._seen = self._mask()
        self._blocks = torch.split(blocks_T, self._counts) if blocks_T is not None else None
        self.visible = self.ahead(counts) if visible is None else visible
        if visible is not None:
            if self._last is not None and self._last.memory is not visible.memory:
                raise ValueError("what is read after images cannot bring images of its own")
            ends = torch.tensor(self._counts).cumsum(0) - 1
            self._last = visible.at(ends.clamp(min=0))
            self._last.runs_T2[torch.tensor(self._counts) == 0] = 0  # nothing was read that could see

    def ahead(self, counts: Sequence[int]) -> VisibleImages | None:
        """What so many more tokens of each row see: what its last one sees."""
        if self._last is None:
            return None
        return self._last.at(torch.arange(len(self)).repeat_interleave(torch.tensor(list(counts))))

    def __call__(self, layer: int, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, window: int | None) -> Tensor:
        if all(count == 1 for count in self._counts):
            return self._one_each(layer, q_THE, k_TGE, v_TGE, window)
        parts = (torch.split(x, self._counts) for x in (q_THE, k_TGE, v_TGE))
        mixed = []
        for row, (q, k, v) in enumerate(zip(*parts, strict=True)):
            start, end = self._before[row], self.lengths[row]
            self._keys[layer, row, :, start:end] = k.transpose(0, 1)
            self._values[layer, row, :, start:end] = v.transpose(0, 1)
            if len(q):
                keys, values = self._keys[layer, row, :, :end], self._values[layer, row, :, :end]
                blocks = F.pad(self._blocks[row], (start, 0), value=CAUSAL) if self._blocks is not None else None
                mixed.append(attention(q.transpose(0, 1), keys, values, window, blocks).transpose(0, 1))
        return torch.cat(mixed)

    def _one_each(self, layer: int, q_RHE: Tensor, k_RGE: Tensor, v_RGE: Tensor, window: int | None) -> Tensor:
        """One token a row. The heads of a group stand as queries of one head, so keys are not repeated for them."""
        rows, longest = torch.arange(len(self)), max(self.lengths)
        if min(self.lengths) == longest:
            self._keys[layer, :, :, longest - 1], self._values[layer, :, :, longest - 1] = k_RGE, v_RGE
        else:
            last = torch.tensor([length - 1 for length in self.lengths])
            self._keys[layer][rows, :, last], self._values[layer][rows, :, last] = k_RGE, v_RGE
        keys, values, mask = self._keys[layer, :, :, :longest], self._values[layer, :, :, :longest], self._seen
        if window is not None and window < longest:
            end = torch.tensor(self.lengths, device=q_RHE.device)[:, None]
            recent = torch.arange(longest, device=q_RHE.device) >= end - window
            recent = recent[:, None, None]
            mask = recent if mask is None else mask & recent
        groups = k_RGE.shape[1]
        q_RGHE = q_RHE.view(len(self), groups, -1, q_RHE.shape[-1])
        return F.scaled_dot_product_attention(q_RGHE, keys, values, attn_mask=mask).flatten(1, 2)

    def _mask(self) -> Tensor | None:
        """(R, 1, 1, S): which positions of each row hold tokens; None where all rows are of one length."""
        longest = max(self.lengths, default=0)
        if min(self.lengths, default=0) == longest:
            return None
        ends = torch.tensor(self.lengths, device=self._keys.device)[:, None]
        return (torch.arange(longest, device=self._keys.device) < ends)[:, None, None]

    def of_row(self, row: int) -> tuple[Tensor, Tensor]:
        """The keys and values that a row holds, (L, G, n, E) each; views, not copies."""
        length = self.lengths[row]
        return self._keys[:, row, :, :length], self._values[:, row, :, :length]

    def rows(self, rows: Sequence[int]) -> Cache:
        """A cache of these rows, in this order; a row may stand several times (beams, questions on one picture)."""
        chosen = torch.tensor(list(rows), dtype=torch.long, device=self._keys.device)
        seen = self._last.at(rows) if self._last is not None else None
        return Cache(self._keys[:, chosen], self._values[:, chosen], [self.lengths[row] for row in rows], seen)

    def spread(self, rows: Sequence[int], room: int) -> Cache:
        """Like `rows`, in a new cache with room for `room` tokens."""
        longest = max(self.lengths[row] for row in rows)
        layers, _, groups, _, width = self._keys.shape
        chosen = torch.tensor(list(rows), dtype=torch.long, device=self._keys.device)
        pair = self._keys.new_zeros(2, layers, len(chosen), groups, room, width)
        pair[0, :, :, :, :longest] = self._keys[:, chosen, :, :longest]
        pair[1, :, :, :, :longest] = self._values[:, chosen, :, :longest]
        seen = self._last.at(rows) if self._last is not None else None
        return Cache(pair[0], pair[1], [self.lengths[row] for row in rows], seen)
