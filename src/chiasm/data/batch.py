"""What a model is given: tensors, with the keys of the samples that they came from.

Shapes: B samples, N images (a sample may hold none, one or several), T tokens, C channels, H and W pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor


class _Tensors:
    """Moves a dataclass of tensors between devices."""

    def to(self, device: torch.device | str) -> Self:
        moved: dict[str, Tensor | _Tensors] = {}
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, non_blocking=True)
            elif isinstance(value, _Tensors):
                moved[field.name] = value.to(device)
        return replace(self, **moved)  # type: ignore[type-var]  # likewise


@dataclass(frozen=True)
class Images(_Tensors):
    """Preprocessed pictures.

    pixels: (N, C, H, W) float, normalised as the checkpoint wants it; or, where a model sees pictures at their own
        aspect ratio, their patches row by row, (N, P, patch * patch * C), padded with zeros behind each picture.
    row_N: which sample of the batch each picture belongs to.
    Where a picture is cut into tiles, M in all, pixels and row are theirs, and tiles_N says how many belong to each
    picture, in order; a tile may be a single patch, (M, C * patch * patch). sizes_N2: (height, width) of each picture
    in the units of its layout; extent_M2: how much of each tile's pixels, (height, width) from the corner on, is
    picture and not padding.
    features: where a frozen tower's outputs were computed beforehand, what it made of these pictures, (N, D); pixels is
        then empty.
    grid_N2: rows and columns of each picture's patches, where `pixels` holds patches.
    """

    pixels: Tensor
    row_N: Tensor
    features: Tensor | None = None
    grid_N2: Tensor | None = None
    tiles_N: Tensor | None = None
    sizes_N2: Tensor | None = None
    extent_M2: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row_N)

    def of_rows(self, first: int, last: int) -> Images:
        """The pictures of the samples from `first` up to but not including `last`, counted from `first` on."""
        chosen = (self.row_N >= first) & (self.row_N < last)
        whole = chosen
        if self.tiles_N is not None:  # one entry a picture: that of its first tile decides
            whole = chosen[self.tiles_N.cumsum(0) - self.tiles_N]
        return Images(
            self.pixels[chosen] if len(self.pixels) == len(self) else self.pixels,
            self.row_N[chosen] - first,
            self.features[chosen] if self.features is not None else None,
            self.grid_N2[chosen] if self.grid_N2 is not None else None,
            self.tiles_N[whole] if self.tiles_N is not None else None,
            self.sizes_N2[whole] if self.sizes_N2 is not None else None,
            self.extent_M2[chosen] if self.extent_M2 is not None else None,
        )


@dataclass(frozen=True)
class Tokens(_Tensors):
    """Texts as token ids, padded on the right to the longest of the batch (or as far as the checkpoint wants).

    ids_BT: token ids. lengths_B: how many of each row are not padding.
    target_BT: which tokens are learned or scored; made from `Text.target` and from nothing else.
    features: where a frozen tower's outputs were computed beforehand, what it made of these texts, (B, D); the ids
        then mean nothing.
    """

    ids_BT: Tensor
    lengths_B: Tensor
    target_BT: Tensor
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids_BT)

    @property
    def mask_BT(self) -> Tensor:
        """True where a token is not padding."""
        return torch.arange(self.ids_BT.shape[1], device=self.ids_BT.device) < self.lengths_B[:, None]

    def of_rows(self, first: int, last: int) -> Tokens:
        """The rows from `first` up to but not including `last`."""
        features = self.features[first:last] if self.features is not None else None
        return Tokens(self.ids_BT[first:last], self.lengths_B[first:last], self.target_BT[first:last], features)


@dataclass(frozen=True)
class Stream(_Tensors):
    """Samples as one stream of T tokens, behind each other without padding: what decoders are given.

    ids_T: token ids. lengths_B: tokens of each sample.
    target_T: which tokens are learned or scored, by what stands before them; made from the parts' `target` and nothing
        else.
    image_mask_T: which tokens only keep the place of features or codes of images, in the images' order.
    positions_AT: where a position has A axes (time, height, width), (A, T); None where it is the place in the sample.
    blocks_T: within which blocks of a sample attention goes both ways, see `nn/attention_mask.py`; None where all of it
        is causal.
    image_order_T: which of its sample's image features each image token keeps the place of, where they are not in
        order; 0 for other tokens.
    """

    ids_T: Tensor
    lengths_B: Tensor
    target_T: Tensor
    image_mask_T: Tensor
    positions_AT: Tensor | None = None
    blocks_T: Tensor | None = None
    image_order_T: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def image_order_S(self) -> Tensor | None:
        """(S,) which of the S image features of the batch each image token keeps the place of; None where in order."""
        if self.image_order_T is None:
            return None
        samples = torch.arange(len(self), device=self.ids_T.device)
        owner_S = samples.repeat_interleave(self.lengths_B)[self.image_mask_T]
        counts_B = torch.bincount(owner_S, minlength=len(self))
        return self.image_order_T[self.image_mask_T] + (counts_B.cumsum(0) - counts_B)[owner_S]

    def of_rows(self, first: int, last: int) -> Stream:
        """The samples from `first` up to but not including `last`."""
        before, length = int(self.lengths_B[:first].sum()), int(self.lengths_B[first:last].sum())
        chosen = slice(before, before + length)
        positions = self.positions_AT[:, chosen] if self.positions_AT is not None else None
        rows = self.lengths_B[first:last]
        blocks = self.blocks_T[chosen] if self.blocks_T is not None else None
        order = self.image_order_T[chosen] if self.image_order_T is not None else None
        return Stream(
            self.ids_T[chosen], rows, self.target_T[chosen], self.image_mask_T[chosen], positions, blocks, order
        )


@dataclass(frozen=True)
class Batch(_Tensors):
    """Samples as a model is given them.

    keys: name the samples in errors and logs. dummy_images: images of no sample, which go through the model's parts for
        images and change nothing: other processes wait there, or no gradient would flow (`Model.needs_images`). They
        are given to parts of a batch after it was split.
    """

    keys: tuple[str, ...]
    images: Images | None = None
    texts: Tokens | None = None
    stream: Stream | None = None
    dummy_images: Images | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def split(self, parts: int) -> list[Batch]:
        """The batch in at most `parts` pieces of nearly equal size, in order."""
        parts = min(parts, len(self))
        bounds = [round(len(self) * part / parts) for part in range(parts + 1)]
        return [
            Batch(
                self.keys[first:last],
                self._images_of(first, last),
                self.texts.of_rows(first, last) if self.texts is not None else None,
                self.stream.of_rows(first, last) if self.stream is not None else None,
            )
            for first, last in pairwise(bounds)
        ]

    def _images_of(self, first: int, last: int) -> Images | None:
        """The pictures of some samples; None where they have none, as in a batch of these samples alone."""
        images = self.images.of_rows(first, last) if self.images is not None else None
        return images if images is not None and len(images) else None
