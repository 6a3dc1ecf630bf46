"""Run folders as training and evaluation leave them, with invented numbers and drawn pictures."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import yaml

from chiasm.evaluation.result import Candidate, Evaluation, Example, Score, TaskResult, TextOrImage

KINDS = {"colour": 0.93, "shape": 0.82, "size": 0.66, "relation": 0.51, "count": 0.55}
COLOURS = ("red", "green", "blue", "yellow")


def score(name: str, value: float, chance: float, items: int, group: str = "", **more: float) -> Score:
    """A score with the normal approximation of its interval."""
    half = 1.96 * math.sqrt(max(value * (1 - value), 1e-4) / items)
    baselines = {"constant": chance, "blind": chance + 0.013, "shuffled": chance - 0.002}
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Score(name, value, low, high, items, chance, group, baselines, ties=more.get("ties", 0.0))


def probes(skill: float, seed: int, images: Path | None, protocol: str = "9f2c1e07") -> TaskResult:
    """Two captions a picture, by kind; the examples have a picture as query and texts as candidates."""
    by_kind = [score("accuracy", min(1.0, 0.5 + (one - 0.5) * skill), 0.5, 200, kind) for kind, one in KINDS.items()]
    overall = sum(one.value for one in by_kind) / len(by_kind)
    examples = _caption_examples(seed, images) if images else ()
    return TaskResult(
        "probes", "scene probes", (score("accuracy", overall, 0.5, 1000), *by_kind), protocol, 2.5, examples
    )


def retrieval(skill: float, seed: int, images: Path | None, protocol: str = "51d0ab33") -> TaskResult:
    """Both ways among 256; the examples have a text as query and pictures as candidates."""
    scores = tuple(
        score(f"{way} R@{k}", min(1.0, base * skill), k / 256, 256)
        for way, bases in (("image to text", (0.31, 0.64)), ("text to image", (0.28, 0.61)))
        for k, base in zip((1, 5), bases, strict=True)
    )
    examples = _image_examples(seed, images) if images else ()
    return TaskResult("retrieval", "scene retrieval", scores, protocol, 1.2, examples)


def write_run(
    folder: Path,
    name: str,
    skill: float = 1.0,
    seed: int = 0,
    log: bool = True,
    examples: bool = True,
    loss: str = "contrastive",
    results: Sequence[TaskResult] | None = None,
) -> Path:
    """A whole run folder. results: these instead of the two tasks above."""
    images = folder / "evaluation" / "pictures" if examples else None
    if images:
        images.mkdir(parents=True)
    if results is None:
        results = (probes(skill, seed, images), retrieval(skill, seed, images))
    model = {"name": name, "family": name.partition("-")[0], "parameters": "2104833", "step": "600"}
    Evaluation(model, tuple(results)).save(folder / "evaluation")
    if log:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _log(seed, loss)))
        (folder / "recipe.yaml").write_text(yaml.safe_dump(_recipe(loss)))
    return folder


def _log(seed: int, loss: str, steps: int = 600, batch: int = 128) -> list[Mapping[str, object]]:
    rng = random.Random(seed)
    lines: list[Mapping[str, object]] = []
    for step in range(1, steps + 1):
        value = 0.6 + 4.2 * math.exp(-step / 110) + rng.gauss(0, 0.12)
        rate = 1e-3 * min(step / 60, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        lines.append(
            {
                "step": step,
                "samples": step * batch,
                "seconds": step * 0.16,
                "loss": value,
                "losses": {loss: value, "_temperature": 0.07 - step * 5e-5},
                "learning_rate": rate,
                "gradient_norm": 0.4 + 3 * math.exp(-step / 60) + 0.1 * rng.random(),
                "samples_per_second": batch / 0.16,
            }
        )
        if step % 100 == 0:
            recall = 0.31 * (1 - math.exp(-step / 200)) + rng.gauss(0, 0.01)
            evaluation = {"scene retrieval: image to text R@1": recall, "scene probes: accuracy": 0.5 + 0.6 * recall}
            lines.append({"step": step, "evaluation": evaluation})
    return lines


def _recipe(loss: str) -> Mapping[str, object]:
    return {
        "model": {"model": "siglip" if loss == "sigmoid" else "clip", "width": 192},
        "training": {"steps": 600, "batch_size": 128, "learning_rate": 0.002 if loss == "sigmoid" else 0.001},
        "seed": 0,
    }


def draw_scene(file: Path, colours: Sequence[str]) -> str:
    """A 64-pixel picture of squares in a row; returns its caption."""
    picture = PIL.Image.new("RGB", (64, 64), "white")
    pen = PIL.ImageDraw.Draw(picture)
    for at, colour in enumerate(colours):
        pen.rectangle((4 + 20 * at, 20, 20 + 20 * at, 36), fill=colour)
    picture.save(file)
    return " beside ".join(f"a {colour} square" for colour in colours)


def _caption_examples(seed: int, images: Path) -> tuple[Example, ...]:
    rng = random.Random(seed)
    examples = []
    for number in range(20):
        colours = random.Random(number).sample(COLOURS, 2)  # the same scenes for every model
        caption = draw_scene(images / f"probe-{number}.jpg", colours)
        wrong = " beside ".join(f"a {colour} square" for colour in reversed(colours))
        scores = [rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)]
        right = scores[0] > scores[1]
        candidates = [
            Candidate(TextOrImage(text=caption), scores[0], true=True),
            Candidate(TextOrImage(text=wrong), scores[1], true=False),
        ]
        candidates.sort(key=lambda one: -one.score)
        query, kind = TextOrImage(picture=f"probe-{number}.jpg"), list(KINDS)[number % len(KINDS)]
        examples.append(Example(f"probe-{number}", right, query, tuple(candidates), kind))
    return tuple(examples)


def _image_examples(seed: int, images: Path) -> tuple[Example, ...]:
    rng = random.Random(seed + 1)
    captions = [draw_scene(images / f"scene-{n}.jpg", random.Random(n + 50).choices(COLOURS, k=3)) for n in range(12)]
    examples = []
    for number, caption in enumerate(captions):
        others = rng.sample([other for other in range(12) if other != number], 5)
        candidates = [
            Candidate(TextOrImage(picture=f"scene-{other}.jpg"), rng.uniform(0.1, 0.5), other == number)
            for other in [number, *others]
        ]
        candidates.sort(key=lambda one: -one.score)
        examples.append(Example(f"scene-{number}", candidates[0].true, TextOrImage(text=caption), tuple(candidates)))
    return tuple(examples)
