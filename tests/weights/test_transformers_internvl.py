"""InternVL against InternVLForConditionalGeneration and its image processor, on tiny random checkpoints of theirs."""

import json
import random
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

import chiasm
from chiasm.data.batch import PixelImages
from chiasm.data.layouts.aspect_tiles import AspectTiles, nearest_grid
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, DataError
from chiasm.models import folder, internvl
from chiasm.models.internvl import InternVL
from chiasm.nn.connectors.pixel_shuffle_linear import squares
from chiasm.nn.decoder import Packed
from chiasm.nn.image_towers.internvit import ScaledBlock
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights.generating import asking, rendered, resized_photo, write_tokenizer

TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
# As published: a line break behind every picture.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHAPES = {"tall": (40, 330), "wide": (300, 57), "tiny": (7, 7), "square": (90, 90), "photo": (213, 160)}
TILES = {"tall": (6, 1), "wide": (1, 5), "tiny": (1, 1), "square": (2, 2), "photo": (2, 3)}  # rows, columns
QUESTION = "What is in the picture?"
SIZE = 56

LARGE: dict[str, Any] = {"use_qk_norm": True, "norm_type": "rms_norm", "attention_bias": False}


def peer(folder: Path, language: str = "qwen2", tied: bool = False, **vision: Any) -> Any:
    vocabulary = write_tokenizer(folder, TEMPLATE, TOKENS)
    torch.manual_seed(0)
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "image_size": (SIZE, SIZE),
            "attention_bias": True,
            "layer_norm_eps": 1e-4,
            **vision,
        },
        text_config={
            "model_type": language,
            "vocab_size": vocabulary,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.3,
        },
        image_token_id=vocabulary - 2,
        image_seq_length=4,
        tie_word_embeddings=tied,
    )
    model = transformers.InternVLForConditionalGeneration(config).eval()
    for name, one in model.named_parameters():
        if "language_model" not in name and "lm_head" not in name:  # scales, norms, tokens begin as constants
            torch.nn.init.normal_(one, float("norm" in name and "weight" in name), 0.3)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return model


def processor() -> Any:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    size = {"height": SIZE, "width": SIZE}
    return GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, max_patches=6, image_mean=mean, image_std=std)


def picture(folder: Path, shape: str) -> Path:
    return resized_photo(folder, SHAPES, shape)


def asked(paths: list[Path], question: str = QUESTION) -> Sample:
    return asking(paths, question)


def inputs_of(folder: Path, paths: list[Path], answer: str = "") -> dict[str, Any]:
    """What transformers makes of pictures and a question."""
    tokenizer, text = rendered(folder, len(paths), QUESTION)
    made = processor()(images=[PIL.Image.open(path) for path in paths], return_tensors="pt")
    for count in made.num_patches.tolist():
        text = text.replace("<IMG_CONTEXT>", "<img>" + "[slot]" * (4 * count) + "</img>", 1)
    ids = tokenizer(text.replace("[slot]", "<IMG_CONTEXT>") + answer, return_tensors="pt").input_ids
    return {"input_ids": ids, "pixel_values": made.pixel_values}


def load(folder: Path) -> InternVL:
    model = chiasm.load(folder)
    assert isinstance(model, InternVL)
    return model


def logits(model: InternVL, sample: Sample) -> torch.Tensor:
    prompt = model.embedded(model.processor.prompts([sample]))
    return model.language.logits(model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))


