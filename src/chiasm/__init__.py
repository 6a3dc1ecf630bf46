"""chiasm: choose, train, adapt, compare and serve vision-language models.

model = chiasm.load("runs/clip-scenes/checkpoint")
model.score([chiasm.Image("dog.jpg")], ["a dog", "a cat"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasm.data.image import Image as Image
    from chiasm.data.sample import Box as Box
    from chiasm.data.sample import Sample as Sample
    from chiasm.data.sample import Text as Text
    from chiasm.data.sample import Video as Video
    from chiasm.evaluation.run import evaluate as evaluate
    from chiasm.experiment.recipe import load_recipe as load_recipe
    from chiasm.experiment.train import train as train
    from chiasm.generation.choosing import Sampling as Sampling
    from chiasm.weights import load as load

__version__ = "0.2.0"
__all__ = [
    "Box",
    "Image",
    "Sample",
    "Sampling",
    "Text",
    "Video",
    "__version__",
    "evaluate",
    "load",
    "load_recipe",
    "train",
]

_MODULES = {
    "Box": "chiasm.data.sample",
    "Image": "chiasm.data.image",
    "Sample": "chiasm.data.sample",
    "Sampling": "chiasm.generation.choosing",
    "Text": "chiasm.data.sample",
    "Video": "chiasm.data.sample",
    "evaluate": "chiasm.evaluation.run",
    "load": "chiasm.weights",
    "load_recipe": "chiasm.experiment.recipe",
    "train": "chiasm.experiment.train",
}


def __dir__() -> list[str]:
    return [*__all__]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import chiasm` and `chiasm --help` do not wait for torch."""
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'chiasm' has no attribute '{name}'")
