"""Small worlds for tests: sources that live in memory, models that train in a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import DataError
from chiasm.models import clip
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 40),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 40),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
    "orange": (250, 140, 20),
    "purple": (130, 40, 160),
}


@dataclass(frozen=True)
class Patches(Source):
    """Pictures of two colours, side by side, with their names as the caption. broken: indices that cannot be read."""

    count: int = 64
    broken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise DataError(f"patch {index} is broken")
        names = list(COLOURS)
        left, right = names[index % 8], names[(index // 8) % 8]
        levels = np.empty((16, 16, 3), np.uint8)
        levels[:, :8], levels[:, 8:] = COLOURS[left], COLOURS[right]
        captions = (f"{left} and {right}", f"{left} left of {right}")
        return Sample(f"patches/{index}", (Image(levels),), captions=captions, label=left)


def tiny_processor(context: int = 16) -> PairProcessor:
    texts = [caption for sample in Patches() for caption in sample.captions]
    tokenizer = Tokenizer(learn_tokenizer(texts, 320), TextTransform(context=context))
    return PairProcessor(ImageTransform(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), tokenizer)


def tiny_clip(seed: int = 0) -> clip.CLIP:
    import torch

    torch.manual_seed(seed)
    config = clip.Config(
        vit.Config(16, 8, width=32, layers=1, heads=2, mlp_width=64),
        transformer.Config(320, 16, width=32, layers=1, heads=2, mlp_width=64),
        width=16,
    )
    return clip.CLIP(config, tiny_processor())
