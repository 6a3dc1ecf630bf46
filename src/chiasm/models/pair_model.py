"""One picture and one text: what models share that compare them, whether by two towers or by a fused one.

A PairModel embeds both into one space. A MatchingModel also looks at both together, and tells whether they belong; it
learns that from hard negatives, drawn by similarity (ALBEF, Li et al. 2021, arXiv:2107.07651, section 3.2).

Shapes: N images or pairs, B texts, M pairs of all processes, T tokens, P places of a picture, F width of its features,
D width of the shared space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Images, Tokens
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.losses.best_query import Similarities
from chiasm.losses.gather import gathered, summed
from chiasm.losses.ring import full
from chiasm.models.model import ContrastiveModel
from chiasm.nn.precision import at_least_float32

T = TypeVar("T")
ScoreBy = Literal["itc", "itm"]


class PairModel(ContrastiveModel):
    """A model that puts pictures and texts into one space; the verbs follow from `encode_images` and `encode_texts`.

    log_scale: the logarithm of what cosines are multiplied by in the losses.
    """

    processor_type = PairProcessor
    processor: PairProcessor
    log_scale: nn.Parameter
    chunk: ClassVar[int] = 128  # pictures or texts computed at once; bounds memory, does not change results

    @property
    def scale(self) -> Tensor:
        """1 / temperature, with gradients."""
        return self.log_scale.exp()

    def logit_scale_and_bias(self) -> tuple[float, float | None]:
        return float(self.scale.detach()), None

    @property
    @abstractmethod
    def space(self) -> int:
        """D, the width of the shared space."""

    @abstractmethod
    def encode_images(self, images: Images) -> Tensor:
        """(N, D), unit length, with gradients."""

    @abstractmethod
    def encode_texts(self, texts: Tokens) -> Tensor:
        """(B, D), unit length, with gradients."""

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """(N, D) float32 on the CPU, unit length."""
        require_images(images)
        self.eval()
        found = [self.encode_images(self._read(part)).float().cpu() for part in chunks(images, self.chunk)]
        return torch.cat([torch.empty(0, self.space), *found])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, D) float32 on the CPU, unit length. Texts of like length are encoded together, so little is padded."""
        require_texts(texts)
        self.eval()
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found = [
            self.encode_texts(self.processor.texts([texts[at] for at in some]).to(self.device)).float().cpu()
            for some in chunks(order, self.chunk)
        ]
        return torch.cat([torch.empty(0, self.space), *found])[torch.tensor(order).argsort()]

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """Cosine similarity, (N_images, N_texts)."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    def _read(self, images: Sequence[Image]) -> Images:
        return self.processor.images(images).to(self.device)


class MatchingModel(PairModel):
    """A pair model that also looks at a picture and a text together. `losses_of` takes its layers for that."""

    scorings: ClassVar[tuple[str, ...]] = get_args(ScoreBy)
    compares_by_layers = True

    @abstractmethod
    def image_states(self, images: Images) -> Tensor:
        """(N, P, F): what of pictures is looked at together with texts."""

    @abstractmethod
    def match(self, seen_NPF: Tensor, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """(N, 2): scores that text and picture of each pair do not, and that they do, belong together."""

    def similarity(self, images: Images, texts_MD: Tensor) -> Tensor:
        """(N, M), on the CPU: how near pictures are to embedded texts; cosines where a picture is one vector."""
        return self.encode_images(images).float().cpu() @ texts_MD.T

    @torch.inference_mode()
    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: ScoreBy = "itc") -> Tensor:
        """(N_images, N_texts), higher matches better.

        by: "itc": similarity in the shared space; "itm": log p(belongs) - log p(does not), for which every pair goes
            through the fused layers.
        """
        require_images(images)
        self.eval()
        if by == "itc":
            texts_MD = self.embed_texts(texts)
            found = [self.similarity(self._read(part), texts_MD) for part in chunks(images, self.chunk)]
            return torch.cat([torch.empty(0, len(texts)), *found])
        rows = [torch.cat([torch.empty(0), *self._matches(image, texts)]) for image in images]
        return torch.stack(rows) if rows else torch.empty(0, len(texts))

    def _matches(self, image: Image, texts: Sequence[str]) -> list[Tensor]:
        seen_1PF = self.image_states(self._read([image]))
        found = []
        for part in chunks(texts, self.chunk):
            read = self.processor.texts(part).to(self.device)
            logits_B2 = self.match(seen_1PF.expand(len(part), -1, -1), read.ids_BT, read.mask_BT)
            found.append((logits_B2[:, 1] - logits_B2[:, 0]).float().cpu())
        return found

    def matched(self, seen_NPF: Tensor, texts: Tokens) -> dict[str, Tensor]:
        """What of its pairs the matching loss needs, for `features`: "seen", "ids", "lengths", "draw"."""
        return {
            "seen": seen_NPF,
            # Of one length, whatever the longest text of this part of a batch is.
            "ids": F.pad(texts.ids_BT, (0, self.processor.tokenizer.rules.context - texts.ids_BT.shape[1])),
            "lengths": texts.lengths_B,
            "draw": torch.rand(len(texts), 2).to(seen_NPF.device),
        }

    def matching_loss(self, features: Mapping[str, Tensor], alike: Similarities) -> Tensor:
        """Each pair as it is, its text with a picture that is not its own, its picture with another text.

        features: with what `matched` gave. alike: by which the negatives are drawn, the more alike, the likelier.
        """
        seen_NPF, ids_NT, lengths_N = (features[name] for name in ("seen", "ids", "lengths"))
        ring, (images_N, texts_N) = alike.ring, alike.negatives(features["draw"])
        seen_MPF, ids_MT, lengths_M = (gathered(rows, ring) for rows in (seen_NPF, ids_NT, lengths_N))
        seen = torch.cat([seen_NPF, seen_MPF[images_N], seen_NPF])
        ids = torch.cat([ids_NT, ids_NT, ids_MT[texts_N]])
        lengths = torch.cat([lengths_N, lengths_N, lengths_M[texts_N]])
        longest = int(lengths_M.max())
        mask = torch.arange(longest, device=ids.device) < lengths[:, None]
        logits = full(self.match(seen, ids[:, :longest], mask))
        belongs = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        belongs[: len(ids_NT)] = 1
        return summed(F.cross_entropy(logits, belongs, reduction="sum") / (3 * ring.rows), ring)


def require_images(images: Sequence[Image]) -> None:
    """Raises TypeError for what is no list of pictures."""
    if isinstance(images, Image) or not all(isinstance(image, Image) for image in images):
        raise TypeError("embed_images takes a list of chiasm.Image; wrap paths, bytes and arrays: Image(path)")


def require_texts(texts: Sequence[str]) -> None:
    """Raises TypeError for a single text, which else would be read letter by letter."""
    if isinstance(texts, str):
        raise TypeError("embed_texts takes a list of texts; a single one goes in as [text]")


def unit(x: Tensor) -> Tensor:
    """Scaled to length 1 along the last dimension, in float32 at least."""
    return F.normalize(at_least_float32(x), dim=-1)


def chunks(whole: Sequence[T], size: int) -> list[Sequence[T]]:
    """A sequence in pieces of at most that size."""
    return [whole[at : at + size] for at in range(0, len(whole), size)]
