"""Zero-shot classification: each class is a few sentences, an image belongs to the class that fits it best.

Radford et al. 2021, arXiv:2103.00020, section 3.1; with several templates a class is the mean of its sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from chiasm.data.sample import Sample
from chiasm.data.sources.folder import Folder
from chiasm.errors import DataError
from chiasm.evaluation.choice import Choice, ranking_of
from chiasm.evaluation.request import Request, Response, ScoreRequest
from chiasm.evaluation.task import Measured
from chiasm.evaluation.templates import OPENAI


@dataclass(frozen=True)
class Classification(Choice):
    """Top-1, top-5 and mean per class accuracy for samples that have a label.

    classes: the labels, in order; or a file with one a line, `label` or `label<TAB>name`, the name being what the
        templates put for it. By default the labels found in the data; underscores are read as spaces.
    templates: prompts with {} for the class; "openai" stands for the 80 that CLIP used for ImageNet.
    by_class: report each class's accuracy too.
    """

    classes: tuple[str, ...] | Path = ()
    templates: Literal["openai"] | tuple[str, ...] = ("a photo of a {}.",)
    by_class: bool = True

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"data": {"source": "folder", **Folder.example(folder)}}

    @classmethod
    def other_settings(cls) -> Mapping[str, Any]:
        return {"classes": ["star", "square", "circle"]}

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        label = label_of(sample)
        if label not in self._columns:
            raise DataError(f"sample '{sample.key}' has the label '{label}', which is not among the classes")
        yield ScoreRequest(
            key=sample.key,
            images=(sample.image,),
            texts=self._texts,
            true=(self._columns[label],),
            kind=label,
            sample_key=sample.key,
        )

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        ranking = ranking_of(requests, responses)
        first = replace(self.accuracy(requests, responses, "top-1 accuracy"), by_kind=self.by_class)
        metrics = [first, replace(first, name="mean per class", mean="kinds", by_kind=False)]
        if len(self._names) > 5:
            metrics.append(self.within(5, "top-5 accuracy", requests, ranking))
        return Measured(tuple(metrics), {"classes": len(self._names), "phrasings a class": len(self._texts[0])})

    @cached_property
    def _names(self) -> dict[str, str]:
        """The name that the templates have for each label, in the order of the columns."""
        if isinstance(self.classes, Path):
            return _read(self.classes)
        labels = self.classes or sorted(
            {sample.label for sample in self.samples() if isinstance(sample, Sample) and sample.label is not None}
        )
        return {label: label.replace("_", " ") for label in labels}

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {label: at for at, label in enumerate(self._names)}

    @cached_property
    def _texts(self) -> tuple[tuple[str, ...], ...]:
        templates = OPENAI if self.templates == "openai" else self.templates
        if broken := [template for template in templates if "{}" not in template]:
            raise DataError(f"the template '{broken[0]}' of task '{self.title}' has no {{}} for the class's name")
        if not templates:
            raise DataError(f"task '{self.title}' has no templates; give at least one, such as 'a photo of a {{}}.'")
        return tuple(tuple(template.replace("{}", name) for template in templates) for name in self._names.values())


def label_of(sample: Sample) -> str:
    """The class of a sample. Raises DataError where it has none."""
    if sample.label is None:
        raise DataError(f"sample '{sample.key}' has no label; classification needs a source that has classes")
    return sample.label


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise DataError(f"there is no file of classes at {path}; give one with a label a line")
    rows = (line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {label.strip(): name.strip() or label.strip().replace("_", " ") for label, _, name in rows}
