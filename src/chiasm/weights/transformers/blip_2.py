"""BLIP-2 as transformers stores it: the second stage, before OPT (Blip2ForConditionalGeneration); the first stage
(Blip2ForImageTextRetrieval), of the same model type, is `blip_2_stage1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.fixed import Fixed
from chiasm.errors import CheckpointError
from chiasm.models.blip2 import BLIP2, TEMPLATE, Config
from chiasm.models.model import Model
from chiasm.nn.connectors import q_former
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import opt
from chiasm.weights.chats import image_token_id, read_chat, token_of, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, take_tensors
from chiasm.weights.transformers import _opt, blip_2_stage1
from chiasm.weights.transformers._blip_2 import (
    q_former_section,
    read_q_former,
    read_vision,
    shared_rules,
    vision_section,
)
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, decoder_section
from chiasm.weights.transformers._pixels import read_pixels, write_pixels
from chiasm.weights.transformers._towers import WEIGHTS

MODEL = BLIP2

_HEAD = "language_model.lm_head.weight"
_IMAGE_TOKEN_ID = 50_265  # of the published files, where a config names none


def load(folder: CheckpointFolder) -> Model:
    """The model in a folder, with its processor, in evaluation mode: of whichever stage."""
    settings = folder.settings
    if blip_2_stage1.ARCHITECTURE in (settings.get("architectures") or ()):
        return blip_2_stage1.load(folder)
    where = str(folder / "config.json")
    decoder = _read_text(settings, where)
    vision = read_vision(settings, where)
    config = Config(vision, decoder, read_q_former(settings, where, text=False)[1])
    layout = Fixed(
        config.image_tokens,
        read_pixels(folder, vision.image_size),
        token_of(folder, image_token_id(settings, _IMAGE_TOKEN_ID)),
    )
    with torch.device("meta"):
        model = BLIP2(config, _images_first(read_chat(folder, decoder.context, decoder.vocabulary), layout))
    state, file = folder.tensors(WEIGHTS)
    left_out = (*CONSTANTS, *((_HEAD,) if decoder.tied else ()))
    return take_tensors(model, _table(decoder), state, str(file), left_out).eval()


def save(model: BLIP2, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such BLIP-2.
    """
    config, layout = model.config, model.processor.layout
    if not isinstance(config.connector, q_former.Config) or not config.class_token:
        raise CheckpointError(f"transformers' BLIP-2 has a Q-Former over all features; this model has {config}")
    if not isinstance(layout, Fixed) or layout.before:
        raise CheckpointError(
            f"transformers' BLIP-2 writes pictures as image tokens at the very beginning; this has {layout}"
        )
    if not isinstance(config.language, opt.Config):
        raise CheckpointError(f"BLIP-2 is written with OPT, not with a {config.language.chosen()}")
    settings = {
        "architectures": ["Blip2ForConditionalGeneration"],
        "model_type": "blip-2",
        "dtype": "float32",
        "vision_config": vision_section(config.vision),
        "qformer_config": q_former_section(config.connector, None),
        "text_config": {**decoder_section(config.language), **_special_ids(model.processor)},
        "num_query_tokens": config.connector.queries,
        "image_token_index": model.processor.backend.token_to_id(layout.image_token),
        "tie_word_embeddings": config.language.tied,
    }
    write_pixels(layout.transform, "Blip", folder)
    write_chat(_begun_by_tokenizer(model.processor, layout), folder)
    write_json(
        folder / "processor_config.json",
        {"processor_class": "Blip2Processor", "num_query_tokens": config.connector.queries},
    )
    write_json(folder / "config.json", settings)
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(config.language)))


def _read_text(settings: Mapping[str, Any], where: str) -> opt.Config:
    text = settings.get("text_config") or {}
    if (kind := text.get("model_type", "opt")) != "opt":
        raise CheckpointError(f"{where}: the language model is a '{kind}'; BLIP-2 is read with OPT, not with Flan-T5")
    return _opt.read_decoder(text, f"{where}: text_config")


def _images_first(chat: ChatProcessor, layout: Fixed) -> ChatProcessor:
    """The processor with images before the token that begins a text, not after it."""
    settings = replace(chat.settings, layout=replace(layout, behind=chat.settings.start), start="")
    return ChatProcessor(chat.backend, settings, chat.template.source or TEMPLATE.read_text(encoding="utf-8"))


def _begun_by_tokenizer(processor: ChatProcessor, layout: Fixed) -> ChatProcessor:
    """The reverse: a processor whose tokenizer puts that token before a text, and nothing else."""
    given = ChatProcessor(processor.backend, processor.settings, processor.template.source)
    if not layout.behind:
        given.backend.post_processor = processors.ByteLevel(trim_offsets=False)
        return given
    id_ = given.backend.token_to_id(layout.behind)
    if id_ is None:
        raise CheckpointError(f"transformers' BLIP-2 writes one token behind pictures; this has '{layout.behind}'")
    given.backend.post_processor = processors.TemplateProcessing(
        single=[layout.behind, "$A"], special_tokens=[(layout.behind, id_)]
    )
    return given


def _special_ids(processor: ChatProcessor) -> dict[str, int]:
    """The special tokens' ids, for which transformers would take OPT's own where its config named none."""
    layout, end = processor.layout, processor.end_ids[0]
    begins = layout.behind if isinstance(layout, Fixed) else ""
    return {
        "bos_token_id": (processor.backend.token_to_id(begins) if begins else None) or end,
        "eos_token_id": end,
        "pad_token_id": processor.backend.token_to_id(processor.settings.marks.get("pad_token", "")) or end,
    }


def rules(model: BLIP2) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config.language)


def _table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    return (
        *shared_rules("connector.q_former"),
        Rule("connector.map.*", "language_projection.*"),
        *decoder_rules("language.", "language_model.model.", decoder, _HEAD),
    )
