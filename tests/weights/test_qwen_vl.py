"""Qwen-VL's and Monkey's published folders, beside the equations of their papers and programs.

The folders are made of transformers' and torch's parts, which have shapes and random values and compute nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import chiasm
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, DataError
from chiasm.models import clip, monkey, qwen_vl
from chiasm.models.monkey import Monkey
from chiasm.models.qwen_vl import QwenVL
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights import equations, pictures, test_ranks
from tests.weights.shaking import shaken

WIDTH, SEEN, HEADS, LAYERS, QUERIES, HIDDEN = 256, 32, 4, 2, 9, 48
RANKED, SPECIAL = 400, 3 + 205 + 9
VOCABULARY = RANKED + SPECIAL
FIRST = RANKED + 3 + 205 + 6  # of <img>, </img> and <imgpad>
VISUAL = {
    "image_size": 56,
    "patch_size": 7,
    "width": SEEN,
    "layers": LAYERS,
    "heads": HEADS,
    "mlp_ratio": 1.53,
    "output_dim": WIDTH,
    "n_queries": QUERIES,
    "image_start_id": FIRST,
}
MONKEY = {**VISUAL, "image_size": [448, 896], "patch_size": 56, "lora_repeat_num": 2}


def by_head(rows: Tensor) -> Tensor:
    """Rows of queries, keys and values as the tower's program has them: head by head."""
    return rows.view(3, HEADS, SEEN // HEADS, -1).transpose(0, 1).reshape(3 * SEEN, -1)


class Peer:
    """The parts, and the folder that their authors would have written of them. windows: sets of adapters."""

    def __init__(self, folder: Path, visual: dict[str, Any], kind: str, chat: bool = True) -> None:
        torch.manual_seed(0)
        self.windows, patch = visual.get("lora_repeat_num", 0), visual["patch_size"]
        self.conv = nn.Conv2d(3, SEEN, patch, patch, bias=False)
        self.position = nn.Parameter(torch.randn(256, SEEN) * 0.003)
        self.pre = nn.LayerNorm(SEEN, 1e-6)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                SEEN, HEADS, HIDDEN, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.resampler = pictures.Resampler(QUERIES, WIDTH, SEEN, WIDTH // 128)
        config = transformers.Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            rms_norm_eps=1e-2,
            rope_theta=500.0,
            tie_word_embeddings=False,
        )
        self.language: Any = transformers.Qwen2ForCausalLM(config)
        self.adapters = [
            [
                {
                    name: (torch.randn(rank, SEEN) * 0.3, torch.randn(out, rank) * 0.3, torch.rand(1) + 0.5)
                    for name, out, rank in (("qkv", 3 * SEEN, 16), ("out", SEEN, 16), ("mlp", SEEN, 32))
                }
                for _ in range(self.windows)
            ]
            for _ in range(LAYERS)
        ]
        self.parts: list[nn.Module] = [self.conv, self.pre, self.blocks, self.resampler, self.language]
        for part in (self.conv, self.blocks, self.language):
            pictures.spread_out(part)
        self.conv.weight.data *= 0.01  # as small as the positions, so that the epsilon of the norm behind them counts
        shaken(self.conv, 0.001)
        for part in self.parts[1:]:
            shaken(part, 0.2)
        folder.mkdir(parents=True, exist_ok=True)
        test_ranks.write(folder / "qwen.tiktoken")
        (folder / "generation_config.json").write_text(json.dumps({"chat_format": "chatml" if chat else "raw"}))
        settings = {
            "architectures": ["QWenLMHeadModel"],
            "model_type": kind,
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "kv_channels": 64,
            "layer_norm_epsilon": 1e-2,
            "seq_length": 512,
            "max_position_embeddings": 8192,
            "rotary_emb_base": 500,
            "rotary_pct": 1.0,
            "no_bias": True,
            "visual": visual,
        }
        pictures.write_folder(folder, settings, self.state())

    def state(self) -> dict[str, Tensor]:
        """By the names of the published programs."""
        of, made = "transformer.visual.", {}
        made[f"{of}conv1.weight"], made[f"{of}positional_embedding"] = self.conv.weight, self.position
        made |= {f"{of}ln_pre.{key}": one for key, one in self.pre.state_dict().items()}
        block: Any
        for at, block in enumerate(self.blocks):
            name, attention = f"{of}transformer.resblocks.{at}.", block.self_attn
            made[f"{name}attn.in_proj.weight"] = by_head(attention.in_proj_weight)
            made[f"{name}attn.in_proj.bias"] = by_head(attention.in_proj_bias)[:, 0]
            pairs = (
                ("attn.out_proj", attention.out_proj),
                ("ln_1", block.norm1),
                ("ln_2", block.norm2),
                ("mlp.c_fc", block.linear1),
                ("mlp.c_proj", block.linear2),
            )
            made |= {f"{name}{key}.{end}": getattr(one, end) for key, one in pairs for end in ("weight", "bias")}
            for window, adapters in enumerate(self.adapters[at]):
                for own, theirs in (("qkv", "attn.in_proj_lora"), ("out", "attn.out_proj_lora"), ("mlp", "mlp_lora")):
                    down, up, scale = adapters[own]
                    made[f"{name}{theirs}.{window}.lora_a.weight"] = down
                    made[f"{name}{theirs}.{window}.lora_b.weight"] = by_head(up) if own == "qkv" else up
                    made[f"{name}{theirs}.{window}.lora_scale"] = scale
        outside = ("ln_post", "proj")
        for key, one in self.resampler.state_dict().items():
            made[f"{of}{key}" if key.startswith(outside) else f"{of}attn_pool.{key}"] = one
        made[f"{of}attn_pool.pos_embed"] = torch.from_numpy(equations.sines(3, 3, WIDTH)).float()
        theirs = self.language.state_dict()
        for at in range(2):
            layer, h = f"model.layers.{at}.", f"transformer.h.{at}."
            for end in ("weight", "bias"):
                rows = [theirs[f"{layer}self_attn.{part}_proj.{end}"] for part in "qkv"]
                made[f"{h}attn.c_attn.{end}"] = torch.cat(rows)
            names = {
                "attn.c_proj": "self_attn.o_proj",
                "ln_1": "input_layernorm",
                "ln_2": "post_attention_layernorm",
                "mlp.w1": "mlp.up_proj",
                "mlp.w2": "mlp.gate_proj",
                "mlp.c_proj": "mlp.down_proj",
            }
            made |= {f"{h}{key}.weight": theirs[f"{layer}{one}.weight"] for key, one in names.items()}
        made["transformer.wte.weight"] = theirs["model.embed_tokens.weight"]
        made["transformer.ln_f.weight"] = theirs["model.norm.weight"]
        made["lm_head.weight"] = theirs["lm_head.weight"]
        return made


def loaded(folder: Path) -> QwenVL:
    ours = chiasm.load(folder)
    assert isinstance(ours, QwenVL)
    ours.check()
    return ours


PICTURES = (pictures.noise(56, 56), pictures.noise(150, 50, seed=1))


def sample(*more: Text) -> Sample:
    return Sample("a", (PICTURES[0], PICTURES[1], Text("What is in the picture?", role="user"), *more))


def assert_same(ours: QwenVL, folder: Path, batch: Any, windows: list[int | None]) -> None:
    """As the equations have it, of the folder's own tensors. windows: which adapters each part of the pictures has."""
    ours.double()
    batch.images.pixels.data = batch.images.pixels.double()
    settings = json.loads((folder / "config.json").read_text())
    state = {name: one.double().numpy() for name, one in load_file(folder / "model.safetensors").items()}
    pairs = zip(batch.images.pixels.numpy(), windows, strict=True)
    features = np.concatenate([equations.seen(state, settings["visual"], *pair) for pair in pairs])
    with torch.no_grad():
        found = ours.image_features(batch.images).numpy()
    # Positions are stored, and spread over other grids, in float32.
    np.testing.assert_allclose(found, features, atol=1e-5, rtol=1e-5)
    expected = equations.logits(state, settings, batch.stream.ids_T.tolist(), features, FIRST + 2)
    # As in the programs, angles of rotary positions are float32's.
    np.testing.assert_allclose(pictures.logits(ours, batch).numpy(), expected, atol=1e-3, rtol=1e-3)
    assert expected.std() > 0.1, "logits that are all alike prove nothing"


def test_qwen_vl_has_the_tokens_of_its_chat_and_the_logits_of_the_equations(tmp_path: Path) -> None:
    Peer(tmp_path, VISUAL, "qwen")
    ours = loaded(tmp_path)
    batch = ours.processor.prompts([sample()])
    assert batch.stream is not None
    backend, image_tokens = test_ranks.write(tmp_path / "again"), [FIRST, *[FIRST + 2] * QUERIES, FIRST + 1]
    endoftext, start, end = RANKED, RANKED + 1, RANKED + 2
    words = [
        [start, *backend.encode("system\nYou are a helpful assistant.").ids, end, *backend.encode("\n").ids, start],
        backend.encode("user\nPicture 1: ").ids,
        backend.encode("\nPicture 2: ").ids,
        backend.encode("\nWhat is in the picture?").ids,
        [end, *backend.encode("\n").ids, start, *backend.encode("assistant\n").ids],
    ]
    assert batch.stream.ids_T.tolist() == [
        *words[0],
        *words[1],
        *image_tokens,
        *words[2],
        *image_tokens,
        *words[3],
        *words[4],
    ]
    assert ours.processor.end_ids == (end, endoftext)
    assert_same(ours, tmp_path, batch, [None, None])


def test_a_box_in_a_reply_is_read(tmp_path: Path) -> None:
    Peer(tmp_path, VISUAL, "qwen")
    processor = loaded(tmp_path).processor
    told = "Here: <ref>a red ball</ref><box>(120,44),(563,998)</box>"
    reply = processor.decode([*processor.ids(told), *processor.end_ids])  # <ref> and <box> are special tokens too
    reading = processor.reading(sample(), reply)
    assert reading.text == "Here: a red ball"
    assert [box.corners for box in reading.boxes] == [pytest.approx((0.12, 0.044, 0.563, 0.998))]


def test_monkey_has_the_logits_of_the_equations(tmp_path: Path) -> None:
    Peer(tmp_path, MONKEY, "monkey", chat=False)
    ours = loaded(tmp_path)
    assert isinstance(ours, Monkey)
    batch = ours.processor.prompts([sample()])
    assert batch.stream is not None
    image_tokens = [FIRST, *[FIRST + 2] * (3 * QUERIES), FIRST + 1]
    said = test_ranks.write(tmp_path / "again").encode("What is in the picture?").ids
    assert batch.stream.ids_T.tolist() == [*image_tokens, *image_tokens, *said]
    assert_same(ours, tmp_path, batch, [0, 1, None] * 2)


@pytest.mark.parametrize(("visual", "kind"), [(VISUAL, "qwen"), (MONKEY, "monkey")])
def test_what_we_write_is_the_folder_that_we_read(visual: dict[str, Any], kind: str, tmp_path: Path) -> None:
    theirs = Peer(tmp_path / "theirs", visual, kind)
    ours = loaded(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    again = loaded(tmp_path / "ours")
    assert again.config == ours.config
    assert again.processor.layout == ours.processor.layout
    assert again.processor.settings.ends == ours.processor.settings.ends
    state = {name: one.detach() for name, one in theirs.state().items()}
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], one) for name, one in state.items())
    tokens = (tmp_path / "ours" / "qwen.tiktoken", tmp_path / "theirs" / "qwen.tiktoken")
    assert tokens[0].read_bytes() == tokens[1].read_bytes()
    read = {name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours")}
    numbers = [{**one["visual"], "mlp_ratio": int(SEEN * one["visual"]["mlp_ratio"])} for one in read.values()]
    assert numbers[0] == numbers[1]
    asked = sample(Text("a red ball", role="assistant", target=True))
    assert torch.equal(again.log_likelihood([asked]), ours.log_likelihood([asked]))
    (tmp_path / "ours" / "tokenizer.json").unlink()  # what the published folder has
    assert torch.equal(loaded(tmp_path / "ours").log_likelihood([asked]), ours.log_likelihood([asked]))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"visual": None}, "has no section 'visual': this Qwen reads text alone"),
        ({"rotary_pct": 0.5}, "rotary_pct"),
        ({"kv_channels": 32}, "4 heads of 32 values are not the 256"),
        ({"visual": {**VISUAL, "output_dim": 128}}, "the tower makes 128 values, the decoder reads 256"),
        ({"visual": {**VISUAL, "image_size": [56, 28]}}, r"sees squares, not \(56, 28\)"),
        ({"model_type": "monkey"}, "are not 4 windows of 448"),
        ({"vocab_size": 600}, "has 617 tokens, but its model only 600"),
    ],
)
def test_what_cannot_be_read_is_refused(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    Peer(tmp_path, VISUAL, "qwen")
    file = tmp_path / "config.json"
    settings = {**json.loads(file.read_text()), **changed}
    file.write_text(json.dumps({key: one for key, one in settings.items() if one is not None}))
    with pytest.raises(CheckpointError, match=told):
        loaded(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    Peer(tmp_path, VISUAL, "qwen")
    (tmp_path / "qwen.tiktoken").unlink()
    with pytest.raises(CheckpointError, match=r"holds neither qwen.tiktoken nor tokenizer.json"):
        loaded(tmp_path)


def test_a_picture_beyond_the_context_is_named(tmp_path: Path) -> None:
    """Where the published program would begin to stretch positions."""
    Peer(tmp_path, VISUAL, "qwen")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seq_length": 30}))
    with pytest.raises(DataError, match=r"'a' has .* tokens, 18 of them for its pictures, but the context is 30"):
        loaded(tmp_path).processor.prompts([sample()])


def test_the_published_sizes() -> None:
    """Qwen-VL's files hold 9,656,935,168 values, the 256 positions of queries among them, which are not learned: 9.6B
    in the paper, 7.7B of them in the decoder (its table 1). The tower is OpenCLIP's ViT-bigG, less what makes one
    vector of a picture. Monkey adds adapters."""
    config, clips = qwen_vl.SIZES["9.6b"], clip.SIZES["vit-bigg-14"]
    assert config.parameters() + 256 * 4096 == 9_656_935_168
    with torch.device("meta"):
        parts = {"vision": config.vision.build(), "language": config.language.build(), "clip": clips.vision.build()}
    counts = {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}
    assert counts["vision"] == counts["clip"] - 4 * 1664  # class token, its position, the last norm
    assert round(counts["language"] / 1e9, 1) == 7.7
    each = 16 * (1664 + 3 * 1664) + 16 * 2 * 1664 + 32 * 2 * 1664 + 3
    assert monkey.SIZES["9.8b"].parameters() == config.parameters() + 48 * 6 * each
