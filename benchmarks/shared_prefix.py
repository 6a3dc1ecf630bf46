"""Six yes/no questions about each picture, as POPE asks them: shared work against one question at a time.

    python -m benchmarks.shared_prefix [PICTURES] [PIXELS]

A LLaVA of SmolLM2-135M (its real weights), a small random ViT with patches of 14 pixels and a random connector: what it
says means nothing, but it takes the time of a model that does. Three take turns, picture by picture: transformers'
`generate` on the same checkpoint, question by question; chiasm's `generate`, question by question; and chiasm's
`replies`, in which the picture and whatever else the six prompts begin with are read once. All three decode and scale
the picture themselves, answer greedily with at most 16 tokens, and must say the same."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests import peers  # noqa: F401  # before any class of transformers is touched

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.sample import Sample, Text
from chiasm.data.sources.scenes import Scenes
from chiasm.data.transforms import ImageTransform
from chiasm.evaluation.request import ScoreOrGenerate
from chiasm.evaluation.tasks.existence import Existence
from chiasm.models.generative import SharedPrefix
from chiasm.models.llava import Config, LLaVA
from chiasm.nn.image_towers import vit
from chiasm.weights import transformers
from chiasm.weights.packages import smollm2_135m

PICTURES, PIXELS, QUESTIONS = 8, 336, 6  # 336 pixels make 576 slots, as in LLaVA-1.5
SLOT = "<file_sep>"  # one of SmolLM2's reserved tokens keeps the places of the picture


def vlm(pixels: int) -> LLaVA:
    """SmolLM2-135M that is shown pictures."""
    language = smollm2_135m.language()
    vision = vit.Config(pixels, 14, width=192, layers=12, heads=3, mlp_width=768)
    config = Config(vision, language.config.language)
    settings = language.processor.settings
    layout = Fixed(config.patches, ImageTransform(size=pixels), SLOT)
    settings = type(settings)(settings.context, layout, settings.start, settings.ends, settings.marks)
    torch.manual_seed(0)
    model = LLaVA(config, ChatProcessor(language.processor.backend, settings, language.processor.template.source))
    model.language.load_state_dict(language.language.state_dict())
    return model.eval()


def questions(pictures: int, pixels: int) -> list[SharedPrefix]:
    """Rendered scenes at the size asked for, with six questions each: of three things there, of three not there."""
    task = Existence(Scenes(count=40 * pictures, seed=3, objects=(3, 4)), splits=("random",), form="words", head=True)
    found: dict[str, list[ScoreOrGenerate]] = {}
    for one in task.requests:
        if isinstance(one, ScoreOrGenerate):
            found.setdefault(one.sample_key, []).append(one)
    groups = []
    for key, several in list(found.items())[:pictures]:
        scene = several[0].images[0].decode().resize((pixels, pixels))
        texts = tuple((one.words.sample.texts[0],) for one in several)
        groups.append(
            SharedPrefix(Sample(key, (Image(np.asarray(scene)),)), texts, (several[0].words.max_tokens,) * len(texts))
        )
    if len(groups) < pictures or any(len(group.questions) != QUESTIONS for group in groups):
        raise SystemExit(f"only {len(groups)} pictures have {QUESTIONS} questions; ask for fewer")
    return groups


def peer(model: LLaVA, folder: Path) -> Callable[[SharedPrefix], list[str]]:
    """transformers' LLaVA with the same weights, asked one question at a time."""
    try:
        from transformers import LlavaForConditionalGeneration
    except ImportError as error:
        raise SystemExit("the peer is missing: pip install 'chiasm[transformers]'") from error
    transformers.save(model, folder)
    theirs: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    theirs.eval()
    ends = list(model.processor.end_ids)

    def answers(group: SharedPrefix) -> list[str]:
        said = []
        for sample, limit in zip(group.samples, group.limits, strict=True):
            batch = model.processor.prompts([sample])
            assert batch.stream is not None
            assert batch.images is not None
            ids = batch.stream.ids_T[None]
            made = theirs.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=batch.images.pixels,
                max_new_tokens=limit,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
            new = [token for token in made[0, ids.shape[1] :].tolist() if token not in ends]
            said.append(model.processor.decode(new))
        return said

    return answers


def one_by_one(model: LLaVA) -> Callable[[SharedPrefix], list[str]]:
    """chiasm's own `generate`, one question at a time."""

    def answers(group: SharedPrefix) -> list[str]:
        said = []
        for sample, limit in zip(group.samples, group.limits, strict=True):
            last = model.generate([sample], max_tokens=limit)[0].parts[-1]
            said.append(last.text if isinstance(last, Text) else "")
        return said

    return answers


def main(words: list[str]) -> None:
    """Prints the seconds of each, and their ratios."""
    count, pixels = (int(words[0]) if words else PICTURES), (int(words[1]) if len(words) > 1 else PIXELS)
    model, groups = vlm(pixels), questions(count + 1, pixels)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[SharedPrefix], list[str]]] = {
            "transformers, one by one": peer(model, Path(folder)),
            "chiasm, one by one": one_by_one(model),
            "chiasm, shared": lambda group: model.replies([group])[0],
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        same = []
        for group in groups:
            said = {}
            for name, answers in ways.items():
                started = time.perf_counter()
                said[name] = answers(group)
                seconds[name].append(time.perf_counter() - started)
            first, *others = said.values()
            same += [all(other[at] == one for other in others) for at, one in enumerate(first)]
    medians = {name: float(np.median(several[1:])) for name, several in seconds.items()}  # the first picture warms up
    image_tokens, tokens = model.config.patches, model.prompt_length(groups[0].samples[0])
    print(
        f"{pixels} pixels: {image_tokens} image tokens, prompts of {tokens} tokens, {QUESTIONS} questions a picture, "
        f"{count} pictures"
    )
    for name, median in medians.items():
        print(f"{name}: {median:.2f} s a picture")
    shared = medians["chiasm, shared"]
    print(f"figure: shared prefix, same answers = {np.mean(same):.3f} (goal >= 0.95)")
    print(f"figure: shared prefix to transformers = {medians['transformers, one by one'] / shared:.2f} (goal >= 4)")
    print(f"figure: shared prefix to one by one = {medians['chiasm, one by one'] / shared:.2f} (goal >= 4)")


if __name__ == "__main__":
    main(sys.argv[1:])
