"""A step of the training loop beside the bare one: forward, backward, clipping and the optimiser, and nothing else.

    python -m benchmarks.loop_overhead [TURNS [MODEL ...]]

MODEL: small (the model of the recipe clip/scenes, batches of 64 and of 128) or medium (a ViT of 8 layers of width 384,
batches of 32). Both sides have the same weights, optimiser and prepared batches, and take turns. A step of the loop is
all that `Loop.run` does from one batch to the next: its checks, its figures, its lines in metrics.jsonl."""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.experiment.assembly import build_model
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.models.model import Model
from chiasm.training.loop import Loop
from chiasm.training.optimiser import build_optimiser
from chiasm.training.settings import Training

_MEDIUM = (
    "model.vision={tower: vit, image_size: 64, patch: 8, width: 384, layers: 8, heads: 6, hidden: 1536, stem: []}",
    "model.text={tower: transformer, vocabulary: 512, context: 40, width: 384, layers: 4, heads: 6, hidden: 1536}",
)
_CASES: dict[str, tuple[tuple[int, tuple[str, ...]], ...]] = {
    "small": ((64, ()), (128, ())),
    "medium": ((32, _MEDIUM),),
}
_BATCHES = 4  # prepared ones, given again and again
_WARM = 4  # steps of each side before any counts


class Bare:
    """What nobody can leave out of a step."""

    def __init__(self, model: Model, settings: Training) -> None:
        self.model, self.optimiser = model, build_optimiser(model, settings)
        self.limit = settings.clip_norm or 1.0
        self.model.train()

    def step(self, batch: Batch) -> None:
        """One step."""
        loss = self.model.losses(batch)["contrastive"]
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.limit)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


class Turns(Reader):
    """Hands prepared batches to the loop, and does a bare step before each: so both sides are timed in turns."""

    def __init__(self, reader: Reader, batches: Sequence[Batch], bare: Bare) -> None:
        super().__init__(reader.source, reader.processor, reader.batch_size)
        self.batches, self.bare = batches, bare
        self.of_loop, self.of_bare = list[float](), list[float]()

    def shares(self) -> Generator[Batch | None]:
        """The batches, again and again; the time until the loop asks for the next one is that of its step."""
        while True:
            for batch in self.batches:
                start = time.perf_counter()
                self.bare.step(batch)
                self.of_bare.append(time.perf_counter() - start)
                self.position += len(batch)
                start = time.perf_counter()
                yield batch
                self.of_loop.append(time.perf_counter() - start)


def case(recipe: Recipe, turns: int) -> tuple[float, float]:
    """Median seconds of a step of the loop, and of the bare one."""
    model = build_model(recipe)
    settings = replace(recipe.training, steps=turns + _WARM, evaluate_every=0)
    reader = Reader(recipe.data.train, model.processor, recipe.data.batch_size, captions=recipe.data.captions)
    batches = [batch for batch, _ in zip(reader, range(_BATCHES), strict=False)]
    taking = Turns(reader, batches, Bare(copy.deepcopy(model), settings))
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(model, taking, settings, Path(folder), console=Console(quiet=True))
        loop.run()
    return statistics.median(taking.of_loop[_WARM:]), statistics.median(taking.of_bare[_WARM:])


def main(turns: int = 60, names: Sequence[str] = tuple(_CASES)) -> None:
    """Prints both sides' times, and their ratio, for each model and batch size."""
    for name in names:
        for batch, overrides in _CASES[name]:
            recipe = load_recipe("clip/scenes", [f"data.batch_size={batch}", "training.optimiser=adamw", *overrides])
            of_loop, of_bare = case(recipe, turns)
            print(f"{name}, batch {batch}: loop {1000 * of_loop:.1f} ms, bare {1000 * of_bare:.1f} ms a step")
            what = f"training loop, time beside bare steps, {name} at {batch}"
            print(f"figure: {what} = {of_loop / of_bare:.3f} (goal <= 1.02)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 60, sys.argv[2:] or tuple(_CASES))
