"""The contents of a checkpoint: family and sizes, parameters by part, processor, special tokens, scores, training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from chiasm.config import dump
from chiasm.errors import CheckpointError
from chiasm.evaluation.report.display import duration, percent
from chiasm.evaluation.result import Evaluation, Score
from chiasm.experiment.run_folder import CHECKPOINT, EVALUATION, RECIPE
from chiasm.models.folder import CONFIG
from chiasm.models.model import Model, verbs
from chiasm.training.monitor import METRICS
from chiasm.weights import load

_RESULTS = "results.json"


@dataclass(frozen=True)
class ModelPart:
    """A line of the tree of parameters. depth: 0 for the whole model. shape: a tensor's, () for a module.

    alike: how many equal parts in a row this line stands for.
    """

    name: str
    depth: int
    parameters: int
    dtype: str
    shape: tuple[int, ...] = ()
    alike: int = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's description. facts: by section, then by name. parts: the tree of parameters.

    template: the chat template, "" if there is none.
    """

    name: str
    facts: Mapping[str, Mapping[str, str]]
    parts: tuple[ModelPart, ...]
    template: str = ""


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a run or a checkpoint of any known format."""
    names = (CONFIG, "open_clip_config.json", f"{CHECKPOINT}/{CONFIG}", RECIPE)
    return any((folder / name).is_file() for name in names)


def describe(folder: Path) -> Checkpoint:
    """Reads a checkpoint, a foreign one too. Raises CheckpointError as `chiasm.load` does."""
    model = load(folder)
    inner = folder / CHECKPOINT if (folder / CHECKPOINT).is_dir() else folder
    facts = {"model": _model(model, inner), "config": _flat(dump(model.config)), **_processor(model)}
    scores, training = _scores(folder, inner), _training(folder, inner)
    facts |= {"scores": scores} if scores else {}
    facts |= {"training": training} if training else {}
    return Checkpoint(str(folder), facts, tuple(parts_of(model)), model.processor.chat_template)


def _model(model: Model, folder: Path) -> dict[str, str]:
    parameters = list(model.parameters())
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    count = sum(parameter.numel() for parameter in parameters)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {
        "family": model.config.chosen(),
        "format": _format(folder),
        "verbs": ", ".join(verbs(type(model))),
        "parameters": f"{count:,} in {len(parameters):,} tensors, {', '.join(dtypes)}",
        "weights on disk": f"{size / 1e6:,.1f} MB",
        **({"adapters": model.adaptation.described()} if model.adaptation is not None else {}),
    }


def _format(folder: Path) -> str:
    if not (folder / CONFIG).exists():
        return "open_clip"
    try:
        entries = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} is not JSON: {error}") from error
    if "family" in entries:
        return f"chiasm {entries.get('chiasm', '')}".strip()
    return f"transformers ({entries.get('model_type', 'unknown')})"


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested entries by their dotted names."""
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for key, entry in value.items():
            found |= _flat(entry, f"{name}.{key}" if name else str(key))
        return found
    return {name: _plain(value)}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _processor(model: Model) -> dict[str, dict[str, str]]:
    backend = model.processor.backend
    if backend is None:
        return {}
    added = {str(id_): token.content for id_, token in sorted(backend.get_added_tokens_decoder().items())}
    vocabulary = {"vocabulary": f"{backend.get_vocab_size():,} tokens"}
    return {"processor": vocabulary | _flat(model.processor.dumped()), **({"special tokens": added} if added else {})}


def _scores(folder: Path, inner: Path) -> dict[str, str]:
    """Scores of the run's results if it has any, else those of the checkpoint's card."""
    if (folder / EVALUATION / _RESULTS).exists():
        results = Evaluation.load(folder / EVALUATION).results
        return dict(_score(result.name, score) for result in results for score in result.scores)
    return dict(_scores_of_card(inner / "README.md"))


def _score(task: str, score: Score) -> tuple[str, str]:
    span = f"{percent(score.low)} to {percent(score.high)}"
    figure = f"{score.name}, {score.group}" if score.group else score.name
    return f"{task}: {figure}", f"{percent(score.value)}% ({span}), chance {percent(score.chance)}%"


def _scores_of_card(file: Path) -> Iterator[tuple[str, str]]:
    """The rows of the card's table of scores: | task | figure | items | score | interval | chance |."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if "| task | figure | items | score | 95% interval | chance |" not in lines:
        return
    for line in lines[lines.index("| task | figure | items | score | 95% interval | chance |") + 2 :]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 6:
            return
        task, figure, _, score, interval, chance = cells
        yield f"{task}: {figure}", f"{score} ({interval}), chance {chance}"


def _training(folder: Path, inner: Path) -> dict[str, str]:
    file = next((parent / RECIPE for parent in (folder, inner) if (parent / RECIPE).is_file()), None)
    if file is None:
        return {}
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    facts = {"recipe": str(entries.get("name", ""))}
    for section, keys in _SHOWN_SETTINGS.items():
        found = entries.get(section, {})
        facts |= {f"{section}.{key}": _plain(found[key]) for key in keys if key in found}
    metrics = folder / METRICS
    steps = [step for step in map(json.loads, _lines(metrics)) if "loss" in step]
    if steps:
        last = steps[-1]
        facts["last step"] = f"{last['step']:,}, loss {last['loss']:.4f}, after {duration(last['seconds'])}"
    return facts


_SHOWN_SETTINGS: dict[str, Sequence[str]] = {
    "data": ("batch_size", "batch_tokens", "captions", "train"),
    "training": ("steps", "optimiser", "learning_rate", "schedule", "warmup", "precision", "ema", "parts"),
}


def _lines(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    return [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one short


def parts_of(model: nn.Module) -> Iterator[ModelPart]:
    """The tree of a model's parameters, depth first; equal numbered parts share one line."""
    tree: dict[str, Any] = {}
    for name, tensor in model.named_parameters():
        *parents, last = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = tensor
    yield from _parts(type(model).__name__, tree, 0, 1)


def _parts(name: str, tree: dict[str, Any], depth: int, alike: int) -> Iterator[ModelPart]:
    leaves = _leaves(tree)
    dtypes = sorted({dtype for _, _, dtype in leaves})
    yield ModelPart(name, depth, sum(_count(shape) for _, shape, _ in leaves), ", ".join(dtypes), alike=alike)
    for _, run in groupby(tree.items(), key=_likeness):
        group = list(run)
        first, part = group[0]
        title = first if len(group) == 1 else f"{first} to {group[-1][0]}"
        if isinstance(part, dict):
            yield from _parts(title, part, depth + 1, len(group))
        else:
            shape = tuple(part.shape)
            yield ModelPart(first, depth + 1, _count(shape), str(part.dtype).removeprefix("torch."), shape)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, tuple[int, ...], str]]:
    found = []
    for name, part in tree.items():
        if isinstance(part, dict):
            found += _leaves(part, f"{prefix}{name}.")
        else:
            found.append((prefix + name, tuple(part.shape), str(part.dtype).removeprefix("torch.")))
    return found


def _likeness(item: tuple[str, Any]) -> tuple[Any, ...]:
    """The key by which numbered parts share a line (their tensors' names, shapes and types); others stand alone."""
    name, part = item
    return ("", *_leaves(part)) if name.isdigit() and isinstance(part, dict) else (name,)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count
