"""The parts that both stages of BLIP-2 share in transformers: EVA's ViT, the Q-Former, and their tables of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chiasm.errors import CheckpointError
from chiasm.nn.connectors import q_former
from chiasm.nn.image_towers import vit
from chiasm.weights.files import read_section
from chiasm.weights.mapping import ONE_MORE, STACKED, TWO_MORE, Rule
from chiasm.weights.transformers import _towers
from chiasm.weights.transformers._towers import Vision

POSITION_IDS = ("embeddings.position_ids",)  # a constant that older versions stored


@dataclass(frozen=True)
class _Vision(Vision):
    """A `vision_config`."""

    qkv_bias: Literal[True] = True


# transformers' defaults for a vision_config.
_VISION = _Vision(1408, 6144, 39, 16, "gelu", 1e-6, image_size=224, patch_size=14)


@dataclass(frozen=True)
class QFormerSettings:
    """A `qformer_config`. Dropout, which published files have, is a matter of training, and not taken over."""

    vocab_size: int = 30_522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Literal["gelu"] = "gelu"
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2
    use_qformer_text_input: bool = False

    def built(self, queries: int) -> q_former.Config:
        return q_former.Config(
            queries,
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.cross_attention_frequency,
            self.layer_norm_eps,
        )


def read_vision(settings: Mapping[str, Any], where: str) -> vit.Config:
    """The image tower that a `config.json` describes."""
    found = read_section(_VISION, settings.get("vision_config") or {}, f"{where}: vision_config")
    return found.tower("class", pre_norm=False)


def vision_section(tower: vit.Config) -> dict[str, Any]:
    """The `vision_config` of a tower. Raises CheckpointError where it is not EVA's."""
    section = _towers.vision_section(tower, "class", pre_norm=False)
    return {"model_type": "blip_2_vision_model", **section, "qkv_bias": True}


def read_q_former(settings: Mapping[str, Any], where: str, text: bool) -> tuple[QFormerSettings, q_former.Config]:
    """The Q-Former that a `config.json` describes. text: whether it must read texts too, or must not."""
    found = read_section(QFormerSettings(), settings.get("qformer_config") or {}, f"{where}: qformer_config")
    if found.use_qformer_text_input != text:
        raise CheckpointError(f"{where}: use_qformer_text_input is {found.use_qformer_text_input} in this architecture")
    return found, found.built(int(settings.get("num_query_tokens", 32)))


def q_former_section(config: q_former.Config, words: q_former.Words | None) -> dict[str, Any]:
    """The `qformer_config` of a Q-Former."""
    found = QFormerSettings(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        layer_norm_eps=config.epsilon,
        cross_attention_frequency=config.every,
        use_qformer_text_input=words is not None,
        vocab_size=words.vocabulary if words else QFormerSettings.vocab_size,
        max_position_embeddings=words.context if words else QFormerSettings.max_position_embeddings,
    )
    return {"model_type": "blip_2_qformer", **asdict(found)}


def shared_rules(ours: str) -> tuple[Rule, ...]:
    """The names under which tower and Q-Former are stored. ours: our name of the Q-Former."""
    block, layer = "vision.blocks.*", "vision_model.encoder.layers.*"
    of_tower = {
        f"{block}.norm1.*": f"{layer}.layer_norm1.*",
        f"{block}.attention.out.*": f"{layer}.self_attn.projection.*",
        f"{block}.norm2.*": f"{layer}.layer_norm2.*",
        f"{block}.mlp.up.*": f"{layer}.mlp.fc1.*",
        f"{block}.mlp.down.*": f"{layer}.mlp.fc2.*",
        "vision.norm.*": "vision_model.post_layernorm.*",
    }
    own, theirs = f"{ours}.layers.*", "qformer.encoder.layer.*"
    of_queries = {
        **_attention(f"{own}.attention", f"{theirs}.attention"),
        f"{own}.attention_norm.*": f"{theirs}.attention.output.LayerNorm.*",
        **_attention(f"{own}.cross_attention", f"{theirs}.crossattention"),
        f"{own}.cross_norm.*": f"{theirs}.crossattention.output.LayerNorm.*",
        **_feed_forward(f"{own}.mlp", f"{theirs}.intermediate_query", f"{theirs}.output_query"),
        **_feed_forward(f"{own}.word_mlp", f"{theirs}.intermediate", f"{theirs}.output"),
        f"{ours}.norm.*": "qformer.layernorm.*",
        f"{ours}.words.weight": "embeddings.word_embeddings.weight",
        f"{ours}.positions.weight": "embeddings.position_embeddings.weight",
    }
    qkv = tuple(f"{block}.attention.{part}.*" for part in ("q", "k", "v"))
    return (
        Rule("vision.embed.*", "vision_model.embeddings.patch_embedding.*"),
        Rule("vision.class_token", "vision_model.embeddings.class_embedding", TWO_MORE),
        Rule("vision.position", "vision_model.embeddings.position_embedding", ONE_MORE),
        Rule(qkv, f"{layer}.self_attn.qkv.*", STACKED),
        Rule(f"{ours}.queries", "query_tokens", ONE_MORE),
        *(Rule(a, b) for a, b in (of_tower | of_queries).items()),
    )


def _attention(ours: str, theirs: str) -> dict[str, str]:
    names = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "out": "output.dense"}
    return {f"{ours}.{a}.*": f"{theirs}.{b}.*" for a, b in names.items()}


def _feed_forward(ours: str, up: str, down: str) -> dict[str, str]:
    names = {f"{ours}.up.*": f"{up}.dense.*", f"{ours}.down.*": f"{down}.dense.*"}
    return {**names, f"{ours}_norm.*": f"{down}.LayerNorm.*"}
