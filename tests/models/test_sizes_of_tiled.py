"""Published sizes of models that see tiles, against transformers' classes built from their settings; none is held."""

from typing import Any

import pytest
import torch
import transformers

from chiasm.models import idefics2, idefics3, llava_next
from chiasm.models.model import ModelConfig
from tests import peers  # noqa: F401  # before any class of transformers is touched


def counted(kind: Any, config: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(config).parameters())


def llama(
    width: int, mlp_width: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        **more,
    }


MISTRAL = llama(4096, 14_336, 32, 32, 8, 32_064, model_type="mistral", sliding_window=None, rope_theta=1e6)
# The `text_config` of llava-hf's llava-v1.6-vicuna-7b-hf, ...-13b-hf, -mistral-7b-hf, llama3-llava-next-8b-hf, -34b-hf.
LLAVA_NEXT = {
    "vicuna-7b": llama(4096, 11_008, 32, 32, 32, 32_064),
    "vicuna-13b": llama(5120, 13_824, 40, 40, 40, 32_064),
    "mistral-7b": MISTRAL,
    "llama3-8b": llama(4096, 14_336, 32, 32, 8, 128_320),
    "34b": llama(7168, 20_480, 60, 56, 8, 64_064),
}


SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
B16 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
# HuggingFaceM4/Idefics3-8B-Llama3, HuggingFaceTB/SmolVLM-Instruct, -500M-Instruct, -256M-Instruct.
IDEFICS3: dict[str, dict[str, Any]] = {
    "8b": {
        "vision_config": {**SO400M, "image_size": 364, "patch_size": 14},
        "text_config": llama(4096, 14_336, 32, 32, 8, 128_259),
        "scale_factor": 2,
    },
    "smolvlm-2.2b": {
        "vision_config": {**SO400M, "image_size": 384, "patch_size": 14},
        "text_config": llama(2048, 8192, 24, 32, 32, 49_155, pad_token_id=2),
        "scale_factor": 3,
    },
    "smolvlm-500m": {
        "vision_config": {**B16, "image_size": 512, "patch_size": 16},
        "text_config": llama(960, 2560, 32, 15, 5, 49_280, pad_token_id=2),
        "scale_factor": 4,
    },
    "smolvlm-256m": {
        "vision_config": {**B16, "image_size": 512, "patch_size": 16},
        "text_config": llama(576, 1536, 30, 9, 3, 49_280, pad_token_id=2),
        "scale_factor": 4,
    },
}
# As the released files count them.
SMOLVLM = {"smolvlm-2.2b": 2_246_272_880, "smolvlm-500m": 507_482_304, "smolvlm-256m": 256_484_928}


def test_no_size_goes_unchecked() -> None:
    assert {"8b"} == idefics2.SIZES.keys() - {"small"}
    assert IDEFICS3.keys() == idefics3.SIZES.keys() - {"small"}
    assert LLAVA_NEXT.keys() == llava_next.SIZES.keys() - {"small"}


@pytest.mark.parametrize("size", LLAVA_NEXT)
def test_llava_next_has_the_size_of_the_same_model_in_transformers(size: str) -> None:
    config: ModelConfig = llava_next.SIZES[size]
    theirs = transformers.LlavaNextConfig(text_config=LLAVA_NEXT[size])  # its vision tower is the published one
    assert config.parameters() == counted(transformers.LlavaNextForConditionalGeneration, theirs)


@pytest.mark.parametrize("size", IDEFICS3)
def test_idefics3_has_the_size_of_the_same_model_in_transformers(size: str) -> None:
    config: ModelConfig = idefics3.SIZES[size]
    theirs = transformers.Idefics3Config(**IDEFICS3[size])
    assert config.parameters() == counted(transformers.Idefics3ForConditionalGeneration, theirs)


@pytest.mark.parametrize("size", SMOLVLM)
def test_smolvlm_has_the_published_size(size: str) -> None:
    assert idefics3.SIZES[size].parameters() == SMOLVLM[size]


def test_idefics2_has_the_size_of_the_same_model_in_transformers() -> None:
    """HuggingFaceM4/idefics2-8b; its perceiver's settings are the defaults."""
    theirs = transformers.Idefics2Config(
        vision_config={**SO400M, "image_size": 980, "patch_size": 14},
        text_config={**MISTRAL, "vocab_size": 32_003, "pad_token_id": 0},
    )
    assert idefics2.SIZES["8b"].parameters() == counted(transformers.Idefics2ForConditionalGeneration, theirs)
    assert idefics2.SIZES["8b"].connector.latents == theirs.perceiver_config.resampler_n_latents == 64
