"""Llama (Touvron et al. 2023, arXiv:2302.13971) and the many that follow it: SmolLM2, Mistral, Qwen2, Qwen3.

They differ by numbers alone: groups of heads, a sliding window (Mistral, arXiv:2310.06825), biases of queries, keys
and values (Qwen2, arXiv:2407.10671), norms of queries and keys (Qwen3, arXiv:2505.09388)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from chiasm.nn.decoder import Decoder, DecoderBlock, DecoderConfig, GatedMLP, GroupedAttention
from chiasm.nn.rotary import Llama3Scaling, Rotary


@dataclass(frozen=True)
class Config(DecoderConfig):
    """kv_heads: of keys and values. mlp_width: of the MLP. head_width: width / heads where None.

    window: tokens that a token sees, itself included; None for all before it. Layers below `full_layers` see all in
    any case (Qwen2's `max_window_layers`).
    tied: the head is the token embeddings. sections: see Rotary.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int
    context: int
    head_width: int | None = None
    theta: float = 10_000.0
    scaling: Llama3Scaling | None = None
    sections: tuple[int, ...] = ()
    epsilon: float = 1e-5
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    full_layers: int = 0

    def build(self) -> Decoder:
        head_width = self.head_width or self.width // self.heads
        rotary = Rotary(head_width, self.theta, self.scaling, self.sections)
        embed = nn.Embedding(self.vocabulary, self.width)
        nn.init.normal_(embed.weight, std=0.02)
        blocks = [
            DecoderBlock(
                GroupedAttention(
                    self.width,
                    self.heads,
                    self.kv_heads,
                    head_width,
                    rotary=rotary,
                    bias=self.qkv_bias,
                    qk_norm=self.epsilon if self.qk_norm else None,
                    window=self.window if layer >= self.full_layers else None,
                ),
                GatedMLP(self.width, self.mlp_width),
                nn.RMSNorm(self.width, self.epsilon),
                nn.RMSNorm(self.width, self.epsilon),
            )
            for layer in range(self.layers)
        ]
        for block in blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        head = None if self.tied else nn.Linear(self.width, self.vocabulary, bias=False)
        if head is not None:
            nn.init.normal_(head.weight, std=0.02)
        norm = nn.RMSNorm(self.width, self.epsilon)
        return Decoder(embed, blocks, norm, context=self.context, rotary=rotary, head=head)


_LLAMA3 = Config(128_256, 4_096, 32, 32, 8, 14_336, 8_192, theta=500_000.0)
_QWEN3 = Config(151_936, 4_096, 36, 32, 8, 12_288, 40_960, head_width=128, theta=1e6, epsilon=1e-6, qk_norm=True)

SIZES = {
    "smollm2-135m": Config(49_152, 576, 30, 9, 3, 1_536, 8_192, theta=100_000.0, tied=True),
    "smollm2-360m": Config(49_152, 960, 32, 15, 5, 2_560, 8_192, theta=100_000.0, tied=True),
    "smollm2-1.7b": Config(49_152, 2_048, 24, 32, 32, 8_192, 8_192, theta=130_000.0, tied=True),
    "llama-7b": Config(32_000, 4_096, 32, 32, 32, 11_008, 2_048, epsilon=1e-6),
    "llama-13b": Config(32_000, 5_120, 40, 40, 40, 13_824, 2_048, epsilon=1e-6),
    "llama2-7b": Config(32_000, 4_096, 32, 32, 32, 11_008, 4_096),
    "llama2-13b": Config(32_000, 5_120, 40, 40, 40, 13_824, 4_096),
    "llama2-70b": Config(32_000, 8_192, 80, 64, 8, 28_672, 4_096),
    "llama3-8b": _LLAMA3,
    "llama3-70b": replace(_LLAMA3, width=8_192, layers=80, heads=64, mlp_width=28_672),
    "llama3.1-8b": replace(_LLAMA3, context=131_072, scaling=Llama3Scaling(8.0, 1.0, 4.0, 8_192)),
    "mistral-7b": Config(32_000, 4_096, 32, 32, 8, 14_336, 32_768, window=4_096),
    "qwen2-0.5b": Config(151_936, 896, 24, 14, 2, 4_864, 32_768, theta=1e6, epsilon=1e-6, tied=True, qkv_bias=True),
    "qwen2-1.5b": Config(151_936, 1_536, 28, 12, 2, 8_960, 32_768, theta=1e6, epsilon=1e-6, tied=True, qkv_bias=True),
    "qwen2-7b": Config(152_064, 3_584, 28, 28, 4, 18_944, 32_768, theta=1e6, epsilon=1e-6, qkv_bias=True),
    "qwen2-72b": Config(152_064, 8_192, 80, 64, 8, 29_568, 32_768, theta=1e6, epsilon=1e-6, qkv_bias=True),
    "qwen3-0.6b": replace(_QWEN3, width=1_024, layers=28, heads=16, mlp_width=3_072, tied=True),
    "qwen3-1.7b": replace(_QWEN3, width=2_048, layers=28, heads=16, mlp_width=6_144, tied=True),
    "qwen3-4b": replace(_QWEN3, width=2_560, mlp_width=9_728, tied=True),
    "qwen3-8b": _QWEN3,
    # For tests and laptops.
    "small": Config(512, 128, 4, 4, 2, 384, 512, tied=True),
}
