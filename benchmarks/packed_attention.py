"""Attention within packed sequences, every way that torch has of it, on the shapes of real batches, in turns.

    python -m benchmarks.packed_attention [--rounds 7]

Prints, for each shape, milliseconds of a forward and backward pass by each way, or why torch refuses it:

    runs      a call for each run of neighbours of one length; what chiasm does on a CPU
    sequence  a call for each sequence
    padded    one call over sequences filled up to the longest
    nested    one call over a nested tensor (`torch.jagged`)
    stream    one call over the whole stream, with a mask of who sees whom
    varlen    one call of `torch.nn.attention.varlen`, for GPUs alone; what chiasm does there

On a CPU the time is the thread's own, of one thread, so that others who use the machine change little of it. Flex
attention is left out: without torch.compile it computes the whole stream, and it learns nothing on a CPU."""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.nn.packed_attention import PackedSequences

RunOptions = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """Sequences of `count` lengths drawn from `lengths`. heads: of queries and of keys. ordered: shortest first."""

    name: str
    lengths: tuple[int, int]
    count: int
    heads: tuple[int, int]
    causal: bool
    ordered: bool = False
    width: int = 64

    def drawn(self) -> list[int]:
        """The same lengths in every run."""
        generator = torch.Generator().manual_seed(1)
        found: list[int] = torch.randint(
            self.lengths[0], self.lengths[1] + 1, (self.count,), generator=generator
        ).tolist()
        return sorted(found) if self.ordered else found


SHAPES = (
    Shape("32 captions of 10 to 77 tokens, CLIP's text tower", (10, 77), 32, (8, 8), causal=True, ordered=True),
    Shape("256 captions of 10 to 24 tokens, CLIP's text tower", (10, 24), 256, (8, 8), causal=True, ordered=True),
    Shape("4 chats of 300 to 900 tokens, SmolLM2", (300, 900), 4, (9, 3), causal=True),
    Shape("16 chats of 100 to 300 tokens, SmolLM2", (100, 300), 16, (9, 3), causal=True),
    Shape("12 pictures of 100 to 256 patches, at their own resolution", (100, 256), 12, (12, 12), causal=False),
    Shape("8 moments of a video of 256 patches", (256, 256), 8, (16, 16), causal=False),
)


def ways(shape: Shape, lengths: list[int], device: torch.device) -> dict[str, RunOptions]:
    """Each way by its name."""
    sequences, causal = PackedSequences(lengths), shape.causal
    alone = PackedSequences(lengths)
    alone.runs = [(1, length) for length in lengths]
    found: dict[str, RunOptions] = {
        "runs": partial(sequences.by_runs, causal=causal, window=None),
        "sequence": partial(alone.by_runs, causal=causal, window=None),
        "padded": partial(sequences.by_padding, causal=causal, window=None),
        "nested": partial(by_nested, lengths, causal),
        "stream": partial(by_stream, lengths, causal),
    }
    if device.type == "cuda":
        found["varlen"] = partial(sequences.by_varlen, causal=causal, window=None)
    return found


def by_nested(lengths: list[int], causal: bool, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor) -> Tensor:
    """A nested tensor knows no groups of heads, so keys and values are repeated."""
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], device=q_THE.device)
    each = q_THE.shape[1] // k_TGE.shape[1]
    streams = (q_THE, k_TGE.repeat_interleave(each, 1), v_TGE.repeat_interleave(each, 1))
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(one, bounds, min_seqlen=min(lengths), max_seqlen=max(lengths)).transpose(
            1, 2
        )
        for one in streams
    )
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).values()


def by_stream(lengths: list[int], causal: bool, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor) -> Tensor:
    """A mask of T x T."""
    sequence_T = torch.arange(len(lengths), device=q_THE.device).repeat_interleave(
        torch.tensor(lengths, device=q_THE.device)
    )
    seen = sequence_T[:, None] == sequence_T
    if causal:
        seen = seen.tril()
    q, k, v = (one.transpose(0, 1)[None] for one in (q_THE, k_TGE, v_TGE))
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=grouped)[0].transpose(0, 1)


def seconds_of(way: RunOptions, streams: tuple[Tensor, Tensor, Tensor]) -> float:
    """Of a forward and a backward pass."""
    device = streams[0].device
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    start = clock()
    torch.autograd.grad(way(*streams).sum(), streams)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def measure(shape: Shape, rounds: int, device: torch.device) -> None:
    """Prints a shape's figures."""
    lengths, dtype = shape.drawn(), torch.float32 if device.type == "cpu" else torch.bfloat16
    heads = (shape.heads[0], shape.heads[1], shape.heads[1])
    q, k, v = (
        torch.randn(sum(lengths), one, shape.width, device=device, dtype=dtype, requires_grad=True) for one in heads
    )
    seconds: dict[str, list[float]] = {}
    refused: dict[str, str] = {}
    wanted = ways(shape, lengths, device)["runs"](q, k, v)
    for turn in range(rounds + 1):  # the first warms up
        for name, way in ways(shape, lengths, device).items():
            if name in refused:
                continue
            try:
                if turn == 0:
                    torch.testing.assert_close(
                        way(q, k, v), wanted, atol=2e-2 if device.type == "cuda" else 1e-4, rtol=1e-2
                    )
                taken = seconds_of(way, (q, k, v))
            except RuntimeError as error:
                refused[name] = str(error).splitlines()[0]
                continue
            if turn:
                seconds.setdefault(name, []).append(taken)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"{shape.name}:", ", ".join(f"{name} {one * 1e3:.1f} ms" for name, one in median.items()))
    for name, why in refused.items():
        print(f"    {name}: {why}")
    ours = "varlen" if device.type == "cuda" else "runs"
    best = min((name for name in median if name not in ("runs", "sequence", "varlen")), key=median.__getitem__)
    name = f"packed attention, {shape.name}, speed beside one {best} call"
    print(f"figure: {name} = {median[best] / median[ours]:.2f} (goal >= 1)")


def main() -> None:
    """Prints all shapes' figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
    for shape in SHAPES:
        measure(shape, options.rounds, device)


if __name__ == "__main__":
    main()
