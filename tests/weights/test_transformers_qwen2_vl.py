"""Qwen2-VL against Qwen2VLForConditionalGeneration and Qwen2VLProcessor, on tiny random checkpoints of theirs."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

import chiasm
from chiasm.data.batch import PackedImages
from chiasm.data.image import Image
from chiasm.data.layouts.packed import PackedPatches, fitted
from chiasm.data.sample import Sample, Text, Video
from chiasm.errors import CheckpointError, DataError
from chiasm.models import folder, qwen2_vl
from chiasm.models.qwen2_vl import Qwen2VL
from chiasm.nn.decoder import Packed
from chiasm.weights.transformers import save
from tests import peers
from tests.weights.generating import asking, rendered, resized_photo, write_tokenizer

TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# As published, with its counting of pictures, which is off by default.
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPES = {"tall": (40, 330), "wide": (300, 57), "tiny": (9, 7), "photo": (213, 160)}
QUESTION = "What is in the picture?"


def peer(folder: Path, tied: bool = False) -> Any:
    vocabulary = write_tokenizer(folder, TEMPLATE, TOKENS)
    ids = dict(zip(TOKENS, range(vocabulary - 4, vocabulary), strict=True))
    torch.manual_seed(0)
    config = transformers.Qwen2VLConfig(
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 48,
            "num_heads": 4,
            "mlp_ratio": 2,
            "initializer_range": 0.2,
        },
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "max_window_layers": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 2, 2]},
            "initializer_range": 0.3,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
    model = transformers.Qwen2VLForConditionalGeneration(config).eval()
    for name, one in model.named_parameters():
        if name.endswith("bias") or "norm" in name or "ln_q" in name:  # which begin as zeros and ones
            torch.nn.init.normal_(one, float("weight" in name), 0.2)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return model


def processor() -> Any:
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 28**2, "longest_edge": 12 * 28**2})


def picture(folder: Path, shape: str) -> Path:
    return resized_photo(folder, SHAPES, shape)


def asked(paths: list[Path], question: str = QUESTION) -> Sample:
    return asking(paths, question)


def whole(folder: Path) -> Any:
    """transformers' processor with its part for videos, which wants torchvision."""
    peers.torchvision()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    films = transformers.Qwen2VLVideoProcessor(size=dict(processor().size), do_sample_frames=False)
    return transformers.Qwen2VLProcessor(processor(), tokenizer, films, chat_template=TEMPLATE)


def inputs_of(folder: Path, paths: list[Path], answer: str = "") -> dict[str, Any]:
    """What transformers' processor makes of pictures and a question."""
    made = whole(folder)
    _, text = rendered(folder, len(paths), QUESTION)
    inputs = made(text=[text + answer], images=[PIL.Image.open(path) for path in paths], return_tensors="pt")
    return {name: one for name, one in inputs.items() if name != "attention_mask"}


def logits(model: Qwen2VL, sample: Sample) -> torch.Tensor:
    prompt = model.embedded(model.processor.prompts([sample]))
    return model.language.logits(model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))


def load(folder: Path) -> Qwen2VL:
    model = chiasm.load(folder)
    assert isinstance(model, Qwen2VL)
    return model


def continued(theirs: Any, inputs: dict[str, Any], count: int = 12) -> list[list[int]]:
    out = theirs.generate(**inputs, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return [row[inputs["input_ids"].shape[1] :].tolist() for row in out]


@pytest.mark.parametrize("shapes", [["tall"], ["wide"], ["tiny"], ["photo"], ["photo", "tall", "wide", "tiny"]])
@torch.no_grad()
def test_patches_grids_tokens_positions_scores_and_answers_agree(shapes: list[str], tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path), [picture(tmp_path, shape) for shape in shapes]
    ours, inputs = load(tmp_path), inputs_of(tmp_path, paths)
    batch = ours.processor.prompts([asked(paths)])
    assert batch.stream is not None
    assert batch.images is not None
    assert isinstance(batch.images, PackedImages)
    assert batch.stream.ids_T.tolist() == inputs["input_ids"][0].tolist()
    assert batch.images.grid_N2.tolist() == inputs["image_grid_thw"][:, 1:].tolist()
    assert torch.allclose(batch.images.pixels, inputs["pixel_values"], atol=1e-5)
    positions, _ = theirs.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )
    assert batch.stream.positions_AT is not None
    assert torch.equal(batch.stream.positions_AT, positions[:, 0])
    assert torch.allclose(logits(ours, asked(paths)), theirs(**inputs).logits[0], atol=1e-4, rtol=1e-4)
    (said,) = continued(theirs, inputs)
    (answered,) = ours.generate([asked(paths)], max_tokens=12)
    assert answered.texts[-1].text == ours.processor.decode(said)


