"""The language models of transformers that follow Llama, alone or inside of a larger model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chiasm.errors import CheckpointError
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama, opt
from chiasm.nn.rotary import Llama3Scaling
from chiasm.weights.files import read_section
from chiasm.weights.mapping import Rule
from chiasm.weights.transformers import _opt

# Constants that older versions stored with the weights.
CONSTANTS = ("*.rotary_emb.inv_freq", "model.layers.*.self_attn.rotary_emb.inv_freq")


@dataclass(frozen=True)
class _Text:
    """The settings that are read of a `text_config`, or of a language model's own config."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu"] = "silu"
    attention_dropout: Literal[0] = 0
    mlp_bias: Literal[False] = False
    attention_bias: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool = True
    max_window_layers: int = 0


@dataclass(frozen=True)
class Kind:
    """A model type of transformers: the defaults of its config, and the parts that it always has."""

    defaults: Mapping[str, Any]
    theta: float = 10_000.0
    qkv_bias: bool = False
    qk_norm: bool = False


# The values of each configuration class in transformers.
KINDS: Mapping[str, Kind] = {
    "llama": Kind(
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
        }
    ),
    "mistral": Kind(
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "rms_norm_eps": 1e-6,
            "sliding_window": 4096,
        }
    ),
    "qwen2": Kind(
        {
            "vocab_size": 151_936,
            "hidden_size": 4096,
            "intermediate_size": 22_016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "sliding_window": 4096,
            "use_sliding_window": False,
            "max_window_layers": 28,
        },
        qkv_bias=True,
    ),
    "qwen3": Kind(
        {
            "vocab_size": 151_936,
            "hidden_size": 4096,
            "intermediate_size": 22_016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "sliding_window": 4096,
            "use_sliding_window": False,
            "max_window_layers": 28,
        },
        qk_norm=True,
    ),
}


def read_decoder(kind: str, entries: Mapping[str, Any], where: str) -> llama.Config:
    """The decoder that a config of a model type describes.

    Raises CheckpointError for a type or a setting that we do not have; one is followed to the letter or not at all.
    """
    if kind not in KINDS:
        raise CheckpointError(f"{where}: the language model is a '{kind}'; known are {', '.join(KINDS)}")
    known = KINDS[kind]
    given = {key: value for key, value in entries.items() if not (key == "sliding_window" and value is None)}
    defaults = _Text(**known.defaults)
    if "sliding_window" in entries and entries["sliding_window"] is None:
        defaults = _Text(**{**known.defaults, "sliding_window": None})
    text = read_section(defaults, given, where)
    theta, scaling, sections = _rotary(entries, known.theta, text.max_position_embeddings, where)
    if text.attention_bias:
        raise CheckpointError(f"{where}: attention_bias, also of the output, is a variant that we do not have")
    windowed = text.use_sliding_window and text.sliding_window is not None
    _check_layer_types(entries, windowed, text, where)
    return llama.Config(
        vocabulary=text.vocab_size,
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads or text.num_attention_heads,
        mlp_width=text.intermediate_size,
        context=text.max_position_embeddings,
        head_width=text.head_dim,
        theta=theta,
        scaling=scaling,
        sections=sections,
        epsilon=text.rms_norm_eps,
        tied=text.tie_word_embeddings,
        qkv_bias=known.qkv_bias,
        qk_norm=known.qk_norm,
        window=text.sliding_window if windowed else None,
        full_layers=text.max_window_layers if windowed else 0,
    )


def decoder_section(config: DecoderConfig, where: str = "the model") -> dict[str, Any]:
    """The `text_config` of a decoder, with its `model_type`. Raises CheckpointError where transformers has none."""
    if isinstance(config, opt.Config):
        return _opt.decoder_section(config, where)
    config = _llama(config)
    kind = {(False, False): "llama", (True, False): "qwen2", (False, True): "qwen3"}.get(
        (config.qkv_bias, config.qk_norm)
    )
    if kind == "llama" and config.window is not None:
        kind = "mistral"
    if kind is None or (kind == "mistral" and config.full_layers):
        raise CheckpointError(f"{where}: transformers has no decoder with just these parts: {config}")
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": config.theta}
    if config.scaling is not None:
        parameters |= {"rope_type": "llama3", **asdict(config.scaling)}
    if config.sections:
        parameters["mrope_section"] = list(config.sections)
    section: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width or config.width // config.heads,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.epsilon,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "rope_parameters": parameters,
        "rope_theta": config.theta,  # where versions before 5 look
    }
    if kind != "llama":
        section["sliding_window"] = config.window
    if kind.startswith("qwen"):
        section |= {"use_sliding_window": config.window is not None, "max_window_layers": config.full_layers}
    return section


