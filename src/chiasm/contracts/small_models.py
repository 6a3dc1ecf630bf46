"""What the contracts of models try them on: the size `small` of a family, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.config import dump, parse
from chiasm.contracts.contract import require
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.experiment.entries import deep_merge
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.model import Model, ModelConfig, verbs

Family = type[ModelConfig]


def small(kind: Family) -> Model:
    """The family's size `small`, with a tokenizer of 300 tokens, as a recipe would build it."""
    config = small_size(kind)
    model = config.model()
    entries: dict[str, Any] = {"tokenizer": {"learn": 300}}
    if issubclass(model, DualEncoder):
        text = dump(config)["text"]
        padding = "longest" if text.get("causal") else "context"
        entries |= {"image": {"size": 64}, "text": {"context": text.get("context", 40), "padding": padding}}
    captions = (caption for sample in scenes(32) for caption in sample.captions)
    torch.manual_seed(0)
    processor = model.processor_type.from_recipe(deep_merge(config.processor_entries(), entries), captions)
    built = model(config, processor)
    built.check()
    return built


def fill_zeros(module: nn.Module) -> None:
    """Draws the weights that learn and begin as zeros, since these keep gradients from what stands before them."""
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def backward(losses: Mapping[str, Tensor]) -> None:
    """The backward pass of all losses together. Raises ContractError unless they are finite scalars, one at least."""
    require(bool(losses), "losses() gives no loss")
    for name, loss in losses.items():
        require(loss.dim() == 0 and bool(loss.isfinite()), f"the loss '{name}' is no finite scalar: {loss.detach()}")
    torch.autograd.backward(torch.stack([loss for name, loss in losses.items() if not name.startswith("_")]).sum())


def samples(kind: Family, count: int) -> list[Sample]:
    """What the family reads: a picture with its caption, or the caption alone."""
    pairs = [sample.with_caption(sample.captions[0]) for sample in scenes(count)]
    return pairs if "score" in verbs(kind.model()) else [replace(sample, parts=sample.texts) for sample in pairs]


def small_size(kind: Family) -> ModelConfig:
    """Its size `small`. Raises ContractError where there is none."""
    sizes: Mapping[str, ModelConfig] = kind.sizes()
    require("small" in sizes, f"the module {kind.__module__} offers no SIZES['small'] of {kind.__name__}")
    return sizes["small"]


def scenes(count: int) -> Source:
    """Rendered scenes of one or two things, with captions."""
    entries = {"source": "scenes", "seed": 5, "count": count, "objects": [1, 2]}
    return parse(Source, entries)  # type: ignore[type-abstract]  # a choice of the package is built
