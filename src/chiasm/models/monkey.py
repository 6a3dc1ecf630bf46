"""Monkey (Li et al. 2023, arXiv:2311.06607): Qwen-VL that sees 1344x896 pixels, in six windows and as a whole, through
one tower with adapters of each window's own; 1,792 image tokens a picture."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from chiasm.data.layouts.windows import Windows
from chiasm.errors import RecipeError
from chiasm.models import qwen_vl
from chiasm.models.model import Model
from chiasm.models.needed_layout import NeededLayout
from chiasm.models.qwen_vl import QwenVL
from chiasm.nn.connectors import cross_attention
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import bare, windowed


@dataclass(frozen=True)
class Config(qwen_vl.Config):
    """As Qwen-VL's. rows, columns: of the windows."""

    vision: windowed.Config
    rows: int = 2
    columns: int = 3

    def __post_init__(self) -> None:
        if self.rows * self.columns != self.vision.windows:
            raise RecipeError(
                f"{self.rows} rows and {self.columns} columns of windows are not the {self.vision.windows} of the tower"
            )

    @classmethod
    def model(cls) -> type[Model]:
        return Monkey

    def processor_entries(self) -> dict[str, Any]:
        shape = {"window": self.vision.image_size, "rows": self.rows, "columns": self.columns}
        layout = {"layout": "windows", "image_tokens": self.connector.queries, **shape}
        return {"context": self.language.context, "layout": layout}


class Monkey(QwenVL):
    """Features of each window, row by row, then those of the whole."""

    config: Config

    @property
    def needed_layout(self) -> NeededLayout:
        config = self.config
        shape = {"window": config.vision.image_size, "rows": config.rows, "columns": config.columns}
        return NeededLayout(Windows, {**shape, "image_tokens": config.connector.queries})

    def expected_zero_grad(self) -> frozenset[str]:
        """The tensors of fresh adapters that learn only from the second step on."""
        adapters = ((name, part) for name, part in self.named_modules() if isinstance(part, windowed.Adapters))
        return frozenset(f"{name}.{tensor}" for name, part in adapters for tensor in part.expected_zero_grad())


def _adapted(tower: bare.Config, windows: int, dropout: float = 0.05) -> windowed.Config:
    given = {field.name: getattr(tower, field.name) for field in fields(tower)}
    return windowed.Config(**given, windows=windows, dropout=dropout)


SIZES = {
    "9.8b": Config(_adapted(qwen_vl.BIGG, 6), qwen_vl.QWEN, cross_attention.Config(256, 32, "shared")),
    # Two windows of 64 pixels, trained on a laptop.
    "small": Config(
        _adapted(qwen_vl.SIZES["small"].vision, 2, dropout=0.0),
        llama.SIZES["small"],
        cross_attention.Config(16, 4, "shared"),
        rows=1,
        columns=2,
    ),
}