def decoder_rules(ours: str, theirs: str, config: DecoderConfig, head: str) -> tuple[Rule, ...]:
    """The tensors of a decoder: `ours` and `theirs` are the names before them, each with its dot; head: of theirs.

    Raises CheckpointError for a decoder that follows neither Llama nor OPT.
    """
    if isinstance(config, opt.Config):
        return _opt.decoder_rules(ours, theirs, config, head)
    config = _llama(config)
    block, layer = f"{ours}blocks.*", f"{theirs}layers.*"
    end = "*" if config.qkv_bias else "weight"
    rules = [
        Rule(f"{ours}embed.weight", f"{theirs}embed_tokens.weight"),
        Rule(f"{block}.norm1.weight", f"{layer}.input_layernorm.weight"),
        Rule(f"{block}.attention.q.{end}", f"{layer}.self_attn.q_proj.{end}"),
        Rule(f"{block}.attention.k.{end}", f"{layer}.self_attn.k_proj.{end}"),
        Rule(f"{block}.attention.v.{end}", f"{layer}.self_attn.v_proj.{end}"),
        Rule(f"{block}.attention.out.weight", f"{layer}.self_attn.o_proj.weight"),
        Rule(f"{block}.norm2.weight", f"{layer}.post_attention_layernorm.weight"),
        Rule(f"{block}.mlp.gate.weight", f"{layer}.mlp.gate_proj.weight"),
        Rule(f"{block}.mlp.up.weight", f"{layer}.mlp.up_proj.weight"),
        Rule(f"{block}.mlp.down.weight", f"{layer}.mlp.down_proj.weight"),
        Rule(f"{ours}norm.weight", f"{theirs}norm.weight"),
    ]
    if config.qk_norm:
        rules += [
            Rule(f"{block}.attention.q_norm.weight", f"{layer}.self_attn.q_norm.weight"),
            Rule(f"{block}.attention.k_norm.weight", f"{layer}.self_attn.k_norm.weight"),
        ]
    if not config.tied:
        rules.append(Rule(f"{ours}head.weight", head))
    return tuple(rules)


def _llama(config: DecoderConfig) -> llama.Config:
    if not isinstance(config, llama.Config):
        raise CheckpointError(f"the decoder is a {config.chosen()}, which is not one of {', '.join(KINDS)}")
    return config


def _rotary(
    entries: Mapping[str, Any], theta: float, context: int, where: str
) -> tuple[float, Llama3Scaling | None, tuple[int, ...]]:
    """Base, scaling and sections: in `rope_parameters` since version 5, in `rope_theta` and `rope_scaling` before."""
    scaling = entries.get("rope_scaling") or {}
    given = {**scaling, **(entries.get("rope_parameters") or {})}
    base = float(given.get("rope_theta", entries.get("rope_theta", theta)))
    sections = tuple(given.get("mrope_section") or ())
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "dynamic" and given.get("original_max_position_embeddings", context) < context:
        raise CheckpointError(
            f"{where}: rotary positions are stretched beyond {given['original_max_position_embeddings']} tokens, which "
            f"is not done here; set max_position_embeddings to that instead of {context}"
        )
    if kind in ("default", "mrope", "dynamic"):  # "dynamic" stretches beyond the context, which is never reached here
        return base, None, sections
    if kind == "llama3":
        return base, read_section(Llama3Scaling(1.0, 1.0, 4.0, 8192), given, f"{where}: rope_parameters"), sections
    raise CheckpointError(
        f"{where}: rotary positions of the type '{kind}' are not known; 'default', 'dynamic' and 'llama3' are"
    )


def _check_layer_types(entries: Mapping[str, Any], windowed: bool, text: _Text, where: str) -> None:
    """Checks that `layer_types` of newer files agrees with the older entries. Raises CheckpointError else."""
    spelled = entries.get("layer_types")
    if spelled is None:
        return
    slides = [windowed and layer >= text.max_window_layers for layer in range(text.num_hidden_layers)]
    if [kind == "sliding_attention" for kind in spelled] != slides:
        raise CheckpointError(f"{where}: layer_types does not agree with sliding_window and max_window_layers")
