"""Time to quality: a small CLIP on rendered scenes to a given recall, chiasm's recipe beside open_clip's.

    python -m benchmarks.speedrun [--seeds 3] [--recall 0.5] [--limit 400] [--patience 2] [--rates 5e-4 1e-3 2e-3]

chiasm is the recipe clip/scenes as it ships. open_clip is its CLIP class, built with the same widths, layers and heads
(its image tower cuts patches by one convolution, where the recipe's has a stem of several), its ClipLoss, and its
training recipe: AdamW (betas 0.9, 0.98; epsilon 1e-6; weight decay 0.2, none on vectors; fused, which is faster than
its default), warm-up over a tenth of the steps, then a cosine, the scale held below 100. Its learning rate is the best
of `--rates`, found on a seed that is not counted. It may take `--patience` times as many steps, and its schedule is as
long.

Both are given the same pixels and the same token ids, rendered and cut beforehand; open_clip's are padded to the
context, as its tokenizer does. Quality is the mean of R@1 both ways among held-out scenes, asked every `--every` steps.
Time is that of training alone. Each seed draws other first weights and another order of the batches. A side that does
not reach the recall within the limit counts with all the time that it took."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tests import peers
from torch import Tensor, nn

from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.data.sources.scenes import Scenes
from chiasm.experiment.assembly import build_model
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.models.clip import CLIP, Config
from chiasm.models.model import Model
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer
from chiasm.training.loop import Loop

_TUNING_SEED = 1000


class Reached(Exception):
    """The recall is there; nothing more is to be learned."""


@dataclass(frozen=True)
class World:
    """What both sides are given. asked: held-out scenes, each with its first caption."""

    recipe: Recipe
    batches: Sequence[Batch]
    asked: Batch
    recall: float
    limit: int
    patience: int
    every: int


@dataclass(frozen=True)
class Outcome:
    """How long it took, in seconds and steps, and the best recall that was seen."""

    seconds: float
    steps: int
    recall: float
    reached: bool

    def told(self) -> str:
        """One line."""
        end = "reached" if self.reached else "NOT reached"
        return f"{self.seconds:.1f} s, {self.steps} steps, R@1 {self.recall:.3f} ({end})"


class Prepared(Reader):
    """Batches that exist already, in an order of the seed's, again and again."""

    def __init__(self, reader: Reader, batches: Sequence[Batch], seed: int) -> None:
        super().__init__(reader.source, reader.processor, reader.batch_size)
        self.batches, self.order = batches, order(len(batches), seed)

    def shares(self) -> Generator[Batch | None]:
        """Endless."""
        for at in self.order:
            self.position += self.batch_size
            yield self.batches[at]


def order(count: int, seed: int) -> Iterator[int]:
    """All of `count` in a new order each time, without end."""
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.permutation(count).tolist()


def recall_at_1(image_ND: Tensor, text_ND: Tensor, ids_BT: Tensor) -> float:
    """The mean of both ways; equal captions are one, right for each of their pictures."""
    scores_NN = image_ND @ text_ND.T
    same_NN = (ids_BT[:, None] == ids_BT[None]).all(-1)
    rows = torch.arange(len(scores_NN))
    to_text = same_NN[rows, scores_NN.argmax(1)].float().mean()
    to_image = same_NN[rows, scores_NN.argmax(0)].float().mean()
    return float((to_text + to_image) / 2)


def prepared(options: argparse.Namespace) -> World:
    """Renders everything that either side will see."""
    recipe = load_recipe("clip/scenes", [f"training.steps={options.limit}", "training.evaluate_every=0"])
    processor = build_model(recipe).processor
    reader = Reader(recipe.data.train, processor, recipe.data.batch_size, captions=recipe.data.captions)
    batches = [batch for batch, _ in zip(reader, range(options.pool), strict=False)]
    assert isinstance(recipe.data.train, Scenes)
    held_out = replace(recipe.data.train, seed=2, count=options.asked)
    asked = next(iter(Reader(held_out, processor, options.asked, captions="first")))
    return World(recipe, batches, asked, options.recall, options.limit, options.patience, options.every)


