"""What is asked of a model. A request knows the verbs that answer it, its hash, its constant answer and altered forms.

A new kind of request is one class and no edit elsewhere: it derives from `ScoreRequest`, `GenerateRequest` or
`EmbedRequest`, or its `form` gives one of these (few-shot examples become the sample of a `GenerateRequest`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from chiasm.config import dump
from chiasm.data.box_format import BoxFormat
from chiasm.data.image import Image
from chiasm.data.sample import Part, Sample, Text, Video
from chiasm.errors import DataError
from chiasm.models.caption_scores import grey

T = TypeVar("T")
GREY = grey(224, 224)  # instead of an image that is not to be seen
Hashed = Callable[[object], str]  # the hash of a value, computed once for each object


@dataclass(frozen=True)
class Failed:
    """The reason why there is no response, instead of one."""

    reason: str


Response = NDArray[np.float32] | str | Image | Failed


@dataclass(frozen=True)
class Request(ABC):
    """Something to ask of a model.

    key: unique in its task. kind: what it is about; scores are reported by kind.
    sample_key: key of the sample that it was made of; items of one sample are resampled together.
    to_learn_from: what a probe is fitted on; it is no item of its own, and where it is broken nothing counts as wrong.
    """

    key: str
    kind: str = field(default="", kw_only=True)
    sample_key: str = field(default="", kw_only=True)
    to_learn_from: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def verbs(self) -> tuple[str, ...]:
        """The verbs ("embed", "score", "generate") of which a model must have one; () if no model is asked."""

    @property
    def all_images(self) -> tuple[Image, ...]:
        """The images that a model is shown, the frames or the poster of videos included."""
        return ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts that an answer has to follow as it else follows what an image shows; see `altered`."""
        return ()

    @property
    def cluster(self) -> str:
        """Key of what its items are resampled together with: its sample, or itself."""
        return self.sample_key or self.key

    def form(self, verbs: Collection[str]) -> Request:
        """The request as it is put to a model with these verbs."""
        del verbs
        return self

    def put(self, queues: Queues[T], tag: T) -> None:
        """Adds itself to the queue of the verb that answers it. A kind that always takes another `form` needs none."""
        del queues, tag
        raise TypeError(f"{type(self).__name__} is in no queue: its `form` must give a request that a verb answers")

    @abstractmethod
    def content(self, hashed: Hashed) -> list[object]:
        """All that its answer and its score depend on, as plain values: what a protocol's hash is made of.

        hashed: stands in for a value that many requests share.
        """

    @abstractmethod
    def constant(self) -> Response:
        """What a model that never looks answers."""

    def altered(self, image: Callable[[Image], Image], prompt: Callable[[str], str]) -> Self:
        """The same request about other images, and for `prompts` about other texts: blind, or shuffled."""
        del image, prompt
        return self


@dataclass(frozen=True)
class Queues(Generic[T]):
    """Requests by the verb that answers them, each with a tag of the caller's. known: what needs no model."""

    embed: list[tuple[T, EmbedRequest]] = field(default_factory=list)
    score: list[tuple[T, ScoreRequest]] = field(default_factory=list)
    generate: list[tuple[T, GenerateRequest]] = field(default_factory=list)
    known: list[tuple[T, Response]] = field(default_factory=list)


@dataclass(frozen=True)
class ScoreRequest(Request):
    """How well does each text fit each image? Answered by a matrix (N images, C columns), higher fits better.

    texts: one group of phrasings a column. A dual encoder averages the phrasings' embeddings and scales the mean to
        unit length, as open_clip's zero-shot classifier does; a scorer averages the phrasings' scores. Requests that
        share their columns share this very tuple: they are then answered by one product.
    true: the columns that fit the first image; for the measure, never shown to the model.
    """

    images: tuple[Image, ...]
    texts: tuple[tuple[str, ...], ...]
    true: tuple[int, ...] = ()

    @property
    def verbs(self) -> tuple[str, ...]:
        return "embed", "score"

    @property
    def all_images(self) -> tuple[Image, ...]:
        return self.images

    def put(self, queues: Queues[T], tag: T) -> None:
        queues.score.append((tag, self))

    def content(self, hashed: Hashed) -> list[object]:
        images = [image_key(image) for image in self.images]
        return [self.key, self.kind, images, hashed(self.texts), self.true]

    def constant(self) -> Response:
        return np.zeros((len(self.images), len(self.texts)), np.float32)

    def altered(self, image: Callable[[Image], Image], prompt: Callable[[str], str]) -> Self:
        del prompt
        return replace(self, images=tuple(image(shown) for shown in self.images))


