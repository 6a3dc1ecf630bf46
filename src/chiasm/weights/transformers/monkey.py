"""Monkey as its authors store it (echo840/Monkey, echo840/Monkey-Chat): Qwen-VL's folder, with adapters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from chiasm.data.layouts.windows import Windows
from chiasm.errors import CheckpointError
from chiasm.models.monkey import Config, Monkey
from chiasm.nn.image_towers import bare, windowed
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section
from chiasm.weights.mapping import ONE_VALUE, Form, Rule
from chiasm.weights.transformers import qwen

MODEL = Monkey

_WINDOW = 448  # pixels; the program names no other
_RANKS = (16, 32)  # nor other ranks


@dataclass(frozen=True)
class _Visual:
    """The entries of the section `visual` about the adapters."""

    lora_repeat_num: int = 4


def load(folder: CheckpointFolder) -> Monkey:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    decoder = qwen.read_decoder(settings, where)
    tower, connector, (height, width) = qwen.read_visual(settings, decoder, where)
    windows = read_section(_Visual(), settings["visual"], f"{where}: visual").lora_repeat_num
    rows, columns = height // _WINDOW, width // _WINDOW
    if (rows * _WINDOW, columns * _WINDOW) != (height, width) or rows * columns != windows:
        raise CheckpointError(
            f"{where}: {height}x{width} pixels are not {windows} windows of {_WINDOW}, one for each set of adapters"
        )
    given = {field.name: getattr(tower, field.name) for field in fields(bare.Config)} | {"image_size": _WINDOW}
    vision = windowed.Config(**given, windows=windows, rank=_RANKS[0], mlp_rank=_RANKS[1])
    config = Config(vision, decoder, connector, rows, columns)
    layout = Windows(_WINDOW, rows, columns, connector.queries)
    with torch.device("meta"):
        model = Monkey(config, qwen.read_processor(folder, decoder, layout))
    made: Monkey = qwen.take(model, folder, _table(config))
    return made


def save(model: Monkey, folder: Path) -> None:
    """Writes the model as its authors store it, without their program, into a folder that exists.

    Raises CheckpointError where their program would compute something else.
    """
    config, layout = model.config, model.processor.layout
    tower = config.vision
    if layout != Windows(tower.image_size, config.rows, config.columns, config.connector.queries):
        raise CheckpointError(
            f"Monkey stretches pictures to {config.rows}x{config.columns} windows; this one: {layout}"
        )
    if (tower.rank, tower.mlp_rank) != _RANKS:
        raise CheckpointError(f"Monkey's adapters have ranks of {_RANKS}; these have {tower.rank} and {tower.mlp_rank}")
    sides = [config.rows * _WINDOW, config.columns * _WINDOW]
    visual = {"image_size": sides, "lora_repeat_num": tower.windows}
    qwen.write(model, folder, {"model_type": "monkey", "architectures": ["MonkeyLMHeadModel"]}, visual, _table(config))


def _table(config: Config) -> tuple[Rule, ...]:
    block, theirs = "vision.blocks.*", "transformer.visual.transformer.resblocks.*"
    pairs = (("qkv", "attn.in_proj_lora"), ("out", "attn.out_proj_lora"), ("mlp", "mlp_lora"))
    rules = []
    for ours, name in pairs:
        up = Rule(f"{block}.{ours}_adapters.up.*", f"{theirs}.{name}.*.lora_b.weight")
        rules += [
            Rule(f"{block}.{ours}_adapters.down.*", f"{theirs}.{name}.*.lora_a.weight"),
            Rule(up.ours, up.theirs, _rows(config.vision.heads)) if ours == "qkv" else up,
            Rule(f"{block}.{ours}_adapters.scale.*", f"{theirs}.{name}.*.lora_scale", ONE_VALUE),
        ]
    return (*qwen.table(config), *rules)


def _rows(heads: int) -> Form:
    """The form of the rows for q, k and v, which are stacked here, and stored head by head there."""
    together = qwen.heads_together(heads)

    def split(theirs: Tensor, _: int) -> tuple[Tensor, ...]:
        return (torch.cat(tuple(together.split(theirs, 3))),)

    return Form(lambda ours: together.join(ours[0].chunk(3)), split)
