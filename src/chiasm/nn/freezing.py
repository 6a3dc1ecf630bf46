"""Parts that never learn."""

from __future__ import annotations

from torch import nn


def freeze(part: nn.Module) -> None:
    """No tensor of the part learns, and it stays in evaluation mode: `Model.train` reads the mark that is left here."""
    part.requires_grad_(False)
    part.frozen = True  # type: ignore[assignment]  # torch knows but tensors and modules here
