"""Samples to a Batch. A processor belongs to its checkpoint: it is saved with the weights and loaded with them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import tokenizers
import torch

from chiasm.config import dump, parse
from chiasm.data.batch import Batch, Images, PixelImages, Tokens
from chiasm.data.buffers import Buffers
from chiasm.data.image import Image
from chiasm.data.patches import PatchTransform
from chiasm.data.sample import Sample
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError, DataError, RecipeError


@dataclass(frozen=True)
class Cost:
    """What a sample takes up in a batch: tokens, and how many of them are image tokens."""

    tokens: int
    image_tokens: int = 0


@dataclass(frozen=True)
class Preview:
    """A sample as a processor reads it, whole, however long; made without decoding an image.

    text: as the tokenizer is given it. spans: (start, end) characters of it that are learned.
    image_token: stands in the text for one feature of an image; "" where texts hold none.
    tokens, image_tokens, target_tokens: how many there are, of the learned ones too. limit: most tokens of a sample.
    summary: these counts in a few words.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    image_token: str
    tokens: int
    image_tokens: int
    target_tokens: int
    limit: int
    summary: str


class Processor(ABC):
    """Turns samples into the batches of one family of models.

    packs: whether samples follow each other in one stream without padding, so that a batch may be bounded by tokens.
    backend: the tokenizer that makes the ids of a batch; None for a processor whose ids are another program's.
    """

    packs: ClassVar[bool] = False
    backend: tokenizers.Tokenizer | None = None

    @abstractmethod
    def __call__(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None = None) -> Batch:
        """The batch of these samples. generators: one a sample, drawing its augmentation in training; None otherwise.

        Raises DataError, naming the sample, if one of them does not have the parts that the family needs.
        """

    @property
    def transform(self) -> ImageTransform | None:
        """The transform of every picture where all get the same size; else None."""
        return None

    @property
    def caption_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that cuts captions at its context; None where a text that is too long is an error."""
        return None

    @property
    def chat_template(self) -> str:
        """The Jinja source that chats are written by; "" where none is needed."""
        return ""

    def cost(self, sample: Sample) -> Cost:
        """What a sample takes up in a batch that is bounded by tokens; of images no more than sizes are read.

        Raises DataError for a sample that cannot be used, and where batches are not bounded by tokens (`packs`).
        """
        raise DataError(f"a {type(self).__name__} packs no samples by tokens, so sample '{sample.key}' has no cost")

    def preview(self, sample: Sample) -> Preview:
        """The sample as it is read, for people to look at. Raises DataError where it cannot be read or shown."""
        raise DataError(f"what a {type(self).__name__} reads of sample '{sample.key}' cannot be shown")

    def dumped(self) -> dict[str, Any]:
        """The settings as plain entries, for people to look at; {} where another program has them."""
        return {}

    @property
    def dummy_images(self) -> Images | None:
        """Images of no sample, for `Batch.dummy_images`; None where no model has parts that images alone go through."""
        return None

    @classmethod
    @abstractmethod
    def from_recipe(cls, entries: Mapping[str, Any], texts: Iterable[str]) -> Self:
        """A processor of the recipe's `processor` entries. texts: the training captions, to learn a tokenizer from."""

    def changed(self, entries: Mapping[str, Any]) -> Self:
        """This processor with entries of the recipe over its own, for a trained model that is trained further.

        Raises RecipeError for what belongs to the weights; by default that is everything.
        """
        if entries:
            raise RecipeError(f"processor.{next(iter(entries))}: a {type(self).__name__} stays as it was trained")
        return self

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes all that `load` needs into a folder that exists."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote. Raises CheckpointError if the folder is incomplete."""


@dataclass(frozen=True)
class TokenizerEntry:
    """Where a tokenizer comes from: learned from the training captions, with `learn` tokens, or read from a `file`."""

    learn: int | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if (self.learn is None) == (self.file is None):
            raise RecipeError("processor.tokenizer: give either learn: COUNT or file: PATH")


@dataclass(frozen=True)
class PairSettings:
    """The `processor` entries of a dual encoder's recipe.

    patches: in place of `image`, for a tower that sees pictures at their own aspect ratio.
    """

    tokenizer: TokenizerEntry
    image: ImageTransform = field(default_factory=ImageTransform)
    patches: PatchTransform | None = None
    text: TextTransform = field(default_factory=TextTransform)