def continued(theirs: Any, count: int = 12, **inputs: Any) -> list[list[int]]:
    out = theirs.generate(**inputs, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return [row[inputs["input_ids"].shape[1] :].tolist() for row in out]


@pytest.mark.parametrize(
    ("language", "vision"), [("qwen2", {}), ("llama", LARGE)], ids=["300M and Qwen2", "6B and Llama"]
)
@torch.no_grad()
def test_tiles_tokens_scores_and_answers_agree(language: str, vision: dict[str, Any], tmp_path: Path) -> None:
    theirs = peer(tmp_path, language, **vision)
    ours = load(tmp_path)
    for shapes in (["tall"], ["wide"], ["tiny"], ["square"], ["photo", "tiny", "wide"]):
        paths = [picture(tmp_path, shape) for shape in shapes]
        inputs = inputs_of(tmp_path, paths)
        batch = ours.processor.prompts([asked(paths)])
        assert batch.stream is not None
        assert batch.images is not None
        assert isinstance(batch.images, PixelImages)
        assert batch.images.tiles_N is not None
        assert batch.images.tiles_N.tolist() == [
            TILES[shape][0] * TILES[shape][1] + (shape != "tiny") for shape in shapes
        ]
        assert batch.stream.ids_T.tolist() == inputs["input_ids"][0].tolist()
        assert torch.allclose(batch.images.pixels, inputs["pixel_values"], atol=1e-5)
        assert torch.allclose(logits(ours, asked(paths)), theirs(**inputs).logits[0], atol=1e-4, rtol=1e-4)
        (said,) = continued(theirs, **inputs)
        (answered,) = ours.generate([asked(paths)], max_tokens=12)
        assert answered.texts[-1].text == ours.processor.decode(said)


@torch.no_grad()
def test_rows_of_different_pictures_and_none_do_not_disturb_each_other(tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path), {shape: picture(tmp_path, shape) for shape in SHAPES}
    ours = load(tmp_path)
    rows = [[paths["tall"]], [paths["photo"], paths["tiny"]], [paths["wide"]]]
    alone = [inputs_of(tmp_path, row) for row in rows]
    longest = max(one["input_ids"].shape[1] for one in alone)
    said = continued(
        theirs,
        input_ids=torch.cat(
            [torch.nn.functional.pad(one["input_ids"], (longest - one["input_ids"].shape[1], 0)) for one in alone]
        ),
        attention_mask=torch.stack(
            [(torch.arange(longest) >= longest - one["input_ids"].shape[1]).long() for one in alone]
        ),
        pixel_values=torch.cat([one["pixel_values"] for one in alone]),
    )
    samples, blind = [asked(row) for row in rows], asked([])
    answered = ours.generate([*samples, blind], max_tokens=12)
    assert [one.texts[-1].text for one in answered[:-1]] == [ours.processor.decode(row) for row in said]
    assert answered[-1:] == ours.generate([blind], max_tokens=12)
    # Parts of a batch keep their own tiles.
    batch = ours.processor.prompts([blind, *samples])
    nothing, *parts = batch.split(4)
    assert nothing.images is None
    for part, sample in zip(parts, samples, strict=True):
        cut, one = part.images, ours.processor.prompts([sample]).images
        assert cut is not None
        assert one is not None
        assert torch.equal(cut.pixels, one.pixels)
        assert isinstance(cut, PixelImages)
        assert cut.tiles_N is not None
        assert isinstance(one, PixelImages)
        assert one.tiles_N is not None
        assert torch.equal(cut.tiles_N, one.tiles_N)


def test_losses_and_their_gradients_agree(tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path), [picture(tmp_path, shape) for shape in ("photo", "tiny")]
    ours = load(tmp_path).train()
    inputs = inputs_of(tmp_path, paths, "Two dogs, a red ball.<|im_end|>")
    learned = Text("Two dogs, a red ball.", role="assistant", target=True)
    batch = ours.processor([Sample("a", (*asked(paths).parts, learned))])
    assert batch.stream is not None
    count = int(batch.stream.target_T.sum())
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -count:] = inputs["input_ids"][:, -count:]
    expected, found = theirs(**inputs, labels=labels).loss, ours.losses(batch)["next_token"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.autograd.backward([expected, found])
    tower, block = theirs.model.vision_tower, ours.vision.blocks[0]
    assert isinstance(block, ScaledBlock)
    for mine, yours in (
        (block.scale1.grad, tower.encoder.layer[0].lambda_1.grad),
        (ours.vision.class_token.grad, tower.embeddings.cls_token.grad[0, 0]),
        (ours.vision.position.grad, tower.embeddings.position_embeddings.grad[0]),
    ):
        assert mine is not None
        assert torch.allclose(mine, yours, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("language", "tied", "vision"), [("qwen2", True, {}), ("llama", False, LARGE)])
def test_what_we_write_transformers_reads(language: str, tied: bool, vision: dict[str, Any], tmp_path: Path) -> None:
    theirs, paths = peer(tmp_path / "theirs", language, tied, **vision), [picture(tmp_path, "photo")]
    ours = load(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    again = transformers.InternVLForConditionalGeneration.from_pretrained(tmp_path / "ours")
    inputs = inputs_of(tmp_path / "theirs", paths)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)
    pixels = GotOcr2ImageProcessorPil.from_pretrained(tmp_path / "ours")
    made = pixels(images=[PIL.Image.open(path) for path in paths], return_tensors="pt")
    assert torch.equal(made.pixel_values, inputs["pixel_values"])
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "ours")
    assert (tokenizer.start_image_token, tokenizer.context_image_token) == ("<img>", "<IMG_CONTEXT>")
    assert len(tokenizer) == ours.processor.vocabulary
    twice, sample = load(tmp_path / "ours"), asked(paths)
    assert (twice.config.vision, twice.config.connector) == (ours.config.vision, ours.config.connector)
    assert twice.processor.settings == ours.processor.settings
    folder.save(ours, tmp_path / "own")
    for one in (twice, load(tmp_path / "own")):
        assert one.generate([sample], max_tokens=8) == ours.generate([sample], max_tokens=8)


