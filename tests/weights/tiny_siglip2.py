"""Tiny SigLIP 2 checkpoints: Gemma's kind of tokenizer, NaFlex and fixed models, of the peers' own classes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tests.weights import tiny
from tests.weights.shaking import shaken

CONTEXT = 16
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


@functools.cache
def gemma_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte pairs laid out as Gemma's: marks, bytes to fall back on, letters, merges over "▁"."""
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=390, special_tokens=[*SPECIAL, *(f"<0x{at:02X}>" for at in range(256))], show_progress=False
    )
    backend.train_from_iterator([one.lower() for one in tiny.CAPTIONS[:3]], trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def gemma_tokenizer(kind: str = "Siglip2Tokenizer", **settings: Any) -> Any:
    vocabulary, merges = gemma_vocabulary()
    given = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right", "model_max_length": CONTEXT}
    return getattr(transformers, kind)(vocab=vocabulary, merges=merges, **{**given, **settings})


def write_tokenizer(folder: Path, kind: str = "Siglip2Tokenizer", **more: Any) -> None:
    """With the settings that published folders hold, of which transformers itself writes only some."""
    gemma_tokenizer(kind).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    said = {"padding_side": "right", "add_bos_token": False, "add_eos_token": True, "model_input_names": ["input_ids"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | said | more))


def naflex_model(patch: int = 8, positions: int = 16, width: int = 32) -> transformers.Siglip2Model:
    common = {"num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": width, "intermediate_size": 3 * width, "patch_size": patch, "num_patches": positions}
    text = {
        "hidden_size": width,
        "intermediate_size": 2 * width + 8,
        "vocab_size": len(gemma_vocabulary()[0]) + 3,
        "max_position_embeddings": CONTEXT,
    }
    config = transformers.Siglip2Config(vision_config={**vision, **common}, text_config={**text, **common})
    return shaken(transformers.Siglip2Model(config))


def write_naflex(folder: Path, model: transformers.Siglip2Model, patches: int = 24, **pixels: Any) -> Path:
    model.save_pretrained(folder)
    write_tokenizer(folder)
    transformers.Siglip2ImageProcessorPil(
        patch_size=model.config.vision_config.patch_size, max_num_patches=patches, **pixels
    ).save_pretrained(folder)
    return folder
