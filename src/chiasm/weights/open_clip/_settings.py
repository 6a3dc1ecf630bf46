"""Conversion of `open_clip_config.json` to and from a CLIP's Config and its ImageTransform."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from chiasm.data.patches import PatchTransform
from chiasm.data.transforms import OPENAI_MEAN, OPENAI_STD, ImageTransform
from chiasm.errors import CheckpointError
from chiasm.models.clip import Config
from chiasm.nn.attention import Activation
from chiasm.nn.image_towers import resnet, vit
from chiasm.nn.text_towers import transformer
from chiasm.nn.tower import ImageTowerConfig
from chiasm.weights.cleaning import Clean
from chiasm.weights.files import read_section

T = TypeVar("T")


@dataclass(frozen=True)
class _Norm:
    eps: float = 1e-5


@dataclass(frozen=True)
class _Act:
    approximate: Literal["none", "tanh"] = "none"


@dataclass(frozen=True)
class _TokenizerKwargs:
    clean: Clean | None = None


@dataclass(frozen=True)
class _Vision:
    """A `vision_cfg`, with open_clip's defaults. layers: one number for a ViT, four for a ResNet."""

    image_size: int = 224
    layers: int | tuple[int, int, int, int] = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int | None = 16
    norm_kwargs: _Norm | None = None
    act_kwargs: _Act | None = None

    def tower(self, quick: bool) -> ImageTowerConfig:
        if isinstance(self.layers, tuple):
            return resnet.Config(self.image_size, self.width, self.layers, self.width * 32 // self.head_width)
        if self.patch_size is None:
            raise CheckpointError("vision_cfg: a ViT without a patch_size")
        heads, mlp_width = self.width // self.head_width, int(self.width * self.mlp_ratio)
        act, epsilon = _act(quick, self.act_kwargs), (self.norm_kwargs or _Norm()).eps
        return vit.Config(
            self.image_size, self.patch_size, self.width, self.layers, heads, mlp_width, act=act, epsilon=epsilon
        )


@dataclass(frozen=True)
class Text:
    """A `text_cfg`, with open_clip's defaults."""

    context_length: int = 77
    vocab_size: int = 49_408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    pool_type: Literal["argmax", "eos"] = "argmax"
    eos_id: int = 2
    hf_tokenizer_name: str | None = None
    norm_kwargs: _Norm | None = None
    act_kwargs: _Act | None = None
    tokenizer_kwargs: _TokenizerKwargs | None = None

    @property
    def clean(self) -> Clean:
        """How texts are cleaned: as the config states, or by the default of the tokenizer that open_clip takes."""
        stated = self.tokenizer_kwargs.clean if self.tokenizer_kwargs is not None else None
        return stated or ("whitespace" if self.hf_tokenizer_name else "lower")

    def tower(self, quick: bool) -> transformer.Config:
        mlp_width, epsilon = int(self.width * self.mlp_ratio), (self.norm_kwargs or _Norm()).eps
        shape = (self.vocab_size, self.context_length, self.width, self.layers, self.heads, mlp_width)
        return transformer.Config(*shape, act=_act(quick, self.act_kwargs), epsilon=epsilon)


@dataclass(frozen=True)
class _Whole:
    """A `model_cfg` but for its towers."""

    embed_dim: int = 512
    quick_gelu: bool = False
    init_logit_scale: float = math.log(1 / 0.07)


@dataclass(frozen=True)
class _Pixels:
    """A `preprocess_cfg`, with open_clip's defaults."""

    size: int | tuple[int, int] | None = None
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"  # random: in training alone
    resize_mode: Literal["shortest", "squash", "longest"] = "shortest"
    fill_color: int = 0


# Settings that we know at one value only. Whatever else a file says is refused, not ignored.
BLOCKS: Mapping[str, Any] = {
    "ls_init_value": None,
    "block_type": None,
    "final_ln_after_pool": False,
    "output_tokens": False,
    **dict.fromkeys(
        ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), False
    ),
}
_VISION: Mapping[str, Any] = {
    **BLOCKS,
    "patch_dropout": 0.0,
    "attentional_pool": False,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "pool_type": "tok",
    "timm_model_name": None,
}
_TEXT: Mapping[str, Any] = {
    **BLOCKS,
    "embed_cls": False,
    "no_causal_mask": False,
    "proj_bias": False,
    "proj_type": "linear",
    "tokenizer_mode": None,
    "hf_model_name": None,
}
_WHOLE: Mapping[str, Any] = {"custom_text": False, "init_logit_bias": None, "nonscalar_logit_scale": False}
_PIXELS: Mapping[str, Any] = {"mode": "RGB"}
_RESIZES: Mapping[str, Literal["crop", "squash", "pad"]] = {"shortest": "crop", "squash": "squash", "longest": "pad"}


