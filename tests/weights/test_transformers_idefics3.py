"""Idefics3 and SmolVLM against transformers' classes and processors, on tiny random checkpoints that those wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

import chiasm
from chiasm.data.batch import PatchImages
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.tiled import Tiled, scaled
from chiasm.data.patches import patches_of
from chiasm.errors import DataError, RecipeError
from chiasm.models.idefics3 import Idefics3
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights import generating
from tests.weights.shaking import shaken

# The template of SmolVLM; Idefics3's begins with another token.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
MARKS = (
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    "<end_of_utterance>",
    "<image>",
)
QUESTION = "What is in the picture?"
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
# image_size, patch, tile, factor, longest. Tiles of 4 by 4 patches, as many as positions; then of 25 by 25 and a
# rest that is none, where rounding decides which position a patch takes.
SHAPES = {"idefics3": (28, 7, 28, 2, 84), "smolvlm": (28, 7, 28, 4, 84), "rounded": (75, 3, 77, 5, 154)}


def peer(folder: Path, shape: str, **pixels: Any) -> Any:
    vocabulary = generating.write_tokenizer(folder, TEMPLATE, MARKS)
    torch.manual_seed(0)
    image_size, patch, tile, factor, longest = SHAPES[shape]
    smol = shape == "smolvlm"
    kinds = (
        (transformers.SmolVLMConfig, transformers.SmolVLMForConditionalGeneration)
        if smol
        else (
            transformers.Idefics3Config,
            transformers.Idefics3ForConditionalGeneration,
        )
    )
    config = kinds[0](
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": image_size,
            "patch_size": patch,
            "initializer_range": 0.3,
        },
        text_config={"model_type": "llama", "vocab_size": vocabulary, "pad_token_id": 0, **TEXT},
        image_token_id=vocabulary - 1,
        scale_factor=factor,
        pad_token_id=0,
    )
    model = kinds[1](config)
    torch.nn.init.normal_(model.model.vision_model.embeddings.position_embedding.weight)
    shaken(model)
    model.generation_config.eos_token_id = vocabulary - 2
    model.save_pretrained(folder)
    image = (SmolVLMImageProcessorPil if smol else Idefics3ImageProcessorPil)(
        size={"longest_edge": longest}, max_image_size={"longest_edge": tile}, **pixels
    )
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    image_tokens = (tile // patch // factor) ** 2
    transformers.Idefics3Processor(image, tokenizer, image_tokens, tokenizer.chat_template).save_pretrained(folder)
    return model


def processor(folder: Path) -> Any:
    """Idefics3's, also for SmolVLM: its own needs packages for videos; pictures are written alike, as is tested."""
    return transformers.Idefics3Processor.from_pretrained(folder, backend="pil")


def loaded(folder: Path) -> Idefics3:
    ours = chiasm.load(folder)
    assert isinstance(ours, Idefics3)
    ours.check()
    return ours


@pytest.mark.parametrize(
    ("shape", "pixels"), [*((shape, {}) for shape in SHAPES), ("idefics3", {"do_image_splitting": False})]
)
def test_pixels_tokens_logits_losses_and_answers_agree(shape: str, pixels: dict[str, Any], tmp_path: Path) -> None:
    theirs = peer(tmp_path, shape, **pixels)
    ours, proc = loaded(tmp_path), processor(tmp_path)
    pictures = generating.odd_photos(tmp_path / "photos")
    patch = SHAPES[shape][1]
    for paths in [[one] for one in pictures] + [pictures[:3]]:
        inputs = generating.asked(proc, [paths], QUESTION)
        batch = ours.processor.prompts([generating.asking(paths, QUESTION)])
        assert batch.images is not None
        known = torch.stack([patches_of(tile, patch)[0] for tile in inputs.pixel_values[0]])
        assert torch.allclose(batch.images.pixels, known, atol=1e-5)
        assert isinstance(batch.images, PatchImages)
        assert batch.images.tiles_N is not None
        assert int(batch.images.tiles_N.sum()) == inputs.pixel_values.shape[1]
        generating.assert_same_reading(ours, theirs, batch, inputs)
    generating.assert_same_losses(ours, theirs, proc, pictures)
    generating.assert_same_answers(ours, theirs, proc, [[pictures[0]], pictures[1:3], [pictures[4]]], QUESTION)


