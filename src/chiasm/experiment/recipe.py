"""A recipe holds one whole experiment on one screen: data, processor, model, training, evaluation.

extends: scenes.yaml                  # one level; entries below override it
data:
  root: ???                           # must be given: chiasm train RECIPE data.root=PATH
  train: {source: captions, path: "${data.root}/captions.jsonl"}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from chiasm.adaptation.adapter import AdapterConfig
from chiasm.additions import ANY, allowing
from chiasm.config import dump, parse, suggest
from chiasm.data.cache import ImageCache
from chiasm.data.locations import Location
from chiasm.data.reader import Budget, CaptionChoice
from chiasm.data.source import Source
from chiasm.errors import RecipeError
from chiasm.evaluation.task import Task
from chiasm.experiment.entries import deep_merge, given_entries, interpolate
from chiasm.models.model import ModelConfig
from chiasm.objectives.objective import ObjectiveConfig
from chiasm.training.settings import Training

_LONGEST = 200  # bytes of a folder's name: file systems allow 255, and files are written beside their names


@dataclass(frozen=True)
class Data:
    """Training data and how batches are made of it.

    batch_size: samples of a batch. Or batch_tokens, for generative models, whose samples differ in length: as many
        samples as have so many tokens together, image tokens included. batch_image_tokens: a bound of those alone.
    root: what "${data.root}" stands for, a folder or a URL. captions, max_skipped, threads: see data.reader.Reader.

    features: a folder where the outputs of frozen towers are kept, so that they are computed once; None computes them
        at every step. cache: where training pictures are kept decoded, so that they are decoded once; "decoded" keeps
        them in the user's cache folder.
    """

    renamed: ClassVar[Mapping[str, str]] = {"batch_slots": "batch_image_tokens"}

    train: Source
    batch_size: int = 0
    batch_tokens: int | None = None
    batch_image_tokens: int | None = None
    root: Location | None = None
    captions: CaptionChoice = "random"
    max_skipped: float = 0.01
    threads: int = 1
    features: Path | None = None
    cache: ImageCache | Literal["decoded"] | None = None

    @property
    def budget(self) -> Budget | None:
        """The bounds of a batch by tokens; None where batches are so many samples."""
        return Budget(self.batch_tokens, self.batch_image_tokens) if self.batch_tokens is not None else None

    @property
    def size_in_words(self) -> str:
        """The size of a batch in words."""
        return f"{self.budget} at most" if self.budget is not None else f"{self.batch_size} samples"

    def __post_init__(self) -> None:
        if self.cache is not None and self.features is not None:
            raise RecipeError(
                "data.features keeps what towers make of images, so decoded images are not needed; leave data.cache out"
            )
        if (self.batch_tokens is None) == (self.batch_size == 0):
            raise RecipeError("data: give either batch_size, in samples, or batch_tokens")
        for name in ("batch_size" if self.batch_tokens is None else "batch_tokens", "batch_image_tokens", "threads"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise RecipeError(f"data.{name} must be at least 1, not {given}")
        if self.batch_image_tokens is not None and self.batch_tokens is None:
            raise RecipeError("data.batch_image_tokens goes with data.batch_tokens")


@dataclass(frozen=True)
class Start:
    """A trained model to begin from. checkpoint: whatever `chiasm.load` opens: a run, a checkpoint's folder.

    model: fields of its config to change, such as `image_dropout: 0`; those that give a tensor another shape are
    refused.
    """

    checkpoint: str
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PretrainedPart:
    """A part of a trained model, to begin a part of a new one with. checkpoint: whatever `chiasm.load` opens.

    part: its name there, such as `q_former`; where not given, the name that it has in the new model.
    """

    checkpoint: str
    part: str = ""


@dataclass(frozen=True)
class Stage:
    """A part of a training, with what differs in it from the rest of the recipe: what learns, for how long, on what.

    training: merged into the recipe's. data, objective, adapters: replace the recipe's own entries.
    It begins from the model of the stage before it, with its adapters merged.
    """

    name: str
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    objective: ObjectiveConfig | None = None
    adapters: Mapping[str, AdapterConfig] | None = None

    def __post_init__(self) -> None:
        _require_folder_name(self.name, "stages")


@dataclass(frozen=True)
class Recipe:
    """One experiment. name: of its run folder, `runs/<name>`, and of its model in tables.

    model: a new model of that family; or else start: one that is trained already, with its processor.
    processor: entries of the family's own processor settings; after a `start`, those to change, such as augmentation.
    pretrained: weights to begin with, by part of a new model: packaged ones, such as `vision: efficientnet_lite0`, or
        those of another model's part, such as `vision: {checkpoint: runs/clip-scenes}`.
    objective: what is learned; without it, the family's own losses.
    adapters: by part of the model, the adapter that learns while the part is frozen, such as
        `language: {adapter: lora, rank: 8}`.
    stages: trained one after the other, instead of one training.
    score_by: by what a generative model scores texts in the evaluation, "likelihood" (the default), "gain" or
        "yes"; see `CaptionScorer.score`.
    """

    name: str
    data: Data
    training: Training
    model: ModelConfig | None = None
    start: Start | None = None
    processor: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Mapping[str, str | PretrainedPart] = field(default_factory=dict)
    objective: ObjectiveConfig | None = None
    adapters: Mapping[str, AdapterConfig] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    evaluation: tuple[Task, ...] = ()
    score_by: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        _require_folder_name(self.name, "name")
        if (self.model is None) == (self.start is None):
            raise RecipeError("give either model, for a new one, or start: {checkpoint: FOLDER}, for a trained one")
        if self.start is not None and self.pretrained:
            raise RecipeError("pretrained puts weights into parts of a new model; a model from a start has its own")
        if self.seed < 0:
            raise RecipeError(f"seed must not be negative, but is {self.seed}")
        for part, adapter in self.adapters.items():
            outer = self.training.part_of(part)
            if outer is not None and self.training.parts[outer].frozen:
                how = f"; leave training.parts.{part}.frozen out"
                if outer != part:
                    how = (
                        f", and training.parts.{outer} the adapters too; except them: training.parts: {{{part}: {{}}}}"
                    )
                raise RecipeError(f"adapters.{part} freezes what is in the part{how}")
            if adapter.quantise is not None and (self.training.ema is not None or self.training.parallel == "fsdp"):
                raise RecipeError(f"adapters.{part}.quantise goes neither with training.ema nor with parallel: fsdp")
        names = [stage.name for stage in self.stages]
        if again := [name for at, name in enumerate(names) if name in names[:at]]:
            raise RecipeError(f"stages: two have the same name, '{again[0]}'; give each one of its own")
        if self.data.budget is None and self.training.accumulate > self.data.batch_size:
            raise RecipeError(
                f"training.accumulate splits a batch into {self.training.accumulate} parts, but data.batch_size is "
                f"only {self.data.batch_size}"
            )

    def stage(self, at: int, start: str | None) -> Recipe:
        """One stage as a recipe of its own. start: the model of the stage before it; None for the first."""
        stage, entries = self.stages[at], dump(self)
        del entries["stages"]
        entries["name"] = f"{self.name}-{stage.name}"
        entries["training"] = deep_merge(entries["training"], dict(stage.training))
        entries["data"] = {**entries["data"], **stage.data}
        if stage.objective is not None:
            entries["objective"] = dump(stage.objective)
        if stage.adapters is not None:
            entries["adapters"] = dump(stage.adapters)
        if start is not None:
            own = {"model": None, "pretrained": {}, "processor": self.processor if self.start else {}}
            entries |= {**own, "start": {"checkpoint": start}}
        try:
            with allowing(ANY):
                return parse(Recipe, entries)
        except RecipeError as error:
            raise RecipeError(f"stages.{at} ({stage.name}): {error}") from error

    def text(self) -> str:
        """The recipe as YAML, whole: what it extends and was overridden with written out."""
        return yaml.safe_dump(dump(self), sort_keys=False, width=110)


def _require_folder_name(name: str, what: str) -> None:
    """Raises RecipeError unless a name names one folder below another, on any system."""
    bad = not name or name in (".", "..") or any(letter in "/\\\0" or not letter.isprintable() for letter in name)
    if bad or len(os.fsencode(name)) > _LONGEST:
        raise RecipeError(
            f"{what}: {name[:60]!r} cannot name a folder; give a word of at most {_LONGEST} bytes, without slashes"
        )


def load_recipe(name: str | Path, overrides: Sequence[str] = (), *, of_checkpoint: bool = False) -> Recipe:
    """Reads a recipe: a file, or by name one that chiasm ships, such as "clip/scenes".

    overrides: entries of the form "a.b=c", c in YAML. of_checkpoint: the recipe came with a checkpoint, so what it
    names from outside of chiasm is not imported unless the user allows it (see `chiasm.additions`).
    Raises RecipeError for whatever is wrong, and where.
    """
    file, entries = given_entries(name, overrides)
    try:
        with allowing(*(() if of_checkpoint else (ANY,))):
            return parse(Recipe, interpolate(entries, entries))
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from error


@dataclass(frozen=True)
class EvaluationEntries:
    """The tasks of a recipe, for any model. See Recipe."""

    evaluation: tuple[Task, ...]
    score_by: str = ""


def load_tasks(name: str | Path, overrides: Sequence[str] = (), *, of_checkpoint: bool = False) -> EvaluationEntries:
    """The evaluation of a recipe. Of a file of one's own no more is needed than that.

    name, overrides, of_checkpoint: as for `load_recipe`. Raises RecipeError for whatever is wrong in these entries,
    and where.
    """
    file, entries = given_entries(name, overrides)
    known = [field.name for field in fields(Recipe)]
    if unknown := [key for key in entries if key not in known]:
        raise RecipeError(f"{file}: a recipe has no entry '{unknown[0]}'{suggest(unknown[0], known)}")
    if not entries.get("evaluation"):
        raise RecipeError(f"{file} has no evaluation entries")
    try:
        asked = {key: interpolate(entries[key], entries) for key in ("evaluation", "score_by") if key in entries}
        with allowing(*(() if of_checkpoint else (ANY,))):
            return parse(EvaluationEntries, asked)
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from error


# How a run is carried out may change in its course: on other machines, watched and kept otherwise.
_CARRIED_OUT = (
    "parallel",
    "timeout",
    "device",
    "log_every",
    "checkpoint_every",
    "keep",
    "keep_every",
    "keep_best",
    "best",
    "trackers",
)


def learned_by(text: str) -> dict[str, Any]:
    """The entries of a recipe's text on which the bits of the trained model depend, for comparing two."""
    entries = yaml.safe_load(text)

    def learned(run: Mapping[str, Any]) -> dict[str, Any]:
        return {**run, "training": {key: value for key, value in run["training"].items() if key not in _CARRIED_OUT}}

    return {**learned(entries), "stages": [learned(stage) for stage in entries.get("stages", ())]}
