"""SigLIP's entries in `open_clip_config.json`, and where its tensors are stored: a vision tower of timm's, and
open_clip's text tower. open_clip knows timm's towers by their names alone, so that their shapes stand here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from chiasm.errors import CheckpointError
from chiasm.models.siglip import Config
from chiasm.nn.attention import Activation
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer
from chiasm.weights.mapping import ONE_MORE, STACKED, Rule
from chiasm.weights.open_clip._settings import BLOCKS, Text, act_kwargs, mlp_ratio, norm_kwargs, read_known
from chiasm.weights.open_clip._table import tower_blocks

# width, layers, heads, hidden of timm's towers (its vision_transformer.py).
_SHAPES = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}


def _towers(kind: str, patch: int, sizes: Sequence[int], act: Activation) -> dict[str, vit.Config]:
    width, layers, heads, mlp_width = _SHAPES[kind]
    shape = vit.Config(sizes[0], patch, width, layers, heads, mlp_width, "map", act, pre_norm=False, epsilon=1e-6)
    return {f"vit_{kind}_patch{patch}_siglip_{size}": replace(shape, image_size=size) for size in sizes}


# Where timm's file names no activation it is the exact GELU, also for weights that were trained with another.
TOWERS: dict[str, vit.Config] = {
    **_towers("base", 32, (256,), "gelu_tanh"),
    **_towers("base", 16, (224, 256, 384, 512), "gelu"),
    **_towers("large", 16, (256, 384), "gelu"),
    **_towers("large", 16, (512,), "gelu_tanh"),
    **_towers("so400m", 14, (224, 378, 384), "gelu"),
    **_towers("so400m", 16, (256, 384, 512), "gelu_tanh"),
    **_towers("giantopt", 16, (256, 384), "gelu_tanh"),
}


@dataclass(frozen=True)
class _Vision:
    """A `vision_cfg` that names a tower of timm's. timm_model_pretrained: of no account, the weights are all here."""

    timm_model_name: str
    image_size: int = 224
    timm_model_pretrained: bool = False
    timm_pool: Literal["map"] = "map"
    timm_proj: Literal["none"] = "none"


@dataclass(frozen=True)
class _Text(Text):
    """A `text_cfg` of SigLIP, whose attention is not causal and which is read at the last position."""

    no_causal_mask: Literal[True] = True
    pool_type: Literal["last"] = "last"  # type: ignore[assignment]  # CLIP's are others
    proj_type: Literal["linear", "none"] = "linear"
    proj_bias: bool = False


@dataclass(frozen=True)
class _Whole:
    """A `model_cfg` but for its towers."""

    embed_dim: int
    custom_text: Literal[True] = True
    quick_gelu: bool = False
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float = -10.0


# Of timm's and open_clip's settings those that leave the towers as they are.
_VISION: Mapping[str, Any] = {"patch_dropout": 0.0, "timm_drop": 0.0, "timm_drop_path": None, "timm_proj_bias": False}
_TEXT: Mapping[str, Any] = {**BLOCKS, "embed_cls": False, "tokenizer_mode": None, "hf_model_name": None}


def is_siglip(entries: Mapping[str, Any]) -> bool:
    """Whether a `model_cfg` has the vision tower of a SigLIP."""
    return (entries.get("vision_cfg") or {}).get("timm_model_name") in TOWERS


def read_model(entries: Mapping[str, Any], where: str) -> tuple[Config, int, Text]:
    """Reads a `model_cfg`: the Config, the size of its images, the `text_cfg`.

    Raises CheckpointError for settings that we cannot follow.
    """
    vision = read_known(_Vision(""), entries["vision_cfg"], _VISION, f"{where}.vision_cfg")
    tower = TOWERS[vision.timm_model_name]
    if vision.image_size != tower.image_size:
        raise CheckpointError(f"{where}.vision_cfg: image_size {vision.image_size} is not {vision.timm_model_name}'s")
    text = read_known(_Text(), entries.get("text_cfg") or {}, _TEXT, f"{where}.text_cfg", elsewhere=("pad_id",))
    if entries.get("init_logit_bias") is None:
        raise CheckpointError(f"{where}: a SigLIP without init_logit_bias has no bias, which we cannot follow")
    whole = read_known(_Whole(0), entries, {}, where, elsewhere=("vision_cfg", "text_cfg", "nonscalar_logit_scale"))
    if whole.embed_dim != tower.width or (text.proj_type == "none") == text.proj_bias:
        raise CheckpointError(
            f"{where}: embed_dim {whole.embed_dim}, proj_type {text.proj_type} and proj_bias {text.proj_bias} are not "
            f"SigLIP's: a space of {tower.width}, and a map of the texts with a bias or none"
        )
    config = Config(
        tower,
        replace(text.tower(whole.quick_gelu), causal=False),
        math.exp(whole.init_logit_scale),
        whole.init_logit_bias,
        text_head=text.proj_type == "linear",
    )
    return config, tower.image_size, text


