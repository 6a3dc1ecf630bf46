"""A model that a foreign format cannot hold is refused, never written as something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from chiasm.errors import CheckpointError
from chiasm.models import clip, siglip
from chiasm.models.model import ModelConfig
from chiasm.weights import load, open_clip, transformers
from tests.worlds import tiny_processor


@pytest.mark.parametrize("config", [clip.SIZES["small"], siglip.SIZES["small"]])
def test_a_tower_with_a_stem_is_ours_alone(config: ModelConfig, tmp_path: Path) -> None:
    model = config.model()(config, tiny_processor())
    with pytest.raises(CheckpointError, match="without a stem"):
        transformers.save(model, tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"not vit|no such vision tower"):
        open_clip.save(model, tmp_path / "oc")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "is not a checkpoint: it has no config.json"),
        ({"config.json": "{"}, "cannot be read as JSON"),
        ({"config.json": "{}"}, "names neither a 'family' (chiasm) nor a 'model_type' (transformers)"),
        ({"config.json": '{"family": "clpi"}'}, "there is no family 'clpi'; did you mean 'clip'?"),
        ({"config.json": '{"model_type": "bloom"}'}, "of a 'bloom', foreign here"),
        ({"config.json": '{"model_type": "blooom"}'}, "a 'blooom', which neither chiasm nor transformers"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_told(files: dict[str, str], told: str, tmp_path: Path) -> None:
    from chiasm.errors import ChiasmError

    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ChiasmError) as caught:
        load(tmp_path)
    assert told in str(caught.value)


def test_a_folder_that_does_not_exist_is_told() -> None:
    with pytest.raises(CheckpointError, match="there is no folder nowhere"):
        load("nowhere")
