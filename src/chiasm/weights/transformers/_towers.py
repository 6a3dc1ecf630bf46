"""The parts that CLIP and SigLIP share in transformers: the settings and the tensors of their two towers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from chiasm.errors import CheckpointError
from chiasm.nn.attention import Activation
from chiasm.nn.image_towers import naflex, vit
from chiasm.nn.text_towers import transformer
from chiasm.nn.tower import ImageTowerConfig, TextTowerConfig
from chiasm.weights.mapping import Rule

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Constants that older versions stored with the weights.
POSITION_IDS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")

Act = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]
ACTS: dict[Act, Activation] = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class _Blocks:
    """Settings of the transformer in either tower."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: Act
    layer_norm_eps: float


@dataclass(frozen=True)
class Vision(_Blocks):
    """A `vision_config`. Dropout of attention weights is refused, because it would be lost in training."""

    image_size: int
    patch_size: int
    num_channels: Literal[3] = 3
    attention_dropout: Literal[0] = 0

    def tower(self, pool: Literal["class", "map"], pre_norm: bool) -> vit.Config:
        return vit.Config(
            self.image_size,
            self.patch_size,
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            pool,
            ACTS[self.hidden_act],
            pre_norm,
            self.layer_norm_eps,
        )


@dataclass(frozen=True)
class PatchVision(_Blocks):
    """The `vision_config` of a tower that is given patches (NaFlex). num_patches: its learned positions."""

    patch_size: int
    num_patches: int
    num_channels: Literal[3] = 3
    attention_dropout: Literal[0] = 0

    def tower(self) -> naflex.Config:
        return naflex.Config(
            self.patch_size,
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.num_patches,
            ACTS[self.hidden_act],
            self.layer_norm_eps,
        )


@dataclass(frozen=True)
class Text(_Blocks):
    """A `text_config`."""

    vocab_size: int
    max_position_embeddings: int
    attention_dropout: Literal[0] = 0

    def tower(self, causal: bool) -> transformer.Config:
        return transformer.Config(
            self.vocab_size,
            self.max_position_embeddings,
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            causal,
            ACTS[self.hidden_act],
            self.layer_norm_eps,
        )


def vision_section(tower: ImageTowerConfig, pool: Literal["class", "map"], pre_norm: bool) -> dict[str, Any]:
    """The `vision_config` of a tower. Raises CheckpointError if that family of transformers has no such tower."""
    if not isinstance(tower, vit.Config) or (tower.pool, tower.pre_norm, tower.stem) != (pool, pre_norm, ()):
        raise CheckpointError(
            f"transformers has no such model: its vision tower is a ViT with pool: {pool} and pre_norm: {pre_norm}, "
            f"without a stem, not {tower}"
        )
    return asdict(Vision(**blocks(tower), image_size=tower.image_size, patch_size=tower.patch))


def text_section(tower: TextTowerConfig, causal: bool) -> dict[str, Any]:
    """The `text_config` of a tower. Raises CheckpointError if that family of transformers has no such tower."""
    if not isinstance(tower, transformer.Config) or tower.causal != causal:
        raise CheckpointError(
            f"transformers has no such model: its text tower is a transformer with causal: {causal}, "
            f"not {tower.chosen()}"
        )
    return asdict(Text(**blocks(tower), vocab_size=tower.vocabulary, max_position_embeddings=tower.context))


def tower_rules(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The blocks of a tower."""
    block, layer = f"{ours}.blocks.*", f"{theirs}.encoder.layers.*"
    return (
        Rule(f"{block}.norm1.*", f"{layer}.layer_norm1.*"),
        Rule(f"{block}.attention.q.*", f"{layer}.self_attn.q_proj.*"),
        Rule(f"{block}.attention.k.*", f"{layer}.self_attn.k_proj.*"),
        Rule(f"{block}.attention.v.*", f"{layer}.self_attn.v_proj.*"),
        Rule(f"{block}.attention.out.*", f"{layer}.self_attn.out_proj.*"),
        Rule(f"{block}.norm2.*", f"{layer}.layer_norm2.*"),
        Rule(f"{block}.mlp.up.*", f"{layer}.mlp.fc1.*"),
        Rule(f"{block}.mlp.down.*", f"{layer}.mlp.fc2.*"),
    )


def clip_rules(theirs: str) -> tuple[Rule, ...]:
    """The table of CLIP's image tower. theirs: its name in transformers."""
    return (
        Rule("vision.embed.*", f"{theirs}.embeddings.patch_embedding.*"),
        Rule("vision.class_token", f"{theirs}.embeddings.class_embedding"),
        Rule("vision.position", f"{theirs}.embeddings.position_embedding.weight"),
        Rule("vision.pre_norm.*", f"{theirs}.pre_layrnorm.*"),  # sic
        *tower_rules("vision", theirs),
        Rule("vision.norm.*", f"{theirs}.post_layernorm.*"),
    )


TOWERS = (
    *clip_rules("vision_model"),
    Rule("text.embed.weight", "text_model.embeddings.token_embedding.weight"),
    Rule("text.position", "text_model.embeddings.position_embedding.weight"),
    *tower_rules("text", "text_model"),
    Rule("text.norm.*", "text_model.final_layer_norm.*"),
)


def blocks(tower: vit.Config | naflex.Config | transformer.Config) -> dict[str, Any]:
    """The settings of a tower's transformer."""
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": act_name(tower.act),
        "layer_norm_eps": tower.epsilon,
    }


def act_name(ours: Activation) -> Act:
    """transformers' name of an activation. Raises CheckpointError for one that these models never have."""
    found = next((theirs for theirs, name in ACTS.items() if name == ours), None)
    if found is None:
        raise CheckpointError(f"transformers has no such model: its activations are {', '.join(ACTS)}, not '{ours}'")
    return found
