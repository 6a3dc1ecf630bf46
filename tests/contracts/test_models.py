"""What every family of models promises, found by walking the folder; most of it stands in `chiasm.contracts`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import chiasm
from chiasm.contracts import small_models
from chiasm.contracts.contract import Contract, Trial, contracts_of
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.layouts.marked import Marked
from chiasm.data.processor import Cost
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.errors import DataError, RecipeError
from chiasm.models import folder
from chiasm.models.generative import GenerativeModel, VisionLanguageModel
from chiasm.models.model import Embedder, Model, ModelConfig, Scorer
from chiasm.training.dummy_images import with_dummy_images
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from tests.worlds import Patches

FAMILIES = ModelConfig.built_in()
SEEING = [name for name in FAMILIES if issubclass(ModelConfig.choose(name).model(), VisionLanguageModel)]

TEXTS = ["a red circle", "two green stars"]


def _small(family: str) -> Model:
    return small_models.small(ModelConfig.choose(family))


def _samples(family: str, count: int) -> list[Sample]:
    return small_models.samples(ModelConfig.choose(family), count)


def test_the_walk_finds_the_families() -> None:
    assert {"clip", "siglip", "siglip2"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_names_its_paper(family: str) -> None:
    assert "arXiv:" in (sys.modules[ModelConfig.choose(family).__module__].__doc__ or "")


@pytest.mark.parametrize("contract", list(contracts_of(ModelConfig)), ids=lambda contract: contract.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_keeps_the_contract(family: str, contract: Contract, tmp_path: Path) -> None:
    contract(Trial(ModelConfig.choose(family), tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_processor_foretells_what_is_in_its_batches(family: str) -> None:
    """Costs, by which batches are filled, and previews, which people are shown, are made without the batch."""
    processor = _small(family).processor
    samples = [replace(sample, captions=()) for sample in _samples(family, 3)]  # no more is known than what is read
    batch = processor(samples)
    previews = [processor.preview(sample) for sample in samples]
    if batch.stream is None:
        assert batch.texts is not None
        assert [preview.tokens for preview in previews] == batch.texts.lengths_B.tolist()
        with pytest.raises(DataError, match="no cost"):
            processor.cost(samples[0])
        return
    lengths = batch.stream.lengths_B.tolist()
    counts = [
        [int(row.sum()) for row in torch.split(mask_T, lengths)]
        for mask_T in (batch.stream.image_mask_T, batch.stream.target_T)
    ]
    assert processor.packs
    assert [processor.cost(sample) for sample in samples] == [
        Cost(*both) for both in zip(lengths, counts[0], strict=True)
    ]
    found = [(preview.tokens, preview.image_tokens, preview.target_tokens) for preview in previews]
    assert found == [*zip(lengths, *counts, strict=True)]
    for sample, preview in zip(samples, previews, strict=True):
        learned = "".join(preview.text[first:end] for first, end in preview.spans)
        assert learned.startswith(sample.texts[-1].text)


@pytest.mark.parametrize("family", SEEING)
def test_a_batch_without_pictures_goes_through_all_parts_where_others_have_some(family: str) -> None:
    """Processes put slices of the model together, and gradients: each has to come by where any of them does."""
    model = _small(family).train()
    pairs = _samples(family, 4)
    words = model.processor([replace(one, parts=one.texts) for one in pairs])
    found = []
    shared = with_dummy_images(words, model, model.processor, elsewhere=True)
    for batch in (model.processor(pairs), shared, with_dummy_images(words, model, model.processor)):
        model.zero_grad()
        torch.autograd.backward(model.losses(batch)["next_token"])
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    imaged, dummy, alone = found
    assert dummy.keys() == imaged.keys()
    for name, gradient in dummy.items():
        if name.startswith("language.") and name in alone:
            torch.testing.assert_close(gradient, alone[name], atol=1e-7, rtol=1e-5)
        else:
            assert not gradient.any(), name  # nor is it NaN
    assert any(not name.startswith("language.") for name in dummy)


@pytest.mark.parametrize("family", SEEING)
def test_an_error_about_a_layout_says_which_one_is_needed(family: str) -> None:
    model = _small(family)
    assert isinstance(model, VisionLanguageModel)
    own: Any = model.processor.layout
    needed = model.needed_layout
    assert type(own).__mro__.count(needed.kind) == 1
    model.processor.layout = Fixed(1) if needed.kind is Marked else Marked()
    with pytest.raises(RecipeError, match=f"set processor.layout to {own.chosen()}$"):
        model.check()
    name = next((name for name in needed.settings if name in ("image_tokens", "patch", "size")), None)
    if name is not None:
        value = getattr(own, name)
        model.processor.layout = replace(own, **{name: value + 1})
        told = rf"{name} {value + 1}\b.*, but {type(model).__name__} is made for .*{name} {value}\b"
        with pytest.raises(RecipeError, match=told):
            model.check()


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_does_not_change_what_is_learned(family: str, tmp_path: Path) -> None:
    """Whether a family's losses compare samples or not: parts give the gradient of the whole batch."""
    model = _small(family).double().train()  # so that what differs is not rounding
    loop = Loop(model, Reader(Patches(), model.processor, 8), Training(steps=1, accumulate=3, device="cpu"), tmp_path)
    batch = model.processor(_samples(family, 8))
    if batch.images is not None:
        batch = replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
    torch.manual_seed(1)  # what a family draws, such as hard negatives, is drawn alike each time
    losses = {name: float(loss.detach()) for name, loss in model.losses(batch).items()}
    torch.manual_seed(1)
    told = loop._backward(batch)
    assert {name: told[name] for name in losses} == pytest.approx(losses, abs=1e-5)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(1)
    torch.autograd.backward(loop._weighed(model.losses(batch)))
    whole = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_asked_in_bf16_to_its_precision(family: str, tmp_path: Path) -> None:
    """bf16 keeps 8 bits: answers differ, and by little."""
    model = _small(family)
    folder.save(model, tmp_path / "model")
    low = chiasm.load(tmp_path / "model", precision="bf16")
    assert {p.dtype for p in low.parameters() if p.ndim > 1} == {torch.bfloat16}
    samples = _samples(family, 4)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    if isinstance(model, GenerativeModel):
        assert isinstance(low, GenerativeModel)
        found.append((low.log_likelihood(samples), model.log_likelihood(samples)))
        assert len(low.generate(samples, max_tokens=3)) == 4
    if isinstance(model, Scorer):
        assert isinstance(low, Scorer)
        images = [sample.image for sample in samples]
        found.append((low.score(images, TEXTS), model.score(images, TEXTS)))
    if isinstance(model, Embedder):
        assert isinstance(low, Embedder)
        found.append((low.embed_texts(TEXTS), model.embed_texts(TEXTS)))
        torch.testing.assert_close(found[-1][0].norm(dim=1), torch.ones(2))
    for rounded, exact in found:
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, rtol=2e-3, atol=1e-2)
