"""What tokens see beside their own stream: ranges of encoder states, such as the features of one image.

Every token sees at most one range. So it is in Flamingo (the last picture before the token), where several pictures
follow each other (all of them are one range), and in models with an encoder (the range is what that made of a sample).

Shapes: T tokens, S encoder states, D their width, H heads, G groups of heads that share keys, E of a head."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]  # (S, G, E) each


class EncoderStates:
    """Features that stand beside the stream, (S, D), and what layers made of them.

    Where no gradients are wanted, the keys and values of a layer are made once: all tokens that are read later, all
    beams and all questions on the same pictures find them here.
    """

    def __init__(self, features_SD: Tensor) -> None:
        self.features_SD = features_SD
        self._kept: dict[int, KeysValues] = {}

    def keys_values(self, layer: int, make: Callable[[Tensor], KeysValues]) -> KeysValues:
        """What `make`, the layer's own map, makes of the features."""
        if torch.is_grad_enabled():
            return make(self.features_SD)
        if layer not in self._kept:
            self._kept[layer] = make(self.features_SD)
        return self._kept[layer]


class VisibleImages:
    """Which range of the encoder states each of T tokens sees.

    runs_T2: the first state and the one after the last, (T, 2), on the CPU; a token whose two are equal sees none.
    """

    def __init__(self, memory: EncoderStates, runs_T2: Tensor) -> None:
        self.memory, self.runs_T2 = memory, runs_T2

    def at(self, positions: Sequence[int] | Tensor) -> VisibleImages:
        """The ranges of the tokens at these positions, in this order; a position may be given several times."""
        return VisibleImages(self.memory, self.runs_T2[torch.as_tensor(positions, dtype=torch.long)])

    def look(self, q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(E)) v of every token over its range, (T, H, E); zeros where it sees none."""
        if not self._groups:  # gradients go through all the same: other ranks, who see something, wait for them
            return (q_THE + (k_SGE.sum() + v_SGE.sum())) * 0
        parts = []
        for tokens_NT, seen_NS in self._groups:
            q, k, v = (x.transpose(1, 2) for x in (q_THE[tokens_NT], k_SGE[seen_NS], v_SGE[seen_NS]))
            part = F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
            parts.append(part.transpose(1, 2).flatten(0, 1))
        mixed = torch.cat(parts)  # in lower precision than q, perhaps, under autocast
        positions = torch.cat([tokens_NT.flatten() for tokens_NT, _ in self._groups])
        return mixed.new_zeros(q_THE.shape).index_copy(0, positions, mixed)

    @cached_property
    def _groups(self) -> list[tuple[Tensor, Tensor]]:
        """Positions of tokens, (N, t), and of what they see, (N, s): neighbours with one range together, those of equal
        sizes side by side. A token's outcome depends on its range alone, so neighbours may be of different samples."""
        if not len(self.runs_T2):
            return []
        changes = (self.runs_T2[1:] != self.runs_T2[:-1]).any(1).nonzero()[:, 0] + 1
        bounds = [0, *changes.tolist(), len(self.runs_T2)]
        alike: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for (start, end), (first, stop) in zip(pairwise(bounds), self.runs_T2[bounds[:-1]].tolist(), strict=True):
            if stop > first:
                alike[end - start, stop - first].append((start, first))
        return [
            (
                _ranges([start for start, _ in blocks], tokens).to(self.memory.features_SD.device),
                _ranges([first for _, first in blocks], features).to(self.memory.features_SD.device),
            )
            for (tokens, features), blocks in alike.items()
        ]


def last_seen(begins_T: Tensor, ends_T: Tensor, lengths: Sequence[int], features: int) -> Tensor:
    """The ranges, (T, 2), where every token sees the last picture before it, as in Flamingo and Idefics.

    begins_T: the tokens that stand for an image each, which see it themselves; the encoder states are those of these
        images in order, so many `features` of each.
    ends_T: tokens after which no image is seen until the next begins.
    lengths: of each sample; none sees the pictures of another.
    """
    begins_T, ends_T, sizes = begins_T.cpu(), ends_T.cpu(), torch.tensor(list(lengths))
    place_T = torch.arange(len(begins_T))
    nowhere = torch.full_like(place_T, -1)
    begun_T = torch.where(begins_T, place_T, nowhere).cummax(0).values if len(place_T) else place_T
    ended_T = torch.where(ends_T, place_T, nowhere).cummax(0).values.roll(1) if len(place_T) else place_T
    ended_T[:1] = -1  # nothing ended before the first
    start_T = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    seen_T = (begun_T >= start_T) & (begun_T > ended_T)
    first_T = (begins_T.cumsum(0) - 1) * features
    return torch.stack([first_T, first_T + features], 1) * seen_T[:, None]


def _ranges(firsts: Sequence[int], length: int) -> Tensor:
    """(N, length): each row counts on from its first."""
    return torch.tensor(list(firsts))[:, None] + torch.arange(length)
