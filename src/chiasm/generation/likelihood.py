"""How likely a decoder finds given texts; many answers to one prompt are read in one pass.

Shapes: N answers, T tokens of all of them, S tokens of the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from chiasm.generation.cache import Cache
from chiasm.generation.prompt import Prompt, read
from chiasm.nn.decoder import Decoder, attention
from chiasm.nn.visible_images import VisibleImages

_AT_ONCE = 8192  # tokens of answers that are read in one pass


class Branches:
    """An `AttentionBackend` of many continuations of one row of a cache: each sees the row and itself.

    The row is not copied."""

    def __init__(
        self, keys: Tensor, values: Tensor, lengths: Sequence[int], visible: VisibleImages | None = None
    ) -> None:
        self._keys, self._values, self._lengths, self.visible = keys, values, list(lengths), visible  # (L, G, S, E)

    def __call__(self, layer: int, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, window: int | None) -> Tensor:
        mixed = []
        parts = (torch.split(x.transpose(0, 1), self._lengths, dim=1) for x in (q_THE, k_TGE, v_TGE))
        for q, k, v in zip(*parts, strict=True):
            keys, values = torch.cat((self._keys[layer], k), 1), torch.cat((self._values[layer], v), 1)
            mixed.append(attention(q, keys, values, window).transpose(0, 1))
        return torch.cat(mixed)


@torch.inference_mode()
def log_likelihoods(decoder: Decoder, prompt: Prompt, answers: Sequence[Sequence[int]]) -> Tensor:
    """(N,) log p(answer | prompt), summed over its tokens, of N answers to one prompt; each has at least a token."""
    if len(prompt) != 1:
        raise ValueError(f"one prompt is continued by many answers, but there are {len(prompt)} prompts")
    cache = Cache.empty(decoder, 1, prompt.lengths[0])
    first_V = read(decoder, prompt, cache)[0].float().log_softmax(-1)
    found = first_V[torch.tensor([answer[0] for answer in answers], device=first_V.device)]
    longer = [at for at, answer in enumerate(answers) if len(answer) > 1]
    if not longer:
        return found.cpu()
    keys, values = cache.of_row(0)
    for several in _passes(longer, answers):
        heads = [answers[at][:-1] for at in several]
        after = Prompt.after(decoder, heads, [prompt.ends[0]] * len(heads))
        branches = Branches(keys, values, after.lengths, cache.ahead([sum(after.lengths)]))
        h_TD = decoder(after.x_TD, after.positions, branches)
        targets = torch.tensor([token for at in several for token in answers[at][1:]], device=h_TD.device)
        lengths = torch.tensor(after.lengths, device=h_TD.device)
        owner = torch.tensor(several, device=h_TD.device).repeat_interleave(lengths)
        found = found.index_add(0, owner, token_log_likelihoods(decoder, h_TD, targets))
    return found.cpu()


def _passes(indexes: Sequence[int], answers: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The indexes of answers in batches of at most _AT_ONCE tokens together, or of one answer."""
    batch: list[int] = []
    held = 0
    for index in indexes:
        if batch and held + len(answers[index]) > _AT_ONCE:
            yield batch
            batch, held = [], 0
        batch.append(index)
        held += len(answers[index])
    yield batch


def token_log_likelihoods(decoder: Decoder, h_TD: Tensor, targets_T: Tensor, chunk: int = 1024) -> Tensor:
    """(T,) log p of each target, in chunks: T x V scores are never held at once."""
    parts = []
    for h_CD, targets_C in zip(torch.split(h_TD, chunk), torch.split(targets_T, chunk), strict=True):
        scores_CV = decoder.logits(h_CD).float()
        parts.append(scores_CV.gather(1, targets_C[:, None])[:, 0] - scores_CV.logsumexp(-1))
    return torch.cat(parts) if parts else h_TD.new_zeros(0)
