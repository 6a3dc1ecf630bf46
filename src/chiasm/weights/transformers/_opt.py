"""OPT as transformers stores it, alone or inside of a larger model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chiasm.errors import CheckpointError
from chiasm.nn.decoders import opt
from chiasm.weights.files import read_section
from chiasm.weights.mapping import Rule

_EPSILON = 1e-5  # of its layer norms, whatever the config says
_PARTS = {
    **{f"attention.{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},
    "norm1": "self_attn_layer_norm",
    "norm2": "final_layer_norm",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
}


@dataclass(frozen=True)
class _Text:
    """The settings that are read, with transformers' defaults.

    Dropout, which every published file has, is a matter of training, and not taken over.
    """

    vocab_size: int = 50_272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    num_attention_heads: int = 12
    tie_word_embeddings: bool = True
    do_layer_norm_before: Literal[True] = True
    activation_function: Literal["relu"] = "relu"
    enable_bias: Literal[True] = True
    layer_norm_elementwise_affine: Literal[True] = True
    word_embed_proj_dim: int | None = None


def read_decoder(entries: Mapping[str, Any], where: str) -> opt.Config:
    """The decoder that a config of the type "opt" describes.

    Raises CheckpointError for a variant that we do not have, such as the 350M model.
    """
    text = read_section(_Text(), entries, where)
    if text.word_embed_proj_dim not in (None, text.hidden_size):
        raise CheckpointError(
            f"{where}: word_embed_proj_dim is {text.word_embed_proj_dim}, another width than the layers' "
            f"{text.hidden_size}; we do not have that variant"
        )
    if entries.get("_remove_final_layer_norm"):
        raise CheckpointError(f"{where}: _remove_final_layer_norm is a variant that we do not have")
    return opt.Config(
        text.vocab_size,
        text.hidden_size,
        text.num_hidden_layers,
        text.num_attention_heads,
        text.ffn_dim,
        text.max_position_embeddings,
        tied=text.tie_word_embeddings,
    )


def decoder_section(config: opt.Config, where: str) -> dict[str, Any]:
    """The config of a decoder, with its `model_type`. Raises CheckpointError for another epsilon than torch's own."""
    if config.epsilon != _EPSILON:
        raise CheckpointError(f"{where}: transformers' OPT normalises with an epsilon of {_EPSILON} alone")
    return {
        "model_type": "opt",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "word_embed_proj_dim": config.width,
        "num_hidden_layers": config.layers,
        "ffn_dim": config.mlp_width,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        "activation_function": "relu",
        "do_layer_norm_before": True,
    }


def decoder_rules(ours: str, theirs: str, config: opt.Config, head: str) -> tuple[Rule, ...]:
    """The tensors of a decoder; see `_language.decoder_rules`."""
    theirs = f"{theirs}decoder."
    block, layer = f"{ours}blocks.*", f"{theirs}layers.*"
    rules = [
        Rule(f"{ours}embed.weight", f"{theirs}embed_tokens.weight"),
        Rule(f"{ours}position.weight", f"{theirs}embed_positions.weight"),
        *(Rule(f"{block}.{a}.*", f"{layer}.{b}.*") for a, b in _PARTS.items()),
        Rule(f"{ours}norm.*", f"{theirs}final_layer_norm.*"),
    ]
    return tuple(rules if config.tied else [*rules, Rule(f"{ours}head.weight", head)])
