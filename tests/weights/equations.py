"""Qwen-VL and Monkey as equations in numpy, straight from the tensors that their folders hold.

Written down from the papers (arXiv:2308.12966, section 2.1; arXiv:2311.06607, section 3.1) and from the authors' own
program (github.com/Yuliang-Liu/Monkey at 498e1d9: monkey_model/visual.py and modeling_qwen.py, which are Qwen-VL's with
adapters), without a layer of any library and without a look at ours. MiniCPM-V's resampler is the same but for its
positions (arXiv:2408.01800, section 3.1).

Shapes: P patches, D width, K queries, T tokens, H heads, E width of a head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = Mapping[str, Array]

_EPSILON = 1e-6  # of every norm of the tower and the resampler
_HEAD = 128  # values of a head of the resampler


def norm(x: Array, state: State, name: str) -> Array:
    """LayerNorm: (x - mean) / sqrt(variance + 1e-6) * weight + bias."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + _EPSILON)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """x / sqrt(mean x² + epsilon) * weight."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def linear(x: Array, state: State, name: str) -> Array:
    """x W^T, plus b where it is stored."""
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def gelu(x: Array) -> Array:
    """x Phi(x), with the exact distribution function of a normal."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def attention(q_QHE: Array, k_KHE: Array, v_KHE: Array, mlp_width: Array | None = None) -> Array:
    """(Q, H * E): softmax(q k^T / sqrt E) v of each head. hidden: added to the scores, -inf where nothing is seen."""
    scores_HQK = np.einsum("qhe,khe->hqk", q_QHE, k_KHE) / math.sqrt(q_QHE.shape[-1])
    weights_HQK = softmax(scores_HQK if mlp_width is None else scores_HQK + mlp_width)
    return np.einsum("hqk,khe->qhe", weights_HQK, v_KHE).reshape(len(q_QHE), -1)


def sines(rows: int, columns: int, width: int) -> Array:
    """(rows * columns, width). With w_i = 10000^(-4i / width), i from 0 to width/4 - 1, the place (row, column) has
    sin(column w_i), cos(column w_i), sin(row w_i), cos(row w_i), one run behind the other: the column goes first."""
    w = [10_000 ** (-4 * i / width) for i in range(width // 4)]
    runs = ((math.sin, 1), (math.cos, 1), (math.sin, 0), (math.cos, 0))
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return np.array([[f(place[axis] * one) for f, axis in runs for one in w] for place in places])


def bicubic(old: int, new: int) -> Array:
    """(new, old): the weights by which samples in a row are spread over `new` places (Keys 1981, a = -3/4), centres
    half a step from the ends, edges repeated."""
    a, made = -0.75, np.zeros((new, old))
    for at in range(new):
        centre = (at + 0.5) * old / new - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            t = abs(centre - tap)
            near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
            made[at, min(max(tap, 0), old - 1)] += near if t <= 1 else far
    return made


def spread(position_KD: Array, side: int) -> Array:
    """Positions of a square grid, by bicubic interpolation, over one of another side."""
    old = math.isqrt(len(position_KD))
    weights = bicubic(old, side)
    return np.einsum("yr,xc,rcd->yxd", weights, weights, position_KD.reshape(old, old, -1)).reshape(side * side, -1)


def tower(state: State, visual: Mapping[str, Any], pixels_CHW: Array, window: int | None = None) -> Array:
    """(P, D): patches, positions, a norm, and blocks x + A(ln_1 x), then x + M(ln_2 x) + L(x). L and what stands beside
    the maps of A are the adapters of a window: scale * B A x; the whole picture has none."""
    of, patch, heads = "transformer.visual.", visual["patch_size"], visual["heads"]
    side = pixels_CHW.shape[1] // patch
    cut = pixels_CHW.reshape(3, side, patch, side, patch)
    x = np.einsum("cyixj,dcij->yxd", cut, state[f"{of}conv1.weight"]).reshape(side * side, -1)
    x = norm(x + spread(state[f"{of}positional_embedding"], side), state, f"{of}ln_pre")

    def lora(x: Array, name: str) -> Array | float:
        if window is None:
            return 0.0
        name = f"{name}.{window}"
        low = x @ state[f"{name}.lora_a.weight"].T
        return low @ state[f"{name}.lora_b.weight"].T * state[f"{name}.lora_scale"]

    for at in range(visual["layers"]):
        block = f"{of}transformer.resblocks.{at}"
        seen = norm(x, state, f"{block}.ln_1")
        qkv = linear(seen, state, f"{block}.attn.in_proj") + lora(seen, f"{block}.attn.in_proj_lora")
        q, k, v = np.split(qkv.reshape(len(x), heads, -1), 3, axis=-1)  # of each head behind each other
        mixed = attention(q, k, v)
        x = x + linear(mixed, state, f"{block}.attn.out_proj") + lora(mixed, f"{block}.attn.out_proj_lora")
        inner = gelu(linear(norm(x, state, f"{block}.ln_2"), state, f"{block}.mlp.c_fc"))
        x = x + linear(inner, state, f"{block}.mlp.c_proj") + lora(x, f"{block}.mlp_lora")
    return x


def resampler(state: State, x_PF: Array, at_queries: Array | float, at_keys_PD: Array, names: tuple[str, str]) -> Array:
    """(K, D): ln_post(MHA(ln_q(Q) + p, ln_kv(W x) + p', ln_kv(W x))) proj. names: of its parts, and of the last two."""
    inside, outside = names
    values = norm(linear(x_PF, state, f"{inside}.kv_proj"), state, f"{inside}.ln_kv")
    queries = norm(state[f"{inside}.query"], state, f"{inside}.ln_q") + at_queries
    weights, biases = (np.split(state[f"{inside}.attn.in_proj_{end}"], 3) for end in ("weight", "bias"))
    q, k, v = (
        (one @ weight.T + bias).reshape(len(one), -1, _HEAD)
        for one, weight, bias in zip((queries, values + at_keys_PD, values), weights, biases, strict=True)
    )
    mixed = linear(attention(q, k, v), state, f"{inside}.attn.out_proj")
    return norm(mixed, state, f"{outside}.ln_post") @ state[f"{outside}.proj"]


def seen(state: State, visual: Mapping[str, Any], pixels_CHW: Array, window: int | None = None) -> Array:
    """(K, D) of a picture: what stands in the decoder's stream."""
    x, of = tower(state, visual, pixels_CHW, window), "transformer.visual"
    side = math.isqrt(visual["n_queries"])
    position_KD = sines(side, side, visual["output_dim"])
    keys_PD = spread(position_KD, math.isqrt(len(x)))
    return resampler(state, x, position_KD, keys_PD, (f"{of}.attn_pool", of))


def logits(state: State, settings: Mapping[str, Any], ids: Sequence[int], images_SD: Array, image_token: int) -> Array:
    """(T, V) of the decoder: x + c_proj(A(ln_1 x)), then x + c_proj(w1 x' * silu(w2 x')) with x' = ln_2 x; pairs
    (i, i + E/2) of queries and keys are turned by place * base^(-2i/E). No place lies beyond `seq_length` here, where
    the program would begin to stretch positions and scores."""
    x = state["transformer.wte.weight"][list(ids)]
    x[np.array(ids) == image_token] = images_SD
    count, heads, epsilon = len(ids), settings["num_attention_heads"], settings["layer_norm_epsilon"]
    half = settings["kv_channels"] // 2
    angles = np.arange(count)[:, None, None] * settings["rotary_emb_base"] ** (-np.arange(half) / half)
    cos, sin = np.cos(angles), np.sin(angles)
    mlp_width = np.triu(np.full((count, count), -np.inf), 1)

    def turned(x_THE: Array) -> Array:
        first, second = x_THE[..., :half], x_THE[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    for at in range(settings["num_hidden_layers"]):
        block = f"transformer.h.{at}"
        qkv = linear(rms_norm(x, state[f"{block}.ln_1.weight"], epsilon), state, f"{block}.attn.c_attn")
        q, k, v = (one.reshape(count, heads, -1) for one in np.split(qkv, 3, axis=-1))
        x = x + linear(attention(turned(q), turned(k), v, mlp_width), state, f"{block}.attn.c_proj")
        inside = rms_norm(x, state[f"{block}.ln_2.weight"], epsilon)
        gate = linear(inside, state, f"{block}.mlp.w2")
        x = x + linear(
            linear(inside, state, f"{block}.mlp.w1") * gate / (1 + np.exp(-gate)), state, f"{block}.mlp.c_proj"
        )
    return rms_norm(x, state["transformer.ln_f.weight"], epsilon) @ state["lm_head.weight"].T
