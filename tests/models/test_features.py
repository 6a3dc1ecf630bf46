from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.vectors import VectorFile
from chiasm.errors import CheckpointError, DataError
from chiasm.models.features import CachedProcessor
from tests.worlds import Patches, tiny_clip

QUIET = Console(file=io.StringIO())


def test_batches_of_features_have_the_losses_of_batches_of_pixels(tmp_path: Path) -> None:
    model = tiny_clip()
    cached = CachedProcessor(model, tmp_path)
    cached.fill(Patches(16), QUIET)
    samples = [sample.with_caption(sample.captions[1]) for sample in Patches(16)]
    with torch.no_grad():
        plain = model.losses(model.processor(samples))["contrastive"]
        torch.testing.assert_close(model.losses(cached(samples))["contrastive"], plain)


def test_features_are_computed_once_and_found_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    model = tiny_clip()
    real = model.vision.forward

    def counted(images: Images) -> Tensor:
        seen.append(len(images))
        return real(images)

    monkeypatch.setattr(model.vision, "forward", counted)
    CachedProcessor(model, tmp_path).fill(Patches(10), QUIET)
    assert sum(seen) == 10
    CachedProcessor(model, tmp_path).fill(Patches(10), QUIET)
    assert sum(seen) == 10
    CachedProcessor(model, tmp_path).fill(Patches(13), QUIET)
    assert sum(seen) == 13


def test_another_tower_never_meets_old_features(tmp_path: Path) -> None:
    first, second = tiny_clip(0), tiny_clip(1)
    CachedProcessor(first, tmp_path).fill(Patches(4), QUIET)
    cached = CachedProcessor(second, tmp_path)
    cached.fill(Patches(4), QUIET)
    keys = [sample.image.key for sample in Patches(4)]
    with torch.no_grad():
        expected = second.vision(second.processor.images([sample.image for sample in Patches(4)]))
    torch.testing.assert_close(cached.features_of_images(keys), expected)


def test_a_file_that_a_kill_cut_short_goes_on(tmp_path: Path) -> None:
    file = VectorFile(tmp_path / "features.npy", 3)
    file.append(["a", "b"], torch.arange(6.0).view(2, 3))
    with (tmp_path / "features.npy").open("ab") as rows:
        rows.write(b"half a row")  # rows are written before their keys, so these have none
    with (tmp_path / "features.keys").open("a") as keys:
        keys.write("c")  # a key without its line end was not written whole
    again = VectorFile(tmp_path / "features.npy", 3)
    assert "c" not in again
    again.append(["d"], torch.full((1, 3), 9.0))
    assert VectorFile(tmp_path / "features.npy", 3)[["d", "a"]].tolist() == [[9, 9, 9], [0, 1, 2]]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    VectorFile(tmp_path / "features.npy", 3).append(["a", "b"], torch.zeros(2, 3))
    (tmp_path / "features.npy").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged; remove it"):
        VectorFile(tmp_path / "features.npy", 3)


def test_augmented_pictures_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from chiasm.data.processor import PairProcessor
    from chiasm.data.transforms import Augment, ImageTransform

    model = tiny_clip()
    image = model.processor.image
    assert isinstance(image, ImageTransform)
    model.processor = PairProcessor(replace(image, augment=Augment()), model.processor.tokenizer)
    with pytest.raises(DataError, match="augmented pictures cannot be kept"):
        CachedProcessor(model, tmp_path)
