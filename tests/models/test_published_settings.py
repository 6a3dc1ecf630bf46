"""Every published size is what our readers make of the released model's own settings, to the last number.

Counts of parameters see no heads, activation, epsilon, rotary base, window or context; equal settings do. Nothing is
built: a checkpoint's settings are read as ever, up to where its model would be made."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from safetensors.torch import save_file
from torch import zeros

import chiasm
from chiasm.config import module_names
from chiasm.models import (
    blip2,
    blip2_stage1,
    clip,
    flamingo,
    frozen,
    idefics3,
    kosmos2,
    limber,
    llava,
    mapl,
    minigpt4,
)
from chiasm.models.model import Model, ModelConfig
from chiasm.nn.decoders import llama, magneto
from chiasm.nn.decoders import opt as opt_decoder
from chiasm.nn.image_towers import vit
from chiasm.weights.transformers import _blip_2, _opt, idefics, kosmos_2
from chiasm.weights.transformers._language import read_decoder
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.models import published, published_programs
from tests.models.published import Entries, Published
from tests.models.test_sizes_of_language_models import settings

FAMILIES: dict[str, dict[str, Published]] = {
    "blip2": published.BLIP2,
    "blip2_stage1": published.BLIP2_STAGE1,
    "idefics2": published.IDEFICS2,
    "idefics3": published.IDEFICS3,
    "internvl": published.INTERNVL,
    "llava": published.LLAVA,
    "llava_next": published.LLAVA_NEXT,
    "minicpm_v": published_programs.MINICPM_V,
    "monkey": published_programs.MONKEY,
    "qwen2_vl": published.QWEN2_VL,
    "qwen_vl": published_programs.QWEN_VL,
}
SIZES = [(family, size) for family, sizes in FAMILIES.items() for size in sizes]
KNOWN = [(family, size) for family, size in SIZES if FAMILIES[family][size].known]
# Those whose settings are read, or put together of parts that are, in a test of their own; `language`, CLIP and both
# SigLIPs stand in test_sizes.py and test_sizes_of_language_models.py.
ELSEWHERE = {
    "clip": clip.SIZES.keys(),
    "flamingo": published.IDEFICS.keys(),
    "frozen": {"7b"},
    "kosmos2": {"patch14-224"},
    "language": llama.SIZES.keys(),
    "limber": {"clip-rn50x16"},
    "llava": {"v1-7b"},
    "mapl": {"clip-l"},
    "minigpt4": {"v1-7b", "v1-13b", "v2-7b"},
}


class Made(Exception):
    """Where a model would be made: of this."""

    def __init__(self, config: ModelConfig, processor: Any) -> None:
        super().__init__()
        self.config, self.processor = config, processor


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Entries, Entries], Made]:
    """What is made of the settings of a folder, whose tokenizer is small and whose weights are none."""

    def stop(_: Model, config: ModelConfig, processor: Any) -> None:
        raise Made(config, processor)

    monkeypatch.setattr(Model, "__init__", stop)
    marks = ("<image>", "<unk>", "<img>", "</img>", "<imgpad>", "<|eot_id|>")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({one: at for at, one in enumerate(marks)}, "<unk>"))
    backend.save(str(tmp_path / "tokenizer.json"))
    words = {"eos_token": "<unk>", "bos_token": "<unk>", "pad_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(words))
    names = ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")
    save_file(
        {name: zeros(1) + at for at, name in enumerate(names)}, tmp_path / "model.safetensors"
    )  # a head of its own

    def read(config: Entries, pixels: Entries) -> Made:
        ids = {"image_token_id": 0, "video_token_id": 1, "vision_start_token_id": 2, "vision_end_token_id": 3}
        config = {key: one for key, one in config.items() if not key.endswith("token_index")} | ids
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
        with pytest.raises(Made) as made:
            chiasm.load(tmp_path)
        return made.value

    return read


def size_of(family: str, size: str) -> Any:
    return importlib.import_module(f"chiasm.models.{family}").SIZES[size]


def as_stored(config: Any) -> Any:
    """What of a size a checkpoint keeps: transformers' files of BLIP-2's first stage have no head for captions."""
    return (
        replace(config, captioning=False, words=config.context) if isinstance(config, blip2_stage1.Config) else config
    )


def test_no_size_goes_unchecked() -> None:
    for family in module_names("chiasm.models"):
        sizes = getattr(importlib.import_module(f"chiasm.models.{family}"), "SIZES", {})
        held = FAMILIES.get(family, {}).keys() | ELSEWHERE.get(family, set())
        if family not in ("siglip", "siglip2"):
            assert {one for one in sizes if not one.startswith("small")} == set(held) - {"small"}, family


@pytest.mark.parametrize(("family", "size"), SIZES)
def test_a_size_is_what_the_released_settings_say(
    family: str, size: str, opened: Callable[[Entries, Entries], Made]
) -> None:
    facts = FAMILIES[family][size]
    assert opened(facts.config, facts.pixels).config == as_stored(size_of(family, size))


@pytest.mark.parametrize(("family", "size"), KNOWN)
def test_a_size_is_what_transformers_makes_of_the_released_settings(
    family: str, size: str, opened: Callable[[Entries, Entries], Made]
) -> None:
    """Its configuration class fills in what the files leave out, where ours has defaults of its own."""
    facts = FAMILIES[family][size]
    entries = {key: one for key, one in facts.config.items() if key != "model_type"}
    theirs = transformers.AutoConfig.for_model(facts.config["model_type"], **entries).to_dict()
    config: Any = opened(theirs, facts.pixels).config
    decoder = getattr(config, "language", None)
    if isinstance(decoder, llama.Config) and decoder.head_width == decoder.width // decoder.heads:
        config = replace(config, language=replace(decoder, head_width=None))  # it is spelled out there
    assert config == as_stored(size_of(family, size))


@pytest.mark.parametrize(("family", "size"), SIZES)
def test_a_size_asks_for_the_pixels_of_the_released_processor(
    family: str, size: str, opened: Callable[[Entries, Entries], Made]
) -> None:
    """What a recipe of that size would set in `processor` is what the released files say of sizes and slots."""
    facts = FAMILIES[family][size]
    processor, entries = opened(facts.config, facts.pixels).processor, size_of(family, size).processor_entries()
    if family == "blip2_stage1":
        assert processor.image.size == entries["image"]["size"]
        return
    layout, wanted = processor.settings.layout, dict(entries["layout"])
    assert type(layout).__module__.endswith(wanted.pop("layout"))
    assert processor.settings.context == entries["context"]
    tokens = ("token", "video_token", "before", "behind", "number")
    for name, one in wanted.items():
        if name == "transform":
            assert {key: getattr(layout.transform, key) for key in one} == one
        elif name not in tokens:
            assert getattr(layout, name) == one, name


@pytest.mark.parametrize("size", published.IDEFICS)
def test_idefics_is_what_the_released_settings_say(size: str) -> None:
    facts = published.IDEFICS[size].config
    theirs = transformers.AutoConfig.for_model(**facts).to_dict()
    assert flamingo.SIZES[size] == idefics.read_config(facts, size) == idefics.read_config(theirs, size)


def test_kosmos_2_is_what_transformers_class_begins_with() -> None:
    """microsoft/kosmos-2-patch14-224, whose file says the same."""
    config, decoder = kosmos_2.read_config(transformers.Kosmos2Config().to_dict(), "config.json")
    assert config == kosmos2.SIZES["patch14-224"]
    assert decoder == magneto.SIZES["kosmos-2"]


CLIP_L = vit.Config(224, 14, 1024, 24, 16, 4096, pool="class", act="quick_gelu", pre_norm=True, epsilon=1e-5)


def test_models_without_a_file_of_settings_are_put_together_of_parts_that_have_one() -> None:
    """LLaVA-1, MiniGPT-4, Frozen, LimBeR and MAPL: parts and the little that their papers add."""

    def decoder(base: str, **more: Any) -> llama.Config:
        return read_decoder("llama", settings(base) | more, base)

    eva = _blip_2.read_vision(transformers.Blip2Config().to_dict(), "config.json")
    first = llava.SIZES["v1-7b"]
    assert (first.vision, first.layer, first.class_token) == (CLIP_L, -2, False)
    assert first.language == decoder("llama-7b", vocab_size=32_003)
    assert mapl.SIZES["clip-l"].vision == CLIP_L
    for size, base, side in (("v1-7b", "llama-7b", 224), ("v1-13b", "llama-13b", 224), ("v2-7b", "llama2-7b", 448)):
        config = minigpt4.SIZES[size]
        assert config.vision == replace(eva, image_size=side)
        assert config.language == decoder(base)
    assert minigpt4.SIZES["v1-7b"].connector == minigpt4.SIZES["v1-13b"].connector == blip2.SIZES["opt-2.7b"].connector
    for parts, tower in ((frozen.SIZES["7b"], "rn50"), (limber.SIZES["clip-rn50x16"], "rn50x16")):
        assert parts.vision == clip.SIZES[tower].vision
        assert parts.language == decoder("llama-7b")


# Layers, heads and width of Zhang et al. 2022 (arXiv:2205.01068), table 1.
OPT = {
    "125m": (12, 12, 768),
    "1.3b": (24, 32, 2048),
    "2.7b": (32, 32, 2560),
    "6.7b": (32, 32, 4096),
    "13b": (40, 40, 5120),
    "30b": (48, 56, 7168),
    "66b": (64, 72, 9216),
}


def test_opt_is_that_of_the_paper() -> None:
    assert OPT.keys() == opt_decoder.SIZES.keys() - {"small"}
    for size, (layers, heads, width) in OPT.items():
        entries = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width}
        theirs = transformers.OPTConfig(**entries, ffn_dim=4 * width, word_embed_proj_dim=width).to_dict()
        assert _opt.read_decoder(theirs, size) == opt_decoder.SIZES[size]


# As the released files count their values: HuggingFaceTB/SmolVLM-Instruct, -500M-Instruct, -256M-Instruct.
SMOLVLM = {"smolvlm-2.2b": 2_246_272_880, "smolvlm-500m": 507_482_304, "smolvlm-256m": 256_484_928}


@pytest.mark.parametrize("size", SMOLVLM)
def test_smolvlm_has_the_published_size(size: str) -> None:
    assert idefics3.SIZES[size].parameters() == SMOLVLM[size]