def read_model(entries: Mapping[str, Any], where: str) -> tuple[Config, int, Text]:
    """Reads a `model_cfg`: the Config, the size of its images, the `text_cfg`.

    Raises CheckpointError for settings that we cannot follow.
    """
    if "multimodal_cfg" in entries:
        raise CheckpointError(f"{where}: it is a CoCa, whose decoder of texts (multimodal_cfg) we cannot follow")
    # The towers first: what they are is the reason for whatever else the file says.
    vision = read_known(_Vision(), entries.get("vision_cfg") or {}, _VISION, f"{where}.vision_cfg")
    # The padding's id matters to nobody who reads causally.
    text = read_known(Text(), entries.get("text_cfg") or {}, _TEXT, f"{where}.text_cfg", elsewhere=("pad_id",))
    whole = read_known(_Whole(), entries, _WHOLE, where, elsewhere=("vision_cfg", "text_cfg"))
    towers = vision.tower(whole.quick_gelu), text.tower(whole.quick_gelu)
    return Config(*towers, whole.embed_dim, math.exp(-whole.init_logit_scale)), vision.image_size, text


def write_model(config: Config, pool: Literal["argmax", "eos"], end: int) -> dict[str, Any]:
    """The `model_cfg` of a CLIP. pool: where open_clip is to read a text; end: the id of its end token.

    Raises CheckpointError if open_clip has no such CLIP.
    """
    text, vision = config.text, config.vision
    if not isinstance(text, transformer.Config) or not text.causal:
        raise CheckpointError("open_clip's CLIP reads texts with a causal transformer; this model does not")
    acts = {text.act, vision.act} if isinstance(vision, vit.Config) else {text.act}
    if "quick_gelu" in acts and len(acts) > 1:
        raise CheckpointError("open_clip's CLIP has quick_gelu in both towers or in none")
    text_cfg = Text(
        text.context,
        text.vocabulary,
        text.width,
        text.heads,
        text.layers,
        mlp_ratio(text.mlp_width, text.width),
        pool,
        end,
        "here",  # any name has open_clip read the tokenizer that lies beside the config
        _Norm(text.epsilon),
        act_kwargs(text.act),
    )
    return {
        "embed_dim": config.width,
        "quick_gelu": "quick_gelu" in acts,
        "init_logit_scale": -math.log(config.temperature),
        "vision_cfg": asdict(_vision_cfg(vision)),
        "text_cfg": {key: value for key, value in asdict(text_cfg).items() if value is not None},
    }


def read_pixels(entries: Mapping[str, Any], image_size: int, where: str) -> ImageTransform:
    """Reads a `preprocess_cfg`. Raises CheckpointError if its images have another size than the model's."""
    settings = read_known(_Pixels(), entries, _PIXELS, where)
    if settings.size not in (None, image_size, (image_size, image_size)):
        raise CheckpointError(f"{where} makes pictures of {settings.size} pixels, but the model sees {image_size}")
    resize = _RESIZES[settings.resize_mode]
    return ImageTransform(
        image_size,
        resize,
        "bilinear" if settings.interpolation == "bilinear" else "bicubic",
        settings.mean,
        settings.std,
        centre="even" if resize == "crop" else "down",
        fill=(settings.fill_color,) * 3 if resize == "pad" else None,
    )


