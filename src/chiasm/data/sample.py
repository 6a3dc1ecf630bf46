"""The record: a sequence of parts in reading order, with what is known about them.

One record serves a caption pair, a chat, a web page, a document and a clip. Sources make it, processors read its
parts, tasks read its annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from chiasm.data.image import Image
from chiasm.data.video import Video
from chiasm.errors import DataError

__all__ = ["Box", "GroundedSpan", "Image", "Negative", "Part", "Preference", "Question", "Sample", "Text", "Video"]


@dataclass(frozen=True, slots=True)
class Box:
    """A region of a picture and the phrase that names it.

    corners: (x0, y0, x1, y1), relative to the picture's width and height, 0 to 1, x before y, x0 < x1 and y0 < y1.
    phrase: the words that name the region, such as "red cube".
    span: where the phrase stands in the sample's first caption, as (start, end) characters, where that is known.
    image: which of the sample's pictures the box lies in.
    """

    corners: tuple[float, float, float, float]
    phrase: str
    span: tuple[int, int] | None = None
    image: int = 0

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.corners
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise DataError(
                f"the box {self.corners} for '{self.phrase}' is not inside its picture: "
                "corners are (x0, y0, x1, y1) relative to width and height, 0 to 1"
            )

    @property
    def area(self) -> float:
        """Share of the picture that the box covers, 0 to 1."""
        x0, y0, x1, y1 = self.corners
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True, slots=True)
class GroundedSpan:
    """A phrase of a text that means regions of the pictures. How it is written in a chat is the model's own convention.

    span: (start, end) characters of the text; an empty one stands for the boxes alone, at that position.
    boxes: the regions; () where they are asked for, so that the phrase is marked and nothing more.
    """

    span: tuple[int, int]
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text.

    role: whose turn it belongs to in a chat ("system", "user", "assistant"); empty outside of chats.
    target: whether it is learned (in training) or scored (in evaluation). Label masks come from here and nowhere else.
    mentions: phrases of it that mean regions, in order, none within another.
    """

    text: str
    role: str = ""
    target: bool = False
    grounded_spans: tuple[GroundedSpan, ...] = ()


Part = Text | Image | Video
ROLES = ("system", "user", "assistant", "tool")  # whose turns there are in a chat


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the sample's pictures.

    kind: what it asks for ("colour", "count", "reading", ...); scores are reported by kind.
    choices: all answers offered, the right one among them, each once; () if the question is open.
    statements: the choices as sentences, in the same order, one true of the picture and the others false; what a
        model that scores captions is asked where a model that generates is asked the question.
    answers: what each of several people answered, repetitions included; () where only `answer` is known.
    """

    text: str
    answer: str
    kind: str
    choices: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.choices and self.choices.count(self.answer) != 1:
            raise DataError(f"the question '{self.text}' offers {self.choices}, where '{self.answer}' must stand once")
        if self.statements and len(self.statements) != len(self.choices):
            raise DataError(
                f"the question '{self.text}' has {len(self.choices)} choices but {len(self.statements)} statements"
            )


@dataclass(frozen=True, slots=True)
class Negative:
    """A caption that is false of the picture, made by one small change to a true one. kind: what was changed."""

    text: str
    true: str
    kind: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two continuations of the same prompt, of which people (or a judge) prefer one (Rafailov et al. 2023,
    arXiv:2305.18290).

    chosen, rejected: the parts that follow the sample's own, in reading order; each holds a text that is a target.
    Raises DataError where a side has nothing to learn, or both are the same, so that nothing is preferred.
    """

    chosen: tuple[Part, ...]
    rejected: tuple[Part, ...]

    def __post_init__(self) -> None:
        for side, parts in (("chosen", self.chosen), ("rejected", self.rejected)):
            if not any(isinstance(part, Text) and part.target and part.text.strip() for part in parts):
                raise DataError(f"the {side} continuation of a preference has no text to learn; give it a target text")
        if self.chosen == self.rejected:
            raise DataError("the chosen and the rejected continuation are the same, so neither is preferred")


@dataclass(frozen=True, slots=True)
class Sample:
    """One record: parts in reading order (texts, images, videos), and what is known about them.

    key: unique within its source, stable between runs; errors, logs and answer files name the sample by it.
    parts: texts, images and videos in reading order.
    captions: true texts of the (first) picture; any of them may serve as its caption.
    boxes, questions, negatives: what else is known.
    label: the class of the (first) image, where it has one.
    preference: two continuations of `parts`, one preferred.
    meta: plain facts for reports and curation (licence, url, split); no code path branches on them.
    """

    key: str
    parts: tuple[Part, ...]
    captions: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    questions: tuple[Question, ...] = ()
    negatives: tuple[Negative, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)
    label: str | None = None
    preference: Preference | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def shown(self) -> tuple[Image | Video, ...]:
        """Pictures and videos in reading order."""
        return tuple(part for part in self.parts if not isinstance(part, Text))

    @property
    def texts(self) -> tuple[Text, ...]:
        return tuple(part for part in self.parts if isinstance(part, Text))

    @property
    def image(self) -> Image:
        """The only picture. Raises DataError where the sample has none or several."""
        images = self.images
        if len(images) != 1:
            raise DataError(f"sample '{self.key}' has {len(images)} pictures where exactly one is needed")
        return images[0]

    @property
    def turns(self) -> list[tuple[str, list[Part]]]:
        """The parts by turns of a chat, (role, parts); neighbours of one role are one turn.

        A picture without a role belongs to the turn of the text after it, or to the last one. Where no text has a role
        all is the user's. Raises DataError where only some texts have one, or one is not of ROLES.
        """
        roles = {text.role for text in self.texts}
        if odd := roles - {"", *ROLES}:
            raise DataError(f"sample '{self.key}' has a text of the role '{min(odd)}'; roles are {', '.join(ROLES)}")
        if "" in roles and len(roles) > 1:
            raise DataError(f"sample '{self.key}' is a chat in which a text has no role; give each one, such as 'user'")
        turns: list[tuple[str, list[Part]]] = []
        pending: list[Part] = []
        for part in self.parts:
            pending.append(part)
            if isinstance(part, Text) or part.role:
                role = part.role or "user"
                if not turns or turns[-1][0] != role:
                    turns.append((role, []))
                turns[-1][1].extend(pending)
                pending = []
        if pending and not turns:
            return [("user", pending)]
        if pending:
            turns[-1][1].extend(pending)
        return turns

    def answered(self, *answer: str | Image) -> Sample:
        """This sample with an answer as its last parts: the assistant's, where texts here have roles."""
        role = "assistant" if any(text.role for text in self.texts) else ""
        parts = (Text(part, role=role) if isinstance(part, str) else part.placed(role) for part in answer)
        return replace(self, parts=(*self.parts, *parts))

    def fact(self, name: str) -> object | None:
        """The value of a name for reports: "label", or an entry of `meta`; None where there is none."""
        return self.label if name == "label" else self.meta.get(name)

    @property
    def continuations(self) -> tuple[Sample, Sample]:
        """The sample continued as preferred, and as rejected. Raises DataError where it has no preference."""
        if self.preference is None:
            raise DataError(f"sample '{self.key}' has no preference: no chosen and rejected continuation")
        both = self.preference.chosen, self.preference.rejected
        first, second = (replace(self, parts=(*self.parts, *parts), preference=None) for parts in both)
        return first, second

    def with_caption(self, caption: str) -> Sample:
        """This sample as a pair of its pictures and one caption, the caption being what is learned."""
        return replace(self, parts=(*self.images, Text(caption, target=True)))