def of_chiasm(world: World, seed: int) -> Outcome:
    """The recipe in the loop."""
    settings = replace(world.recipe.training, evaluate_every=world.every)
    model = build_model(replace(world.recipe, seed=seed))
    reader = Reader(world.recipe.data.train, model.processor, world.recipe.data.batch_size)
    found: list[float] = []

    def evaluate(live: Model) -> Mapping[str, float]:
        assert isinstance(live, CLIP)
        live.eval()
        with torch.inference_mode():
            found.append(_asked(world, live.features(world.asked)))
        if found[-1] >= world.recall:
            raise Reached
        return {"recall": found[-1]}

    with tempfile.TemporaryDirectory() as folder:
        batches = Prepared(reader, world.batches, seed)
        loop = Loop(model, batches, settings, Path(folder), evaluate=evaluate, console=Console(quiet=True))
        with suppress(Reached):
            loop.run()
    best = max(found)
    return Outcome(loop.progress.seconds, loop.progress.step, best, best >= world.recall)


def of_open_clip(world: World, seed: int, rate: float) -> Outcome:
    """Its parts in a plain loop."""
    open_clip = peers.open_clip()
    torch.manual_seed(seed)
    assert world.asked.texts is not None
    end = int(world.asked.texts.ids_BT[0, int(world.asked.texts.lengths_B[0]) - 1])
    model = _their_model(world.recipe, end)
    optimiser = _their_optimiser(model, rate)
    clip_loss, limit = open_clip.ClipLoss(), world.limit * world.patience
    rise, seconds, found = max(1, limit // 10), 0.0, list[float]()
    for step, at in zip(range(limit), order(len(world.batches), seed), strict=False):
        pixels, ids_BT = _given(world, world.batches[at])
        start = time.perf_counter()
        share = (step + 1) / rise if step < rise else (1 + math.cos(math.pi * (step - rise) / (limit - rise))) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate * share
        optimiser.zero_grad()
        torch.autograd.backward(clip_loss(*model(pixels, ids_BT)))
        optimiser.step()
        with torch.no_grad():
            model.get_parameter("logit_scale").clamp_(0, math.log(100))
        seconds += time.perf_counter() - start
        if (step + 1) % world.every == 0 or step + 1 == limit:
            found.append(_their_recall(world, model))
            if found[-1] >= world.recall:
                return Outcome(seconds, step + 1, found[-1], True)
    return Outcome(seconds, limit, max(found), False)


def _their_model(recipe: Recipe, end: int) -> nn.Module:
    module = importlib.import_module("open_clip.model")
    config = recipe.model
    assert isinstance(config, Config)
    assert isinstance(config.vision, vit.Config)
    assert isinstance(config.text, transformer.Config)
    image, text = config.vision, config.text
    seen = module.CLIPVisionCfg(
        layers=image.layers,
        width=image.width,
        head_width=image.width // image.heads,
        mlp_ratio=image.mlp_width / image.width,
        patch_size=image.patch,
        image_size=image.image_size,
    )
    read = module.CLIPTextCfg(
        context_length=text.context,
        vocab_size=text.vocabulary,
        width=text.width,
        heads=text.heads,
        layers=text.layers,
        mlp_ratio=text.mlp_width / text.width,
        pool_type="eos",
        eos_id=end,
    )
    model: nn.Module = module.CLIP(config.width, seen, read, quick_gelu=image.act == "quick_gelu")
    return model.train()


def _their_optimiser(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """As in open_clip_train/main.py: no decay for what has fewer than two dimensions, norms, biases and the scale."""
    named = list(model.named_parameters())
    plain = [one for name, one in named if one.ndim < 2 or "bn" in name or "ln" in name or "bias" in name]
    rest = [one for _, one in named if not any(one is other for other in plain)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def _their_recall(world: World, model: nn.Module) -> float:
    pixels, ids_BT = _given(world, world.asked)
    model.eval()
    with torch.inference_mode():
        image_ND, text_ND, _ = model(pixels, ids_BT)
    model.train()
    return _asked(world, {"image": image_ND, "text": text_ND})


def _given(world: World, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pixels, and ids padded to the context."""
    assert batch.images is not None
    assert batch.texts is not None
    assert isinstance(world.recipe.model, Config)
    room = world.recipe.model.text.build().context - batch.texts.ids_BT.shape[1]
    return batch.images.pixels, nn.functional.pad(batch.texts.ids_BT, (0, room))


def _asked(world: World, features: Mapping[str, Tensor]) -> float:
    assert world.asked.texts is not None
    return recall_at_1(features["image"], features["text"], world.asked.texts.ids_BT)


def tuned(world: World, rates: Sequence[float], run: Callable[[World, int, float], Outcome]) -> float:
    """The rate that reaches the recall first; where none does, the one that comes nearest to it."""
    found = {}
    for rate in rates:
        found[rate] = run(world, _TUNING_SEED, rate)
        print(f"open_clip, learning rate {rate:g}: {found[rate].told()}", flush=True)
    return min(rates, key=lambda rate: (not found[rate].reached, found[rate].steps, -found[rate].recall))


def main(options: argparse.Namespace) -> None:
    """Prints every run, and the ratio of the medians."""
    if importlib.util.find_spec("open_clip") is None:
        sys.exit("this benchmark needs open_clip: `make test` installs it, from peers.txt")
    world = prepared(options)
    print(
        f"{len(world.batches)} batches of {len(world.batches[0])}, {len(world.asked)} held-out scenes, recall "
        f"{world.recall:g} within {world.limit} steps, {torch.get_num_threads()} threads",
        flush=True,
    )
    rate = tuned(world, options.rates, of_open_clip) if len(options.rates) > 1 else options.rates[0]
    print(f"open_clip's learning rate: {rate:g}")
    ours, theirs = [], []
    for seed in range(options.seeds):
        ours.append(of_chiasm(world, seed))
        print(f"seed {seed}, chiasm: {ours[-1].told()}", flush=True)
        theirs.append(of_open_clip(world, seed, rate))
        print(f"seed {seed}, open_clip: {theirs[-1].told()}", flush=True)
    if not all(one.reached for one in ours):
        sys.exit("chiasm did not reach the recall at every seed: raise --limit, or lower --recall")
    seconds = [statistics.median(one.seconds for one in side) for side in (ours, theirs)]
    steps = [statistics.median(one.steps for one in side) for side in (ours, theirs)]
    print(f"medians: chiasm {seconds[0]:.1f} s, {steps[0]:g} steps; open_clip {seconds[1]:.1f} s, {steps[1]:g} steps")
    if not all(one.reached for one in theirs):
        print("open_clip did not reach the recall at every seed: the ratio is at least this")
    print(f"figure: time to recall, speed beside open_clip = {seconds[1] / seconds[0]:.2f} (goal >= 2.0)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--recall", type=float, default=0.5, help="mean R@1 both ways (default: 0.5)")
    parser.add_argument("--limit", type=int, default=400, help="steps at most, and of the schedules (default: 400)")
    parser.add_argument("--patience", type=int, default=2, help="times as many steps for open_clip (default: 2)")
    parser.add_argument("--every", type=int, default=10, help="steps between two evaluations (default: 10)")
    parser.add_argument("--pool", type=int, default=100, help="batches that are rendered (default: 100)")
    parser.add_argument("--asked", type=int, default=200, help="held-out scenes (default: 200)")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3], help="open_clip's, to try")
    main(parser.parse_args())