def write_pixels(transform: ImageTransform | PatchTransform) -> dict[str, Any]:
    """The `preprocess_cfg` of a transform; the middle of a picture begins where open_clip has it begin.

    Raises CheckpointError where open_clip has none like it.
    """
    if not isinstance(transform, ImageTransform):
        raise CheckpointError("open_clip's towers see whole pictures, but this model's processor makes patches")
    mode = next((theirs for theirs, ours in _RESIZES.items() if ours == transform.resize), None)
    around = set(transform.around)
    if (
        mode is None
        or transform.interpolation == "lanczos"
        or transform.resize_to not in (None, transform.size)
        or (transform.resize == "pad" and len(around) > 1)
    ):
        raise CheckpointError(
            f"open_clip cannot resize pictures by {transform.resize} to {transform.resize_to or transform.size} and "
            f"{transform.interpolation}, with {transform.around} around them; it knows crop, squash, and pad with a "
            "grey, all to the size that the model sees, bicubic and bilinear"
        )
    settings = _Pixels(transform.size, transform.mean, transform.std, transform.interpolation)
    fill = around.pop() if transform.resize == "pad" else 0
    return asdict(settings) | {"resize_mode": mode, "fill_color": fill}


def _vision_cfg(tower: ImageTowerConfig) -> _Vision:
    if isinstance(tower, resnet.Config):
        head = tower.channels * 32 // tower.heads
        return _Vision(tower.image_size, tower.layers, tower.channels, head, patch_size=None)
    if isinstance(tower, vit.Config) and tower.pool == "class" and tower.pre_norm and not tower.stem:
        head, ratio = tower.width // tower.heads, mlp_ratio(tower.mlp_width, tower.width)
        shape = (tower.image_size, tower.layers, tower.width, head, ratio, tower.patch)
        return _Vision(*shape, _Norm(tower.epsilon), act_kwargs(tower.act))
    raise CheckpointError(
        f"open_clip's CLIP has a ResNet or a ViT with pool: class and pre_norm: True, not {tower.chosen()}"
    )


def read_known(
    defaults: T, entries: Mapping[str, Any], known: Mapping[str, Any], where: str, elsewhere: Collection[str] = ()
) -> T:
    """The settings that we use; all others must be known, at the known value. Raises CheckpointError else."""
    used = asdict(defaults)  # type: ignore[call-overload]  # T is a dataclass
    for key, value in entries.items():
        if key in used or key in elsewhere or (key in known and (value == known[key] or not (value or known[key]))):
            continue
        wanted = f"; only {known[key]!r} is known" if key in known else ""
        raise CheckpointError(f"{where}: {key} is {value!r}, which we cannot follow{wanted}")
    return read_section(defaults, entries, where)


def _act(quick: bool, settings: _Act | None) -> Activation:
    if quick:
        return "quick_gelu"
    return "gelu_tanh" if settings is not None and settings.approximate == "tanh" else "gelu"


def norm_kwargs(epsilon: float) -> _Norm:
    """The `norm_kwargs` of layers that normalise with that epsilon."""
    return _Norm(epsilon)


def act_kwargs(act: Activation) -> _Act | None:
    """The `act_kwargs` of an activation."""
    return _Act("tanh") if act == "gelu_tanh" else None


def mlp_ratio(mlp_width: int, width: int) -> float:
    """The `mlp_ratio`: a number by which open_clip, rounding down, comes to that hidden width."""
    exact = mlp_width / width
    return exact if int(width * exact) == mlp_width else (mlp_width + 0.5) / width
