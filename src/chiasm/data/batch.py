"""What a model is given: tensors, with the keys of the samples that they came from.

Every field declares what its rows belong to (see `chiasm.data.parts`), so that a batch is split, joined and moved
whatever is in it. Pictures have one class for each way in which they are laid out.

Shapes: B samples, N images (a sample may hold none, one or several), M tiles (an image may be cut into several), T
tokens, C channels, H and W pixels, P patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Self, TypeVar

import torch
from torch import Tensor

from chiasm.data.parts import BatchPart, Counts, Owner, Per
from chiasm.errors import DataError

P = TypeVar("P", bound=BatchPart)


class Images(BatchPart):
    """Preprocessed pictures, in the order of their samples; a subclass for each layout, which says what `pixels` are.

    row_N: the sample that each picture belongs to.
    """

    pixels: Tensor
    row_N: Tensor

    def __len__(self) -> int:
        return len(self.row_N)

    def with_pixels(self, pixels: Tensor) -> Self:
        """The same pictures with other pixels of the same layout."""
        return replace(self, pixels=pixels)  # type: ignore[type-var]  # subclasses are dataclasses

    def of_samples(self, sample_N: Tensor) -> Self:
        """The same pictures, with picture i belonging to the sample `sample_N[i]`; row_N held these numbers before."""
        return replace(self, row_N=sample_N[self.row_N])  # type: ignore[type-var]  # likewise


@dataclass(frozen=True)
class PixelImages(Images):
    """Whole pictures, or tiles of them, all of one size.

    pixels: (M, C, H, W), normalised as the checkpoint wants it. tiles_N: how many tiles each picture has, in order;
    None: each picture is one. sizes_N2: (height, width) of each picture in pixels before it was cut, where models ask.
    """

    pixels: Annotated[Tensor, Per("tile")]
    row_N: Annotated[Tensor, Owner("image")]
    tiles_N: Annotated[Tensor | None, Counts("tile", per="image")] = None
    sizes_N2: Annotated[Tensor | None, Per("image")] = None


@dataclass(frozen=True)
class PatchImages(Images):
    """Pictures (or tiles of them) of different shapes, as their patches.

    pixels: patches row by row, (M, P, patch * patch * C), filled up with zeros to those of the largest. grid_M2: rows
    and columns of each one's patches. tiles_N: as in PixelImages.
    """

    pixels: Annotated[Tensor, Per("tile", fill=0.0)]
    row_N: Annotated[Tensor, Owner("image")]
    grid_M2: Annotated[Tensor, Per("tile")]
    tiles_N: Annotated[Tensor | None, Counts("tile", per="image")] = None


@dataclass(frozen=True)
class PackedImages(Images):
    """The patches of all pictures one after another, without padding; a video counts as one picture for each moment.

    pixels: (P, time * patch * patch * C). lengths_N: how many patches each picture has. grid_N2: their rows and
    columns.
    """

    pixels: Annotated[Tensor, Per("patch")]
    row_N: Annotated[Tensor, Owner("image")]
    lengths_N: Annotated[Tensor, Counts("patch", per="image")]
    grid_N2: Annotated[Tensor, Per("image")]


@dataclass(frozen=True)
class ImageFeatures(Images):
    """What a frozen tower made of pictures, computed beforehand: (N, D), or before pooling (N, P, D)."""

    features: Annotated[Tensor, Per("image")]
    row_N: Annotated[Tensor, Owner("image")]

    @property
    def pixels(self) -> Tensor:  # type: ignore[override]  # a field of the others
        """No pixels: raises DataError, because features were stored without them."""
        raise DataError("these pictures are features of a frozen tower, without pixels; leave data.features out")


@dataclass(frozen=True)
class Tokens(BatchPart):
    """Texts as token ids, padded on the right to the longest of the batch (or as far as the checkpoint wants).

    ids_BT: token ids. lengths_B: how many of each row are not padding.
    target_BT: which tokens are learned or scored; made from `Text.target` and from nothing else.
    features: where a frozen tower's outputs were computed beforehand, what it made of these texts, (B, D); the ids
        then mean nothing.
    """

    ids_BT: Annotated[Tensor, Per("sample", fill=0)]
    lengths_B: Annotated[Tensor, Per("sample")]
    target_BT: Annotated[Tensor, Per("sample", fill=False)]
    features: Annotated[Tensor | None, Per("sample")] = None

    def __len__(self) -> int:
        return len(self.ids_BT)

    @property
    def mask_BT(self) -> Tensor:
        """True where a token is not padding."""
        return torch.arange(self.ids_BT.shape[1], device=self.ids_BT.device) < self.lengths_B[:, None]


@dataclass(frozen=True)
class Stream(BatchPart):
    """Samples as one stream of T tokens, one after another without padding: what decoders are given.

    ids_T: token ids. lengths_B: tokens of each sample.
    target_T: which tokens are learned or scored, by what stands before them; made from the parts' `target` and nothing
        else.
    image_mask_T: which tokens are image tokens: placeholders of features or codes, in the images' order.
    positions_AT: where a position has A axes (time, height, width), (A, T); None where it is the index in the sample.
    blocks_T: within which blocks of a sample attention goes both ways, see `nn/attention_mask.py`; None where all of it
        is causal.
    image_order_T: which of its sample's image features each image token stands for, where they are not in
        order; 0 for other tokens.
    """

    ids_T: Annotated[Tensor, Per("token")]
    lengths_B: Annotated[Tensor, Counts("token")]
    target_T: Annotated[Tensor, Per("token")]
    image_mask_T: Annotated[Tensor, Per("token")]
    positions_AT: Annotated[Tensor | None, Per("token", axis=1)] = None
    blocks_T: Annotated[Tensor | None, Per("token")] = None
    image_order_T: Annotated[Tensor | None, Per("token")] = None

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def image_order_S(self) -> Tensor | None:
        """(S,) index of the image feature that each image token stands for; None where both have the same order."""
        if self.image_order_T is None:
            return None
        samples = torch.arange(len(self), device=self.ids_T.device)
        owner_S = samples.repeat_interleave(self.lengths_B)[self.image_mask_T]
        counts_B = torch.bincount(owner_S, minlength=len(self))
        return self.image_order_T[self.image_mask_T] + (counts_B.cumsum(0) - counts_B)[owner_S]


@dataclass(frozen=True)
class Batch(BatchPart):
    """Samples as a model is given them.

    keys: name the samples in errors and logs. dummy_images: images of no sample, which go through the model's parts for
        images and change nothing: other processes wait there, or no gradient would flow (`Model.needs_images`). They
        are given to parts of a batch after it was split.

    added: what an objective or a family needs beside that, each a part of its own class; see `adding` and `part`.
    """

    keys: Annotated[tuple[str, ...], Per("sample")]
    images: Images | None = None
    texts: Tokens | None = None
    stream: Stream | None = None
    dummy_images: Images | None = None
    added: tuple[BatchPart, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def adding(self, part: BatchPart) -> Batch:
        """A copy of the batch with this part added, replacing one of the same class."""
        others = tuple(known for known in self.added if type(known) is not type(part))
        return replace(self, added=(*others, part))

    def part(self, kind: type[P]) -> P:
        """The added part of that class. Raises KeyError where nobody added one."""
        for part in self.added:
            if type(part) is kind:
                return part
        raise KeyError(f"nothing added a {kind.__name__} to this batch")

    def to(self, device: torch.device | str) -> Self:
        return replace(super().to(device), added=tuple(part.to(device) for part in self.added))

    def of_rows(self, first: int, last: int) -> Self:
        """Some of the samples, as in a batch of these alone: without pictures where they have none."""
        added = tuple(part.of_rows(first, last) for part in self.added)
        rows = replace(super().of_rows(first, last), added=added, dummy_images=None)
        return replace(rows, images=None) if rows.images is not None and not len(rows.images) else rows

    def split(self, parts: int) -> list[Self]:
        """The batch in at most `parts` pieces of nearly equal size, in order."""
        parts = min(parts, len(self))
        bounds = [round(len(self) * part / parts) for part in range(parts + 1)]
        return [self.of_rows(first, last) for first, last in pairwise(bounds)]

    @classmethod
    def concatenated(cls, batches: Sequence[Self]) -> Self:
        """Batches one after the other: the inverse of `split`. They must have the same parts."""
        starts = [sum(map(len, batches[:at])) for at in range(len(batches))]
        bare = [replace(batch, added=()) for batch in batches]
        added: list[Any] = [
            type(part).joined([batch.part(type(part)) for batch in batches], starts) for part in batches[0].added
        ]
        return replace(cls.joined(bare, starts), added=tuple(added))
