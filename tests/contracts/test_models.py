"""What every family of models promises, found by walking the folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import chiasm
from chiasm.config import dump, parse
from chiasm.data.image import Image
from chiasm.data.layouts.marked import Marked
from chiasm.data.processor import Cost
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.errors import DataError, RecipeError
from chiasm.experiment.entries import deep_merge
from chiasm.models import folder
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.generative import GenerativeModel, VisionLanguageModel
from chiasm.models.model import Embedder, Model, ModelConfig, Scorer, verbs
from chiasm.training.dummy_images import with_dummy_images
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from tests.worlds import Patches

FAMILIES = ModelConfig.names()
TEXTS = ["red and green", "blue left of white"]


def _small(family: str) -> Model:
    """The family's smallest size, as a recipe would build it."""
    config = ModelConfig.choose(family).sizes()["small"]
    kind = config.model()
    entries: dict[str, Any] = {"tokenizer": {"learn": 300}}
    if issubclass(kind, DualEncoder):
        entries |= {"image": {"size": 64}}
        entries |= {"text": {"context": _context(config), "padding": "longest" if _causal(config) else "context"}}
    captions = (caption for sample in Patches() for caption in sample.captions)
    torch.manual_seed(0)
    model = kind(config, kind.processor_type.from_recipe(deep_merge(config.processor_entries(), entries), captions))
    model.check()
    return model


def _samples(family: str, count: int) -> list[Sample]:
    """What the family reads: a picture with its caption, or the caption alone."""
    blind = "score" not in verbs(ModelConfig.choose(family).model())
    pairs = [sample.with_caption(sample.captions[0]) for sample in Patches(count)]
    return [replace(one, parts=one.texts) for one in pairs] if blind else pairs


def _context(config: ModelConfig) -> int:
    return int(dump(config)["text"]["context"])


def _causal(config: ModelConfig) -> bool:
    return bool(dump(config)["text"]["causal"])


def test_the_walk_finds_the_families() -> None:
    assert {"clip", "siglip", "siglip2"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_sizes_a_paper_and_verbs(family: str) -> None:
    kind = ModelConfig.choose(family)
    module = __import__(kind.__module__, fromlist=["__doc__"])
    assert "arXiv:" in (module.__doc__ or "")
    assert "small" in kind.sizes()
    some = next(iter(kind.sizes().values()))
    assert verbs(some.model())
    for config in kind.sizes().values():
        assert parse(ModelConfig, dump(config)) == config  # type: ignore[type-abstract]


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_reach_every_trainable_tensor(family: str) -> None:
    model = _small(family).train()
    for one in model.parameters():  # what begins as zeros keeps gradients from what stands before it
        if one.dim() > 1 and not one.any():
            torch.nn.init.normal_(one, std=0.02)
    batch = model.processor(_samples(family, 8))
    losses = model.losses(batch)
    total = torch.stack([loss for name, loss in losses.items() if not name.startswith("_")]).sum()
    assert total.isfinite()
    torch.autograd.backward(total)
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, p in learned if p.grad is None or not p.grad.any()]
    # A softmax does not change when every key gets the same bias (nor with one key alone).
    assert [name for name in missing if not name.endswith("attention.k.bias")] == []


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


@pytest.mark.parametrize(
    "family", [one for one in FAMILIES if issubclass(ModelConfig.choose(one).model(), VisionLanguageModel)]
)
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


@pytest.mark.parametrize(
    "family",
    ["llava_next", "qwen2_vl", *(one for one in FAMILIES if issubclass(ModelConfig.choose(one).model(), ConnectorVLM))],
)
def test_pictures_laid_out_for_another_model_are_refused(family: str) -> None:
    model = _small(family)
    assert isinstance(model, VisionLanguageModel)
    own: Any = model.processor.layout
    model.processor.layout = Marked()
    with pytest.raises(RecipeError, match=f"set processor.layout to {own.chosen()}$"):
        model.check()
    name = "image_tokens" if "image_tokens" in dump(own) else "patch"
    model.processor.layout = replace(own, **{name: getattr(own, name) + 1})
    with pytest.raises(
        RecipeError, match=rf"{name} {getattr(own, name) + 1}\b.*, but .* is made for .*{name} {getattr(own, name)}\b"
    ):
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
def test_a_checkpoint_folder_gives_back_the_same_model(family: str, tmp_path: Path) -> None:
    model = _small(family)
    folder.save(model, tmp_path / "model", recipe="name: x\n", card="# x\n")
    again = chiasm.load(tmp_path / "model")
    assert type(again) is type(model)
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    samples = _samples(family, 4)
    if isinstance(model, GenerativeModel):
        assert isinstance(again, GenerativeModel)
        assert torch.equal(again.log_likelihood(samples), model.log_likelihood(samples))
    else:
        assert isinstance(model, Scorer)
        assert isinstance(again, Scorer)
        images = [sample.image for sample in samples]
        assert torch.equal(again.score(images, TEXTS), model.score(images, TEXTS))
    assert not list((tmp_path / "model").rglob("*.p*kl")) + list((tmp_path / "model").rglob("*.bin"))


@pytest.mark.parametrize("family", [name for name in FAMILIES if "embed" in verbs(ModelConfig.choose(name).model())])
def test_embeddings_have_unit_length_and_do_not_depend_on_company(family: str) -> None:
    model = _small(family)
    assert isinstance(model, Embedder)
    assert isinstance(model, Scorer)
    images: list[Image] = [sample.image for sample in Patches(5)]
    together, texts = model.embed_images(images), model.embed_texts([*TEXTS, "a " * 40])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(model.embed_images(images[3:4])[0], together[3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.embed_texts(TEXTS[1:])[0], texts[1], atol=1e-5, rtol=1e-5)
    assert model.embed_images([]).shape == (0, together.shape[1])
    assert model.embed_texts([]).shape == (0, together.shape[1])
    scores = model.score(images, TEXTS)
    torch.testing.assert_close(model.score(images[3:4], TEXTS[1:])[0, 0], scores[3, 1], atol=1e-5, rtol=1e-5)
    if isinstance(model, DualEncoder):
        torch.testing.assert_close(scores, together @ texts[:2].T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "embed" in verbs(ModelConfig.choose(name).model())])
def test_what_is_no_list_of_texts_or_pictures_is_refused(family: str) -> None:
    model = _small(family)
    assert isinstance(model, Embedder)
    with pytest.raises(TypeError, match="list of texts"):  # else it would be read letter by letter
        model.embed_texts("a red circle")
    with pytest.raises(TypeError, match=r"list of chiasm\.Image"):
        model.embed_images(["a.jpg"])  # type: ignore[list-item]  # the mistake itself
