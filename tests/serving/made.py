"""Folders of pictures for tests, and a model that knows their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from chiasm.data.batch import Images
from chiasm.models.clip import CLIP
from chiasm.models.model import Model
from tests.worlds import COLOURS, tiny_clip


def picture(file: Path, name: str, seed: int = 0) -> Path:
    """A PNG of one of the COLOURS, with a little noise so that each seed has a content of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 8, (16, 16, 3))
    levels = (np.array(COLOURS[name]) * 0.9 + noise).clip(0, 255).astype(np.uint8)
    PIL.Image.fromarray(levels).save(file)
    return file


def folder_of(root: Path, each: int = 2) -> Path:
    """ROOT/COLOUR/N.png, `each` of every colour."""
    for name in COLOURS:
        for seed in range(each):
            picture(root / name / f"{seed}.png", name, seed)
    return root


class Colours(CLIP):
    """Embeds a picture as its mean colour, and a text as that of the last colour that it names: a perfect model."""

    seen: list[int]

    def encode_images(self, images: Images) -> Tensor:
        self.seen.append(len(images))
        return self._placed(images.pixels.mean(dim=(2, 3)))

    def embed_texts(self, texts: object) -> Tensor:
        assert isinstance(texts, (list, tuple))
        named = [[word.strip(".") for word in text.split() if word.strip(".") in COLOURS] for text in texts]
        levels = [COLOURS[words[-1]] if words else (127, 127, 127) for words in named]
        return self._placed((torch.tensor(levels) / 255 * 0.9 - 0.5) / 0.5)

    def _placed(self, colour_N3: Tensor) -> Tensor:
        wide = torch.cat([colour_N3, torch.ones(len(colour_N3), 1)], dim=1)  # so that grey has a direction too
        padded = torch.nn.functional.pad(wide, (0, self.space - 4))
        return torch.nn.functional.normalize(padded, dim=1)


class Uncalibrated(Colours):
    """Has learned no temperature."""

    seen: list[int] = []  # noqa: RUF012  # nobody counts
    logit_scale_and_bias = Model.logit_scale_and_bias  # which says so


def colour_model(seed: int = 0) -> Colours:
    base = tiny_clip(seed)
    model = Colours(base.config, base.processor)
    model.load_state_dict(base.state_dict())
    model.seen = []
    return model
