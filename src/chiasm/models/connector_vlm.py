"""What models of three parts share: an image tower, a connector, and a decoder in whose stream pictures stand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from torch import nn

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layout import Layout
from chiasm.errors import RecipeError
from chiasm.models.generative import VisionLanguageModel
from chiasm.models.model import ModelConfig
from chiasm.nn.tower import ImageTower

Needed = tuple[type[Layout], Mapping[str, object]]  # a layout, and settings of it by their names in a recipe


class ConnectorVLM(VisionLanguageModel):
    """`vision` sees, and `connector` leads what it makes into the stream of `language`, as the config's fields say."""

    vision: ImageTower
    connector: nn.Module

    def __init__(self, config: ModelConfig, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        parts: Any = config  # of a family, with fields of its own types under these three names
        self.vision, self.language = parts.vision.build(), parts.language.build()
        self.connector = parts.connector.build(self.vision.width, self.language.width)

    @property
    @abstractmethod
    def needed_layout(self) -> Needed:
        """How pictures must be laid out for the model."""

    def check(self) -> None:
        super().check()
        require_layout(self, self.needed_layout)


def require_layout(model: VisionLanguageModel, needed: Needed) -> None:
    """Raises RecipeError unless the model's processor lays pictures out so."""
    kind, settings = needed
    layout, family = model.processor.layout, type(model).__name__
    if not isinstance(layout, kind):
        raise RecipeError(f"{family} needs another layout of pictures; set processor.layout to {_name(kind)}")
    made = {name: attrgetter(name)(layout) for name in settings}
    if made != settings:
        raise RecipeError(f"processor.layout has {_told(made)}, but {family} is made for {_told(settings)}")


def _told(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _name(kind: type[Layout]) -> str:
    """By which a recipe chooses it: the folder is the registry."""
    return kind.__module__.rpartition(".")[2]
