"""Tokens after tokens: greedy and sampled, streamed as they come.

Shapes: R rows, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from chiasm.generation.cache import Cache
from chiasm.generation.choosing import Sampling, choose, penalised
from chiasm.generation.constraints import AllowedTokens, constrained
from chiasm.generation.prompt import Prompt, read
from chiasm.nn.decoder import Decoder

Ended = Callable[[int, list[int]], bool]  # (row, its new tokens) -> is that the end of it?


@torch.inference_mode()
def continuations(
    decoder: Decoder,
    prompt: Prompt,
    max_tokens: int,
    ended: Ended,
    sampling: Sampling | None = None,
    allowed: AllowedTokens | None = None,
) -> list[list[int]]:
    """The new tokens of each row, the one that ended it included; arguments as for `stream`."""
    tokens: list[list[int]] = [[] for _ in prompt.lengths]
    for step in stream(decoder, prompt, max_tokens, ended, sampling, allowed=allowed):
        for row, token in step.items():
            tokens[row].append(token)
    return tokens


def stream(
    decoder: Decoder,
    prompt: Prompt,
    max_tokens: int,
    ended: Ended,
    sampling: Sampling | None = None,
    begun: Cache | None = None,
    owners: Sequence[int] | None = None,
    allowed: AllowedTokens | None = None,
) -> Iterator[dict[int, int]]:
    """One token of every row that has not ended, step by step, by row.

    max_tokens: new ones at most; a row also ends where the context is full. begun: what was read before the prompt; it
    is copied. owners: which of its rows each row goes on from; by default there are as many, each with its own.
    allowed: which tokens may come next; all where None. Rows that have ended cost nothing more.
    """
    sampling = sampling or Sampling()
    generator = None
    if sampling.temperature > 0:
        generator = torch.Generator(prompt.x_TD.device).manual_seed(sampling.seed)
    with torch.inference_mode():
        rows = list(range(len(prompt)))
        owners = rows if owners is None else owners
        before = [begun.lengths[owner] for owner in owners] if begun is not None else [0] * len(prompt)
        read_in = [old + new for old, new in zip(before, prompt.lengths, strict=True)]
        room = min(max(read_in) + max_tokens, max(decoder.context, max(read_in)))
        cache = begun.spread(owners, room) if begun is not None else Cache.empty(decoder, len(prompt), room)
        scores_RV = read(decoder, prompt, cache)
    positions, new = list(prompt.ends), [[] for _ in rows]  # type: list[int], list[list[int]]
    for step in range(max_tokens):
        with torch.inference_mode():
            held = [list(prompt.ids[row]) + new[row] for row in rows] if sampling.repetition_penalty != 1 else []
            scores_RV = penalised(scores_RV, held, sampling.repetition_penalty)
            scores_RV = constrained(scores_RV, rows, (new[row] for row in rows), allowed)
            chosen = choose(scores_RV, sampling, generator).tolist()
        for row, token in zip(rows, chosen, strict=True):
            new[row].append(token)
        yield dict(zip(rows, chosen, strict=True))
        alive = [
            index
            for index, row in enumerate(rows)
            if not ended(row, new[row]) and cache.lengths[index] < decoder.context
        ]
        if not alive or step + 1 == max_tokens:
            return
        with torch.inference_mode():
            if len(alive) < len(rows):
                cache, rows = cache.rows(alive), [rows[index] for index in alive]
            tokens = torch.tensor([chosen[index] for index in alive], device=prompt.x_TD.device)
            scores_RV = next_scores(decoder, tokens, [positions[row] for row in rows], cache)
        for row in rows:
            positions[row] += 1


def next_scores(decoder: Decoder, tokens_R: Tensor, positions: list[int], cache: Cache) -> Tensor:
    """Reads one token a row; returns the scores of the tokens after them, (R, V)."""
    cache.expect([1] * len(cache))
    at = torch.tensor(positions, device=tokens_R.device)
    if decoder.rotary is not None and decoder.rotary.sections:
        at = at.expand(3, -1)
    return decoder.logits(decoder(decoder.embed(tokens_R), at, cache))
