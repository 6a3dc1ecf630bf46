"""Tiny checkpoints in the manner of published ones, made of nothing but the peers' own classes."""

import functools
import json
from pathlib import Path

import PIL.Image
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, trainers

from chiasm.data.image import Image
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.shared_data import shared_data
from tests.weights.shaking import shaken

CAPTIONS = (
    "A child in a pink dress is climbing up a set of stairs.",
    "two dogs of different breeds LOOKING at each other on the road!",
    "It's 42 o'clock; they've  eaten 3 pizzas\tand   a half",
    "cafe\u0301 na\u00efve \u732b \U0001f408, 100% real_text (maybe?)",
    "dog",
    "",
    "a very long caption " * 12,
)


@functools.cache  # equal counts are broken by chance: two runs learn two vocabularies
def clip_vocabulary(merges: int = 80) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-pair vocabulary laid out as OpenAI's: bytes, bytes that end a word, merges, start mark, end mark."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    learned = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = splitter
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{one}</w>" for one in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learned.train_from_iterator([one.lower() for one in CAPTIONS], trainer)
    pairs = [(left, right) for left, right in json.loads(learned.to_str())["model"]["merges"]][:merges]
    tokens = [*alphabet, *ends, *(left + right for left, right in pairs), "<|startoftext|>", "<|endoftext|>"]
    return {token: at for at, token in enumerate(tokens)}, pairs


def clip_tokenizer(context: int) -> transformers.CLIPTokenizer:
    vocabulary, pairs = clip_vocabulary()
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=context)


def clip_model(
    act: str = "quick_gelu", image_size: int = 32, patch: int = 8, width: int = 32, layers: int = 2, context: int = 20
) -> transformers.CLIPModel:
    """A random CLIPModel. Its biases and scales are random too, so that none goes unnoticed when it is lost."""
    vocabulary, _ = clip_vocabulary()
    common = {"num_hidden_layers": layers, "num_attention_heads": 4, "hidden_act": act, "layer_norm_eps": 1e-5}
    config = transformers.CLIPConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 2 * width + 8,
            "image_size": image_size,
            "patch_size": patch,
            **common,
        },
        text_config={
            "hidden_size": width + 16,
            "intermediate_size": 3 * width,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": context,
            "bos_token_id": len(vocabulary) - 2,
            "eos_token_id": len(vocabulary) - 1,
            **common,
        },
        projection_dim=24,
    )
    return shaken(transformers.CLIPModel(config))


def siglip_model(
    act: str = "gelu_pytorch_tanh", image_size: int = 32, patch: int = 8, width: int = 32, vocabulary: int = 400
) -> transformers.SiglipModel:
    common = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": act}
    config = transformers.SiglipConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "image_size": image_size,
            "patch_size": patch,
            **common,
        },
        text_config={
            "hidden_size": width,
            "intermediate_size": 2 * width + 8,
            "vocab_size": vocabulary,
            "max_position_embeddings": 16,
            **common,
        },
    )
    return shaken(transformers.SiglipModel(config))


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-5, absolute and relative."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def photos(count: int = 3) -> list[Path]:
    """Real photos of odd sizes, both upright and lying."""
    files = sorted((shared_data("flickr8k") / "images").glob("*.jpg"))[: count + 6]
    files += sorted((shared_data("coco") / "images").glob("*.jpg"))[:count]
    return files


def rgb(file: Path) -> PIL.Image.Image:
    """A picture as our loader shows it."""
    return Image(file).decode()
