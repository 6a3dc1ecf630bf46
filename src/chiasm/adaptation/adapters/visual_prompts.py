"""Deep visual prompts: learned vectors beside the patches, anew before each block of an image tower (VPT-Deep, Jia et
al. 2022, arXiv:2203.12119, section 3.2).

The tower stays as it is; what its blocks make of the prompts is dropped, so that each block is given its own:
    x, _ = block_i([x, P_i])        P_i: (K, D), learned
Attention knows no order among patches that are embedded already, so prompts may stand behind them. No weights compute
the same without them: they cannot be merged.

Shapes: N pictures, P patches, K prompts, D width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from chiasm.adaptation.adapter import Adapter, AdapterConfig
from chiasm.adaptation.tensors import dotted, tensors_of
from chiasm.errors import CapabilityError, CheckpointError, RecipeError
from chiasm.models.tensor_file import save_file
from chiasm.nn.attention import Block
from chiasm.nn.image_towers.vit import ViT

_TENSORS = "prompts.safetensors"


@dataclass(frozen=True)
class Config(AdapterConfig):
    """count: K, prompts of each block."""

    mergeable: ClassVar[bool] = False

    count: int = 8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RecipeError(f"adapters: visual_prompts' count is at least 1, not {self.count}")

    def check(self, part: nn.Module, where: str) -> None:
        if not isinstance(part, ViT):
            raise RecipeError(
                f"{where}: visual_prompts go into an image tower of the kind vit, and this part is a "
                f"{type(part).__name__}"
            )

    def put_into(self, model: nn.Module, part: str) -> VisualPrompts:
        return VisualPrompts(model, part, self.count)


class VisualPrompts(Adapter):
    """Prompts in the blocks of a ViT, each a parameter `prompts`, (K, D), of its block."""

    def __init__(self, model: nn.Module, part: str, count: int) -> None:
        tower = model.get_submodule(part)
        assert isinstance(tower, ViT)
        tower.requires_grad_(False)
        reach = math.sqrt(6 / (3 * tower.config.patch**2 + tower.width))  # as the paper's code draws them
        names = []
        for at, block in enumerate(tower.blocks):
            assert isinstance(block, Block)
            like = block.norm1.weight
            prompts = nn.Parameter(torch.empty(count, tower.width, device=like.device, dtype=like.dtype))
            nn.init.uniform_(prompts, -reach, reach)
            block.register_parameter("prompts", prompts)
            block.register_forward_pre_hook(_with_prompts, with_kwargs=True)
            block.register_forward_hook(_without_prompts, with_kwargs=True)
            names.append(dotted(part, f"blocks.{at}.prompts"))
        self.part, self.names = part, frozenset(names)

    def write(self, model: nn.Module, folder: Path, base: str) -> None:  # noqa: ARG002  # adapters.json has the base
        state = model.state_dict()
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(self.names)}
        save_file(tensors, folder / _TENSORS, metadata={"format": "pt"})

    def read(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:  # noqa: ARG002  # names say it all
        found = tensors_of(folder / _TENSORS)
        if found.keys() != self.names:
            odd = sorted(found.keys() ^ self.names)
            raise CheckpointError(f"{folder / _TENSORS} does not fit the tower: {', '.join(odd[:4])}")
        return found

    def merge(self, state: Mapping[str, Tensor], plain: nn.Module) -> None:  # noqa: ARG002  # there is no such way
        raise CapabilityError(
            f"adapters.{self.part}: visual prompts cannot be merged into weights; keep the run's folder, which "
            "chiasm.load opens with them"
        )


def _with_prompts(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    x_NPD, *rest = args
    assert isinstance(block.prompts, Tensor)
    prompts_NKD = block.prompts.to(x_NPD.dtype).expand(len(x_NPD), -1, -1)
    return (torch.cat([x_NPD, prompts_NKD], dim=1), *rest), kwargs


def _without_prompts(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:  # noqa: ARG001
    if kwargs.get("asked_BQD") is not None:  # the outcome of other places alone was computed
        return output
    assert isinstance(block.prompts, Tensor)
    return output[:, : -len(block.prompts)]
