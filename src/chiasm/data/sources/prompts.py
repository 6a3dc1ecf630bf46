"""Labelled pictures with sentences of their class for captions, so that classes are learned as pairs are.

FLYP (Goyal et al. 2022, arXiv:2212.00638) fine-tunes a model of two towers so: by the very loss of its pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from chiasm.data.sample import Sample
from chiasm.data.source import Derived
from chiasm.errors import DataError, RecipeError


@dataclass(frozen=True)
class Prompts(Derived):
    """The samples of a source that have a label, such as folders of classes; their captions are the templates.

    of: the source. templates: sentences with {} in the class's place. words: what they say of a label; by default the
    label, its underscores read as spaces.
    """

    templates: tuple[str, ...] = ("a photo of a {}.",)
    words: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.templates:
            raise RecipeError("prompts.templates: give at least one, such as 'a photo of a {}.'")
        if broken := [template for template in self.templates if "{}" not in template]:
            raise RecipeError(f"prompts.templates: '{broken[0]}' has no {{}} for the class's name")

    def __getitem__(self, index: int) -> Sample:
        sample = self.of[index]
        if sample.label is None:
            raise DataError(f"sample '{sample.key}' has no label to make captions of; take a source that has classes")
        name = self.words.get(sample.label, sample.label.replace("_", " "))
        return replace(sample, captions=tuple(template.replace("{}", name) for template in self.templates))
