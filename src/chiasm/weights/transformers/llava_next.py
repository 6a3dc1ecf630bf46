"""LLaVA-NeXT as transformers stores it (LlavaNextForConditionalGeneration), with CLIP's vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from chiasm.data.box_formats.floats import Floats
from chiasm.data.layouts.any_resolution import GRIDS, AnyResolution, Grids
from chiasm.data.transforms import OPENAI_MEAN, OPENAI_STD
from chiasm.errors import CheckpointError
from chiasm.models import llava as ours
from chiasm.models.llava_next import Config, LLaVANeXT
from chiasm.nn.decoder import DecoderConfig
from chiasm.weights.chats import image_token_id, read_chat, token_of
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import write_json
from chiasm.weights.mapping import Rule
from chiasm.weights.transformers import llava
from chiasm.weights.transformers._tiles import Tiles, one_side, read_tiles, tiles_section

MODEL = LLaVANeXT


@dataclass(frozen=True)
class _Settings(Tiles):
    """A `preprocessor_config.json`. Sizes are mappings, or numbers in older files."""

    image_mean: tuple[float, float, float] = OPENAI_MEAN
    image_std: tuple[float, float, float] = OPENAI_STD
    size: int | dict[str, int] = 224
    crop_size: int | dict[str, int] = 224
    image_grid_pinpoints: Grids = GRIDS


def load(folder: CheckpointFolder) -> LLaVANeXT:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    decoder = llava.read_text(settings, where)
    shared = llava.read_config(settings, decoder, where)
    if shared.class_token:
        raise CheckpointError(
            f"{where}: the class token has no place on a grid; vision_feature_select_strategy is full"
        )
    grids = tuple((int(height), int(width)) for height, width in settings.get("image_grid_pinpoints") or GRIDS)
    config = Config(**{name: getattr(shared, name) for name in ours.Config.__dataclass_fields__}, grids=grids)
    layout = _layout(folder, config, token_of(folder, image_token_id(settings, default=32_000)))
    with torch.device("meta"):
        model = LLaVANeXT(config, read_chat(folder, decoder.context, decoder.vocabulary, layout, Floats(digits=2)))
    return llava.take(model, folder, _table(decoder))


def save(model: LLaVANeXT, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such model.
    """
    layout, config = model.processor.layout, model.config
    if not isinstance(layout, AnyResolution):
        raise CheckpointError(f"transformers' LLaVA-NeXT lays pictures on grids; this model has {layout}")
    side, grids = layout.tile, [list(grid) for grid in config.grids]
    settings = {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_grid_pinpoints": grids,
        "image_seq_length": config.patches,
        **llava.config_section(model),
    }
    write_json(
        folder / "preprocessor_config.json",
        {
            **tiles_section(layout.transform, "LlavaNext"),
            "size": {"shortest_edge": side},
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "image_grid_pinpoints": grids,
        },
    )
    llava.write(model, folder, settings, _table(config.language), "LlavaNextProcessor")


def _layout(folder: CheckpointFolder, config: Config, image_token: str) -> AnyResolution:
    settings, transform, file = read_tiles(_Settings(), folder)
    sides = {one_side(settings.size, "size", file), one_side(settings.crop_size, "crop_size", file)}
    tower = config.vision
    if sides != {tower.image_size}:
        raise CheckpointError(f"{file} makes tiles of {sorted(sides)} pixels, but the model sees {tower.image_size}")
    if settings.image_grid_pinpoints != config.grids:
        raise CheckpointError(
            f"{file} lays pictures on {settings.image_grid_pinpoints}, but config.json has other grids"
        )
    return AnyResolution(tower.image_size, tower.patch, config.grids, transform, image_token)


MODULES = llava.MODULES


def rules(model: LLaVANeXT) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config.language)


def _table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    return (*llava.table(decoder), Rule("newline", "image_newline"))
