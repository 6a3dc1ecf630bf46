"""A training step of CLIP ViT-B/32 beside open_clip's: the same weights, pixels, captions and optimiser, in turns.

    python -m benchmarks.train_step CAPTIONS [TURNS [BATCH]]

CAPTIONS: a caption file of COCO, such as captions_val2017.json; real captions fill 10 to 20 of the 77 tokens. Pixels
are random, 224 a side. A step is the forward pass, open_clip's ClipLoss or ours, the backward pass, and a fused AdamW.
Prints the losses, which must agree at the first step, and the share of the measured matrix peak at which the operations
that each side really does are done.

In float32 both sides stand everywhere. Where this machine multiplies bf16 matrices clearly faster than float32 ones
(CPUs with AMX do), both stand in bf16 too, each under its own autocast with float32 weights, and the goals are of
those; elsewhere that is said, and the goal is float32's."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
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
from chiasm.nn.precision import DTYPES, WORTH, Precision, autocast, bf16_gain, matrix_rate
from chiasm.weights.mapping import take_tensors
from chiasm.weights.open_clip._table import TABLES

CPU = torch.device("cpu")


class Side:
    """A model in a precision: a loss that is computed anew, and an optimiser."""

    def __init__(self, name: str, precision: Precision, model: torch.nn.Module, loss: Callable[[], Tensor]) -> None:
        self.name, self.precision, self.loss = name, precision, loss
        self.seconds, self.losses = list[float](), list[float]()
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


def sides(captions: list[str], precisions: Sequence[Precision]) -> list[Side]:
    """chiasm and open_clip in each precision, given the same."""
    if importlib.util.find_spec("open_clip") is None:
        sys.exit("this benchmark needs open_clip: `make test` installs it, from peers.txt")
    open_clip = peers.open_clip()
    torch.manual_seed(0)
    weights = open_clip.create_model("ViT-B-32-quickgelu").state_dict()
    pixels = torch.randn(len(captions), 3, 224, 224)
    ids_BT = open_clip.tokenize(captions)
    lengths_B = ids_BT.argmax(1) + 1  # the end mark is the highest id
    cut_BT = ids_BT[:, : int(lengths_B.max())]
    tokens = Tokens(cut_BT, lengths_B, torch.ones_like(cut_BT, dtype=torch.bool))
    batch = Batch(tuple(captions), PixelImages(pixels, torch.arange(len(captions))), tokens)
    print(f"captions of {lengths_B.float().mean():.1f} tokens, {lengths_B.max()} at most, of 77")
    found = []
    for precision in precisions:
        ours = CLIP(SIZES["vit-b-32"], cast("PairProcessor", None)).train()
        take_tensors(ours, TABLES[vit.Config], weights, "open_clip's model")
        theirs = open_clip.create_model("ViT-B-32-quickgelu").train()
        theirs.load_state_dict(weights)
        found.append(Side("chiasm", precision, ours, partial(_our_loss, ours, batch, precision)))
        found.append(Side("open_clip", precision, theirs, partial(_their_loss, theirs, pixels, ids_BT, precision)))
    return found


def _our_loss(model: CLIP, batch: Batch, precision: Precision) -> Tensor:
    """As the loop computes it."""
    with autocast(CPU, precision):
        return model.losses(batch)["contrastive"]


def _their_loss(model: torch.nn.Module, pixels: Tensor, ids_BT: Tensor, precision: Precision) -> Tensor:
    """As open_clip's training computes it, with `--precision fp32` or `amp_bf16`."""
    context = torch.amp.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    with context:
        loss: Tensor = peers.open_clip().ClipLoss()(*model(pixels, ids_BT))
    return loss


def main(file: Path, turns: int = 5, batch: int = 32) -> None:
    """Prints the sides' figures, and the ratios."""
    annotations = json.loads(file.read_text())["annotations"]
    captions = [annotation["caption"] for annotation in annotations[:: len(annotations) // batch][:batch]]
    gain = bf16_gain(CPU)
    precisions: list[Precision] = ["float32", "bf16"] if gain >= WORTH else ["float32"]
    print(
        f"bf16 products are {gain:.2f} times as fast as float32 here: "
        + ("with" if "bf16" in precisions else "no")
        + " bf16"
    )
    every = sides(captions, precisions)
    peaks: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for side in every:
        side.warm_up()
    for _ in range(turns):
        for side in every:
            peaks[side.precision].append(matrix_rate(CPU, DTYPES[side.precision], 2048, 3))
            side.step()
    _hold_losses(every)
    median = {(side.name, side.precision): statistics.median(side.seconds) for side in every}
    shares = {}
    for side in every:
        seconds, peak = median[side.name, side.precision], statistics.median(peaks[side.precision])
        shares[side.name, side.precision] = side.operations / seconds / peak
        print(
            f"{side.name}, {side.precision}: {seconds:.2f} s a step, {side.operations / 1e9:,.0f} GFLOP, "
            f"{side.operations / seconds / peak:.2f} of the matrix peak ({peak / 1e9:.0f} GFLOP/s); losses "
            f"{side.losses[0]:.6f}, ... {side.losses[-1]:.6f}"
        )
    theirs, ours = median["open_clip", "float32"], median["chiasm", "float32"]
    print(f"figure: training step in float32, speed beside open_clip = {theirs / ours:.2f} (goal >= 1.9)")
    print(f"figure: training step in float32, share of the peak = {shares['chiasm', 'float32']:.2f} (goal >= 0.75)")
    if "bf16" in precisions:
        low, their_low = median["chiasm", "bf16"], median["open_clip", "bf16"]
        print(f"figure: training step in bf16, speed beside open_clip in bf16 = {their_low / low:.2f} (goal >= 1.5)")
        print(f"figure: training step in bf16, speed beside open_clip in float32 = {theirs / low:.2f} (goal >= 4)")


def _hold_losses(every: Sequence[Side]) -> None:
    """Stops where first losses are not equal, to the precision that they were computed in."""
    wanted = next(side.losses[0] for side in every if side.name == "open_clip" and side.precision == "float32")
    for side in every:
        allowed = 1e-4 if side.precision == "float32" else wanted * 2**-7  # bf16 keeps 8 bits
        if abs(side.losses[0] - wanted) > allowed:
            sys.exit(f"the sides disagree: {side.name} in {side.precision} {side.losses[0]}, open_clip {wanted}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
