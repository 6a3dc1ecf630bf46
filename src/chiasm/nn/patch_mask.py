"""Patches that an image tower is not to see: left out (FLIP, MAE), or with a learned vector in their place (BEiT).

Shapes: M pictures or tiles, P patches, K patches that are kept, D width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.errors import DataError


@dataclass(frozen=True)
class PatchMask:
    """hidden_MP: (M, P), True where a patch is hidden. token: (D,), what stands in its place, with the place's own
    position; None: hidden patches are left out, and cost nothing.

    A tower offers a token of its own as `ImageTower.mask_token`, where it was built with one.
    """

    hidden_MP: Tensor
    token: Tensor | None = None

    def replaced(self, x_MPD: Tensor) -> Tensor:
        """Embedded patches, before positions are added, with the token in the place of hidden ones."""
        self._require_fit(x_MPD)
        if self.token is None:
            return x_MPD
        return torch.where(self.hidden_MP[:, :, None], self.token.to(x_MPD.dtype), x_MPD)

    def dropped(self, x_MPD: Tensor, prefix: int = 0) -> Tensor:
        """(M, prefix + K, D): tokens without the hidden ones, where they are left out. prefix: those of no patch, kept.

        Raises DataError where pictures keep different numbers of patches; a tower that pads takes `kept` instead.
        """
        if self.token is not None:
            return x_MPD
        patches_MPD = x_MPD[:, prefix:]
        self._require_fit(patches_MPD)
        counts_M = (~self.hidden_MP).sum(1)
        if len(counts_M) and int(counts_M.min()) != int(counts_M.max()):
            raise DataError(
                f"this tower keeps as many patches of each picture, but the mask leaves {int(counts_M.min())} to "
                f"{int(counts_M.max())}; hide the same number, or have them replaced by a token"
            )
        kept = int(counts_M[0]) if len(counts_M) else patches_MPD.shape[1]
        kept_MKD = patches_MPD[~self.hidden_MP].view(len(x_MPD), kept, x_MPD.shape[2])
        return torch.cat([x_MPD[:, :prefix], kept_MKD], dim=1)

    def kept(self, x_MPD: Tensor, seen_MP: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As `dropped`, filled up to the picture that keeps most, and which of that are patches; see `patch_mask`.

        seen_MP: which of the patches are of a picture, (M, P); None: all.
        """
        if self.token is not None:
            return x_MPD, seen_MP
        self._require_fit(x_MPD)
        kept_MP = ~self.hidden_MP if seen_MP is None else seen_MP & ~self.hidden_MP
        counts_M = kept_MP.sum(1)
        longest = int(counts_M.max())
        order_MK = (~kept_MP).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
        x_MKD = x_MPD.gather(1, order_MK[:, :, None].expand(-1, -1, x_MPD.shape[2]))
        alike = bool((counts_M == longest).all())
        return x_MKD, None if alike else torch.arange(longest, device=counts_M.device) < counts_M[:, None]

    def _require_fit(self, x_MPD: Tensor) -> None:
        if self.hidden_MP.shape != x_MPD.shape[:2]:
            raise DataError(
                f"a mask of {tuple(self.hidden_MP.shape)} (pictures, patches) does not fit {tuple(x_MPD.shape[:2])}"
            )
