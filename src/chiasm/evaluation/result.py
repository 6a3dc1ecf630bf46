"""Results of an evaluation: scores beside their baselines, and examples to look at. Saved as results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from chiasm.config import dump, parse
from chiasm.data.files import read_json
from chiasm.errors import CheckpointError
from chiasm.evaluation.confidence import Calibration
from chiasm.evaluation.files import write_file

PICTURES = "pictures"  # thumbnails, beside results.json


@dataclass(frozen=True)
class Lenient:
    """The same figure where replies are read leniently, with the share in which even so no answer was found."""

    value: float
    low: float
    high: float
    unparsed: float


@dataclass(frozen=True)
class Score:
    """One figure, with what it takes to judge it.

    name: the metric, such as "image to text R@1" or "accuracy". group: the kind of items it covers; "" means all.
    value, chance, low, high and the baselines are shares, 0 to 1; of some figures more (CIDEr goes to 10, CLIPScore to
        2.5). low, high: 95% bootstrap interval over items.
    chance: the expected value of a uniformly random scorer, exact.
    baselines: the same figure for "constant" (every candidate scores alike), "blind" (every image replaced by a grey
        one) and "shuffled" (images exchanged among items); and for the constant answers that a task names.
    ties: share of items whose best score several candidates share; a tie earns 1/k, never a win.
    failed: items that could not be asked; counted as wrong.
    unparsed: share of items whose reply, strictly read, holds no answer; counted as wrong. lenient: None if no item
        was answered in words.
    """

    name: str
    value: float
    low: float
    high: float
    items: int
    chance: float
    group: str = ""
    baselines: Mapping[str, float] = field(default_factory=dict)
    ties: float = 0.0
    failed: int = 0
    unparsed: float = 0.0
    lenient: Lenient | None = None

    @property
    def floor(self) -> tuple[str, float]:
        """What the score must beat to say that the model looks: the highest of chance and baselines, and its name."""
        return max([("chance", self.chance), *self.baselines.items()], key=lambda entry: entry[1])

    @property
    def beats_floor(self) -> bool:
        """Whether the 95% interval lies wholly above the floor."""
        return self.low > self.floor[1]


@dataclass(frozen=True)
class TextOrImage:
    """A text or an image (`picture`: the name of a file in PICTURES), as a report shows it."""

    text: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Candidate:
    """One of the answers that a model chose from: its score, and whether it is a right one."""

    shown: TextOrImage
    score: float
    true: bool


@dataclass(frozen=True)
class Example:
    """One item: what was asked, and the best candidates with the model's scores, highest first.

    reply: the model's answer in words, where it gave one; its score is then 1 for the choice found in that, 0 else.
    image: the name of a file in PICTURES, where the model answered with an image.
    references: people's answers, and earned: what the model's is worth, in words, where it was compared with theirs.
    """

    key: str
    right: bool
    query: TextOrImage
    candidates: tuple[Candidate, ...]
    group: str = ""
    reply: str = ""
    image: str = ""
    references: tuple[str, ...] = ()
    earned: str = ""


@dataclass(frozen=True)
class TaskResult:
    """All scores of one task. name: unique in its evaluation. protocol: a hash of data, prompts, pixels and versions.

    requests: a hash of the requests alone; figures of several models may be compared where it is the same.
    facts: figures that are no shares (median ranks, counts of candidates and duplicates), by name.
    calibration: how far the model's confidence can be trusted; None where its answers carry none.
    """

    renamed: ClassVar[Mapping[str, str]] = {"asked": "requests"}

    task: str
    name: str
    scores: tuple[Score, ...]
    protocol: str
    seconds: float
    examples: tuple[Example, ...] = ()
    requests: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def headline(self) -> Score:
        """The first score: what a table of many models shows."""
        return self.scores[0]


@dataclass(frozen=True)
class Evaluation:
    """One model on several tasks. model: its name, family, parameters, step and checkpoint.

    left_out: tasks that were not run because the model cannot, by their names, and why: "needs a model that can
        generate, but CLIP can only embed".
    """

    model: Mapping[str, str]
    results: tuple[TaskResult, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes results.json; an older one is replaced in one step."""
        write_file(folder / "results.json", json.dumps(dump(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Raises CheckpointError where the folder has no results.json, DataError where that is not JSON."""
        file = folder / "results.json"
        if not file.exists():
            raise CheckpointError(f"there is no {file}; run `chiasm eval` first")
        return parse(cls, read_json(file), str(file))
