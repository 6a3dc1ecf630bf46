"""Attention within sequences that stand one after another in one stream, without padding.

On a GPU it is one call: torch's variable-length kernel (`torch.nn.attention.varlen`, after FlashAttention, Dao et al.
2022, arXiv:2205.14135) where type, head and card allow it, else one padded call. On a CPU neighbours of one length go
together in a call, which is faster there: torch's variable-length kernel is for GPUs alone, its nested tensors take no
causal attention on a CPU, and padding, or a mask over the whole stream, computes what nobody reads. This shows it:

    python -m benchmarks.packed_attention

Shapes: T tokens of all sequences, N sequences of at most L tokens, H heads, G heads of keys, E width of a head."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class PackedSequences:
    """N sequences of these lengths, in order; together the T tokens of the stream."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = [length for length in lengths if length]  # one without tokens asks and answers nothing
        self.runs = [(len(list(run)), length) for length, run in itertools.groupby(self.lengths)]
        self._moved: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def attention(
        self, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, *, causal: bool, window: int | None = None
    ) -> Tensor:
        """softmax(q k^T / sqrt(E)) v of every token over its own sequence, (T, H, E); H is a multiple of G.

        causal: none sees later tokens. window: of causal attention, how many tokens back are seen, itself included.
        """
        if not self.lengths:
            return q_THE
        if q_THE.device.type in ("cpu", "meta"):
            return self.by_runs(q_THE, k_TGE, v_TGE, causal, window)
        q, k, v = (_in_autocast(x) for x in (q_THE, k_TGE, v_TGE))
        if _varlen is not None and _fits_varlen(q):
            return self.by_varlen(q, k, v, causal, window)
        return self.by_padding(q, k, v, causal, window)

    def by_runs(self, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, causal: bool, window: int | None) -> Tensor:
        """A call for each run of neighbours of one length."""
        pieces = [count * length for count, length in self.runs]
        streams = (torch.split(x, pieces) for x in (q_THE, k_TGE, v_TGE))
        mixed = []
        for run, *parts in zip(self.runs, *streams, strict=True):
            q, k, v = (part.unflatten(0, run).transpose(1, 2) for part in parts)
            mixed.append(_mix(q, k, v, None, causal, window).transpose(1, 2).flatten(0, 1))
        return torch.cat(mixed)

    def by_varlen(self, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, causal: bool, window: int | None) -> Tensor:
        """One call of torch's variable-length kernel, which wants 16 bits and a GPU."""
        assert _varlen is not None
        bounds, longest = self._on(q_THE.device)[0], max(self.lengths)
        back = -1 if window is None else window - 1  # the kernel does not count the token itself
        found: Tensor = _varlen(
            q_THE,
            k_TGE,
            v_TGE,
            bounds,
            bounds,
            longest,
            longest,
            window_size=(back, 0) if causal else (-1, -1),
            enable_gqa=q_THE.shape[1] != k_TGE.shape[1],
        )
        return found

    def by_padding(self, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, causal: bool, window: int | None) -> Tensor:
        """One call over N sequences filled up to L tokens; what fills them up is never seen."""
        _, index_T = self._on(q_THE.device)
        rows, longest = len(self.lengths), max(self.lengths)

        def filled(x_THE: Tensor) -> Tensor:
            padded = x_THE.new_zeros(rows * longest, *x_THE.shape[1:]).index_copy(0, index_T, x_THE)
            return padded.view(rows, longest, *x_THE.shape[1:]).transpose(1, 2)

        seen = None
        if not causal and min(self.lengths) < longest:  # causal attention never comes to what stands after
            seen = torch.zeros(rows * longest, dtype=torch.bool, device=q_THE.device).index_fill(0, index_T, True)
            seen = seen.view(rows, 1, 1, longest)
        mixed = _mix(filled(q_THE), filled(k_TGE), filled(v_TGE), seen, causal, window)
        return mixed.transpose(1, 2).flatten(0, 1)[index_T]

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where sequences begin and the last ends, (N + 1,), and every token's index among N x L; made once."""
        if device not in self._moved:
            lengths_N = torch.tensor(self.lengths)
            ends_N = lengths_N.cumsum(0)
            bounds = torch.cat([ends_N.new_zeros(1), ends_N]).to(torch.int32)
            filling_N = torch.arange(len(lengths_N)) * max(self.lengths) - (ends_N - lengths_N)
            index_T = torch.arange(int(ends_N[-1])) + filling_N.repeat_interleave(lengths_N)
            self._moved[device] = (bounds.to(device), index_T.to(device))
        return self._moved[device]


def _mix(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, causal: bool, window: int | None) -> Tensor:
    """softmax(q k^T / sqrt(E)) v over what each query may see, (N, H, L, E). q: (N, H, L, E). k, v: (N, G, L, E)."""
    length = q.shape[2]
    if window is not None and window < length:
        position = torch.arange(length, device=q.device)
        seen = (position <= position[:, None]) & (position > position[:, None] - window)
        causal = False
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal, enable_gqa=grouped)


def varlen_kernel() -> Callable[..., Tensor] | None:
    """torch's variable-length attention; None where this torch has none, or one without groups of heads."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    found: Callable[..., Tensor] = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    return found if "enable_gqa" in inspect.signature(found).parameters else None


_varlen = varlen_kernel()


def _fits_varlen(q_THE: Tensor) -> bool:
    width = q_THE.shape[-1]
    fits = q_THE.is_cuda and q_THE.dtype in (torch.float16, torch.bfloat16) and width % 8 == 0 and width <= 256
    return fits and torch.cuda.get_device_capability(q_THE.device) >= (8, 0)


def _in_autocast(x: Tensor) -> Tensor:
    """In the type that autocast gives to attention; torch does that by itself only for its ordinary attention."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
