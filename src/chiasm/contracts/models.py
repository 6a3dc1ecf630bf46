"""What every family of models promises: sizes, verbs, losses that reach what learns, checkpoints that give it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from chiasm.config import dump
from chiasm.contracts.contract import Trial, require
from chiasm.contracts.small_models import Family, backward, fill_zeros, samples, scenes, small, small_size
from chiasm.data.layout import Layout
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.layouts.marked import Marked
from chiasm.data.sample import Sample
from chiasm.errors import ContractError, RecipeError
from chiasm.models import folder as model_folder
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.generative import GenerativeModel, VisionLanguageModel
from chiasm.models.model import ContrastiveModel, Embedder, Model, ModelConfig, Scorer, verbs

BASE = ModelConfig

TEXTS = ("red and green", "blue left of white")


def has_a_small_size_and_verbs(trial: Trial[Family]) -> None:
    """Its module has SIZES, among them a "small" that a laptop trains, and the model embeds, scores or generates."""
    small_size(trial.subject)
    model = trial.subject.model()
    require(bool(verbs(model)), f"{model.__name__} has none of the verbs: embed, score, generate")


def losses_reach_all_that_learns(trial: Trial[Family]) -> None:
    """Its losses are finite scalars, and their gradient reaches every parameter that learns."""
    model = small(trial.subject).train()
    fill_zeros(model)
    backward(model.losses(model.processor(samples(trial.subject, 8))))
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # A softmax does not change when every key gets the same bias, nor with one key alone.
    missing = [
        name for name, p in learned if (p.grad is None or not p.grad.any()) and not name.endswith("attention.k.bias")
    ]
    require(not missing, f"no gradient reaches {', '.join(missing[:5])}")


def parts_of_a_batch_add_up(trial: Trial[Family]) -> None:
    """Its losses are means over `weight`; where it compares samples, each feature follows from its own sample."""
    model = small(trial.subject).double().eval()  # so that what differs is not rounding
    some = samples(trial.subject, 8)
    whole, parts = _double(model, some), [_double(model, some[:3]), _double(model, some[3:])]
    with torch.no_grad():
        if isinstance(model, ContrastiveModel):
            torch.manual_seed(1)  # what is drawn a sample, such as hard negatives, is drawn alike each time
            separate = [model.features(part) for part in parts]
            torch.manual_seed(1)
            for name, feature in model.features(whole).items():
                if feature.is_floating_point():
                    joined = torch.cat([part[name] for part in separate])
                    _alike(joined, feature, f"the feature '{name}' depends on the other samples of its batch")
            return
        expected = model.losses(whole)
        weights, found = [model.weight(part) for part in parts], [model.losses(part) for part in parts]
    require(
        sum(weights) == model.weight(whole), "weight() of the parts of a batch does not add up to that of the whole"
    )
    for name, loss in expected.items():
        mean = torch.stack([weight * each[name] for weight, each in zip(weights, found, strict=True)]).sum()
        _alike(mean / sum(weights), loss, f"the loss '{name}' is no mean over weight(): parts of a batch give another")


def a_checkpoint_gives_it_back(trial: Trial[Family]) -> None:
    """A saved model opens as the same one, bit for bit, and answers alike; its folder holds no pickle."""
    kind, folder = trial.subject, trial.folder / "model"
    model = small(kind)
    model_folder.save(model, folder, recipe="name: x\n", card="# x\n")
    again = model_folder.load(folder)
    require(type(again) is type(model) and again.config == model.config, "what is opened is another model")
    state = again.state_dict()
    other = [name for name, tensor in model.state_dict().items() if not torch.equal(state[name], tensor)]
    require(not other, f"another value comes back for {', '.join(other[:5])}")
    require(torch.equal(_answers(again, kind), _answers(model, kind)), "the model that is opened answers otherwise")
    pickles = [*folder.rglob("*.p*kl"), *folder.rglob("*.bin")]
    require(not pickles, f"the checkpoint holds {', '.join(file.name for file in pickles)}")


def embeddings_do_not_depend_on_company(trial: Trial[Family]) -> None:
    """What it embeds has unit length and is the same in any batch; so are its scores."""
    model = small(trial.subject)
    if not isinstance(model, Embedder) or not isinstance(model, Scorer):
        return
    images = [sample.image for sample in scenes(5)]
    seen_ND, read_ND = model.embed_images(images), model.embed_texts([*TEXTS, "a " * 40])
    for embedded in (seen_ND, read_ND):
        _alike(embedded.norm(dim=1), torch.ones(len(embedded)), "embeddings are not of unit length", rtol=1e-6)
    _alike(model.embed_images(images[3:4])[0], seen_ND[3], "a picture's embedding depends on those beside it")
    _alike(model.embed_texts(TEXTS[1:])[0], read_ND[1], "a text's embedding depends on those beside it")
    for empty in (model.embed_images([]), model.embed_texts([])):
        require(empty.shape == (0, seen_ND.shape[1]), f"nothing embedded is of shape {tuple(empty.shape)}")
    scores = model.score(images, TEXTS)
    require(scores.shape == (5, 2), f"scores of 5 pictures and 2 texts are of shape {tuple(scores.shape)}")
    _alike(model.score(images[3:4], TEXTS[1:])[0, 0], scores[3, 1], "a score depends on those beside it")
    if isinstance(model, DualEncoder):
        _alike(scores, seen_ND @ read_ND[:2].T, "scores are not the cosines of the embeddings")


def refuses_what_is_no_list(trial: Trial[Family]) -> None:
    """A text in place of a list of texts, or file names in place of pictures, are a TypeError that says so."""
    model = small(trial.subject)
    if not isinstance(model, Embedder):
        return
    calls: tuple[tuple[Callable[[Any], Tensor], Any, str], ...] = (
        (model.embed_texts, "a red circle", "list of texts"),  # else it would be read letter by letter
        (model.embed_images, ["a.jpg"], "list of chiasm.Image"),
    )
    for embed, given, expected in calls:
        try:
            embed(given)
        except TypeError as error:
            require(expected in str(error), f"the error for {given!r} does not say '{expected}': {error}")
        else:
            raise ContractError(f"{given!r} is embedded, though it is no {expected}")


def refuses_another_layout(trial: Trial[Family]) -> None:
    """check() refuses a layout of pictures that the model is not made for: another kind, and another setting."""
    if not issubclass(trial.subject.model(), VisionLanguageModel):
        return
    model = small(trial.subject)
    assert isinstance(model, VisionLanguageModel)
    own, needed = model.processor.layout, model.needed_layout
    assert own is not None
    others: list[Callable[[], Any]] = [partial(_another, own)]
    others += [partial(_changed, own, name.split(".")) for name in needed.settings]
    for other in others:
        try:
            layout = other()
        except RecipeError:  # a setting that does not go with the rest cannot even be written
            continue
        model.processor.layout = layout
        try:
            model.check()
        except RecipeError as error:
            require("processor.layout" in str(error), f"the error for another layout does not name it: {error}")
            continue
        raise ContractError(f"check() takes the layout {dump(layout)}, which the model is not made for")


def _another(own: Layout) -> Layout:
    return Fixed(1) if isinstance(own, Marked) else Marked()


def _changed(layout: Any, path: Sequence[str]) -> Any:
    """The layout with another value of one of its settings."""
    name, *rest = path
    value = getattr(layout, name)
    if rest:
        return replace(layout, **{name: _changed(value, rest)})
    return replace(layout, **{name: value[:-1] if isinstance(value, tuple) else value + 1})


def _double(model: Model, some: Sequence[Sample]) -> Any:
    batch = model.processor(some)
    if batch.images is not None:
        batch = replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
    return batch


def _answers(model: Model, kind: Family) -> Tensor:
    some = samples(kind, 4)
    if isinstance(model, GenerativeModel):
        return model.log_likelihood(some)
    assert isinstance(model, Scorer)
    return model.score([sample.image for sample in some], TEXTS)


def _alike(found: Tensor, expected: Tensor, problem: str, rtol: float = 1e-5) -> None:
    if not torch.allclose(found, expected, rtol=rtol, atol=1e-5):
        apart = float((found - expected).abs().max()) if found.shape == expected.shape else "another shape"
        raise ContractError(f"{problem} (they differ by {apart})")
