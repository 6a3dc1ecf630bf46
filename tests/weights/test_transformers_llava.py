"""LLaVA against LlavaForConditionalGeneration and its processor, on tiny random checkpoints that those wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import chiasm
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError
from chiasm.models import folder
from chiasm.models.llava import LLaVA
from chiasm.nn.decoder import Packed
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.shared_data import shared_data
from tests.weights.generating import CHATML, tiny_clip, tiny_llama, write_tokenizer
from tests.weights.shaking import shaken

SIZE = 28


def peer(folder: Path, **more: Any) -> Any:
    vocabulary = write_tokenizer(folder)
    torch.manual_seed(0)
    text, vision = tiny_llama(vocabulary), tiny_clip(SIZE, 14)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=vocabulary - 1, **more)
    model = transformers.LlavaForConditionalGeneration(config)
    shaken(model)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor(folder, config).save_pretrained(folder)
    return model


def processor(folder: Path, config: Any) -> Any:
    return transformers.LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        transformers.PreTrainedTokenizerFast.from_pretrained(folder),
        patch_size=14,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=transformers.PreTrainedTokenizerFast.from_pretrained(folder).chat_template,
    )


def photos(count: int) -> list[Path]:
    return sorted((shared_data("coco")).rglob("*.jpg"))[:count]


def asked(theirs: Any, folder: Path, paths: list[Path], question: str) -> Any:
    """What transformers makes of pictures and a question."""
    content = [*({"type": "image"} for _ in paths), {"type": "text", "text": question}]
    proc = processor(folder, theirs.config)
    text = proc.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    return proc(images=[PIL.Image.open(path).convert("RGB") for path in paths], text=text, return_tensors="pt")


@pytest.mark.parametrize(
    "more",
    [{}, {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "multimodal_projector_bias": False}],
)
def test_pixels_tokens_scores_and_answers_agree(more: dict[str, Any], tmp_path: Path) -> None:
    theirs = peer(tmp_path, **more)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, LLaVA)
    for paths in ([photos(1)[0]], photos(3)[1:]):
        inputs = asked(theirs, tmp_path, paths, "What is in the picture?")
        sample = Sample("a", (*map(Image, paths), Text("What is in the picture?", role="user")))
        batch = ours.processor.prompts([sample])
        assert batch.stream is not None
        assert batch.images is not None
        assert batch.stream.ids_T.tolist() == inputs.input_ids[0].tolist()
        assert torch.allclose(batch.images.pixels, inputs.pixel_values, atol=1e-5)
        with torch.no_grad():
            expected = theirs(**inputs).logits[0]
            prompt = ours.embedded(batch)
            found = ours.language.logits(ours.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))
            said = theirs.generate(**inputs, max_new_tokens=10, do_sample=False)[0, inputs.input_ids.shape[1] :]
        assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
        (answered,) = ours.generate([sample], max_tokens=10)
        assert answered.texts[-1].text == ours.processor.decode(said.tolist())


def test_what_we_write_transformers_reads(tmp_path: Path) -> None:
    theirs = peer(tmp_path / "theirs")
    ours = chiasm.load(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    again = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "ours")
    path = photos(1)
    inputs = asked(theirs, tmp_path / "theirs", path, "What is it?")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)
    twice = chiasm.load(tmp_path / "ours")
    sample = Sample("a", (Image(path[0]), Text("What is it?", role="user")))
    assert isinstance(ours, LLaVA)
    assert isinstance(twice, LLaVA)
    assert twice.generate([sample], max_tokens=8) == ours.generate([sample], max_tokens=8)


def test_our_own_folder_keeps_everything(tmp_path: Path) -> None:
    peer(tmp_path / "theirs")
    ours = chiasm.load(tmp_path / "theirs")
    folder.save(ours, tmp_path / "ours")
    again = chiasm.load(tmp_path / "ours")
    sample = Sample("a", (Image(photos(1)[0]), Text("What is it?", role="user")))
    assert isinstance(ours, LLaVA)
    assert isinstance(again, LLaVA)
    assert again.generate([sample], max_tokens=8) == ours.generate([sample], max_tokens=8)


def test_slots_and_features_that_differ_are_an_error_with_both_counts(tmp_path: Path) -> None:
    peer(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, LLaVA)
    assert isinstance(ours.processor.layout, Fixed)
    ours.processor.layout = replace(ours.processor.layout, image_tokens=3)
    with pytest.raises(DataError, match="has 3 image tokens, but its images made 4 features"):
        ours.generate([Sample("a", (Image(photos(1)[0]), Text("What?", role="user")))])


@pytest.mark.parametrize(
    "places", [("processor", "tokenizer"), ("jinja", "processor"), ("json", "processor"), ("json", "tokenizer")]
)
def test_of_several_templates_the_one_that_transformers_takes_is_read(places: tuple[str, str], tmp_path: Path) -> None:
    peer(tmp_path)
    for place in places:
        template = CHATML.replace("<|im_start|>", f"{place}: <|im_start|>", 1)
        if place == "jinja":
            (tmp_path / "chat_template.jinja").write_text(template)
            continue
        file = tmp_path / {"json": "chat_template.json"}.get(place, f"{place}_config.json")
        entries = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**entries, "chat_template": template}))
    if "jinja" not in places:
        (tmp_path / "chat_template.jinja").unlink()
    theirs = transformers.LlavaProcessor(
        CLIPImageProcessorPil.from_pretrained(tmp_path),
        transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path),
        chat_template=transformers.LlavaProcessor.get_processor_dict(tmp_path)[0].get("chat_template"),
    )
    chat = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    expected = theirs.apply_chat_template(chat, tokenize=False)
    ours = chiasm.load(tmp_path).processor
    assert isinstance(ours, ChatProcessor)
    assert ours.render(Sample("a", (Text("Hi", "user"),))).text == expected
