"""Properties of a model's tensors: how deep below the top each lies, and whether it decays."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.conv import _ConvNd

_DECAYING = (nn.Linear, nn.Embedding, _ConvNd, nn.MultiheadAttention)


def depths(model: nn.Module) -> dict[str, int]:
    """The number of layers between each tensor and the top of its tower, by name; 0 outside of towers.

    A tower is a child of the model that holds a list of layers (nn.ModuleList), its elements the layers in order. What
    is registered before the list lies below the first layer; what comes after the last layer goes with it, as in timm.
    """
    found: dict[str, int] = {}
    for name, child in (("", nn.Module()), *model.named_children()):
        depths = dict(_depths(child, f"{name}.", [0])) if name else {}
        top = max(depths.values(), default=0)
        found |= {tensor: top + 1 - level if top else 0 for tensor, level in depths.items()}
    return {name: found.get(name, 0) for name, _ in model.named_parameters(remove_duplicate=False)}


def _depths(module: nn.Module, prefix: str, level: list[int]) -> Iterator[tuple[str, int]]:
    """Each tensor's layer, counted from 1; 0 lies below the first. level: a counter through the whole tower."""
    yield from ((f"{prefix}{name}", level[0]) for name, _ in module.named_parameters(recurse=False))
    for name, child in module.named_children():
        if not isinstance(child, nn.ModuleList):
            yield from _depths(child, f"{prefix}{name}.", level)
            continue
        for index, layer in child.named_children():
            level[0] += 1
            for tensor, _ in layer.named_parameters():
                yield f"{prefix}{name}.{index}.{tensor}", level[0]


def decaying(model: nn.Module) -> set[int]:
    """The ids of the tensors that multiply what they are given: weights of linear layers, convolutions, embeddings."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _DECAYING)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim >= 2
    }
