"""Muon, whose products run in a type that the device multiplies fast."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024), step for step, but for how it makes the steps orthogonal.

    torch does so in bf16, one matrix at a time. CPUs mostly emulate bf16: there one step of a small model took longer
    than its forward and backward passes together. Here it is float32 on a CPU and bf16 elsewhere, by the kind of device
    and not by a measurement, so that all ranks and a resumed run take the same steps; and all matrices of one shape go
    through the iteration together.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the loop has no closure to hand in
        """Moves the matrices that have a gradient; buffers and settings are those of torch's Muon."""
        assert closure is None
        for group in self.param_groups:
            stacks: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._with_momentum(parameter, group)
                    stacks[parameter.shape, parameter.device, parameter.dtype].append((parameter, update))
            for (shape, _, _), entries in stacks.items():
                steps = orthogonal(torch.stack([update for _, update in entries]), group)
                rate = group["lr"] * _scale(group["adjust_lr_fn"], *shape)
                for (parameter, _), step in zip(entries, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(step, alpha=-rate)

    def _with_momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


def orthogonal(matrices_NRC: Tensor, group: dict[str, Any]) -> Tensor:
    """Matrices with about the singular vectors of those given and all singular values near 1, in their type.

    By Newton and Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X, so that each singular value s of X, scaled by its
    Frobenius norm, becomes a s + b s^3 + c s^5 in each of `ns_steps` rounds.
    """
    a, b, c = group["ns_coefficients"]
    low = torch.float32 if matrices_NRC.device.type == "cpu" else torch.bfloat16
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = (matrices_NRC.mT if tall else matrices_NRC).to(low)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


def _scale(adjust: str | None, rows: int, columns: int) -> float:
    """Times the learning rate, that a step of a matrix of this shape is taken with."""
    if adjust == "match_rms_adamw":  # Liu et al. 2025, arXiv:2502.16982
        return 0.2 * max(rows, columns) ** 0.5
    return max(1.0, rows / columns) ** 0.5