class PairProcessor(Processor):
    """One picture and one text a sample, encoded apart from each other: what dual encoders are given."""

    def __init__(self, image: ImageTransform | PatchTransform, tokenizer: Tokenizer) -> None:
        self.image, self.tokenizer = image, tokenizer
        self.backend: tokenizers.Tokenizer = tokenizer.backend
        self._buffers = Buffers()

    @property
    def transform(self) -> ImageTransform | None:
        return self.image if isinstance(self.image, ImageTransform) else None

    @property
    def caption_tokenizer(self) -> Tokenizer:
        return self.tokenizer

    def preview(self, sample: Sample) -> Preview:
        """All captions that a pair may be made of, one a line."""
        texts = sample.captions or tuple(text.text for text in sample.texts)
        cut = sum(self.tokenizer.is_cut(text) for text in texts)
        tokens = sum(len(encoding.ids) for encoding in self.backend.encode_batch(list(texts)))
        summary = f"{len(texts)} captions" + (f", {cut} of them cut by the context" if cut else "")
        return Preview("\n".join(texts), (), "", tokens, 0, tokens, self.tokenizer.rules.context, summary)

    def dumped(self) -> dict[str, Any]:
        kind = "patches" if isinstance(self.image, PatchTransform) else "image"
        return {kind: dump(self.image), "text": dump(self.tokenizer.rules)}

    def __call__(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None = None) -> Batch:
        texts = []
        for sample in samples:
            if len(sample.texts) != 1:
                raise DataError(f"sample '{sample.key}' has {len(sample.texts)} texts; a pair needs exactly one")
            texts.append(sample.texts[0].text)
        return Batch(
            keys=tuple(sample.key for sample in samples),
            images=self.images([sample.image for sample in samples], generators),
            texts=self.texts(texts),
        )

    def images(self, images: Sequence[Image], generators: Sequence[np.random.Generator] | None = None) -> Images:
        """A batch of pictures alone, in order."""
        if isinstance(self.image, PatchTransform):
            return self.image.batch(images)
        drawn = generators if generators is not None else [None] * len(images)
        shape = (len(images), 3, self.image.size, self.image.size)
        pixels = torch.empty(shape) if generators is None else self._buffers.empty(*shape)
        for image, generator, out in zip(images, drawn, pixels, strict=True):
            self.image.normalised(self.image.pixels_uint8(image, generator), out)
        return PixelImages(pixels, torch.arange(len(images)))

    def texts(self, texts: Sequence[str]) -> Tokens:
        """A batch of texts alone, in order."""
        return self.tokenizer(texts)

    @classmethod
    def from_recipe(cls, entries: Mapping[str, Any], texts: Iterable[str]) -> Self:
        settings = parse(PairSettings, entries, "processor")
        if settings.patches is not None and "image" in entries:
            raise RecipeError("processor: give either image or patches")
        settings.image.require_decoders()  # now, not in the middle of a run
        image = settings.patches or settings.image
        if settings.tokenizer.file is not None:
            return cls(image, Tokenizer.load(settings.tokenizer.file, settings.text))
        assert settings.tokenizer.learn is not None
        return cls(image, Tokenizer(learn_tokenizer(texts, settings.tokenizer.learn), settings.text))

    def changed(self, entries: Mapping[str, Any]) -> Self:
        """This processor with other entries of `image`; the tokenizer belongs to the weights."""
        if fixed := sorted(entries.keys() - {"image"}):
            raise RecipeError(f"processor.{fixed[0]}: a trained model keeps its own; only 'image' can be changed")
        image = parse(ImageTransform, {**dump(self.image), **entries.get("image", {})}, "processor.image")
        return type(self)(image, self.tokenizer)

    def save(self, folder: Path) -> None:
        (folder / "processor.json").write_text(json.dumps(self.dumped(), indent=2) + "\n")
        self.tokenizer.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        file = folder / "processor.json"
        if not file.exists():
            raise CheckpointError(f"{folder} has no processor.json: it is not a whole checkpoint")
        try:
            settings = json.loads(file.read_text())
            patches = settings.get("patches")
            image, text = patches if patches is not None else settings["image"], settings["text"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} is damaged: it does not hold 'image' and 'text' settings") from error
        rules = parse(TextTransform, text, f"{file}: text")
        tokenizer = Tokenizer.load(folder, rules)
        if patches is not None:
            return cls(parse(PatchTransform, patches, f"{file}: patches"), tokenizer)
        return cls(parse(ImageTransform, image, f"{file}: image"), tokenizer)
