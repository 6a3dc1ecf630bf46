"""Beam search: the several likeliest continuations are followed side by side.

Agrees with transformers (`num_beams`, `length_penalty`, `early_stopping=False`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from chiasm.generation.cache import Cache
from chiasm.generation.prompt import Prompt, read
from chiasm.generation.tokens import Ended, next_scores
from chiasm.nn.decoder import Decoder


@dataclass
class _Search:
    """One row's hypotheses. live: (log probability, tokens) of each beam; done: (score, tokens) of ended ones."""

    live: list[tuple[float, list[int]]]
    done: list[tuple[float, list[int]]] = field(default_factory=list)
    over: bool = False


@torch.inference_mode()
def beam_search(
    decoder: Decoder, prompt: Prompt, max_tokens: int, ended: Ended, beams: int, length_penalty: float = 1.0
) -> list[list[int]]:
    """The best continuation of each row: of highest log p(tokens) / length ** length_penalty."""
    rows = range(len(prompt))
    cache = Cache.empty(decoder, len(prompt), max(prompt.lengths) + max_tokens)
    scores_RV = read(decoder, prompt, cache).repeat_interleave(beams, 0)
    cache = cache.rows([row for row in rows for _ in range(beams)])
    # All beams begin alike: only the first may go on, or they would stay alike.
    found = [_Search([(0.0 if beam == 0 else -torch.inf, []) for beam in range(beams)]) for _ in rows]
    for step in range(1, max_tokens + 1):
        origins = _advance(found, scores_RV, step, ended, beams, length_penalty)
        if step == max_tokens or all(one.over for one in found):
            break
        cache = cache.rows(origins)
        tokens = torch.tensor([tokens[-1] for one in found for _, tokens in one.live], device=prompt.x_TD.device)
        at = [prompt.ends[row] + step - 1 for row in rows for _ in range(beams)]
        scores_RV = next_scores(decoder, tokens, at, cache)
    for one in found:
        if not one.over:  # what was cut short competes with what ended
            one.done += [(chance / len(tokens) ** length_penalty, tokens) for chance, tokens in one.live]
    return [max(one.done, key=lambda pair: pair[0])[1] for one in found]


def _advance(
    found: list[_Search], scores_RV: Tensor, step: int, ended: Ended, beams: int, length_penalty: float
) -> list[int]:
    """Lengthens every live hypothesis by its best tokens; returns the cache row that each new one grew from."""
    chances_RV = scores_RV.float().log_softmax(-1)
    vocabulary = chances_RV.shape[-1]
    origins: list[int] = []
    for row, one in enumerate(found):
        before = torch.tensor([chance for chance, _ in one.live], device=scores_RV.device)
        total = (chances_RV[row * beams : (row + 1) * beams] + before[:, None]).flatten()
        # Twice as many as are kept: at most half of them can end here, as each beam has one end token in its top.
        best, places = total.topk(min(2 * beams, len(total)))
        live: list[tuple[float, list[int]]] = []
        grown: list[int] = []
        for rank, (chance, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            origin, token = divmod(place, vocabulary)
            tokens = [*one.live[origin][1], token]
            if ended(row, tokens):
                if rank < beams and not one.over:
                    one.done.append((chance / step**length_penalty, tokens))
            elif len(live) < beams:
                live.append((chance, tokens))
                grown.append(row * beams + origin)
        while len(live) < beams:  # a vocabulary smaller than the beams
            live.append((-torch.inf, live[0][1] if live else [0]))
            grown.append(row * beams)
        one.done = sorted(one.done, key=lambda pair: -pair[0])[:beams]
        # No live hypothesis can still beat the worst of enough ended ones: log p only falls.
        reachable = live[0][0] / step**length_penalty
        one.over |= len(one.done) == beams and one.done[-1][0] >= reachable
        one.live = live
        origins += grown
    return origins
