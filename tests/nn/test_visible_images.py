"""What tokens see beside their stream: against transformers' masks, and against attention with a whole mask."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.idefics.processing_idefics import image_attention_mask_for_packed_input_ids_pt

from chiasm.nn.visible_images import EncoderStates, VisibleImages, last_seen
from tests import peers  # noqa: F401  # before any class of transformers is touched

WORD, PICTURE, END = 0, 1, 2
ROWS = st.lists(st.lists(st.sampled_from([WORD, WORD, PICTURE, END]), max_size=12), min_size=1, max_size=4)


class Tokenizer:
    """As much of one as theirs asks for."""

    eos_token_id = END

    def convert_tokens_to_ids(self, _token: str) -> int:
        return PICTURE


def runs_of(rows: list[list[int]], features: int) -> torch.Tensor:
    ids_T = torch.tensor([one for row in rows for one in row], dtype=torch.long)
    return last_seen(ids_T == PICTURE, ids_T == END, [len(row) for row in rows], features)


@given(rows=ROWS, features=st.integers(1, 3))
@settings(deadline=None)
def test_every_token_sees_the_picture_that_idefics_processor_shows_it(rows: list[list[int]], features: int) -> None:
    runs, before = iter(runs_of(rows, features).tolist()), 0
    tokenizer: Any = Tokenizer()
    for row in rows:
        if row:
            shown, _ = image_attention_mask_for_packed_input_ids_pt(torch.tensor([row]), tokenizer)
            for image in shown[0].tolist():
                first, behind = next(runs)
                assert behind - first == (features if image >= 0 else 0)
                assert image < 0 or first == (before + image) * features
        before += row.count(PICTURE)


@given(
    runs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 4)), max_size=8),
    groups=st.sampled_from([1, 2, 4]),
)
@settings(deadline=None)
def test_looking_is_attention_with_a_mask_of_the_runs(runs: list[tuple[int, int, int]], groups: int) -> None:
    """Runs of any length, which may overlap, at one to four neighbours each."""
    each = [(first, first + size) for first, size, tokens in runs for _ in range(tokens)]
    generator = torch.Generator().manual_seed(len(each))
    q, k, v = (
        torch.randn(count, heads, 5, generator=generator, dtype=torch.float64) for count, heads in _shapes(each, groups)
    )
    visible = VisibleImages(EncoderStates(torch.empty(0)), torch.tensor(each, dtype=torch.long).view(-1, 2))
    found = visible.look(q, k, v)
    for at, (first, behind) in enumerate(each):
        keys, values = (one[first:behind].repeat_interleave(4 // groups, 1) for one in (k, v))
        weights = torch.einsum("he,she->hs", q[at], keys).div(5**0.5).softmax(-1)
        torch.testing.assert_close(found[at], torch.einsum("hs,she->he", weights, values))
    again = [*range(len(each)), *reversed(range(len(each)))]
    torch.testing.assert_close(visible.at(again).look(q[again], k, v), found[again])


def _shapes(each: list[tuple[int, int]], groups: int) -> list[tuple[int, int]]:
    return [(len(each), 4), (8, groups), (8, groups)]


def test_a_memory_keeps_what_is_made_of_it_only_where_nothing_is_learned() -> None:
    memory, made = EncoderStates(torch.ones(2, 3)), []

    def make(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made.append(len(features))
        return features + len(made), features

    first, second = (memory.keys_values(0, make)[0] for _ in range(2))
    assert first is not second  # gradients need a graph of their own each
    with torch.inference_mode():
        kept, same, other = (memory.keys_values(layer, make)[0] for layer in (0, 0, 1))
    assert kept is same
    assert other is not kept
    assert len(made) == 4
