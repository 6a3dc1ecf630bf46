"""The device that tensors live on, by the name that a user gives."""

from __future__ import annotations

import torch

from chiasm.errors import ChiasmError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU where there is one. Raises ChiasmError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that it was not built for
        raise ChiasmError(
            f"there is no device '{name}' here ({str(error).splitlines()[0]}); use auto, cpu or cuda"
        ) from error
