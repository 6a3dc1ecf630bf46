"""Every way of attending within packed sequences is attention in each of them alone, by a mask written out here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.nn import packed_attention
from chiasm.nn.packed_attention import PackedSequences, varlen_kernel

LENGTHS = [5, 3, 3, 1, 0, 7, 2, 2, 2]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KINDS = [(False, None), (True, None), (True, 1), (True, 3), (True, 100)]


def streams(groups: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of 6 heads, keys and values of `groups`."""
    generator = torch.Generator().manual_seed(groups)
    made = (torch.randn(sum(LENGTHS), heads, 8, generator=generator) for heads in (6, groups, groups))
    q, k, v = (one.to(device, dtype).requires_grad_() for one in made)
    return q, k, v


def alone(q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, back: float, ahead: float) -> Tensor:
    """softmax(q k^T / sqrt(E)) v by hand, where a token sees `back` before it and `ahead` behind, in its sequence."""
    sequence_T = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS)).to(q_THE.device)
    place_T = torch.arange(len(sequence_T), device=q_THE.device)
    step_TT = place_T - place_T[:, None]
    seen_TT = (sequence_T == sequence_T[:, None]) & (step_TT >= -back) & (step_TT <= ahead)
    each = q_THE.shape[1] // k_TGE.shape[1]
    k_THE, v_THE = (one.repeat_interleave(each, dim=1) for one in (k_TGE, v_TGE))
    scores_HTT = torch.einsum("the,she->hts", q_THE, k_THE) / math.sqrt(q_THE.shape[-1])
    weights_HTT = scores_HTT.masked_fill(~seen_TT, -math.inf).softmax(-1)
    return torch.einsum("hts,she->the", weights_HTT, v_THE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", [6, 2, 1])
@pytest.mark.parametrize(("causal", "window"), KINDS)
@pytest.mark.parametrize("way", ["attend", "by_runs", "by_padding"])
def test_a_sequence_sees_itself_alone(way: str, causal: bool, window: int | None, groups: int, device: str) -> None:
    q, k, v = streams(groups, device)
    sequences = PackedSequences(LENGTHS)
    if way == "attend":
        found = sequences.attention(q, k, v, causal=causal, window=window)
    else:
        found = getattr(sequences, way)(q, k, v, causal, window)
    wanted = alone(q, k, v, math.inf if window is None else window - 1, 0 if causal else math.inf)
    torch.testing.assert_close(found, wanted)
    slope = torch.randn_like(wanted)
    of_found, of_wanted = (torch.autograd.grad(one, (q, k, v), slope) for one in (found, wanted))
    torch.testing.assert_close(of_found, of_wanted)


@pytest.mark.parametrize("groups", [6, 2])
@pytest.mark.parametrize(("causal", "window"), KINDS)
def test_the_kernel_of_gpus_is_asked_for_the_same(
    causal: bool, window: int | None, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch's documentation says of its arguments, carried out by hand: it runs on GPUs alone."""

    def documented(
        q: Tensor, k: Tensor, v: Tensor, begins: Tensor, of_keys: Tensor, longest: int, key: int, **more: Any
    ) -> Tensor:
        assert begins.dtype == torch.int32
        assert begins.tolist() == of_keys.tolist() == [0, 5, 8, 11, 12, 19, 21, 23, 25]
        assert longest == key == 7
        assert more["enable_gqa"] == (groups < 6)
        back, ahead = (math.inf if one == -1 else one for one in more["window_size"])
        return alone(q, k, v, back, ahead)

    monkeypatch.setattr(packed_attention, "_varlen", documented)
    q, k, v = streams(groups)
    sequences = PackedSequences(LENGTHS)
    found = sequences.by_varlen(q, k, v, causal, window)
    torch.testing.assert_close(found, sequences.by_runs(q, k, v, causal, window))


def test_torch_has_that_kernel_and_it_takes_these_arguments() -> None:
    assert varlen_kernel() is not None
    q, k, v = (torch.empty(sum(LENGTHS), heads, 8, dtype=torch.bfloat16, device="meta") for heads in (6, 2, 2))
    found = PackedSequences(LENGTHS).by_varlen(q, k, v, True, 3)
    assert (found.shape, found.dtype) == (q.shape, torch.bfloat16)


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_all_compute_in_16_bits(device: str) -> None:
    q, k, v = streams(2, device, torch.float32)
    exact = PackedSequences(LENGTHS).attention(q, k, v, causal=True)
    with torch.autocast(device, torch.bfloat16):
        low = PackedSequences(LENGTHS).attention(q, k, v, causal=True)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, atol=0.03, rtol=0.03)


def test_no_sequences_have_no_outcome() -> None:
    q = torch.empty(0, 6, 8)
    assert PackedSequences([]).attention(q, q, q, causal=True).shape == (0, 6, 8)


def test_neighbours_of_one_length_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a call a sequence."""
    seen: list[torch.Size] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def counted(q: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append(q.shape)
        return real(q, *rest, **more)

    monkeypatch.setattr("chiasm.nn.packed_attention.F.scaled_dot_product_attention", counted)
    q, k, v = streams(6)
    sequences = PackedSequences(LENGTHS)
    sequences.attention(q, k, v, causal=True)
    assert [(one[0], one[2]) for one in seen] == [(1, 5), (2, 3), (1, 1), (1, 7), (3, 2)]
    seen.clear()
    sequences.by_padding(q, k, v, True, None)
    assert [(one[0], one[2]) for one in seen] == [(8, 7)]
