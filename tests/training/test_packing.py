"""Samples that are packed into one stream do not see each other, and a batch is learned from as its samples are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from chiasm.data.batch import Batch
from chiasm.data.reader import Budget, Reader
from chiasm.losses.next_token import next_token
from chiasm.models.llava import LLaVA
from tests.models.generative_models import small_llava
from tests.training.chats import Chats

MIXED = Chats(imaged=lambda at: at % 2 == 0)


def packed(model: LLaVA, tokens: int = 400) -> Batch:
    reader = Reader(MIXED, model.processor, budget=Budget(tokens), captions="keep")
    batch, _ = reader.batch_at(0)
    assert batch is not None
    assert len(batch) > 5
    assert batch.images is not None
    assert len(batch.images) < len(batch)
    return batch


def each_loss(model: LLaVA, batch: Batch) -> list[float]:
    """Of every sample, out of the one pass over all."""
    assert batch.stream is not None
    h_TD, targets_T = model._before_targets(batch)
    counts = [int(part.target_T.sum()) for part in (one.stream for one in batch.split(len(batch))) if part is not None]
    parts = zip(torch.split(h_TD, counts), torch.split(targets_T, counts), strict=True)
    return [float(next_token(h, model.language.head_weight, targets).detach()) for h, targets in parts]


def gradients(model: LLaVA) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_no_sample_sees_another() -> None:
    """Another picture and other words in one sample change its own loss, and no other by more than the last bits."""
    model = small_llava().eval()
    batch = packed(model)
    assert batch.stream is not None
    assert batch.images is not None
    before = each_loss(model, batch)
    changed = 2
    row = int((batch.images.row_N == changed).nonzero()[0, 0])  # it has a picture
    pixels = batch.images.pixels.clone()
    pixels[row] = torch.randn(pixels[row].shape, generator=torch.Generator().manual_seed(0))
    start = int(batch.stream.lengths_B[:changed].sum())
    ids = batch.stream.ids_T.clone()
    own = slice(start, start + int(batch.stream.lengths_B[changed]))
    swapped = ids[own].clone()
    free = ~(batch.stream.image_mask_T[own] | batch.stream.target_T[own])
    swapped[free] = (swapped[free] + 7) % 250
    ids[own] = swapped
    other = replace(batch, images=batch.images.with_pixels(pixels), stream=replace(batch.stream, ids_T=ids))
    after = each_loss(model, other)
    for at, (one, two) in enumerate(zip(before, after, strict=True)):
        if at == changed:
            assert abs(one - two) > 1e-2
        else:
            assert abs(one - two) < 1e-6


def test_a_packed_batch_is_learned_from_as_its_samples_are() -> None:
    """Loss and gradient are the means over all target tokens, each sample given alone."""
    model = small_llava().double().train()
    batch = packed(model)
    assert batch.images is not None
    batch = replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
    loss = model.losses(batch)["next_token"]
    torch.autograd.backward(loss)
    together = gradients(model)
    model.zero_grad()
    parts = batch.split(len(batch))
    weights = [model.weight(part) for part in parts]
    assert len(set(weights)) > 1
    assert sum(weights) == model.weight(batch)
    total = 0.0
    for part, weight in zip(parts, weights, strict=True):
        share = model.losses(part)["next_token"] * (weight / sum(weights))
        torch.autograd.backward(share)
        total += float(share.detach())
    assert abs(total - float(loss.detach())) < 1e-6
    alone = gradients(model)
    assert alone.keys() == together.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(alone[name], gradient, atol=1e-6, rtol=1e-5)
