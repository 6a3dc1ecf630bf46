"""MiniCPM-V's slices beside the image processor of its successor in transformers, and the paper's numbers."""

import random
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from chiasm.data.batch import PatchImages
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.slices import Slices, fitted, fitted_slices, slice_grid
from chiasm.data.sample import Sample, Text
from chiasm.errors import RecipeError
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.shared_data import shared_data


def test_the_papers_numbers() -> None:
    """Section 3.2.1: up to nine slices, so 1.8 million pixels (1344x1344), each in the size of a tower of 448."""
    assert slice_grid(1344, 1344, 448, 9) == (3, 3)
    assert fitted_slices(1344, 1344, (3, 3), 448, 14) == (448, 448)
    assert slice_grid(448, 448, 448, 9) is None
    assert slice_grid(4480, 4480, 448, 9) == (3, 3)
    # ceil(1000 * 400 / 448²) = 2, so 1 (which is no grid), 2 or 3: log 2.5 is nearer to log 3 than to log 2.
    assert slice_grid(1000, 400, 448, 9) == (1, 3)
    # Slices of 1000 / 3 by 400: (int(448 / sqrt 0.8325) = 491) * 0.8325 = 408, to the nearest multiples of 14.
    assert fitted_slices(1000, 400, (1, 3), 448, 14) == (406, 490)
    # The whole: int(448 / sqrt 2.5) = 283 high, 707 wide.
    assert fitted(1000, 400, 448, 14) == (700, 280)
    # A small picture is enlarged: int(448 / sqrt 2) = 316 high, 632 wide.
    assert fitted(100, 50, 448, 14) == (630, 322)
    # At the bound itself only fewer slices are tried: of 8 and 9 the row of 9.
    assert slice_grid(9000, 1000, 448, 9) == (1, 9)


def test_grids_and_sizes_are_those_of_the_published_code() -> None:
    rng, theirs = random.Random(0), MiniCPMV4_6ImageProcessorPil()
    for _ in range(3000):
        width, height = (int(2 ** rng.uniform(3, 12)) for _ in range(2))
        size, most = rng.choice([448, 224, 980]), rng.choice([2, 4, 9, 16])
        grid = slice_grid(width, height, size, most)
        expected = theirs.get_sliced_grid((height, width), most, size)
        assert grid == (tuple(expected) if expected is not None else None)
        whole = theirs.find_best_resize((height, width), size, 14, "16x", allow_upscale=grid is None)
        assert fitted(width, height, size, 56) == whole[::-1]
        if grid is not None and expected is not None:
            refined = theirs.get_refine_size((height, width), expected, size, 14, "4x", allow_upscale=True)
            each = fitted_slices(width, height, grid, size, 28)
            assert (each[1] * grid[0], each[0] * grid[1]) == refined


@pytest.mark.parametrize("shape", [(640, 480), (61, 400), (900, 70), (9, 7), (448, 448)])
def test_pixels_are_those_of_the_published_code(shape: tuple[int, int], tmp_path: Path) -> None:
    photo = PIL.Image.open(min(shared_data("coco").rglob("*.jpg"))).convert("RGB").resize(shape)
    photo.save(tmp_path / "photo.png")
    theirs = MiniCPMV4_6ImageProcessorPil(scale_resolution=112)(images=[photo], return_tensors="pt")
    layout = Slices(size=112, merge=4)
    images = layout.images([Image(tmp_path / "photo.png")])
    assert isinstance(images, PatchImages)
    assert isinstance(images, PatchImages)
    assert images.tiles_N is not None
    assert images.grid_M2.tolist() == theirs.target_sizes.tolist()
    assert images.tiles_N.tolist() == theirs.num_patches_per_image
    parts = torch.split(theirs.pixel_values[0], [int(grid.prod()) * 14 for grid in images.grid_M2], dim=2)
    for ours, part, grid in zip(images.pixels, parts, images.grid_M2, strict=True):
        patches = part.unflatten(2, (-1, 14)).permute(2, 1, 3, 0).flatten(1)  # (3, 14, P * 14), a row of patches
        count = int(grid.prod())
        assert torch.allclose(ours[:count], patches, atol=1e-5)
        assert not ours[count:].any()


def test_slots_are_known_from_the_size_and_counted_as_written() -> None:
    layout = Slices(size=56, image_tokens=3, token="<unk>")
    features = "<unk>" * 3
    assert layout.written(50, 50) == f"<image>{features}</image>"
    assert layout.written(56, 168) == f"<image>{features}</image>" + "\n".join([f"<slice>{features}</slice>"] * 3)
    assert layout.written(112, 112).count("\n") == 1
    pictures = [Image(np.zeros((height, width, 3), np.uint8)) for width, height in ((50, 50), (56, 168), (300, 90))]
    images = layout.images(pictures)
    written = [layout.written(*picture.size) for picture in pictures]
    assert isinstance(images, PatchImages)
    assert images.tiles_N is not None
    assert [text.count("<unk>") for text in written] == [3 * count for count in images.tiles_N.tolist()]
    assert images.tiles_N[:2].tolist() == [1, 4]
    assert images.row_N.tolist() == [0, 1, 2]


def test_a_learned_tokenizer_and_a_template_with_words_of_its_own(tmp_path: Path) -> None:
    """The template writes a picture in the words of version 2.6; the tokenizer knows the marks."""
    template = tmp_path / "chat_template.jinja"
    template.write_text("{% for one in messages %}{{ one['content'] }}{% endfor %}")
    layout = {"layout": "slices", "size": 56, "image_tokens": 2}
    entries = {"layout": layout, "tokenizer": {"learn": 300}, "template": str(template)}
    processor = ChatProcessor.from_recipe(entries, ["a dog and a cat"])
    picture = Image(np.zeros((56, 112, 3), np.uint8))
    sample = Sample("a", (picture, Text("a dog", role="user"), Text("a cat", role="assistant", target=True)))
    rendered = processor.render(sample)
    two = "<unk>" * 2
    assert rendered.text.startswith(f"<image>{two}</image><slice>{two}</slice><slice>{two}</slice>a dog")
    batch = processor([sample])
    assert batch.stream is not None
    assert int(batch.stream.image_mask_T.sum()) == 6
    assert batch.stream.positions_AT is None


def test_sizes_that_make_no_slices_are_refused() -> None:
    with pytest.raises(RecipeError, match="do not make a layout"):
        Slices(size=40, merge=4)
