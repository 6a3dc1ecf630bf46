"""Beam search: the several likeliest continuations are followed side by side.

Agrees with transformers (`num_beams`, `length_penalty`, `early_stopping=False`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chiasm.generation.cache import Cache
from chiasm.generation.constraints import AllowedTokens, constrained
from chiasm.generation.prompt import Prompt, read
from chiasm.generation.tokens import Ended, next_scores
from chiasm.nn.decoder import Decoder


@dataclass
class _Search:
    """One row's hypotheses. live: (log probability, tokens) of each beam; done: (score, tokens) of ended ones."""

    live: list[tuple[float, list[int]]]
    done: list[tuple[float, list[int]]] = field(default_factory=list)
    over: bool = False

    def cut_short(self, length_penalty: float) -> None:
        """No more tokens: what has not ended competes with what has."""
        self.done += [(chance / len(tokens) ** length_penalty, tokens) for chance, tokens in self.live]
        self.over = True


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    prompt: Prompt,
    max_tokens: int,
    ended: Ended,
    beams: int,
    length_penalty: float = 1.0,
    allowed: AllowedTokens | None = None,
) -> list[list[int]]:
    """The best continuation of each row: of highest log p(tokens) / length ** length_penalty.

    allowed: which tokens may come next; all where None. Probabilities are those without it, as in transformers. A row
    also ends where the context is full, as in `stream`; rows that have ended cost nothing more.
    """
    if max_tokens < 1:
        return [[] for _ in prompt.lengths]
    rows = list(range(len(prompt)))
    room = min(max(prompt.lengths) + max_tokens, max(decoder.context, *prompt.lengths))
    cache = Cache.empty(decoder, len(prompt), room)
    scores_RV = read(decoder, prompt, cache).repeat_interleave(beams, 0)
    cache = cache.rows([row for row in rows for _ in range(beams)])
    # All beams begin alike: only the first may go on, or they would stay alike.
    found = [_Search([(0.0 if beam == 0 else -torch.inf, []) for beam in range(beams)]) for _ in rows]
    for step in range(1, max_tokens + 1):
        origins = _advance(found, rows, scores_RV, step, ended, beams, length_penalty, allowed)
        for row in rows:
            if not found[row].over and (step == max_tokens or prompt.lengths[row] + step > decoder.context):
                found[row].cut_short(length_penalty)
        alive = [index for index, row in enumerate(rows) if not found[row].over]
        if not alive:
            break
        rows = [rows[index] for index in alive]
        cache = cache.rows([origin for index in alive for origin in origins[index]])
        tokens = torch.tensor([tokens[-1] for row in rows for _, tokens in found[row].live], device=prompt.x_TD.device)
        at = [prompt.ends[row] + step - 1 for row in rows for _ in range(beams)]
        scores_RV = next_scores(decoder, tokens, at, cache)
    return [max(search.done, key=lambda pair: pair[0])[1] for search in found]


def _advance(
    found: list[_Search],
    rows: list[int],
    scores_RV: Tensor,
    step: int,
    ended: Ended,
    beams: int,
    length_penalty: float,
    allowed: AllowedTokens | None = None,
) -> list[list[int]]:
    """Lengthens every live hypothesis of these rows by its best tokens. Returns, for each row, the indexes in the cache
    of the hypotheses that the new ones grew from."""
    chances_RV = scores_RV.float().log_softmax(-1)
    if allowed is not None:
        hypotheses = [(row, tokens, chance) for row in rows for chance, tokens in found[row].live]
        possible = [index for index, (_, _, chance) in enumerate(hypotheses) if chance > -torch.inf]
        owners, held = [hypotheses[index][0] for index in possible], [hypotheses[index][1] for index in possible]
        chances_RV[possible] = constrained(chances_RV[possible], owners, held, allowed)
    vocabulary = chances_RV.shape[-1]
    origins: list[list[int]] = []
    for index, row in enumerate(rows):
        search = found[row]
        before = torch.tensor([chance for chance, _ in search.live], device=scores_RV.device)
        total = (chances_RV[index * beams : (index + 1) * beams] + before[:, None]).flatten()
        live: list[tuple[float, list[int]]] = []
        grown: list[int] = []
        for rank, (chance, choice) in enumerate(_ranked(total, 2 * beams)):
            if len(live) == beams <= rank:
                break
            origin, token = divmod(choice, vocabulary)
            tokens = [*search.live[origin][1], token]
            if ended(row, tokens):
                if rank < beams:
                    search.done.append((chance / step**length_penalty, tokens))
            elif len(live) < beams:
                live.append((chance, tokens))
                grown.append(index * beams + origin)
        while len(live) < beams:  # there are no more that do not end
            live.append((-torch.inf, live[0][1] if live else [0]))
            grown.append(index * beams)
        search.done = sorted(search.done, key=lambda pair: -pair[0])[:beams]
        # No live hypothesis can still beat the worst of enough ended ones: log p only falls.
        reachable = live[0][0] / step**length_penalty
        search.over = len(search.done) == beams and search.done[-1][0] >= reachable
        search.live = live
        origins.append(grown)
    return origins


def _ranked(total_M: Tensor, first: int) -> Iterator[tuple[float, int]]:
    """Values with their indexes, from the largest on.

    Where each beam has one token that ends it, twice as many as there are beams will do; the others are ranked only
    where more of them end.
    """
    best, indexes = total_M.topk(min(first, len(total_M)))
    yield from zip(best.tolist(), indexes.tolist(), strict=True)
    best, indexes = total_M.index_fill(0, indexes, -torch.inf).sort(descending=True)
    yield from zip(best.tolist(), indexes.tolist(), strict=True)
