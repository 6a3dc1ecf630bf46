"""Monkey's windows, and how MiniCPM-V's and Qwen-VL's pictures are written and counted in a prompt."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from chiasm.data.batch import PixelImages
from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.image import Image
from chiasm.data.layout import Layout
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.layouts.slices import Slices
from chiasm.data.layouts.windows import Windows
from chiasm.data.sample import Sample, Text
from chiasm.data.tokenizer import learn_tokenizer
from chiasm.data.transforms import OPENAI_MEAN, OPENAI_STD
from chiasm.errors import DataError, RecipeError


def noise(width: int, height: int, seed: int = 0) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_the_papers_numbers() -> None:
    """Section 3.1: 1344x896 pixels in windows of 448, so six, and the whole; 256 slots each are 1,792."""
    layout = Windows()
    assert layout.parts == 7
    assert layout.written(1344, 896) == layout.written(3, 5) == "<img>" + "<imgpad>" * 1792 + "</img>"
    assert replace(layout, rows=2, columns=2).written(9, 9).count("<imgpad>") == 1280  # 896x896


def test_windows_are_cut_row_by_row_and_the_whole_is_shrunk() -> None:
    layout = Windows(window=16, image_tokens=4)
    images = layout.images([noise(50, 33), noise(48, 32, seed=1)])
    assert images.pixels.shape == (14, 3, 16, 16)
    assert images.row_N.tolist() == [0, 1]
    assert isinstance(images, PixelImages)
    assert images.tiles_N is not None
    assert images.tiles_N.tolist() == [7, 7]
    stretched = noise(50, 33).decode().resize((48, 32), PIL.Image.Resampling.BICUBIC)
    levels = torch.from_numpy(np.asarray(stretched).copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(one)[:, None, None] for one in (OPENAI_MEAN, OPENAI_STD))
    pixels = (levels - mean) / std
    for at in range(6):
        top, left = at // 3 * 16, at % 3 * 16
        torch.testing.assert_close(images.pixels[at], pixels[:, top : top + 16, left : left + 16], atol=1e-5, rtol=1e-5)
    whole = torch.nn.functional.interpolate(pixels[None], size=(16, 16), mode="bicubic")
    torch.testing.assert_close(images.pixels[6], whole[0], atol=1e-5, rtol=1e-5)
    last = images.of_rows(1, 2)
    assert torch.equal(last.pixels, images.pixels[7:])


def processor(layout: Layout, context: int = 512) -> ChatProcessor:
    backend = learn_tokenizer(["a dog and a cat"], 300)
    backend.add_special_tokens([layout.image_token, *layout.marks])
    return ChatProcessor(backend, ChatSettings(context, layout))


def written(layout: Layout, *parts: Image | Text) -> str:
    return processor(layout).render(Sample("a", parts), answer=True).text


def test_qwen_vl_numbers_pictures_from_one() -> None:
    layout = Fixed(2, token="<imgpad>", before="<img>", behind="</img>\n", number="Picture {}: ")
    picture, two = noise(9, 9), "<img><imgpad><imgpad></img>\n"
    assert written(layout, picture, Text("a"), picture) == f"Picture 1: {two}aPicture 2: {two}"
    assert written(replace(layout, number=""), picture, picture) == two * 2


@pytest.mark.parametrize("second", [False, True])
def test_minicpm_v_writes_pictures_as_its_versions_do(second: bool) -> None:
    """2.5 marks slices as wholes, with other marks around all; 2.6 has marks for slices and counts from 0."""
    marks: dict[str, str] = (
        {"id_before": "<image_id>", "id_behind": "</image_id>"}
        if second
        else {
            "slice_before": "<image>",
            "slice_behind": "</image>",
            "grid_before": "<slice>",
            "grid_behind": "</slice>",
        }
    )
    layout = replace(Slices(size=56, image_tokens=1, token="<unk>"), between="\n", **marks)  # type: ignore[arg-type]  # texts
    small, wide = noise(50, 50), noise(112, 56)
    whole = "<image><unk></image>"
    cut = f"{whole}<slice><unk></slice><slice><unk></slice>" if second else f"{whole}<slice>{whole}{whole}</slice>"
    ids = ("<image_id>0</image_id>", "<image_id>1</image_id>") if second else ("", "")
    assert written(layout, small, wide, Text("a")) == f"{ids[0]}{whole}\n{ids[1]}{cut}\na"
    assert written(layout, small, Text("\na")) == f"{ids[0]}{whole}\na"
    assert written(layout, Text("a"), small) == f"a{ids[0]}{whole}"
    tall = noise(112, 112)
    assert written(layout, tall).count("\n") == 1
    assert set(layout.marks) >= {"<image>", "</image>", "<slice>", "</slice>"}
    assert ("<image_id>" in layout.marks) == second


@pytest.mark.parametrize("layout", [Windows(window=16, image_tokens=4), Slices(size=28, image_tokens=8)])
def test_a_picture_beyond_the_context_is_an_error_that_names_the_sample(layout: Layout) -> None:
    sample = Sample("receipts/7", (noise(90, 60), Text("What is the sum?", role="user")))
    image_tokens = layout.written(90, 60).count(layout.image_token)
    tight = processor(layout, context=image_tokens)
    with pytest.raises(DataError, match=rf"'receipts/7' has .* tokens, {image_tokens} of them for its pictures"):
        tight.prompts([sample])
    assert processor(layout).prompts([sample]).stream is not None


def test_what_makes_no_windows_is_refused() -> None:
    bad: Sequence[dict[str, int]] = ({"rows": 0}, {"window": 0}, {"image_tokens": 0})
    for entries in bad:
        with pytest.raises(RecipeError, match="do not make a layout"):
            Windows(**entries)  # type: ignore[arg-type]  # numbers all
