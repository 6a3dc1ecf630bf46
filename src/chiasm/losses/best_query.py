"""The contrastive loss of BLIP-2, in which a picture is as near to a text as the best of its queries (Li et al. 2023,
arXiv:2301.12597, section 3.2), and the hard negatives that are drawn by it.

Shapes: N pairs of this process, M of all processes, K queries, D width of the shared space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.losses.gather import first_row, gathered, summed
from chiasm.losses.ring import Ring, full

_SMOOTHING = 0.1  # the released code's; the paper does not mention it
_FLOOR = 1e-4  # likewise: so that no negative is impossible


@dataclass(frozen=True)
class Similarities:
    """Scaled similarities of this process's rows to those of all processes.

    images_NM: pictures to texts. texts_NM: texts to pictures.
    """

    images_NM: Tensor
    texts_NM: Tensor
    ring: Ring

    @property
    def own_N(self) -> Tensor:
        """The column that holds each row's partner."""
        return first_row(self.ring) + torch.arange(len(self.images_NM), device=self.images_NM.device)

    def loss(self) -> Tensor:
        """Mean of the cross-entropies of both directions, over the pairs of all processes."""
        parts = [
            F.cross_entropy(logits_NM, self.own_N, reduction="sum", label_smoothing=_SMOOTHING)
            for logits_NM in (self.images_NM, self.texts_NM)
        ]
        return summed(torch.stack(parts).sum() / 2 / self.ring.rows, self.ring)

    @torch.no_grad()
    def negatives(self, draw_N2: Tensor) -> tuple[Tensor, Tensor]:
        """For each text the column of a picture that is not its own, and for each picture that of a text: the more
        alike, the likelier. draw_N2: numbers between 0 and 1 that decide."""
        return self._drawn(self.texts_NM, draw_N2[:, 0]), self._drawn(self.images_NM, draw_N2[:, 1])

    def _drawn(self, logits_NM: Tensor, draw_N: Tensor) -> Tensor:
        chances_NM = logits_NM.softmax(1) + _FLOOR
        chances_NM.scatter_(1, self.own_N[:, None], 0)
        sums_NM = chances_NM.cumsum(1)
        found_N = torch.searchsorted(sums_NM, (draw_N.to(sums_NM.dtype) * sums_NM[:, -1])[:, None], right=True)[:, 0]
        # A draw next to 1 may round up to the sum of all; the last column that can be drawn takes it.
        last_N = logits_NM.shape[1] - 1 - (self.own_N == logits_NM.shape[1] - 1).long()
        return found_N.minimum(last_N)


def similarities(image_NKD: Tensor, text_ND: Tensor, scale: Tensor) -> Similarities:
    """image_NKD, text_ND: unit length, row i of one belongs to row i of the other. scale: 1 / temperature.

    Computed in float32, also under autocast. Where torch.distributed runs, all processes must call this together.
    """
    with torch.autocast(image_NKD.device.type, enabled=False):
        image_NKD, text_ND, scale = full(image_NKD), full(text_ND), full(scale)
        ring = Ring(len(image_NKD), image_NKD.device)
        images_MKD, texts_MD = gathered(image_NKD, ring), gathered(text_ND, ring)
        return Similarities(scale * best(image_NKD, texts_MD), scale * best(images_MKD, text_ND).T, ring)


def best(image_NKD: Tensor, text_MD: Tensor) -> Tensor:
    """(N, M): the largest similarity of any of a picture's queries to a text, max_k image_nk . text_m."""
    return (image_NKD @ text_MD.T).amax(1)
