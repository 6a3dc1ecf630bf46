"""The contrastive loss, forward and backward, beside open_clip's ClipLoss: time and peak memory.

    python -m benchmarks.contrastive_loss [PAIRS [WIDTH [TURNS]]]

16,384 pairs of width 512 unless said otherwise. Each side lives in a process of its own, so that its peak of resident
memory is its own, and they take turns. Memory is what is added to the process from before the features exist: the
features and their gradients count. Both are given the same features, and their losses are compared."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = ("chiasm", "open_clip")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def loss_of(side: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """One side's loss, imported in its own process only."""
    if side == "chiasm":
        from chiasm.losses.contrastive import info_nce

        return info_nce
    from tests import peers

    if importlib.util.find_spec("open_clip") is None:
        sys.exit("this benchmark needs open_clip: `make test` installs it, from peers.txt")
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = peers.open_clip().ClipLoss()
    return loss


def child(side: str, pairs: int, width: int) -> None:
    """Does one turn for every line that it reads; answers with seconds, loss and peak memory so far."""
    loss, before = loss_of(side), _memory("VmRSS")
    _CLEAR.write_text("5")  # forgets the peak of what was imported
    torch.manual_seed(0)
    image_ND = F.normalize(torch.randn(pairs, width), dim=-1).requires_grad_()
    text_ND = F.normalize(image_ND.detach() + torch.randn(pairs, width) / 4, dim=-1).requires_grad_()
    log_scale = torch.tensor(1 / 0.07).log().requires_grad_()
    for _ in sys.stdin:
        start = time.perf_counter()
        value = loss(image_ND, text_ND, log_scale.exp())
        torch.autograd.backward(value)
        seconds = time.perf_counter() - start
        assert log_scale.grad is not None
        told = {"seconds": seconds, "loss": float(value.detach()), "of_scale": float(log_scale.grad)}
        print(json.dumps({**told, "megabytes": (_memory("VmHWM") - before) / 1024}), flush=True)
        for leaf in (image_ND, text_ND, log_scale):
            leaf.grad = None


def _memory(kind: str) -> int:
    """Kilobytes, as Linux counts them for this process."""
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(kind))


def main(pairs: int = 16_384, width: int = 512, turns: int = 5) -> None:
    """Prints each side's figures, and the ratios."""
    words = [sys.executable, "-m", "benchmarks.contrastive_loss"]
    children = {
        side: subprocess.Popen(
            [*words, "--side", side, str(pairs), str(width)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side in SIDES
    }
    told: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(turns + 1):
        for side in SIDES:
            answer = _turn(children[side])
            if turn:  # the first warms up
                told[side].append(answer)
    for process in children.values():
        process.communicate()
    ours, theirs = (told[side][-1] for side in SIDES)
    for name in ("loss", "of_scale"):
        if abs(ours[name] - theirs[name]) > 1e-4 * max(1.0, abs(theirs[name])):
            sys.exit(f"the sides disagree: {name} {ours[name]} and {theirs[name]}")
    seconds = {side: statistics.median(one["seconds"] for one in told[side]) for side in SIDES}
    for side in SIDES:
        peak = told[side][-1]["megabytes"]
        print(f"{side}: {seconds[side]:.2f} s, {peak:,.0f} MB, loss {told[side][-1]['loss']:.6f}")
    print(f"figure: contrastive loss, peak memory = {ours['megabytes'] / theirs['megabytes']:.3f} (goal <= 0.1)")
    print(f"figure: contrastive loss, time = {seconds['chiasm'] / seconds['open_clip']:.2f} (goal <= 1.0)")


def _turn(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    if not (line := process.stdout.readline()):
        sys.exit(process.wait() or 1)  # it has said why
    answer: dict[str, Any] = json.loads(line)
    return answer


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*map(int, sys.argv[1:]))
