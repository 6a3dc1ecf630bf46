"""The first stage of BLIP-2 as transformers stores it (Blip2ForImageTextRetrieval): without its head for captions."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from chiasm.data.processor import PairProcessor
from chiasm.models.blip2_stage1 import BLIP2Stage1, Config
from chiasm.nn.connectors import q_former
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, take_tensors
from chiasm.weights.texts import read_tokenizer, write_tokenizer
from chiasm.weights.transformers._blip_2 import (
    POSITION_IDS,
    q_former_section,
    read_q_former,
    read_vision,
    shared_rules,
    vision_section,
)
from chiasm.weights.transformers._pixels import read_pixels, write_pixels
from chiasm.weights.transformers._towers import WEIGHTS

MODEL = BLIP2Stage1
ARCHITECTURE = "Blip2ForImageTextRetrieval"
_LEARNS = ("log_scale", "caption_head.bias", "caption_head.*.*")  # not stored there

_TABLE = (
    *shared_rules("q_former"),
    Rule("image_head.*", "vision_projection.*"),
    Rule("text_head.*", "text_projection.*"),
    Rule("matching_head.*", "itm_head.*"),
)


def load(folder: CheckpointFolder) -> BLIP2Stage1:
    """The model in a folder, with its processor, in evaluation mode.

    The temperature is not stored there; it starts anew, should training go on.
    """
    settings = folder.settings
    where = str(folder / "config.json")
    found, queries = read_q_former(settings, where, text=True)
    config = Config(
        read_vision(settings, where),
        queries,
        int(settings.get("image_text_hidden_size", 256)),
        found.vocab_size,
        found.max_position_embeddings,
        found.max_position_embeddings,
        captioning=False,
    )
    # The placeholder of the queries never reaches the embeddings, so its id may lie beyond them.
    known = max(found.vocab_size, 1 + int(settings.get("image_token_index") or 0))
    tokenizer = read_tokenizer(folder, config.context, known)
    with torch.device("meta"):
        model = BLIP2Stage1(config, PairProcessor(read_pixels(folder, config.vision.image_size), tokenizer))
    state, file = folder.tensors(WEIGHTS)
    state["log_scale"] = torch.tensor(-math.log(config.temperature))
    return take_tensors(model, (*_TABLE, Rule("log_scale", "log_scale")), state, str(file), POSITION_IDS).eval()


def save(model: BLIP2Stage1, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists: all that scores. What only learns, the temperature
    and the head for captions, has no place there and is left out.

    Raises CheckpointError where transformers has no such tower.
    """
    config = model.config
    settings = {
        "architectures": [ARCHITECTURE],
        "model_type": "blip-2",
        "dtype": "float32",
        "vision_config": vision_section(config.vision),
        "qformer_config": q_former_section(config.q_former, q_former.Words(config.vocabulary, config.context)),
        "num_query_tokens": config.q_former.queries,
        "image_text_hidden_size": config.width,
    }
    write_pixels(model.processor.image, "Blip", folder)
    write_tokenizer(model.processor.tokenizer, folder)
    write_json(folder / "config.json", settings)
    tensors = give_tensors(model, (*_TABLE, *(Rule(name, f"left.{name}") for name in _LEARNS)))
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("left.")}
    write_tensors(folder / "model.safetensors", tensors)
