"""Published language models, and LLaVA on them: our tables say what the released files' settings say."""

from typing import Any

import pytest
import torch
import transformers

from chiasm.models import language, llava
from chiasm.nn.decoders import llama
from chiasm.weights.transformers._language import read_decoder
from tests import peers  # noqa: F401  # before any class of transformers is touched

NAMES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
)
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
TIED, NORMED = {"tie_word_embeddings": True}, {"head_dim": 128, "sliding_window": None}
# What the `config.json` of each released model says, and the parameters that its files hold.
PUBLISHED: dict[str, tuple[str, tuple[float, ...], dict[str, Any], int]] = {
    "smollm2-135m": ("llama", (49_152, 576, 30, 9, 3, 1_536, 8_192, 1e5, 1e-5), TIED, 134_515_008),
    "smollm2-360m": ("llama", (49_152, 960, 32, 15, 5, 2_560, 8_192, 1e5, 1e-5), TIED, 361_821_120),
    "smollm2-1.7b": ("llama", (49_152, 2_048, 24, 32, 32, 8_192, 8_192, 1.3e5, 1e-5), TIED, 1_711_376_384),
    "llama-7b": ("llama", (32_000, 4_096, 32, 32, 32, 11_008, 2_048, 1e4, 1e-6), {}, 6_738_415_616),
    "llama-13b": ("llama", (32_000, 5_120, 40, 40, 40, 13_824, 2_048, 1e4, 1e-6), {}, 13_015_864_320),
    "llama2-7b": ("llama", (32_000, 4_096, 32, 32, 32, 11_008, 4_096, 1e4, 1e-5), {}, 6_738_415_616),
    "llama2-13b": ("llama", (32_000, 5_120, 40, 40, 40, 13_824, 4_096, 1e4, 1e-5), {}, 13_015_864_320),
    "llama2-70b": ("llama", (32_000, 8_192, 80, 64, 8, 28_672, 4_096, 1e4, 1e-5), {}, 68_976_648_192),
    "llama3-8b": ("llama", (128_256, 4_096, 32, 32, 8, 14_336, 8_192, 5e5, 1e-5), {}, 8_030_261_248),
    "llama3-70b": ("llama", (128_256, 8_192, 80, 64, 8, 28_672, 8_192, 5e5, 1e-5), {}, 70_553_706_496),
    "llama3.1-8b": (
        "llama",
        (128_256, 4_096, 32, 32, 8, 14_336, 131_072, 5e5, 1e-5),
        {"rope_scaling": LLAMA31},
        8_030_261_248,
    ),
    "mistral-7b": (  # version 0.1
        "mistral",
        (32_000, 4_096, 32, 32, 8, 14_336, 32_768, 1e4, 1e-5),
        {"sliding_window": 4_096},
        7_241_732_096,
    ),
    "qwen2-0.5b": ("qwen2", (151_936, 896, 24, 14, 2, 4_864, 32_768, 1e6, 1e-6), TIED, 494_032_768),
    "qwen2-1.5b": ("qwen2", (151_936, 1_536, 28, 12, 2, 8_960, 32_768, 1e6, 1e-6), TIED, 1_543_714_304),
    "qwen2-7b": ("qwen2", (152_064, 3_584, 28, 28, 4, 18_944, 32_768, 1e6, 1e-6), {}, 7_615_616_512),
    "qwen2-72b": ("qwen2", (152_064, 8_192, 80, 64, 8, 29_568, 32_768, 1e6, 1e-6), {}, 72_706_203_648),
    "qwen3-0.6b": ("qwen3", (151_936, 1_024, 28, 16, 8, 3_072, 40_960, 1e6, 1e-6), TIED | NORMED, 596_049_920),
    "qwen3-1.7b": ("qwen3", (151_936, 2_048, 28, 16, 8, 6_144, 40_960, 1e6, 1e-6), TIED | NORMED, 1_720_574_976),
    "qwen3-4b": ("qwen3", (151_936, 2_560, 36, 32, 8, 9_728, 40_960, 1e6, 1e-6), TIED | NORMED, 4_022_468_096),
    "qwen3-8b": ("qwen3", (151_936, 4_096, 36, 32, 8, 12_288, 40_960, 1e6, 1e-6), NORMED, 8_190_735_360),
}


def settings(size: str) -> dict[str, Any]:
    kind, numbers, more, _ = PUBLISHED[size]
    return {"model_type": kind, **dict(zip(NAMES, numbers, strict=True)), **more}


def counted(kind: Any, config: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(config).parameters())


def test_no_size_goes_unchecked() -> None:
    assert PUBLISHED.keys() == llama.SIZES.keys() - {"small"}
    assert llava.SIZES.keys() == {"v1-7b", "v1.5-7b", "v1.5-13b", "small"}


@pytest.mark.parametrize("size", PUBLISHED)
def test_a_language_model_is_configured_and_counted_as_published(size: str) -> None:
    kind, count = PUBLISHED[size][0], PUBLISHED[size][3]
    assert read_decoder(kind, settings(size), size) == llama.SIZES[size]
    theirs = transformers.AutoConfig.for_model(**settings(size))
    assert language.SIZES[size].parameters() == counted(transformers.AutoModelForCausalLM.from_config, theirs) == count


@pytest.mark.parametrize(("size", "base"), [("v1.5-7b", "llama2-7b"), ("v1.5-13b", "llama2-13b")])
def test_llava_1_5_is_configured_and_counted_as_published(size: str, base: str) -> None:
    """llava-hf/llava-1.5-7b-hf and -13b-hf; 576 slots a picture, from the layer before the last."""
    text = settings(base) | {"vocab_size": 32_064}
    config, theirs = llava.SIZES[size], transformers.LlavaConfig(text_config=text)  # its vision tower is the published
    assert config.parameters() == counted(transformers.LlavaForConditionalGeneration, theirs)
    assert config.language == read_decoder("llama", text, size)
    assert (config.image_tokens, config.layer) == (576, theirs.vision_feature_layer)


def test_llava_1_has_a_linear_connector_between_the_published_parts() -> None:
    """The tower of CLIP at 224 pixels, 256 slots, and LLaMA with three tokens more."""
    seen = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    tower = counted(transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**seen, patch_size=14))
    said = PUBLISHED["llama-7b"][3] + 2 * 3 * 4096
    assert llava.SIZES["v1-7b"].parameters() == tower + (1024 + 1) * 4096 + said
    assert llava.SIZES["v1-7b"].image_tokens == 256