def write_model(config: Config) -> dict[str, Any]:
    """The `model_cfg` of a SigLIP. Raises CheckpointError if open_clip has no such SigLIP."""
    text, name = config.text, next((name for name, tower in TOWERS.items() if tower == config.vision), None)
    if name is None:
        raise CheckpointError(
            f"open_clip has no such vision tower of a SigLIP (the activation counts, too); it has {', '.join(TOWERS)}"
        )
    if not isinstance(text, transformer.Config) or text.causal:
        raise CheckpointError("open_clip's SigLIP reads texts with a transformer that is not causal; this one does not")
    text_cfg = _Text(
        text.context,
        text.vocabulary,
        text.width,
        text.heads,
        text.layers,
        mlp_ratio(text.mlp_width, text.width),
        hf_tokenizer_name="here",
        norm_kwargs=norm_kwargs(text.epsilon),
        act_kwargs=act_kwargs(text.act),
        proj_type="linear" if config.text_head else "none",
        proj_bias=config.text_head,
    )
    return {
        "embed_dim": TOWERS[name].width,
        "custom_text": True,
        "quick_gelu": text.act == "quick_gelu",
        "init_logit_scale": math.log(config.scale),
        "init_logit_bias": config.bias,
        "vision_cfg": asdict(_Vision(name, TOWERS[name].image_size)),
        "text_cfg": {key: value for key, value in asdict(text_cfg).items() if value is not None},
    }


def table(config: Config) -> tuple[Rule, ...]:
    """Where open_clip stores each tensor of that SigLIP."""
    return (*_VIT, *_TOWER_TEXT, *(_HEAD if config.text_head else ()))


_TRUNK = "visual.trunk"
_POOL = f"{_TRUNK}.attn_pool"

_VIT = (
    Rule("vision.embed.*", f"{_TRUNK}.patch_embed.proj.*"),
    Rule("vision.position", f"{_TRUNK}.pos_embed", ONE_MORE),
    Rule("vision.blocks.*.norm1.*", f"{_TRUNK}.blocks.*.norm1.*"),
    *(
        Rule(
            tuple(f"vision.blocks.*.attention.{part}.{kind}" for part in "qkv"),
            f"{_TRUNK}.blocks.*.attn.qkv.{kind}",
            STACKED,
        )
        for kind in ("weight", "bias")
    ),
    Rule("vision.blocks.*.attention.out.*", f"{_TRUNK}.blocks.*.attn.proj.*"),
    Rule("vision.blocks.*.norm2.*", f"{_TRUNK}.blocks.*.norm2.*"),
    Rule("vision.blocks.*.mlp.up.*", f"{_TRUNK}.blocks.*.mlp.fc1.*"),
    Rule("vision.blocks.*.mlp.down.*", f"{_TRUNK}.blocks.*.mlp.fc2.*"),
    Rule("vision.norm.*", f"{_TRUNK}.norm.*"),
    Rule("vision.pool.query", f"{_POOL}.latent"),
    Rule("vision.pool.attention.q.*", f"{_POOL}.q.*"),
    *(
        Rule(tuple(f"vision.pool.attention.{part}.{kind}" for part in "kv"), f"{_POOL}.kv.{kind}", STACKED)
        for kind in ("weight", "bias")
    ),
    Rule("vision.pool.attention.out.*", f"{_POOL}.proj.*"),
    Rule("vision.pool.norm.*", f"{_POOL}.norm.*"),
    Rule("vision.pool.mlp.up.*", f"{_POOL}.mlp.fc1.*"),
    Rule("vision.pool.mlp.down.*", f"{_POOL}.mlp.fc2.*"),
)
_TOWER_TEXT = (
    Rule("text.embed.weight", "text.token_embedding.weight"),
    Rule("text.position", "text.positional_embedding"),
    *tower_blocks("text", "text.transformer"),
    Rule("text.norm.*", "text.ln_final.*"),
    Rule("log_scale", "logit_scale"),
    Rule("bias", "logit_bias"),
)
_HEAD = (Rule("text_head.*", "text.text_projection.*"),)
