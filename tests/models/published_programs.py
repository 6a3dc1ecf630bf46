"""As `published`, of models whose folders bring a program of their own, for which transformers has no class."""

from __future__ import annotations

from tests.models.published import HALF, SO400M, Entries, Published, language

# --- MiniCPM-V: openbmb/MiniCPM-Llama3-V-2_5, openbmb/MiniCPM-V-2_6


def minicpm(version: str, queries: int, text: Entries) -> Published:
    slices = {"max_slice_nums": 9, "scale_resolution": 448, "patch_size": 14}
    config = {
        **text,
        "model_type": "minicpmv",
        "version": version,
        "query_num": queries,
        "drop_vision_last_layer": False,
        "slice_mode": True,
        "vision_config": {**SO400M, "model_type": "siglip_vision_model", "image_size": 980},
    }
    pixels = {**slices, "slice_mode": True, "norm_mean": HALF, "norm_std": HALF, "use_image_id": version == "2.6"}
    return Published(config, pixels, known=False)


MINICPM_V = {
    "2.5": minicpm("2.5", 96, language("llama3-8b")),
    "2.6": minicpm("2.6", 64, language("qwen2-7b", vocab_size=151_666, use_sliding_window=False)),
}

# --- Qwen-VL: Qwen/Qwen-VL. Monkey: echo840/Monkey, whose windows are those of the paper (section 4.1: 896x1344).

QWEN_7B = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10_000,
    "rotary_pct": 1.0,
    "seq_length": 2048,
    "max_position_embeddings": 8192,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "no_bias": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
}
VISUAL = {
    "heads": 16,
    "layers": 48,
    "mlp_ratio": 4.9231,
    "output_dim": 4096,
    "patch_size": 14,
    "width": 1664,
    "image_start_id": 151_857,
}
QWEN_VL = {"9.6b": Published({**QWEN_7B, "model_type": "qwen", "visual": {**VISUAL, "image_size": 448}}, known=False)}
MONKEY = {
    "9.8b": Published(
        {
            **QWEN_7B,
            "model_type": "monkey",
            "visual": {**VISUAL, "image_size": [896, 1344], "lora_repeat_num": 6},
        },
        known=False,
    )
}
