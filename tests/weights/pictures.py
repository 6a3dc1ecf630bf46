"""What tests of published folders that no library has a class for are put together from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from chiasm.data.image import Image
from chiasm.models.generative import VisionLanguageModel
from chiasm.nn.decoder import Packed


def noise(width: int, height: int, seed: int = 0) -> Image:
    """A picture of blocks in random colours, alike nowhere."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return Image(np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width])


class Resampler(nn.Module):
    """Queries, torch's attention, norms and a matrix, with the names of the published programs; it computes nothing."""

    def __init__(self, queries: int, width: int, features: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.kv_proj = nn.Linear(features, width, bias=False)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(width, 1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.randn(width, width) * width**-0.5)
        for norm in (self.ln_q, self.ln_kv, self.ln_post):
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, std=0.2)
        nn.init.normal_(self.attn.in_proj_bias, std=0.2)
        nn.init.normal_(self.attn.out_proj.bias, std=0.2)


def spread_out(model: nn.Module, std: float = 0.3) -> None:
    """Larger weights: what is wrong shows."""
    for one in model.parameters():
        if one.dim() > 1:
            nn.init.normal_(one, std=std / one.shape[-1] ** 0.5 * 4)


def write_folder(folder: Path, settings: dict[str, Any], state: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    safetensors.torch.save_file(
        {name: one.contiguous().clone() for name, one in state.items()}, folder / "model.safetensors"
    )


def logits(model: VisionLanguageModel, batch: Any) -> Tensor:
    """(T, V) of everything in a batch."""
    with torch.no_grad():
        prompt = model.embedded(batch)
        return model.language.logits(model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))
