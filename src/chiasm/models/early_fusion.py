"""Models that read and write images as tokens of one stream with the words: CM3 (arXiv:2201.07520), CM3Leon
(arXiv:2309.02591), Chameleon (arXiv:2405.09818)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from chiasm.data.batch import Batch, Images
from chiasm.data.image import Image
from chiasm.data.image_codes import CodeIds
from chiasm.data.layouts.codes import Codes
from chiasm.errors import RecipeError
from chiasm.generation.constraints import AllowedTokens, Both, ImageGrammar
from chiasm.generation.prompt import Prompt
from chiasm.models.generative import VisionLanguageModel
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.image_tokenizer import ImageTokenizer


class EarlyFusionModel(VisionLanguageModel):
    """A decoder whose vocabulary has the codes of an image tokenizer. What it learns of an image, and answers with, are
    its codes.

    A family sets `language`, the decoder, and `image_tokenizer`, a module that is an `ImageTokenizer` and never learns.
    """

    image_tokenizer: nn.Module

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(Codes, {"codes": self.tokenizer.codes})

    @property
    def tokenizer(self) -> ImageTokenizer:
        """The image tokenizer by what it offers."""
        tokenizer: ImageTokenizer = self.image_tokenizer  # type: ignore[assignment]  # modules have attributes of any type
        return tokenizer

    @property
    def code_ids(self) -> CodeIds:
        """How the vocabulary writes images."""
        if self.processor.code_ids is None:
            raise RecipeError(f"{type(self).__name__} reads images as codes; set processor.layout to codes")
        return self.processor.code_ids

    @property
    def needs_images(self) -> bool:
        return False

    @torch.no_grad()
    def image_ids(self, images: Images) -> Tensor:
        """(S,) the tokens that stand for the codes of these images, in order."""
        codes_NP = self.tokenizer.encode(images)
        return torch.tensor(self.code_ids.ids, device=codes_NP.device)[codes_NP.flatten()]

    def image_features(self, images: Images) -> Tensor:
        return self.language.embed(self.image_ids(images))

    def tokenized(self, batch: Batch) -> Batch:
        """The batch with the codes of its images in place of its stream's image tokens, and no images."""
        words = batch.stream
        assert words is not None
        if batch.images is None:
            return replace(batch, dummy_images=None)
        ids_S, image_tokens = self.image_ids(batch.images), int(words.image_mask_T.sum())
        if len(ids_S) != image_tokens:
            raise self._mismatch(batch, image_tokens, len(ids_S))
        order_S = words.image_order_S
        ids_S = ids_S if order_S is None else ids_S[order_S]
        written = words.ids_T.masked_scatter(words.image_mask_T, ids_S.to(words.ids_T.dtype))
        none = torch.zeros_like(words.image_mask_T)
        stream = replace(words, ids_T=written, image_mask_T=none, image_order_T=None)
        return replace(batch, images=None, dummy_images=None, stream=stream)

    def _allowed(self, prompt: Prompt, max_tokens: int, allowed: AllowedTokens | None) -> AllowedTokens:
        """Images are whole: as many codes as one has, in their marks, and none begins that could not be ended."""
        room = [min(max_tokens, self.language.context - length + 1) for length in prompt.lengths]
        grammar = self._grammar(room)
        return grammar if allowed is None else Both(grammar, allowed)

    def _allowed_words(self) -> AllowedTokens:
        return self._grammar(None)

    def _grammar(self, room: Sequence[int] | None) -> ImageGrammar:
        return ImageGrammar(self.code_ids, self.language.vocabulary, room, self.processor.image_token_ids)

    def _answer(self, tokens: Sequence[int], stop: Sequence[str]) -> tuple[str | Image, ...]:
        ends = set(self.processor.end_ids)
        parts: list[str | Image] = []
        for is_image, numbers in self.code_ids.parse([token for token in tokens if token not in ends]):
            if is_image:
                parts += self.tokenizer.decode(torch.tensor([numbers], device=self.device))
            else:
                parts.append(self._text(numbers, stop))
        return tuple(part for part in parts if part) or ("",)