@torch.no_grad()
def test_rows_of_different_pictures_and_none_do_not_disturb_each_other(tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path), {shape: picture(tmp_path, shape) for shape in SHAPES}
    ours = load(tmp_path)
    rows = [[paths["tall"]], [paths["photo"], paths["tiny"]], [paths["wide"]]]
    alone = [inputs_of(tmp_path, row) for row in rows]
    longest = max(one["input_ids"].shape[1] for one in alone)

    def stacked(name: str) -> torch.Tensor:
        return torch.cat([torch.nn.functional.pad(one[name], (longest - one[name].shape[1], 0)) for one in alone])

    batch = {
        "input_ids": stacked("input_ids"),
        "mm_token_type_ids": stacked("mm_token_type_ids"),
        "attention_mask": torch.stack([torch.arange(longest) >= longest - one["input_ids"].shape[1] for one in alone]),
        "pixel_values": torch.cat([one["pixel_values"] for one in alone]),
        "image_grid_thw": torch.cat([one["image_grid_thw"] for one in alone]),
    }
    said = [
        ours.processor.decode(row)
        for row in continued(theirs, {**batch, "attention_mask": batch["attention_mask"].long()})
    ]
    samples = [asked(row) for row in rows]
    assert [one.texts[-1].text for one in ours.generate(samples, max_tokens=12)] == said
    blind = asked([])
    assert ours.generate([*samples, blind], max_tokens=12)[-1:] == ours.generate([blind], max_tokens=12)
    # Several questions on one picture, which is read once, and a caption's likelihood beside it: same positions.
    begun, questions = Sample("a", (Image(paths["wide"]),)), [QUESTION, "Are there 3 dogs?"]
    shared = ours.answers(begun, [[Text(one, role="user")] for one in questions], max_tokens=12)
    assert shared == [
        ours.generate([asked([paths["wide"]], one)], max_tokens=12)[0].texts[-1].text for one in questions
    ]
    captions = ["Two dogs", "a red ball"]
    scores = ours.score([Image(paths["wide"])], captions)[0]
    each = [Sample("b", (Image(paths["wide"]), Text(caption, target=True))) for caption in captions]
    counts = torch.tensor([len(ours.processor.ids(caption)) + 1 for caption in captions])  # the end is learned too
    assert torch.allclose(scores * counts, ours.log_likelihood(each), atol=1e-4)