def test_names_of_versions_between_are_read_and_a_stored_head_is_kept(tmp_path: Path) -> None:
    """Version 4 did not say at the top whether the head is tied; its files hold a head of their own where it is not."""
    peer(tmp_path)
    before, paths = load(tmp_path), [picture(tmp_path, "photo")]
    expected = logits(before, asked(paths))
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert torch.equal(logits(load(tmp_path), asked(paths)), expected)
    names = {"language_model.model.": "model.language_model.", "language_model.lm_head": "lm_head"}
    names |= {name: f"model.{name}" for name in ("vision_tower.", "multi_modal_projector.")}
    state = {
        next((new + name[len(old) :] for old, new in names.items() if name.startswith(old)), name): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = load(tmp_path)
    assert again.config == before.config
    assert torch.equal(logits(again, asked(paths)), expected)


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    peer(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for change, told in (
        ({"vision_feature_layer": -2}, "vision_feature_layer"),
        ({"downsample_ratio": 0.4}, r"downsample_ratio 0\.4 makes no squares"),
        ({"image_seq_length": 9}, "image_seq_length is 9, but a tile makes 4 image tokens"),
        ({"vision_config": settings["vision_config"] | {"use_mean_pooling": False}}, "use_mean_pooling"),
        ({"vision_config": settings["vision_config"] | {"image_size": [56, 70]}}, "56x70 pixels are not square"),
        ({"vision_config": settings["vision_config"] | {"image_size": [112, 112]}}, "but the model sees 112"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(CheckpointError, match=told):
            chiasm.load(tmp_path)


def test_grids_and_slots_are_those_of_the_published_code() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        width, height = (int(2 ** rng.uniform(0, 12)) for _ in range(2))
        fewest, most = rng.choice([(1, 12), (1, 40), (2, 6), (1, 1)])
        theirs = GotOcr2ImageProcessorPil(
            size={"height": 448, "width": 448}, crop_to_patches=True, min_patches=fewest, max_patches=most
        )
        layout = AspectTiles(min_tiles=fewest, max_tiles=most)
        count = theirs.get_number_of_image_patches(height, width)
        assert layout.count(width, height) == count
        assert layout.written(width, height) == "<img>" + "<IMG_CONTEXT>" * (256 * count) + "</img>"
    # The paper's example: 800x1300 pixels are nearest to 2:3, which is 896x1344 (figure 4); ties by what is shown.
    assert nearest_grid(800, 1300, 448, 1, 12) == (3, 2)
    assert nearest_grid(100, 100, 448, 1, 12) == (1, 1)
    assert nearest_grid(700, 700, 448, 1, 12) == (2, 2)
    assert nearest_grid(1000, 1000, 448, 1, 12) == (3, 3)


def test_squares_of_features_are_those_of_the_published_code() -> None:
    x_NPD = torch.randn(2, 36, 5)
    theirs = transformers.InternVLModel.pixel_shuffle(None, x_NPD.view(2, 6, 6, 5), 0.5)
    assert torch.equal(squares(x_NPD, 2), theirs.reshape(2, 9, 20))
    with pytest.raises(DataError, match="25 patches are no square grid"):
        squares(torch.zeros(1, 25, 4), 2)


# Parameters of the released checkpoints; the decoder's width, MLP, layers, heads, groups and vocabulary.
PUBLISHED: dict[str, tuple[int, tuple[int, ...]]] = {
    "1.5-26b": (25_514_186_112, (6144, 16_384, 48, 48, 8, 92_553)),
    "2-1b": (938_158_976, (896, 4864, 24, 14, 2, 151_655)),
    "2-2b": (2_205_754_368, (2048, 8192, 24, 16, 8, 92_553)),
    "2-8b": (8_075_365_376, (4096, 14_336, 32, 32, 8, 92_553)),
    "2-26b": (25_514_186_112, (6144, 16_384, 48, 48, 8, 92_553)),
    "2-40b": (40_068_684_160, (7168, 20_480, 60, 56, 8, 64_007)),
    "2-76b": (76_262_358_400, (8192, 28_672, 80, 64, 8, 128_265)),
    "3-1b": (938_193_024, (896, 4864, 24, 14, 2, 151_674)),
    "3-2b": (2_088_957_440, (1536, 8960, 28, 12, 2, 151_674)),
    "3-8b": (7_944_373_760, (3584, 18_944, 28, 28, 4, 151_674)),
    "3-14b": (15_117_256_704, (5120, 13_824, 48, 40, 8, 151_674)),
    "3-38b": (38_388_164_992, (5120, 27_648, 64, 40, 8, 151_674)),
    "3-78b": (78_408_318_336, (8192, 29_568, 80, 64, 8, 151_674)),
}
TOWERS: dict[int, dict[str, Any]] = {
    1024: {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "attention_bias": True},
    3200: {"num_hidden_layers": 45, "num_attention_heads": 25, "intermediate_size": 12_800, **LARGE},
}


def test_no_size_goes_unchecked() -> None:
    assert PUBLISHED.keys() == internvl.SIZES.keys() - {"small"}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size: str) -> None:
    """Beside the class of transformers, built from the published numbers."""
    config, (count, shape) = internvl.SIZES[size], PUBLISHED[size]
    language: Any = config.language
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    text: dict[str, Any] = dict(zip((*names, "vocab_size"), shape, strict=True))
    text["model_type"] = "qwen2" if language.qkv_bias else "llama"
    tower = config.vision.width
    built = transformers.InternVLConfig(
        vision_config={"hidden_size": tower, **TOWERS[tower]}, text_config=text, tie_word_embeddings=False
    )
    with torch.device("meta"):
        theirs = transformers.InternVLForConditionalGeneration(built)
    assert config.parameters() == theirs.num_parameters() == count
    assert (language.heads, language.kv_heads) == shape[3:5]
    assert config.image_tokens == 256
