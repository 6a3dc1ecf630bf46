"""The base class of models that transformers computes: they can be asked, never trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor, nn

from chiasm.data.batch import Batch
from chiasm.errors import CapabilityError
from chiasm.models.model import Model, ModelConfig
from chiasm.weights.foreign.processor import ForeignProcessor


@dataclass(frozen=True)
class Config(ModelConfig):
    """The kind of a foreign model. kind: its `model_type`. architecture: the class of transformers that computes it.

    settings: the checkpoint's `config.json`, for `chiasm show`.
    """

    kind: str
    architecture: str
    settings: Mapping[str, Any]

    @classmethod
    def model(cls) -> type[Model]:
        return ForeignModel

    def chosen(self) -> str:
        """The family's name in tables and reports, which says who computes it."""
        return f"{self.kind} (foreign: transformers' {self.architecture})"


class ForeignModel(Model):
    """A model that transformers computes. inner: transformers' own object."""

    processor_type = ForeignProcessor
    processor: ForeignProcessor

    def __init__(self, config: ModelConfig, processor: ForeignProcessor, inner: Any) -> None:
        super().__init__(config, processor)
        self.inner: Any = inner
        assert isinstance(inner, nn.Module)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Raises CapabilityError: foreign models are not trained."""
        del batch
        self.require_own("trained")

    def require_own(self, action: str) -> NoReturn:
        raise CapabilityError(
            f"a {self.config.chosen()} can be asked and evaluated, but not {action} here; choose a checkpoint of a "
            "family in `chiasm ls models`"
        )
