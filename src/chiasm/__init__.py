"""chiasm: choose, train, adapt, compare and serve vision-language models.

model = chiasm.load("runs/clip-scenes/checkpoint")
model.score([chiasm.Image("dog.jpg")], ["a dog", "a cat"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasm.data.image import Image as Image
    from chiasm.data.sample import Sample as Sample
    from chiasm.weights import load as load

__version__ = "0.2.0"
__all__ = ["Image", "Sample", "__version__", "load"]

_HOMES = {"load": "chiasm.weights", "Image": "chiasm.data.image", "Sample": "chiasm.data.sample"}


def __dir__() -> list[str]:
    return [*__all__]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import chiasm` and `chiasm --help` do not wait for torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'chiasm' has no attribute '{name}'")
