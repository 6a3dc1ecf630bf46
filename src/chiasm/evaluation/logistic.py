"""Multinomial logistic regression by L-BFGS: what a linear probe is fitted with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 1000  # of L-BFGS, as OpenAI's CLIP gives scikit-learn
_FLAT = 1e-6  # largest slope, of the mean loss, at which it has arrived


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier: logits are x @ weight_DC + bias_C. loss: what was minimised, at its end."""

    weight_DC: Tensor
    bias_C: Tensor
    loss: float

    def __call__(self, x_ND: Tensor) -> Tensor:
        """(N, C) logits, float64."""
        return x_ND.double() @ self.weight_DC + self.bias_C


def fit(x_ND: Tensor, label_N: Tensor, classes: int, strength: float, start: Logistic | None = None) -> Logistic:
    """The minimum of sum_n CE(x_n W + b, label_n) + strength / 2 * |W|^2; the bias is not held back.

    The same as scikit-learn's LogisticRegression(C=1 / strength, max_iter=1000), in float64. For strength above 0 it is
    the only minimum, wherever the search starts; a start from a fit of like strength saves time.
    """
    centre_D = x_ND.double().mean(0)
    x_ND = x_ND.double() - centre_D  # the same minimum, met sooner: the bias takes up the shift
    to_DD, back_DD = _rounding(x_ND, classes, strength)
    round_ND = x_ND @ to_DD
    weight_DC, bias_C = x_ND.new_zeros(x_ND.shape[1], classes), x_ND.new_zeros(classes)
    if start is not None:
        weight_DC, bias_C = back_DD @ start.weight_DC, start.bias_C + centre_D @ start.weight_DC
    weight_DC.requires_grad_()
    bias_C.requires_grad_()
    search = torch.optim.LBFGS(
        [weight_DC, bias_C],
        max_iter=_STEPS,
        max_eval=2 * _STEPS,
        history_size=10,
        tolerance_grad=_FLAT,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def mean_loss() -> Tensor:
        search.zero_grad()
        total = F.cross_entropy(round_ND @ weight_DC + bias_C, label_N, reduction="sum")
        loss = (total + strength / 2 * (to_DD @ weight_DC).square().sum()) / len(x_ND)
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        search.step(mean_loss)  # type: ignore[no-untyped-call]  # torch's
        loss = float(mean_loss().detach()) * len(x_ND)
    weight_DC, bias_C = to_DD @ weight_DC.detach(), bias_C.detach()
    return Logistic(weight_DC, bias_C - centre_D @ weight_DC, loss)


def _rounding(x_ND: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """A change of variables, W = to @ V, in which the loss is about as steep in every direction; and its inverse.

    Embeddings vary a hundred times more along some directions than along others, which costs L-BFGS hundreds of steps.
    Where all classes are as likely, the Hessian of the mean loss is X'X (1 - 1/C) / (C N) + strength / N: `to` is the
    root of its inverse.
    """
    spread_D, turn_DD = torch.linalg.eigh(x_ND.T @ x_ND / len(x_ND))
    steep_D = spread_D.clamp(min=0) * (1 - 1 / classes) / classes + strength / len(x_ND)
    return turn_DD * steep_D.rsqrt() @ turn_DD.T, turn_DD * steep_D.sqrt() @ turn_DD.T