def test_losses_and_their_gradients_agree(tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path), [picture(tmp_path, shape) for shape in ("photo", "tall")]
    ours = load(tmp_path).train()
    inputs = inputs_of(tmp_path, paths, "Two dogs, a red ball.<|im_end|>")
    learned = Text("Two dogs, a red ball.", role="assistant", target=True)
    batch = ours.processor([Sample("a", (*asked(paths).parts, learned))])
    assert batch.stream is not None
    count = int(batch.stream.target_T.sum())
    behind = len(batch.stream.ids_T) - 1  # the template ends a turn with a line break, which is not learned
    assert batch.stream.ids_T[:behind].tolist() == inputs["input_ids"][0].tolist()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -count:] = inputs["input_ids"][:, -count:]
    expected, found = theirs(**inputs, labels=labels).loss, ours.losses(batch)["next_token"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.autograd.backward([expected, found])
    for mine, yours in (
        (ours.vision.embed.weight.grad, theirs.model.visual.patch_embed.proj.weight.grad.flatten(1)),
        (ours.connector.down.bias.grad, theirs.model.visual.merger.mlp[2].bias.grad),
    ):
        assert mine is not None
        assert torch.allclose(mine, yours, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_videos_stand_between_pictures(tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path), [picture(tmp_path, shape) for shape in ("photo", "wide")]
    ours = load(tmp_path)
    noise = np.random.default_rng(0)
    frames = tuple(Image(noise.integers(0, 255, (84, 56, 3), np.uint8)) for _ in range(3))  # odd: the last twice
    sample = Sample(
        "v", (Image(paths[0]), Video(frames, (0.0, 0.5, 1.0)), Image(paths[1]), Text(QUESTION, role="user"))
    )
    batch = ours.processor.prompts([sample])
    assert batch.stream is not None
    assert batch.images is not None
    assert isinstance(batch.images, PackedImages)
    first, middle, end = batch.images.grid_N2[0], batch.images.grid_N2[1], batch.images.grid_N2[3]
    assert len(batch.images.grid_N2) == 4
    assert torch.equal(batch.images.grid_N2[2], middle)
    parts = torch.split(batch.images.pixels, [int(first.prod()), 2 * int(middle.prod()), int(end.prod())])
    made = whole(tmp_path)
    content = [{"type": kind} for kind in ("image", "video", "image")]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]
    inputs = made(
        text=[made.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)],
        images=[PIL.Image.open(path) for path in paths],
        videos=[np.stack([frame.pixels_uint8() for frame in frames])],
        return_tensors="pt",
    )
    assert batch.stream.ids_T.tolist() == inputs["input_ids"][0].tolist()
    assert inputs["image_grid_thw"].tolist() == [[1, *first.tolist()], [1, *end.tolist()]]
    assert inputs["video_grid_thw"].tolist() == [[2, *middle.tolist()]]
    assert torch.allclose(torch.cat([parts[0], parts[2]]), inputs["pixel_values"], atol=1e-5)
    assert torch.allclose(parts[1], inputs["pixel_values_videos"], atol=1e-5)
    inputs = {name: one for name, one in inputs.items() if name != "attention_mask"}
    assert torch.allclose(logits(ours, sample), theirs(**inputs).logits[0], atol=1e-4, rtol=1e-4)
    (said,) = continued(theirs, inputs)
    assert ours.generate([sample], max_tokens=12)[0].texts[-1].text == ours.processor.decode(said)


def test_videos_of_any_size_take_the_places_that_their_processor_gives_them(tmp_path: Path) -> None:
    peer(tmp_path)
    made, ours = whole(tmp_path), load(tmp_path)
    draw = np.random.default_rng(0)
    for height, width, count in ((50, 130, 4), (300, 31, 5), (20, 20, 2)):
        frames = draw.integers(0, 255, (count, height, width, 3), np.uint8)
        video = Video(tuple(map(Image, frames)), tuple(map(float, range(count))))
        batch = ours.processor.prompts([Sample("v", (video, Text(QUESTION, role="user")))])
        chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
        text = made.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = made(text=[text], videos=[frames], return_tensors="pt")
        assert batch.stream is not None
        assert isinstance(batch.images, PackedImages)
        assert batch.stream.ids_T.tolist() == inputs["input_ids"][0].tolist()
        (grid,) = inputs["video_grid_thw"].tolist()
        assert batch.images.grid_N2.tolist() == [grid[1:]] * grid[0]
        differences = (batch.images.pixels - inputs["pixel_values_videos"]).abs()
        assert float(differences.max()) < 2.5 / 255 / 0.26, (
            "Pillow and torchvision resize in ways that differ by a level"
        )


def test_what_we_write_transformers_reads(tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path / "theirs", tied=True), [picture(tmp_path, shape) for shape in ("photo", "tall")]
    ours = load(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    again = transformers.Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "ours")
    inputs = inputs_of(tmp_path / "theirs", paths)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)
    pixels = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "ours")
    made = pixels(images=[PIL.Image.open(path) for path in paths], return_tensors="pt")
    assert torch.equal(made.pixel_values, inputs["pixel_values"])
    twice = load(tmp_path / "ours")
    assert twice.config == ours.config
    assert twice.processor.settings == ours.processor.settings
    sample = asked(paths)
    assert twice.generate([sample], max_tokens=8) == ours.generate([sample], max_tokens=8)
    folder.save(ours, tmp_path / "own")
    assert load(tmp_path / "own").generate([sample], max_tokens=8) == ours.generate([sample], max_tokens=8)


