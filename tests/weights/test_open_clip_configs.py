"""Every architecture that open_clip ships a config of: read, with as many parameters as open_clip counts, or refused
for a reason that the guide names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from chiasm.errors import CheckpointError
from chiasm.models.model import ModelConfig
from chiasm.weights.open_clip import _siglip
from chiasm.weights.open_clip._settings import read_model
from tests import peers

GUIDE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def config_of(entries: dict[str, Any]) -> ModelConfig:
    read = _siglip.read_model if _siglip.is_siglip(entries) else read_model
    return read(entries, "model_cfg")[0]


def shipped() -> list[str]:
    open_clip = peers.open_clip()
    return sorted(open_clip.list_models())


def refused() -> set[str]:
    """The names in the last table of the guide."""
    rows = GUIDE.read_text(encoding="utf-8").split("## What is refused")[1].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    return {name.strip(" `") for cell in cells for name in cell.split(",")}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_each_config_is_read_or_refused_for_a_reason() -> None:
    open_clip = peers.open_clip()
    for name in shipped():
        if name in refused():
            with pytest.raises(CheckpointError, match="we cannot follow"):
                config_of(open_clip.get_model_config(name))
        else:
            assert config_of(open_clip.get_model_config(name))
    assert refused() <= set(shipped())


@pytest.mark.parametrize(
    "part", ["ViT-B", "ViT-L", "ViT-H", "ViT-S", "ViT-M", "ViT-b", "ViT-g", "ViT-e", "RN"], ids=str
)
def test_each_that_is_read_has_open_clips_number_of_parameters(part: str) -> None:
    """On the meta device: nothing is allocated, whatever the size."""
    open_clip = peers.open_clip()
    names = [name for name in shipped() if name.startswith(part) and name not in refused()]
    assert names
    for name in names:
        entries = json.loads(json.dumps(open_clip.get_model_config(name)))
        config = config_of(entries)
        kind = open_clip.CustomTextCLIP if entries.pop("custom_text", False) else open_clip.CLIP
        with torch.device("meta"):
            peer = kind(**entries)
            ours = config.model()(config, cast("Any", None))
        assert count(ours) == count(peer), name


def test_the_largest_are_among_them() -> None:
    largest = {"ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-gopt-16-SigLIP2-384", "RN50x64"}
    assert largest <= set(shipped()) - refused()
