"""A training step of CLIP ViT-B/32 beside open_clip's: the same weights, pixels, captions and optimiser, in turns.

    python -m benchmarks.train_step CAPTIONS [TURNS [BATCH]]

CAPTIONS: a caption file of COCO, such as captions_val2017.json; real captions fill 10 to 20 of the 77 tokens. Pixels
are random, 224 a side. A step is the forward pass, open_clip's ClipLoss or ours, the backward pass, and a fused AdamW.
Prints both losses, which must agree to 1e-4 at the first step, and the share of the measured float32 matrix peak at
which the operations that each side really does are done."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from tests import peers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from chiasm.data.batch import Batch, PixelImages, Tokens
from chiasm.data.processor import PairProcessor
from chiasm.models.clip import CLIP, SIZES
from chiasm.nn.image_towers import vit
from chiasm.weights.mapping import take_tensors
from chiasm.weights.open_clip._table import TABLES


class Side:
    """One of the two: a loss that is computed anew, and an optimiser."""

    def __init__(self, name: str, model: torch.nn.Module, loss: Callable[[], Tensor]) -> None:
        self.name, self.loss, self.seconds, self.losses = name, loss, list[float](), list[float]()
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def warm_up(self) -> None:
        """A first step, in which operations are counted."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        self.operations, self.seconds = counter.get_total_flops(), []

    def step(self) -> None:
        """One step, timed."""
        start = time.perf_counter()
        loss = self.loss()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(float(loss.detach()))


def sides(captions: list[str]) -> tuple[Side, Side]:
    """chiasm and open_clip, given the same."""
    if importlib.util.find_spec("open_clip") is None:
        sys.exit("this benchmark needs open_clip: `make test` installs it, from peers.txt")
    open_clip = peers.open_clip()
    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-B-32-quickgelu")
    config = SIZES["vit-b-32"]
    ours = CLIP(config, cast("PairProcessor", None))
    take_tensors(ours, TABLES[vit.Config], theirs.state_dict(), "open_clip's model")
    for model in (ours, theirs):
        model.train()
    pixels = torch.randn(len(captions), 3, 224, 224)
    ids_BT = open_clip.tokenize(captions)
    lengths_B = ids_BT.argmax(1) + 1  # the end mark is the highest id
    cut_BT = ids_BT[:, : int(lengths_B.max())]
    tokens = Tokens(cut_BT, lengths_B, torch.ones_like(cut_BT, dtype=torch.bool))
    batch = Batch(tuple(captions), PixelImages(pixels, torch.arange(len(captions))), tokens)
    clip_loss = open_clip.ClipLoss()
    print(f"captions of {lengths_B.float().mean():.1f} tokens, {lengths_B.max()} at most, of 77")
    return (
        Side("chiasm", ours, lambda: ours.losses(batch)["contrastive"]),
        Side("open_clip", theirs, lambda: clip_loss(*theirs(pixels, ids_BT))),
    )


def matrix_peak() -> float:
    """Operations a second of a large float32 matrix product, the best of a few."""
    side = 2048
    left, right, out = (torch.randn(side, side) for _ in range(3))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def main(file: Path, turns: int = 5, batch: int = 32) -> None:
    """Prints both sides' figures, and the ratios."""
    told = json.loads(file.read_text())["annotations"]
    ours, theirs = both = sides([one["caption"] for one in told[:: len(told) // batch][:batch]])
    peaks = []
    for side in both:
        side.warm_up()
    for _ in range(turns):
        for side in both:
            peaks.append(matrix_peak())
            side.step()
    if abs(ours.losses[0] - theirs.losses[0]) > 1e-4:
        sys.exit(f"the sides disagree: {ours.losses[0]} and {theirs.losses[0]}")
    peak = statistics.median(peaks)
    share = {}
    for side in both:
        seconds = statistics.median(side.seconds)
        share[side.name] = side.operations / seconds / peak
        print(
            f"{side.name}: {seconds:.2f} s a step, {side.operations / 1e9:,.0f} GFLOP, {share[side.name]:.2f} of the "
            f"matrix peak ({peak / 1e9:.0f} GFLOP/s); losses {side.losses[0]:.6f}, ... {side.losses[-1]:.6f}"
        )
    ratio = statistics.median(theirs.seconds) / statistics.median(ours.seconds)
    print(f"figure: training step, speed beside open_clip = {ratio:.2f} (goal >= 1.5)")
    print(f"figure: training step, share of the matrix peak = {share['chiasm']:.2f} (goal >= 0.75)")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
