"""Idefics2 against Idefics2ForConditionalGeneration and its processor, on tiny random checkpoints that those wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

import chiasm
from chiasm.data.batch import PatchImages
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.native import Native
from chiasm.data.patches import patches_of
from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError, RecipeError
from chiasm.models.idefics2 import Idefics2
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights import generating
from tests.weights.shaking import shaken

# Idefics2's own.
TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QUESTION = "What is in the picture?"
PATCH = 7


def peer(folder: Path, split: bool, **perceiver: Any) -> Any:
    vocabulary = generating.write_tokenizer(
        folder, TEMPLATE, ("<fake_token_around_image>", "<end_of_utterance>", "<image>")
    )
    torch.manual_seed(0)
    config = transformers.Idefics2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 70,
            "patch_size": PATCH,
            "initializer_range": 0.3,
        },
        perceiver_config={
            "hidden_size": 48,
            "resampler_n_latents": 6,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
            "initializer_range": 0.3,
            **perceiver,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": vocabulary,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "sliding_window": None,
            "rms_norm_eps": 1e-3,
            "pad_token_id": 0,
            "initializer_range": 0.3,
        },
        image_token_id=vocabulary - 1,
    )
    model = transformers.Idefics2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.vision_model.embeddings.position_embedding.weight)
    torch.nn.init.normal_(model.model.connector.perceiver_resampler.latents)
    shaken(model)
    model.generation_config.eos_token_id = vocabulary - 2
    model.save_pretrained(folder)
    image = Idefics2ImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 90}, do_image_splitting=split)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    transformers.Idefics2Processor(image, tokenizer, 6, tokenizer.chat_template).save_pretrained(folder)
    return model


def processor(folder: Path) -> Any:
    return transformers.Idefics2Processor.from_pretrained(folder, backend="pil")


def loaded(folder: Path) -> Idefics2:
    ours = chiasm.load(folder)
    assert isinstance(ours, Idefics2)
    ours.check()
    return ours


@pytest.mark.parametrize("split", [True, False])
def test_pixels_tokens_logits_losses_and_answers_agree(split: bool, tmp_path: Path) -> None:
    theirs = peer(tmp_path, split)
    ours, proc = loaded(tmp_path), processor(tmp_path)
    pictures = generating.odd_photos(tmp_path / "photos")
    for paths in [[one] for one in pictures] + [pictures[:3]]:
        inputs = generating.asked(proc, [paths], QUESTION)
        batch = ours.processor.prompts([generating.asking(paths, QUESTION)])
        images = batch.images
        assert images is not None
        assert isinstance(images, PatchImages)
        pairs = zip(inputs.pixel_values[0], inputs.pixel_attention_mask[0], strict=True)
        for at, (pixels, mask) in enumerate(pairs):
            high, wide = int(mask[:, 0].sum()), int(mask[0].sum())
            patches, grid = patches_of(pixels[:, :high, :wide], PATCH)
            assert tuple(images.grid_M2[at].tolist()) == grid
            assert torch.allclose(images.pixels[at, : len(patches)], patches, atol=1e-5)
        generating.assert_same_reading(ours, theirs, batch, inputs)
    generating.assert_same_losses(ours, theirs, proc, pictures)
    generating.assert_same_answers(ours, theirs, proc, [[pictures[0]], pictures[1:3], [pictures[4]]], QUESTION)


def test_epsilon_is_the_language_models_where_no_width_is_given(tmp_path: Path) -> None:
    """As in the published file, whose `perceiver_config` names neither; only the first has the default width."""
    peer(tmp_path, split=False)
    assert loaded(tmp_path).config.connector.epsilon == 1e-6
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    for name in ("hidden_size", "rms_norm_eps"):
        del settings["perceiver_config"][name]
    file.write_text(json.dumps(settings))
    theirs = transformers.Idefics2ForConditionalGeneration.from_pretrained(tmp_path)
    ours = loaded(tmp_path)
    assert ours.config.connector.epsilon == theirs.config.perceiver_config.rms_norm_eps == 1e-3


def test_what_we_write_transformers_reads(tmp_path: Path) -> None:
    theirs = peer(tmp_path / "theirs", split=True)
    pictures = generating.odd_photos(tmp_path / "photos")[:2]
    generating.assert_written_as_read(loaded(tmp_path / "theirs"), theirs, tmp_path, processor, pictures)


def test_words_and_pictures_in_any_order_are_written_as_theirs(tmp_path: Path) -> None:
    """Marks between pictures that touch are one; a blank stands before a word that follows a picture at once."""
    peer(tmp_path, split=True)
    ours, proc = loaded(tmp_path), processor(tmp_path)
    picture = Image(np.full((20, 30, 3), 99, np.uint8))
    for text in ("{0}{0}a{0} b{0}\nc", "what?{0}", "{0}<a", "a{0}{0}", "{0}{0}{0}b"):
        pieces = text.split("{0}")
        parts: list[Image | Text] = [Text(pieces[0])] if pieces[0] else []
        for piece in pieces[1:]:
            parts += [picture, *([Text(piece)] if piece else [])]
        batch = ours.processor.prompts([Sample("a", tuple(parts))])
        assert batch.stream is not None
        levels = [picture.decode()] * (len(pieces) - 1)
        known = proc(images=[levels], text=text.replace("{0}", "<image>"), return_tensors="pt").input_ids[0]
        assert batch.stream.ids_T.tolist() == known.tolist()


def test_a_picture_beyond_the_context_or_too_small_to_cut_is_an_error(tmp_path: Path) -> None:
    peer(tmp_path, split=True)
    whole = loaded(tmp_path).processor
    tight = ChatProcessor(whole.backend, replace(whole.settings, context=40), whole.template.source)
    sample = generating.asking(generating.odd_photos(tmp_path / "photos")[:1], QUESTION, "cat")
    with pytest.raises(DataError, match=r"'cat' has .* tokens, 30 of them for its pictures, but the context is 40"):
        tight.prompts([sample])
    thin = Sample("thin", (Image(np.zeros((1, 30, 3), np.uint8)), Text("what?", role="user")))
    with pytest.raises(DataError, match="30x1 pixels cannot be cut into quarters"):
        whole.prompts([thin])


def test_a_layout_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    peer(tmp_path, split=True)
    ours = loaded(tmp_path)
    assert isinstance(ours.processor.layout, Native)
    ours.processor.layout = replace(ours.processor.layout, image_tokens=3)
    with pytest.raises(
        RecipeError, match="has patch 7, image_tokens 3, but Idefics2 is made for patch 7, image_tokens 6"
    ):
        ours.check()


def test_the_published_numbers_of_tokens_and_sides() -> None:
    """64 slots a part, 320 a picture; sides between 378 and 980 pixels, as transformers makes them."""
    layout, theirs = Native(), Idefics2ImageProcessorPil(do_image_splitting=True)
    assert layout.written(640, 480).count("<image>") == 5 * 64
    assert replace(layout, split=False).written(640, 480).count("<image>") == 64
    for width, height in [(640, 480), (2000, 333), (7, 9), (981, 980), (2, 2), (1961, 1962)]:
        levels = np.zeros((height, width, 3), np.uint8)
        known = theirs(levels, input_data_format="channels_last")["pixel_attention_mask"][0]
        made = layout.images([Image(levels)])
        assert isinstance(made, PatchImages)
        assert made.grid_M2.tolist() == [[int(one[:, 0].sum()) // 14, int(one[0].sum()) // 14] for one in known]
