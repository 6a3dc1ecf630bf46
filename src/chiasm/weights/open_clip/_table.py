"""The table of the names under which open_clip stores each tensor of a CLIP."""

from __future__ import annotations

from collections.abc import Mapping

from chiasm.nn.image_towers import resnet, vit
from chiasm.nn.tower import ImageTowerConfig
from chiasm.weights.mapping import STACKED, TRANSPOSED, Rule


def tower_blocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The blocks of one of open_clip's own transformers."""
    block, stored = f"{ours}.blocks.*", f"{theirs}.resblocks.*"
    return (
        Rule(f"{block}.norm1.*", f"{stored}.ln_1.*"),
        *(
            Rule(tuple(f"{block}.attention.{part}.{kind}" for part in "qkv"), f"{stored}.attn.in_proj_{kind}", STACKED)
            for kind in ("weight", "bias")
        ),
        Rule(f"{block}.attention.out.*", f"{stored}.attn.out_proj.*"),
        Rule(f"{block}.norm2.*", f"{stored}.ln_2.*"),
        Rule(f"{block}.mlp.up.*", f"{stored}.mlp.c_fc.*"),
        Rule(f"{block}.mlp.down.*", f"{stored}.mlp.c_proj.*"),
    )


_TEXT = (
    Rule("text.embed.weight", "token_embedding.weight"),
    Rule("text.position", "positional_embedding"),
    *tower_blocks("text", "transformer"),
    Rule("text.norm.*", "ln_final.*"),
    Rule("text_head.weight", "text_projection", TRANSPOSED),
    Rule("log_scale", "logit_scale"),
)

_VIT = (
    Rule("vision.embed.weight", "visual.conv1.weight"),
    Rule("vision.class_token", "visual.class_embedding"),
    Rule("vision.position", "visual.positional_embedding"),
    Rule("vision.pre_norm.*", "visual.ln_pre.*"),
    *tower_blocks("vision", "visual.transformer"),
    Rule("vision.norm.*", "visual.ln_post.*"),
    Rule("image_head.weight", "visual.proj", TRANSPOSED),
)


def _convolution(ours: str, conv: str, norm: str) -> tuple[Rule, Rule]:
    return Rule(f"{ours}.conv.*", f"{conv}.*"), Rule(f"{ours}.norm.*", f"{norm}.*")


def _stage(stage: int) -> tuple[Rule, ...]:
    block, stored = f"vision.stages.{stage}.*", f"visual.layer{stage + 1}.*"
    return (
        *_convolution(f"{block}.reduce", f"{stored}.conv1", f"{stored}.bn1"),
        *_convolution(f"{block}.mix", f"{stored}.conv2", f"{stored}.bn2"),
        *_convolution(f"{block}.expand", f"{stored}.conv3", f"{stored}.bn3"),
        *_convolution(f"{block}.shortcut", f"{stored}.downsample.0", f"{stored}.downsample.1"),
    )


_RESNET = (
    *_convolution("vision.stem.0", "visual.conv1", "visual.bn1"),
    *_convolution("vision.stem.1", "visual.conv2", "visual.bn2"),
    *_convolution("vision.stem.2", "visual.conv3", "visual.bn3"),
    *(rule for stage in range(4) for rule in _stage(stage)),
    Rule("vision.pool.position", "visual.attnpool.positional_embedding"),
    *(Rule(f"vision.pool.{part}.*", f"visual.attnpool.{part}_proj.*") for part in "qkv"),
    Rule("image_head.*", "visual.attnpool.c_proj.*"),
)

# By the vision tower.
TABLES: Mapping[type[ImageTowerConfig], tuple[Rule, ...]] = {
    vit.Config: (*_VIT, *_TEXT),
    resnet.Config: (*_RESNET, *_TEXT),
}
