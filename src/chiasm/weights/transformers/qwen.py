"""Qwen-VL as its authors store it (Qwen/Qwen-VL, Qwen/Qwen-VL-Chat).

transformers has no class of theirs: the folders bring a program of their own, which is never run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chiasm.data.box_formats import qwen_vl as box_formats
from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.layout import Layout
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError
from chiasm.models.qwen_vl import Config, QwenVL
from chiasm.nn.connectors import cross_attention
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import bare
from chiasm.weights.chats import read_chat, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_json_if_present, read_section, write_json, write_tensors
from chiasm.weights.mapping import STACKED, Form, Rule, give_tensors, take_tensors
from chiasm.weights.ranks import read_ranks, write_ranks
from chiasm.weights.transformers._resampler import HEAD, resampler_rules
from chiasm.weights.transformers._towers import WEIGHTS

MODEL = QwenVL

RANKS = "qwen.tiktoken"
# Behind the ranked tokens, in this order.
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{at}|>" for at in range(205)),
    *(f"<{slash}{name}>" for name in ("ref", "box", "quad", "img") for slash in ("", "/")),
    "<imgpad>",
)
# The program's own way to write a chat, which stands in no file.
_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class _Settings:
    """A `config.json`, with the defaults of the authors' program. What changes results is refused."""

    vocab_size: int = 151_936
    hidden_size: int = 4096
    intermediate_size: int = 22_016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    kv_channels: int = 128
    layer_norm_epsilon: float = 1e-6
    rotary_emb_base: float = 10_000.0
    max_position_embeddings: int = 8192
    seq_length: int = 2048
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    rotary_pct: Literal[1] = 1
    no_bias: Literal[True] = True
    scale_attn_weights: Literal[True] = True
    tie_word_embeddings: Literal[False] = False
    emb_dropout_prob: Literal[0] = 0
    attn_dropout_prob: Literal[0] = 0


@dataclass(frozen=True)
class _Visual:
    """The section `visual`."""

    image_size: int | tuple[int, int] = 448
    patch_size: int = 14
    width: int = 1664
    layers: int = 48
    heads: int = 16
    mlp_ratio: float = 4.9231
    output_dim: int = 4096
    n_queries: int = 256


def load(folder: CheckpointFolder) -> QwenVL:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    decoder = read_decoder(settings, where)
    vision, connector, image_size = read_visual(settings, decoder, where)
    if image_size != (vision.image_size,) * 2:
        raise CheckpointError(f"{where}: Qwen-VL sees squares, not {image_size} pixels")
    config = Config(vision, decoder, connector)
    layout = _layout(config)
    with torch.device("meta"):
        model = QwenVL(config, read_processor(folder, decoder, layout))
    return take(model, folder, table(config))


def save(model: QwenVL, folder: Path) -> None:
    """Writes the model as its authors store it, without their program, into a folder that exists.

    Raises CheckpointError where their program would compute something else.
    """
    config, layout = model.config, model.processor.layout
    if layout != _layout(config):
        raise CheckpointError(f"Qwen-VL stretches pictures to a square and numbers them; this model has {layout}")
    section = {"model_type": "qwen", "architectures": ["QWenLMHeadModel"]}
    write(model, folder, section, {"image_size": config.vision.image_size}, table(config))


def _layout(config: Config) -> Fixed:
    transform = ImageTransform(size=config.vision.image_size, resize="squash")
    return Fixed(config.connector.queries, transform, "<imgpad>", "<img>", "</img>\n", "Picture {}: ")


def read_decoder(settings: Mapping[str, Any], where: str) -> llama.Config:
    """The decoder that a `config.json` describes: Llama's with biases, and an MLP of half the width that is named.

    Beyond `seq_length` the program changes positions and attention, so that is as far as the decoder reads.
    """
    if "visual" not in settings:
        raise CheckpointError(f"{where} has no section 'visual': this Qwen reads text alone, which we cannot read")
    found = read_section(_Settings(), settings, where)
    if found.kv_channels * found.num_attention_heads != found.hidden_size or found.intermediate_size % 2:
        raise CheckpointError(
            f"{where}: {found.num_attention_heads} heads of {found.kv_channels} values are not the "
            f"{found.hidden_size} of hidden_size, or intermediate_size is odd"
        )
    changed = found.use_dynamic_ntk or found.use_logn_attn
    return llama.Config(
        found.vocab_size,
        found.hidden_size,
        found.num_hidden_layers,
        found.num_attention_heads,
        found.num_attention_heads,
        found.intermediate_size // 2,
        found.seq_length if changed else found.max_position_embeddings,
        theta=found.rotary_emb_base,
        epsilon=found.layer_norm_epsilon,
        qkv_bias=True,
    )


