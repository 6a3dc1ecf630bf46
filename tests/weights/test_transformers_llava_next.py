"""LLaVA-NeXT against LlavaNextForConditionalGeneration and its processor, on tiny random checkpoints of theirs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

import chiasm
from chiasm.data.batch import PixelImages
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.any_resolution import AnyResolution
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, DataError
from chiasm.models.llava_next import LLaVANeXT
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights import generating
from tests.weights.generating import tiny_clip, tiny_llama, write_tokenizer
from tests.weights.shaking import shaken

pytestmark = pytest.mark.xdist_group("llava_next")

SIDE = 28
GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
QUESTION = "What is in the picture?"


def peer(folder: Path, **more: Any) -> Any:
    vocabulary = write_tokenizer(folder)
    torch.manual_seed(0)
    text, vision = tiny_llama(vocabulary), tiny_clip(SIDE, 7)
    config = transformers.LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=vocabulary - 1,
        image_grid_pinpoints=GRIDS,
        **more,
    )
    model = transformers.LlavaNextForConditionalGeneration(config)
    shaken(model)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor(folder).save_pretrained(folder)
    return model


def processor(folder: Path) -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    return transformers.LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=GRIDS
        ),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LLaVANeXT, Path]:
    folder = tmp_path_factory.mktemp("next")
    theirs, ours = peer(folder), chiasm.load(folder)
    assert isinstance(ours, LLaVANeXT)
    return theirs, ours, folder


def test_pixels_tokens_logits_and_losses_agree(pair: tuple[Any, LLaVANeXT, Path], tmp_path: Path) -> None:
    theirs, ours, folder = pair
    proc = processor(folder)
    pictures = generating.odd_photos(tmp_path)
    for paths in [[one] for one in pictures] + [pictures[:3]]:
        inputs = generating.asked(proc, [paths], QUESTION)
        batch = ours.processor.prompts([generating.asking(paths, QUESTION)])
        assert batch.images is not None
        assert isinstance(batch.images, PixelImages)
        assert batch.images.tiles_N is not None
        tiles = torch.split(batch.images.pixels, batch.images.tiles_N.tolist())
        for made, known in zip(tiles, inputs.pixel_values, strict=True):
            assert torch.allclose(made, known[: len(made)], atol=1e-5)
            assert not known[len(made) :].any()
        generating.assert_same_reading(ours, theirs, batch, inputs)
    generating.assert_same_losses(ours, theirs, proc, pictures)


def test_answers_agree_alone_and_in_company(pair: tuple[Any, LLaVANeXT, Path], tmp_path: Path) -> None:
    theirs, ours, folder = pair
    pictures = generating.odd_photos(tmp_path)
    rows = [[pictures[0]], pictures[1:3], [pictures[4]]]
    generating.assert_same_answers(ours, theirs, processor(folder), rows, QUESTION)


def test_what_we_write_transformers_reads(pair: tuple[Any, LLaVANeXT, Path], tmp_path: Path) -> None:
    theirs, ours, folder = pair
    save(ours, tmp_path / "ours")
    again = transformers.LlavaNextForConditionalGeneration.from_pretrained(tmp_path / "ours")
    pictures = generating.odd_photos(tmp_path)
    inputs = generating.asked(processor(folder), [pictures[:2]], QUESTION)
    made = generating.asked(
        transformers.LlavaNextProcessor.from_pretrained(tmp_path / "ours", backend="pil"), [pictures[:2]], QUESTION
    )
    assert made.keys() == inputs.keys()
    assert all(torch.equal(made[key], inputs[key]) for key in inputs)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)
    twice = chiasm.load(tmp_path / "ours")
    assert isinstance(twice, LLaVANeXT)
    assert twice.config == ours.config
    assert twice.processor.layout == ours.processor.layout


def test_a_picture_beyond_the_context_is_named(pair: tuple[Any, LLaVANeXT, Path], tmp_path: Path) -> None:
    _, ours, _ = pair
    processor = ours.processor
    tight = ChatProcessor(processor.backend, replace(processor.settings, context=40), processor.template.source)
    sample = Sample("cat", (Image(generating.odd_photos(tmp_path)[0]), Text(QUESTION, role="user")))
    with pytest.raises(DataError, match=r"'cat' has .* tokens, .* of them for its pictures, but the context is 40"):
        tight.prompts([sample])


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    peer(tmp_path / "full", vision_feature_select_strategy="full")
    with pytest.raises(CheckpointError, match="class token has no place"):
        chiasm.load(tmp_path / "full")
    peer(tmp_path / "grids")
    file = tmp_path / "grids" / "processor_config.json"
    file.write_text(file.read_text().replace("84", "112"))
    with pytest.raises(CheckpointError, match="other grids"):
        chiasm.load(tmp_path / "grids")


@pytest.mark.parametrize(
    ("size", "image_tokens"),
    [
        ((672, 672), 2928),
        ((1000, 1000), 2928),
        ((640, 480), 2340),
        ((480, 640), 2352),
        ((100, 2000), 936),
        ((9, 13), 984),
    ],
)
def test_slots_follow_from_the_size_alone(size: tuple[int, int], image_tokens: int) -> None:
    """The published grids, against transformers' own count. At most (1 + 4) * 576 = 2,880 are patches, 48 end rows."""
    layout = AnyResolution()
    proc = transformers.LlavaNextProcessor.__new__(transformers.LlavaNextProcessor)
    proc.patch_size, proc.num_additional_image_tokens = 14, 0
    proc.image_processor = LlavaNextImageProcessorPil()
    known = proc._get_number_of_features(size[1], size[0], 336, 336)
    assert layout.image_tokens(*size) == known == image_tokens
    assert layout.written(*size) == "<image>" * known


def test_every_size_takes_the_slots_that_transformers_counts() -> None:
    layout = AnyResolution()
    proc = transformers.LlavaNextProcessor.__new__(transformers.LlavaNextProcessor)
    proc.patch_size, proc.num_additional_image_tokens = 14, 0
    proc.image_processor = LlavaNextImageProcessorPil()
    sides = [1, 7, 16, 97, 224, 333, 336, 337, 480, 640, 671, 1009, 1500, 4000]
    for width in sides:
        for height in sides:
            assert layout.image_tokens(width, height) == proc._get_number_of_features(height, width, 336, 336)
