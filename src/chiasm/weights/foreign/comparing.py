"""Models of transformers that score images against texts: by two towers, or by a head that judges pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.image import Image
from chiasm.errors import CheckpointError
from chiasm.weights.foreign.model import ForeignModel

MATCHES = "use_itm_head"  # by which a forward says that a head judges pairs
_ROWS = 32  # computed at once


class ForeignEmbedder(ForeignModel):
    """A dual encoder of transformers, by its `get_image_features` and `get_text_features`."""

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """(N, D), unit length, on the CPU."""
        rows = [self.processor.pixels(image) for image in images]
        return self._embedded(self.inner.get_image_features, rows, ("pixel_values",))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D), unit length, on the CPU. Texts beyond the context are cut; none is padded for another's sake."""
        context = _context(self.inner)
        rows = [self.processor.words(text, context) for text in texts]
        return self._embedded(self.inner.get_text_features, rows, ("input_ids",))

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """(N_images, N_texts): cosines."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    @torch.inference_mode()
    def _embedded(
        self, encode: Callable[..., Any], rows: Sequence[Mapping[str, Tensor]], needed: tuple[str, ...]
    ) -> Tensor:
        """The vectors of all rows; rows of equal shapes go through the tower together."""
        self.eval()
        taken = set(inspect.signature(encode).parameters)
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        given = [{name: tensor for name, tensor in row.items() if name in taken or name in needed} for row in rows]
        for index, row in enumerate(given):
            alike.setdefault(tuple(tuple(tensor.shape) for tensor in row.values()), []).append(index)
        found: dict[int, Tensor] = {}
        for indexes in alike.values():
            for start in range(0, len(indexes), _ROWS):
                some = indexes[start : start + _ROWS]
                batch = {
                    name: torch.cat([given[index][name] for index in some]).to(self.device) for name in given[some[0]]
                }
                found |= dict(zip(some, self._vectors(encode(**batch)), strict=True))
        return torch.stack([found[index] for index in range(len(rows))]) if rows else torch.empty(0, 0)

    def _vectors(self, output: Any) -> Tensor:
        vectors = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        if vectors is None or vectors.ndim != 2:
            raise CheckpointError(f"{type(self.inner).__name__} does not make one vector of a picture or text")
        return F.normalize(vectors.float(), dim=-1).cpu()


class ForeignMatcher(ForeignModel):
    """A model of transformers whose head judges whether a text fits a picture (BLIP)."""

    scorings: ClassVar[tuple[str, ...]] = ("matching", "similarity")

    @torch.inference_mode()
    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: str = "matching") -> Tensor:
        """(N_images, N_texts), higher matches better.

        by: "matching": the log-probability of a match, as the head says, which looks at picture and text together;
            "similarity": the cosine of the two towers' vectors.
        """
        self.eval()
        context = _context(self.inner)
        words = [self.processor.words(text, context).to(self.device) for text in texts]  # type: ignore[attr-defined]  # a BatchFeature
        rows = []
        for image in images:
            pixels = self.processor.pixels(image)["pixel_values"].to(self.device)
            scores = [self._pair_score(pixels, inputs, by == "matching") for inputs in words]
            rows.append(torch.stack(scores) if scores else torch.empty(0))
        return torch.stack(rows) if rows else torch.empty(0, len(texts))

    def _pair_score(self, pixels: Tensor, words: Mapping[str, Tensor], matching: bool) -> Tensor:
        given = {name: ids for name, ids in words.items() if name in ("input_ids", "attention_mask")}
        scores = self.inner(pixel_values=pixels, **given, **{MATCHES: matching}).itm_score
        scores = scores.log_softmax(-1)[0, 1] if matching else scores.flatten()[0]
        return scores.float().cpu()


def _context(inner: nn.Module) -> int | None:
    """The number of positions of the text tower; None where its config does not say."""
    config: Any = inner.config
    longest = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    if longest is None:
        return None
    for part in inner.modules():  # positions that begin after the padding's, as RoBERTa's
        if isinstance(part, nn.Embedding) and part.num_embeddings == longest and part.padding_idx is not None:
            return longest - part.padding_idx - 1
    return int(longest)
