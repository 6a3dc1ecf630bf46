"""Five-fold cross-validation on the training photos of the recipe clip/photos-pretrained-towers.

    python -m benchmarks.photo_settings DATA [a.b=value ...]

How the recipe's settings were chosen without a look at the val photos: each fold's photos are searched by heads that
were learned on the other four. Prints the six recalls, and their mean, of plain settings and of the recipe with the
given entries changed. Features of both towers are computed once and kept in runs/features."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from chiasm.data.batch import PixelImages, Tokens
from chiasm.data.image import Image
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.evaluation.run import quick_scores
from chiasm.evaluation.tasks.retrieval import Retrieval
from chiasm.experiment.assembly import build_model
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.models.clip import CLIP
from chiasm.models.features import CachedProcessor
from chiasm.training.loop import Loop

FOLDS = 5
PLAIN = (  # 256 wide, dropout 0.5, 60 epochs
    "model.width=256",
    "model.image_dropout=0.5",
    "model.text_dropout=0.5",
    "model.vision.power=1",
    "processor.image.size=224",
    "training.steps=107",
    "training.learning_rate=1e-3",
)


@dataclass(frozen=True)
class Part(Source):
    """Some of a source's samples."""

    whole: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.indices[index]]


class FromFeatures:
    """Embeds pictures and texts whose features are known."""

    def __init__(self, model: CLIP, known: CachedProcessor) -> None:
        self.model, self.known = model.eval(), known

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image]) -> Tensor:
        features = self.known.features_of_images([image.key for image in images])
        return self.model.encode_images(PixelImages(torch.empty(0), torch.arange(len(images)), features))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        ones = torch.ones(len(texts), 1, dtype=torch.long)
        return self.model.encode_texts(Tokens(ones, ones[:, 0], ones.bool(), self.known.features_of_texts(texts)))


def fold_scores(recipe: Recipe, fold: int, console: Console) -> dict[str, float]:
    """Recalls on one fold, of heads learned on the others."""
    model = build_model(recipe)
    assert isinstance(model, CLIP)
    assert recipe.data.features is not None
    known = CachedProcessor(model, recipe.data.features)
    known.fill(recipe.data.train, console)
    photos = torch.randperm(len(recipe.data.train), generator=torch.Generator().manual_seed(0)).tolist()
    held_out, rest = photos[fold::FOLDS], [photo for at, photo in enumerate(photos) if at % FOLDS != fold]
    reader = Reader(Part(recipe.data.train, tuple(rest)), known, recipe.data.batch_size, seed=recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        Loop(model, reader, recipe.training, Path(folder), console=Console(quiet=True)).run()
    return quick_scores(FromFeatures(model, known), [Retrieval(Part(recipe.data.train, tuple(held_out)))])


def _cache(changes: list[str]) -> list[str]:
    """The changes that say where features are kept: they hold for the plain settings too."""
    return [change for change in changes if change.startswith("data.features=")]


def main(words: list[str]) -> None:
    """Prints a line for the plain settings and one for the recipe's."""
    if not words:
        sys.exit(__doc__)
    console = Console()
    root, *changes = words
    for name, overrides in (("plain, 224 pixels", [*PLAIN, *_cache(changes)]), ("the recipe", changes)):
        recipe = load_recipe("clip/photos-pretrained-towers", [f"data.root={root}", "evaluation=[]", *overrides])
        folds = [fold_scores(recipe, fold, console) for fold in range(FOLDS)]
        means = {key: sum(one[key] for one in folds) / FOLDS for key in folds[0]}
        shown = "  ".join(f"{key.removeprefix('retrieval: ')} {100 * value:.1f}" for key, value in means.items())
        print(f"{name}: mean {100 * sum(means.values()) / len(means):.1f}  ({shown})")


if __name__ == "__main__":
    main(sys.argv[1:])
