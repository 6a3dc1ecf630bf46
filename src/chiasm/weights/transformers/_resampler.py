"""The cross-attention resampler of Qwen-VL and MiniCPM-V, as their authors store it."""

from __future__ import annotations

from chiasm.weights.mapping import STACKED, TRANSPOSED, Rule

HEAD = 128  # values of a head; their programs name no number of heads


def resampler_rules(theirs: str, around: str) -> tuple[Rule, ...]:
    """theirs: the name of the attention's part; around: of the part that holds the last norm and the last map."""
    attention = tuple(f"connector.attention.{part}." for part in "qkv")
    return (
        Rule("connector.queries", f"{theirs}.query"),
        Rule("connector.position", f"{theirs}.pos_embed"),
        Rule("connector.map.weight", f"{theirs}.kv_proj.weight"),
        Rule(tuple(part + "weight" for part in attention), f"{theirs}.attn.in_proj_weight", STACKED),
        Rule(tuple(part + "bias" for part in attention), f"{theirs}.attn.in_proj_bias", STACKED),
        Rule("connector.attention.out.*", f"{theirs}.attn.out_proj.*"),
        Rule("connector.query_norm.*", f"{theirs}.ln_q.*"),
        Rule("connector.norm1.*", f"{theirs}.ln_kv.*"),
        Rule("connector.norm2.*", f"{around}.ln_post.*"),
        Rule("connector.project.weight", f"{around}.proj", TRANSPOSED),
    )