def test_what_we_write_transformers_reads(tmp_path: Path) -> None:
    theirs = peer(tmp_path / "theirs", "smolvlm")
    pictures = generating.odd_photos(tmp_path / "photos")[:2]
    generating.assert_written_as_read(loaded(tmp_path / "theirs"), theirs, tmp_path, processor, pictures)


def test_a_picture_beyond_the_context_is_named(tmp_path: Path) -> None:
    peer(tmp_path, "idefics3")
    whole = loaded(tmp_path).processor
    tight = ChatProcessor(whole.backend, replace(whole.settings, context=40), whole.template.source)
    sample = generating.asking(generating.odd_photos(tmp_path / "photos")[:1], QUESTION, "cat")
    with pytest.raises(DataError, match=r"'cat' has .* tokens, 28 of them for its pictures, but the context is 40"):
        tight.prompts([sample])


def test_a_layout_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    peer(tmp_path, "idefics3")
    ours = loaded(tmp_path)
    assert isinstance(ours.processor.layout, Tiled)
    ours.processor.layout = replace(ours.processor.layout, image_tokens=3)
    told = "has tile 28, patch 7, image_tokens 3, but Idefics3 is made for tile 28, patch 7, image_tokens 4"
    with pytest.raises(RecipeError, match=told):
        ours.check()


PUBLISHED = {"idefics3": (364, 4 * 364, 169), "smolvlm-2.2b": (384, 4 * 384, 81), "smolvlm-256m": (512, 4 * 512, 64)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_follows_from_the_size_alone(name: str) -> None:
    """Published settings, many sizes, against transformers' own picture: its tiles, and the text that it writes."""
    tile, longest, image_tokens = PUBLISHED[name]
    layout = Tiled(tile, longest, image_tokens=image_tokens)
    theirs = Idefics3ImageProcessorPil(size={"longest_edge": longest}, max_image_size={"longest_edge": tile})
    marks = (layout.around, layout.token, layout.whole)
    for width, height in [(640, 480), (480, 640), (1, 300), (13, 9), (2000, 333), (500, 500), (364, 364), (727, 728)]:
        image = torch.zeros(3, height, width, dtype=torch.uint8).numpy()
        made = theirs(image, return_row_col_info=True, input_data_format="channels_first")
        rows, columns = made["rows"][0][0], made["cols"][0][0]
        assert layout.grid(width, height) == (rows, columns)
        assert len(made["pixel_values"][0]) == rows * columns + 1
        assert layout.written(width, height) == get_image_prompt_string(rows, columns, image_tokens, *marks)


def test_the_published_numbers_of_tokens() -> None:
    """4 by 4 tiles and the whole picture: 17 * 169, the most that Idefics3 takes; a photo is 4 by 3."""
    layout = Tiled()
    assert layout.written(1456, 1456).count("<image>") == 17 * 169
    assert layout.written(640, 480).count("<image>") == 13 * 169
    assert replace(layout, split=False).written(640, 480).count("<image>") == 169
    assert Tiled(512, 2048, image_tokens=64).written(640, 480).count("<image>") == 13 * 64


@pytest.mark.parametrize("longest", [5000, 4097, 101, 1456])
def test_pictures_are_scaled_as_transformers_scales_them(longest: int) -> None:
    for width, height in [(640, 480), (31, 900), (1, 7), (7, 1), (500, 500), (333, 334)]:
        high, wide = get_resize_output_image_size(torch.empty(3, height, width).numpy(), longest)
        assert scaled(width, height, longest) == (wide, high)
