"""Two towers and one space: what CLIP, SigLIP and their kin share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.data.batch import Batch, ImageFeatures, Images, Tokens
from chiasm.data.image import Image
from chiasm.data.patches import PatchTransform
from chiasm.data.transforms import ImageTransform
from chiasm.errors import RecipeError
from chiasm.models.features import CachedProcessor
from chiasm.models.model import CachingProcessor
from chiasm.models.pair_model import PairModel
from chiasm.models.tokens import ImageTokens, TextTokens, grids
from chiasm.nn.tower import PooledImageTower, TextTower


class DualEncoder(PairModel):
    """A model of two towers, each of which sees its own alone."""

    vision: PooledImageTower
    text: TextTower

    def check(self) -> None:
        """The tokenizer must not make ids, the transforms not sizes, that the towers do not know."""
        tokenizer, image = self.processor.tokenizer, self.processor.image
        if tokenizer.vocabulary > self.text.vocabulary:
            raise RecipeError(
                f"the tokenizer has {tokenizer.vocabulary} tokens, the text tower only {self.text.vocabulary}; "
                "set model.text.vocabulary or processor.tokenizer.learn"
            )
        if tokenizer.rules.context > self.text.context:
            raise RecipeError(
                f"processor.text.context is {tokenizer.rules.context}, but the text tower reads at most "
                f"{self.text.context} tokens"
            )
        cut = image.patch if isinstance(image, PatchTransform) else None
        if cut != self.vision.patch:
            seen, given = (
                f"patches of {side} pixels" if side else "whole pictures" for side in (self.vision.patch, cut)
            )
            raise RecipeError(f"the image tower sees {seen}, but the processor makes {given}; set processor.patches")
        if isinstance(image, ImageTransform) and self.vision.image_size not in (None, image.size):
            raise RecipeError(
                f"processor.image.size is {image.size}, but the image tower sees {self.vision.image_size}"
            )

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """ "image" and "text", (N, D) each."""
        assert batch.images is not None
        assert batch.texts is not None
        return {"image": self.encode_images(batch.images), "text": self.encode_texts(batch.texts)}

    def encode_image_tokens(self, images: Images) -> ImageTokens:
        """What the image tower makes of each place of the pictures, before it pools them, with gradients."""
        tokens_NPD = self.vision.tokens(images)
        return ImageTokens(tokens_NPD, grids(images, tokens_NPD.shape[1] - self.vision.prefix), self.vision.prefix)

    def encode_text_tokens(self, texts: Tokens) -> TextTokens:
        """What the text tower makes of each token, before it pools them, with gradients."""
        return TextTokens(self.text.tokens(texts), texts.lengths_B)

    def image_features(self, images: Images) -> Tensor:
        """What the image tower makes of pictures, (N, D); taken from the batch where it was computed beforehand."""
        return images.features if isinstance(images, ImageFeatures) else self.vision(images)

    def text_features(self, texts: Tokens) -> Tensor:
        """What the text tower makes of texts, (B, D); taken from the batch where it was computed beforehand."""
        return texts.features if texts.features is not None else self.text(texts)

    def caching_processor(self, folder: Path, frozen: Collection[str]) -> CachingProcessor:
        if not {"vision", "text"} & set(frozen):
            return super().caching_processor(folder, frozen)
        return CachedProcessor(self, folder, images="vision" in frozen, texts="text" in frozen)

    def part_outputs(self, batch: Batch) -> Iterator[Tensor]:
        """Of both towers. Texts are padded, as on a GPU; a CPU packs causal texts and keeps less."""
        assert batch.images is not None
        assert batch.texts is not None
        yield self.vision(batch.images.to("meta"))
        yield self.text(batch.texts.to("meta"))

    @torch.inference_mode()
    def embed_image_tokens(self, images: Sequence[Image]) -> Tensor:
        """(N, P, D) float32 on the CPU: what the image tower makes of each place, see `encode_image_tokens`."""
        self.eval()
        return self.vision.tokens(self.processor.images(images).to(self.device)).float().cpu()

    @torch.inference_mode()
    def embed_text_tokens(self, texts: Sequence[str]) -> Tensor:
        """(B, context, D) float32 on the CPU: what the text tower makes of each token, zero after the last."""
        self.eval()
        tokens = self.processor.texts(texts).to(self.device)
        found_BTD = self.text.tokens(tokens) * tokens.mask_BT[..., None]
        padding = self.processor.tokenizer.rules.context - found_BTD.shape[1]
        return F.pad(found_BTD, (0, 0, 0, padding)).float().cpu()

    def text_token_counts(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = self.processor.texts(texts).lengths_B.tolist()
        return counts