def test_published_files_and_those_of_versions_between_are_read(tmp_path: Path) -> None:
    """Published: the language model's settings beside the others, bounds in pixels. Between: longer names."""
    peer(tmp_path)
    before, paths = load(tmp_path), [picture(tmp_path, "photo")]
    expected = logits(before, asked(paths))
    settings = json.loads((tmp_path / "config.json").read_text())
    text = settings.pop("text_config")
    rotary, vision = text.pop("rope_parameters"), settings["vision_config"]
    for key in ("model_type", "layer_types"):
        text.pop(key)
    del vision["rope_parameters"], vision["model_type"]
    sections = {"type": "mrope", "mrope_section": rotary["mrope_section"]}
    flat = {**text, **settings, "rope_theta": rotary["rope_theta"], "rope_scaling": sections, "sliding_window": 32_768}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    pixels = json.loads((tmp_path / "preprocessor_config.json").read_text())
    size = pixels.pop("size")
    pixels |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    names = {"visual.": "model.visual.", "model.": "model.language_model."}
    state = load_file(tmp_path / "model.safetensors")
    for longer in (False, True):
        if longer:
            state = {
                next((new + name[len(old) :] for old, new in names.items() if name.startswith(old)), name): tensor
                for name, tensor in state.items()
            }
            save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        again = load(tmp_path)
        assert again.config == before.config
        assert torch.equal(logits(again, asked(paths)), expected)


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    peer(tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    settings["text_config"]["rope_parameters"] |= {"rope_type": "yarn"}
    file.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="'yarn' are not known"):
        chiasm.load(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"patch_size": 16}))
    settings["text_config"]["rope_parameters"] |= {"rope_type": "default"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"of \(16, 2, 2\), but the model sees \(14, 2, 2\)"):
        chiasm.load(tmp_path)


def test_sizes_after_resizing_and_slots_are_those_of_the_published_code() -> None:
    rng = random.Random(0)
    bounds = ((4 * 28**2, 1280 * 28**2), (4 * 28**2, 16 * 28**2), (64 * 28**2, 64 * 28**2 + 1))
    for _ in range(3000):
        width, height = (int(2 ** rng.uniform(0, 13)) for _ in range(2))
        low, high = rng.choice(bounds)
        if max(width, height) > 200 * min(width, height):
            with pytest.raises(DataError, match="too narrow"):
                fitted(height, width, 28, low, high)
            continue
        assert fitted(height, width, 28, low, high) == smart_resize(height, width, 28, low, high)
        patches = Qwen2VLImageProcessorPil(size={"shortest_edge": low, "longest_edge": high})
        written = PackedPatches(min_pixels=low, max_pixels=high).written(width, height)
        assert written.count("<|image_pad|>") == patches.get_number_of_image_patches(height, width) // 4
    # The paper: a picture of 224x224 pixels is compressed to 66 tokens, the two marks among them.
    assert fitted(224, 224, 28, 4 * 28**2, 16_384 * 28**2) == (224, 224)
    assert PackedPatches().written(224, 224).count("|>") == 66


def test_slots_in_the_words_of_a_user_are_refused(tmp_path: Path) -> None:
    peer(tmp_path)
    with pytest.raises(DataError, match=r"sample 'a' has '<\|video_pad\|>' in its text"):
        load(tmp_path).generate([asked([], "What is <|video_pad|> this?")])


@pytest.mark.parametrize(("size", "count"), {"2b": 2_208_985_600, "7b": 8_291_375_616, "72b": 73_405_560_320}.items())
def test_published_sizes(size: str, count: int) -> None:
    """Beside the class of transformers, built from the published numbers, and the released checkpoints' own counts."""
    config = qwen2_vl.SIZES[size]
    language: Any = config.language
    text = {
        "vocab_size": language.vocabulary,
        "hidden_size": {"2b": 1536, "7b": 3584, "72b": 8192}[size],
        "intermediate_size": {"2b": 8960, "7b": 18_944, "72b": 29_568}[size],
        "num_hidden_layers": {"2b": 28, "7b": 28, "72b": 80}[size],
        "num_attention_heads": {"2b": 12, "7b": 28, "72b": 64}[size],
        "num_key_value_heads": {"2b": 2, "7b": 4, "72b": 8}[size],
    }
    built = transformers.Qwen2VLConfig(
        text_config=text, vision_config={"hidden_size": text["hidden_size"]}, tie_word_embeddings=size == "2b"
    )
    with torch.device("meta"):
        theirs = transformers.Qwen2VLForConditionalGeneration(built)
    assert config.parameters() == theirs.num_parameters() == count
    assert (language.heads, language.kv_heads, language.sections) == (
        text["num_attention_heads"],
        text["num_key_value_heads"],
        (16, 24, 24),
    )
    assert config.processor_entries()["layout"]["max_pixels"] == 12_845_056