@dataclass(frozen=True)
class GenerateRequest(Request):
    """A request to continue a sample: answered by the text that a model generates.

    sample: ends where the answer begins. references: right answers; for the measure, never shown to the model.
    boxes: how a model that has no convention of its own spells boxes, where the reply is to hold some: it is kept with
        these in the spelling that all models share, LOCATED. None where it is kept as it stands.
    """

    modality: ClassVar[Literal["text", "image"]] = "text"  # of the answer

    sample: Sample
    max_tokens: int = 32
    references: tuple[str, ...] = ()
    boxes: BoxFormat | None = None

    @property
    def verbs(self) -> tuple[str, ...]:
        return ("generate",)

    @property
    def all_images(self) -> tuple[Image, ...]:
        parts = ((part.images if isinstance(part, Video) else (part,)) for part in self.sample.parts)
        return tuple(shown for several in parts for shown in several if isinstance(shown, Image))

    def put(self, queues: Queues[T], tag: T) -> None:
        queues.generate.append((tag, self))

    def content(self, hashed: Hashed) -> list[object]:
        del hashed
        parts = [part_key(part) for part in self.sample.parts]
        return [self.key, self.kind, parts, self.max_tokens, self.references, dump(self.boxes)]

    def constant(self) -> Response:
        return ""

    def altered(self, image: Callable[[Image], Image], prompt: Callable[[str], str]) -> Self:
        parts = tuple(self._altered(part, image, prompt) for part in self.sample.parts)
        return replace(self, sample=replace(self.sample, parts=parts))

    def response(self, answered: Sample) -> Response:
        """What a model answered, read off the sample that it gave back: the text at its end."""
        last = answered.parts[-1] if answered.parts else None
        return last.text if isinstance(last, Text) else Failed("the model's reply holds no text")

    def _altered(self, part: Part, image: Callable[[Image], Image], prompt: Callable[[str], str]) -> Part:
        if isinstance(part, Video):
            return part.with_images(image)
        if isinstance(part, Image):
            return image(part)
        return replace(part, text=prompt(part.text)) if self.prompts else part


@dataclass(frozen=True)
class GenerateImageRequest(GenerateRequest):
    """Which image goes with this sample, such as a text that describes it? Answered by the image that a model adds."""

    modality: ClassVar[Literal["text", "image"]] = "image"

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(text.text for text in self.sample.texts)

    def constant(self) -> Response:
        return GREY

    def response(self, answered: Sample) -> Response:
        """The last image of what the model added."""
        added = [part for part in answered.parts[len(self.sample.parts) :] if isinstance(part, Image)]
        return added[-1] if added else Failed("the model's answer holds no image")


@dataclass(frozen=True)
class ScoreOrGenerate(ScoreRequest):
    """A request for scores that can also be answered in words, so that models of both sorts stand in one table.

    A model that embeds or scores is asked for scores; one that only generates is asked `words`, and its reply is read
    as one of `choices`, of which there is one a column.
    words_only: scores are never asked for, as where the order of the choices matters; `true` still holds.
    """

    words: GenerateRequest = field(kw_only=True)
    choices: tuple[str, ...] = field(kw_only=True)
    words_only: bool = field(default=False, kw_only=True)

    @classmethod
    def of(
        cls, request: ScoreRequest, words: GenerateRequest, choices: tuple[str, ...], *, words_only: bool = False
    ) -> Self:
        """A request for scores with its form in words."""
        return cls(
            request.key,
            request.images,
            request.texts,
            request.true,
            kind=request.kind,
            sample_key=request.sample_key,
            words=words,
            choices=choices,
            words_only=words_only,
        )

    @property
    def verbs(self) -> tuple[str, ...]:
        return ("generate",) if self.words_only else ("embed", "score", "generate")

    def form(self, verbs: Collection[str]) -> Request:
        in_words = self.words_only or not {"embed", "score"} & set(verbs)
        return replace(self.words, key=self.key) if in_words else self

    def content(self, hashed: Hashed) -> list[object]:
        """Of both forms, so that models asked in either can be compared."""
        return [*super().content(hashed), self.words.content(hashed), self.choices, self.words_only]

    def altered(self, image: Callable[[Image], Image], prompt: Callable[[str], str]) -> Self:
        return replace(super().altered(image, prompt), words=self.words.altered(image, prompt))


@dataclass(frozen=True)
class EmbedRequest(Request):
    """Where do these images lie in the model's space? Answered by their embeddings, (N, D)."""

    images: tuple[Image, ...]

    @property
    def verbs(self) -> tuple[str, ...]:
        return ("embed",)

    @property
    def all_images(self) -> tuple[Image, ...]:
        return self.images

    def put(self, queues: Queues[T], tag: T) -> None:
        queues.embed.append((tag, self))

    def content(self, hashed: Hashed) -> list[object]:
        del hashed
        return [self.key, self.kind, [image_key(image) for image in self.images], self.to_learn_from]

    def constant(self) -> Response:
        return np.ones((len(self.images), 1), np.float32)  # any other embedding would do: a task may say which

    def altered(self, image: Callable[[Image], Image], prompt: Callable[[str], str]) -> Self:
        del prompt
        return replace(self, images=tuple(image(shown) for shown in self.images))


@dataclass(frozen=True)
class Broken(Request):
    """A sample that cannot be read: an item that no model is asked and that counts as wrong."""

    reason: str

    @property
    def verbs(self) -> tuple[str, ...]:
        return ()

    def put(self, queues: Queues[T], tag: T) -> None:
        queues.known.append((tag, self.constant()))

    def content(self, hashed: Hashed) -> list[object]:
        del hashed
        return [self.key]

    def constant(self) -> Response:
        return Failed(self.reason)


R = TypeVar("R", bound=Request)


def of_type(requests: Sequence[Request], kind: type[R]) -> list[tuple[int, R]]:
    """A task's requests of its own kind, each with its index: all but the samples that could not be read."""
    return [(at, request) for at, request in enumerate(requests) if isinstance(request, kind)]


def image_key(image: Image) -> str:
    """What identifies an image: a hash of the content, or the name of one that cannot be read."""
    try:
        return image.key
    except DataError:
        return image.name


def part_key(part: Part) -> Hashable:
    """What identifies parts: all that a model is shown of them, as plain values."""
    if isinstance(part, Image):
        return image_key(part)
    if isinstance(part, Video):
        return tuple(image_key(image) for image in part.images), part.seconds
    return part.role, part.text, tuple(astuple(span) for span in part.grounded_spans)