def read_visual(
    settings: Mapping[str, Any], decoder: llama.Config, where: str
) -> tuple[bare.Config, cross_attention.Config, tuple[int, int]]:
    """The tower, of the smaller side of a picture, the resampler, and the height and width of a picture."""
    visual = read_section(_Visual(), settings["visual"], f"{where}: visual")
    if visual.output_dim != decoder.width:
        raise CheckpointError(f"{where}: the tower makes {visual.output_dim} values, the decoder reads {decoder.width}")
    sides = (visual.image_size,) * 2 if isinstance(visual.image_size, int) else visual.image_size
    mlp_width = int(visual.width * visual.mlp_ratio)
    tower = bare.Config(min(sides), visual.patch_size, visual.width, visual.layers, visual.heads, mlp_width)
    return (
        tower,
        cross_attention.Config(visual.n_queries, max(1, decoder.width // HEAD), "shared"),
        (sides[0], sides[1]),
    )


def read_processor(folder: CheckpointFolder, decoder: llama.Config, layout: Layout) -> ChatProcessor:
    """The processor of a folder with `qwen.tiktoken`, or with a `tokenizer.json`, which comes first."""
    if folder.holds("tokenizer.json"):
        return read_chat(folder, decoder.context, decoder.vocabulary, layout, box_formats.QwenVL())
    if not folder.holds(RANKS):
        raise CheckpointError(f"{folder} holds neither {RANKS} nor tokenizer.json: it is not a whole checkpoint")
    backend = read_ranks(folder / RANKS, SPECIALS)
    if backend.get_vocab_size() > decoder.vocabulary:
        raise CheckpointError(
            f"the tokenizer in {folder} has {backend.get_vocab_size()} tokens, but its model only {decoder.vocabulary}"
        )
    chats = folder.entries("generation_config.json").get("chat_format") == "chatml"
    ends = ("<|im_end|>", "<|endoftext|>") if chats else ("<|endoftext|>",)
    return ChatProcessor(
        backend,
        ChatSettings(decoder.context, layout, "", ends, boxes=box_formats.QwenVL()),
        _CHAT if chats else "",
    )


def take(model: QwenVL, folder: CheckpointFolder, rules: tuple[Rule, ...]) -> Any:
    """The model with the weights of a folder, in evaluation mode."""
    state, file = folder.tensors(WEIGHTS)
    constants = ("masked_bias", "bias", "rotary_emb.inv_freq")
    left_out = ("transformer.rotary_emb.inv_freq", *(f"transformer.h.*.attn.{name}" for name in constants))
    return take_tensors(model, rules, state, str(file), left_out).eval()


def write(
    model: QwenVL, folder: Path, section: Mapping[str, Any], visual: Mapping[str, Any], rules: tuple[Rule, ...]
) -> None:
    """Writes tokenizer, settings and weights. section, visual: entries beside those that all have in common."""
    config, tower = model.config, model.config.vision
    text = config.language
    if not isinstance(text, llama.Config) or text != _qwen(text):
        raise CheckpointError(
            f"Qwen's decoder has a head of keys for each head, biases of those alone, and is not tied; this is {text}"
        )
    if config.connector != cross_attention.Config(config.connector.queries, text.width // HEAD, "shared"):
        raise CheckpointError(f"Qwen-VL's resampler has a head for {HEAD} values; this one is {config.connector}")
    if (tower.positions, tower.act, tower.epsilon) != (256, "gelu", 1e-6):
        raise CheckpointError(f"Qwen-VL's tower has 256 positions, GELU, and norms of 1e-6; this one is {tower}")
    write_ranks(model.processor.backend, SPECIALS, folder / RANKS)
    write_chat(model.processor, folder)
    write_ends(model.processor, folder)
    chat = read_json_if_present(folder / "generation_config.json")
    chat["chat_format"] = "chatml" if model.processor.template.source else "raw"
    write_json(folder / "generation_config.json", chat)
    write_json(
        folder / "config.json",
        {
            **section,
            "dtype": "float32",
            "vocab_size": text.vocabulary,
            "hidden_size": text.width,
            "intermediate_size": 2 * text.mlp_width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "kv_channels": text.width // text.heads,
            "layer_norm_epsilon": text.epsilon,
            "rotary_emb_base": text.theta,
            "rotary_pct": 1.0,
            "seq_length": text.context,
            "max_position_embeddings": text.context,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
            "no_bias": True,
            "tie_word_embeddings": False,
            "visual": {
                "patch_size": tower.patch,
                "width": tower.width,
                "layers": tower.layers,
                "heads": tower.heads,
                "mlp_ratio": (tower.mlp_width + 0.5) / tower.width,  # of which the program takes whole numbers
                "output_dim": text.width,
                "n_queries": config.connector.queries,
                "image_start_id": model.processor.backend.token_to_id("<img>"),
                **visual,
            },
        },
    )
    write_tensors(folder / "model.safetensors", give_tensors(model, rules))


def table(config: Config) -> tuple[Rule, ...]:
    """The names under which the tensors of tower, resampler and decoder are stored."""
    block, theirs = "vision.blocks.*", "transformer.visual.transformer.resblocks.*"
    stacked = tuple(f"{block}.attention.{part}." for part in "qkv")
    by_head = heads_together(config.vision.heads)
    visual = "transformer.visual"
    return (
        Rule("vision.embed.weight", f"{visual}.conv1.weight"),
        Rule("vision.position", f"{visual}.positional_embedding"),
        Rule("vision.pre_norm.*", f"{visual}.ln_pre.*"),
        Rule(f"{block}.norm1.*", f"{theirs}.ln_1.*"),
        Rule(tuple(part + "weight" for part in stacked), f"{theirs}.attn.in_proj.weight", by_head),
        Rule(tuple(part + "bias" for part in stacked), f"{theirs}.attn.in_proj.bias", by_head),
        Rule(f"{block}.attention.out.*", f"{theirs}.attn.out_proj.*"),
        Rule(f"{block}.norm2.*", f"{theirs}.ln_2.*"),
        Rule(f"{block}.mlp.up.*", f"{theirs}.mlp.c_fc.*"),
        Rule(f"{block}.mlp.down.*", f"{theirs}.mlp.c_proj.*"),
        *resampler_rules(f"{visual}.attn_pool", visual),
        *_decoder_rules(),
    )


def heads_together(heads: int) -> Form:
    """The form of the rows of q, k and v, stored head by head: those of the first head, of the second, ..."""

    def join(ours: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensor.view(heads, -1, *tensor.shape[1:]) for tensor in ours], dim=1).flatten(0, 2)

    def split(theirs: Tensor, _: int) -> tuple[Tensor, ...]:
        return tuple(tensor.flatten(0, 1) for tensor in theirs.view(heads, 3, -1, *theirs.shape[1:]).unbind(1))

    return Form(join, split)


def _qwen(text: llama.Config) -> llama.Config:
    """The decoder of Qwen with these numbers."""
    shape = (text.vocabulary, text.width, text.layers, text.heads, text.heads, text.mlp_width, text.context)
    return llama.Config(*shape, theta=text.theta, epsilon=text.epsilon, qkv_bias=True)


def _decoder_rules() -> tuple[Rule, ...]:
    block, layer = "language.blocks.*", "transformer.h.*"
    stacked = tuple(f"{block}.attention.{part}." for part in "qkv")
    return (
        Rule("language.embed.weight", "transformer.wte.weight"),
        Rule(f"{block}.norm1.weight", f"{layer}.ln_1.weight"),
        Rule(tuple(part + "weight" for part in stacked), f"{layer}.attn.c_attn.weight", STACKED),
        Rule(tuple(part + "bias" for part in stacked), f"{layer}.attn.c_attn.bias", STACKED),
        Rule(f"{block}.attention.out.weight", f"{layer}.attn.c_proj.weight"),
        Rule(f"{block}.norm2.weight", f"{layer}.ln_2.weight"),
        Rule(f"{block}.mlp.up.weight", f"{layer}.mlp.w1.weight"),
        Rule(f"{block}.mlp.gate.weight", f"{layer}.mlp.w2.weight"),
        Rule(f"{block}.mlp.down.weight", f"{layer}.mlp.c_proj.weight"),
        Rule("language.norm.weight", "transformer.ln_f.weight"),
        Rule("language.head.weight", "lm_head.weight"),
    )
