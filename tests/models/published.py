"""What the `config.json` and `preprocessor_config.json` of released models say of their shapes, as facts.

Each model's own files on the Hub, by the repository beside it; what a file leaves out is left out here too. Ids of
tokens are not shapes, and are those of a small tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.models.test_sizes_of_language_models import LLAMA31, settings

Entries = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """config: of `config.json`. pixels: of `preprocessor_config.json`. known: whether transformers has its class."""

    config: Entries
    pixels: Entries = field(default_factory=dict)
    known: bool = True


CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]


def language(base: str, **more: Any) -> Entries:
    """The settings of a language model, with what a vision-language model changes of them."""
    return settings(base) | more


def square(side: int) -> Entries:
    return {"size": {"height": side, "width": side}, "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3}


# --- LLaVA: llava-hf/llava-1.5-7b-hf, -13b-hf

CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
CROPPED = {
    "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
    "do_center_crop": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "resample": 3,
}


def llava(text: Entries) -> Published:
    return Published(
        {
            "model_type": "llava",
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "text_config": text,
            "vision_config": CLIP_L_336,
        },
        CROPPED,
    )


LLAVA = {
    "v1.5-7b": llava(language("llama2-7b", vocab_size=32_064)),
    "v1.5-13b": llava(language("llama2-13b", vocab_size=32_064)),
}

# --- LLaVA-NeXT: llava-hf/llava-v1.6-vicuna-7b-hf, -13b-hf, -mistral-7b-hf, llama3-llava-next-8b-hf, llava-v1.6-34b-hf

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
YI_34B = {
    "model_type": "llama",
    "hidden_size": 7168,
    "intermediate_size": 20_480,
    "num_hidden_layers": 60,
    "num_attention_heads": 56,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e6,
}


def llava_next(text: Entries) -> Published:
    base = llava(text)
    config = base.config | {"model_type": "llava_next", "image_grid_pinpoints": PINPOINTS}
    return Published(config, CROPPED | {"image_grid_pinpoints": PINPOINTS})


LLAVA_NEXT = {
    "vicuna-7b": llava_next(LLAVA["v1.5-7b"].config["text_config"]),
    "vicuna-13b": llava_next(LLAVA["v1.5-13b"].config["text_config"]),
    # Of version 0.2, which has no window.
    "mistral-7b": llava_next(language("mistral-7b", vocab_size=32_064, rope_theta=1e6, sliding_window=None)),
    "llama3-8b": llava_next(language("llama3-8b", vocab_size=128_320)),
    "34b": llava_next(YI_34B | {"vocab_size": 64_064}),
}

# --- Idefics2: HuggingFaceM4/idefics2-8b; its text and perceiver are otherwise what the classes begin with

SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
IDEFICS2 = {
    "8b": Published(
        {
            "model_type": "idefics2",
            "tie_word_embeddings": False,
            "vision_config": {"model_type": "idefics2", **SO400M, "image_size": 980},
            "perceiver_config": {"model_type": "idefics2"},
            "text_config": {
                "model_type": "mistral",
                "vocab_size": 32_003,
                "max_position_embeddings": 32_768,
                "rms_norm_eps": 1e-5,
                "pad_token_id": 0,
            },
        },
        {
            "size": {"shortest_edge": 378, "longest_edge": 980},
            "do_image_splitting": True,
            "image_mean": HALF,
            "image_std": HALF,
            "resample": 2,
        },
    )
}

# --- Idefics3: HuggingFaceM4/Idefics3-8B-Llama3, HuggingFaceTB/SmolVLM-Instruct, -500M-Instruct, -256M-Instruct

B16 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
}


def idefics3(tower: Entries, side: int, longest: int, scale: int, text: Entries) -> Published:
    return Published(
        {
            "model_type": "idefics3",
            "tie_word_embeddings": False,
            "scale_factor": scale,
            "vision_config": {"model_type": "idefics3", **tower, "image_size": side},
            "text_config": text | {"tie_word_embeddings": False},
        },
        {
            "size": {"longest_edge": longest},
            "max_image_size": {"longest_edge": side},
            "do_image_splitting": True,
            "image_mean": HALF,
            "image_std": HALF,
            "resample": 1,
        },
    )


IDEFICS3 = {
    "8b": idefics3(
        SO400M, 364, 1456, 2, language("llama3.1-8b", vocab_size=128_259, rope_scaling=LLAMA31, pad_token_id=128_002)
    ),
    "smolvlm-2.2b": idefics3(
        SO400M,
        384,
        1536,
        3,
        language(
            "smollm2-1.7b", vocab_size=49_155, max_position_embeddings=16_384, rope_theta=273_768.0, pad_token_id=2
        ),
    ),
    "smolvlm-500m": idefics3(B16, 512, 2048, 4, language("smollm2-360m", vocab_size=49_280, pad_token_id=2)),
    "smolvlm-256m": idefics3(B16, 512, 2048, 4, language("smollm2-135m", vocab_size=49_280, pad_token_id=2)),
}

# --- InternVL: OpenGVLab/InternVL-Chat-V1-5, InternVL2-*, InternVL3-*. Their `vision_config` and `llm_config`, in the
# words to which transformers' own conversion turns them (models/internvl/convert_internvl_weights_to_hf.py).

INTERNVIT_300M = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "attention_bias": True,
    "use_qk_norm": False,
    "norm_type": "layer_norm",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 448,
    "patch_size": 14,
}
INTERNVIT_6B = INTERNVIT_300M | {
    "hidden_size": 3200,
    "intermediate_size": 12_800,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "attention_bias": False,
    "use_qk_norm": True,
    "norm_type": "rms_norm",
}
DYNAMIC = {"type": "dynamic", "factor": 2.0}


def internlm2(width: int, mlp_width: int, layers: int, heads: int) -> Entries:
    return {
        "model_type": "llama",
        "vocab_size": 92_553,
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "rope_scaling": DYNAMIC,
    }


def qwen(base: str, **more: Any) -> Entries:
    return language(base, vocab_size=151_674, use_sliding_window=False, rope_scaling=DYNAMIC, **more)


def internvl(tower: Entries, text: Entries) -> Published:
    whole = {"model_type": "internvl", "downsample_ratio": 0.5, "image_seq_length": 256, "tie_word_embeddings": False}
    pixels = {"size": {"height": 448, "width": 448}, "image_mean": [0.485, 0.456, 0.406], "resample": 3}
    text = text | {"tie_word_embeddings": False}
    return Published(
        {**whole, "vision_config": tower, "text_config": text}, pixels | {"image_std": [0.229, 0.224, 0.225]}
    )


QWEN_32B = {"hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-6}
INTERNVL = {
    "1.5-26b": internvl(INTERNVIT_6B, internlm2(6144, 16_384, 48, 48)),
    "2-1b": internvl(INTERNVIT_300M, language("qwen2-0.5b", vocab_size=151_655, use_sliding_window=False)),
    "2-2b": internvl(INTERNVIT_300M, internlm2(2048, 8192, 24, 16)),
    "2-8b": internvl(INTERNVIT_300M, internlm2(4096, 14_336, 32, 32)),
    "2-26b": internvl(INTERNVIT_6B, internlm2(6144, 16_384, 48, 48)),
    "2-40b": internvl(INTERNVIT_6B, YI_34B | {"vocab_size": 64_007}),
    "2-76b": internvl(INTERNVIT_6B, language("llama3-70b", vocab_size=128_265)),
    "3-1b": internvl(INTERNVIT_300M, qwen("qwen2-0.5b")),
    "3-2b": internvl(INTERNVIT_300M, qwen("qwen2-1.5b")),
    "3-8b": internvl(INTERNVIT_300M, qwen("qwen2-7b")),
    "3-14b": internvl(INTERNVIT_300M, qwen("qwen2-7b", **QWEN_32B, num_hidden_layers=48, intermediate_size=13_824)),
    "3-38b": internvl(INTERNVIT_6B, qwen("qwen2-7b", **QWEN_32B, num_hidden_layers=64, intermediate_size=27_648)),
    "3-78b": internvl(INTERNVIT_6B, qwen("qwen2-72b")),
}

# --- Qwen2-VL: Qwen/Qwen2-VL-2B-Instruct, -7B-, -72B-; the language model's settings stand beside the whole's

QWEN2_VL = {
    size: Published(
        {
            **language(base, use_sliding_window=False, sliding_window=32_768, max_window_layers=layers),
            "model_type": "qwen2_vl",
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {
                "depth": 32,
                "embed_dim": 1280,
                "hidden_size": width,
                "mlp_ratio": 4,
                "num_heads": 16,
                "in_chans": 3,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
        },
        {
            "min_pixels": 3136,
            "max_pixels": 12_845_056,
            "patch_size": 14,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            "resample": 3,
        },
    )
    for size, base, width, layers in (
        ("2b", "qwen2-1.5b", 1536, 28),
        ("7b", "qwen2-7b", 3584, 28),
        ("72b", "qwen2-72b", 8192, 80),
    )
}

# --- BLIP-2: Salesforce/blip2-opt-2.7b, -6.7b, blip2-itm-vit-g; tower and Q-Former are what the classes begin with


def opt(width: int) -> Entries:
    return {
        "model_type": "opt",
        "vocab_size": 50_304,
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
    }


BLIP2 = {
    size: Published(
        {"model_type": "blip-2", "num_query_tokens": 32, "qformer_config": {}, "text_config": opt(width)}, square(224)
    )
    for size, width in (("opt-2.7b", 2560), ("opt-6.7b", 4096))
}
BLIP2_STAGE1 = {
    "vit-g": Published(
        {
            "model_type": "blip-2",
            "architectures": ["Blip2ForImageTextRetrieval"],
            "num_query_tokens": 32,
            "image_text_hidden_size": 256,
            "qformer_config": {"use_qformer_text_input": True, "vocab_size": 30_523},
        },
        square(224),
    )
}

# --- Idefics: HuggingFaceM4/idefics-9b, -80b

IDEFICS = {
    size: Published(
        {
            "model_type": "idefics",
            "vocab_size": 32_000,
            "additional_vocab_size": 2,
            "alpha_type": "float",
            "cross_layer_interval": 4,
            "hidden_act": "silu",
            "qk_layer_norms": True,
            "use_resampler": True,
            "tie_word_embeddings": False,
            **text,
            "vision_config": {
                "embed_dim": 1280,
                "hidden_act": "gelu",
                "image_size": 224,
                "intermediate_size": 5120,
                "layer_norm_eps": 1e-5,
                "num_attention_heads": 16,
                "num_hidden_layers": 32,
                "patch_size": 14,
            },
            "perceiver_config": {
                "qk_layer_norms_perceiver": True,
                "resampler_depth": 6,
                "resampler_head_dim": 96,
                "resampler_n_heads": 16,
                "resampler_n_latents": 64,
            },
        },
        {"image_size": 224, "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    )
    for size, text in {
        "idefics-9b": {
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "rms_norm_eps": 1e-6,
        },
        "idefics-80b": {
            "hidden_size": 8192,
            "intermediate_size": 22_016,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "rms_norm_eps": 1e-5,
        },
    }.items()
}
