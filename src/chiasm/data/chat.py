"""Chats as one text, by the template that comes with a checkpoint, and which of its characters are learned.

One renderer makes both, so a prompt and a label mask cannot disagree: the words to learn are marked before the template
sees them, and the marks are looked up in what it makes. A template is a program (Jinja) written by strangers: it runs
in a sandbox that lets it reach nothing and do only so much."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from chiasm.data.sample import Image, Part, Sample, Text, Video
from chiasm.data.sandbox import TooLong, bounded_environment
from chiasm.errors import CheckpointError, DataError

IMAGE, VIDEO = "\ue010", "\ue011"  # where a picture or video stands in a rendered text
_OPEN, _CLOSE = "\ue012", "\ue013"  # around words to learn; all four are private: no text may hold them
_WORDS = "What is in the picture?"  # to see what a template makes of a message
_PRIVATE = re.compile("[\ue010-\ue013]")


@dataclass(frozen=True)
class Rendered:
    """A sample as one text. spans: the characters that are learned, (start, end), in order.

    Pictures stand as IMAGE, videos as VIDEO, one character each.
    """

    text: str
    spans: tuple[tuple[int, int], ...]

    def expanded(self, written: Sequence[str]) -> Rendered:
        """The text with each IMAGE and VIDEO replaced by what is written for it, in order; the spans move along."""
        pieces = re.split(f"[{IMAGE}{VIDEO}]", self.text)
        text, end = pieces[0], len(pieces[0])
        shifts = [(0, 0)]  # (character, by how much everything from it on moves)
        for placeholder, piece in zip(written, pieces[1:], strict=True):
            end += 1
            shifts.append((end, shifts[-1][1] + len(placeholder) - 1))
            text += placeholder + piece
            end += len(piece)

        def moved(character: int) -> int:
            return character + next(shift for start, shift in reversed(shifts) if character >= start)

        return Rendered(text, tuple((moved(first), moved(last)) for first, last in self.spans))

    def covered(self, offsets: Sequence[tuple[int, int]]) -> list[bool]:
        """Which tokens hold a character of a span. offsets: (start, end) of each token in the text."""
        return [any(start < last and end > first for first, last in self.spans) for start, end in offsets]


@dataclass(frozen=True)
class ChatTemplate:
    """A checkpoint's chat template. source: in Jinja; "" joins the texts of a sample plainly, without roles but for the
    end of what the assistant says.

    image, video: how the template itself writes a picture or a video; they become IMAGE and VIDEO.
    marks: what the template may use by name: bos_token, eos_token, ...
    ends: texts that end a turn; the one that follows learned words is learned with them. The first is added where the
        template ends the chat with learned words and nothing after them, or the model would never learn to stop.
    """

    source: str = ""
    image: str = "<image>"
    video: str = "<video>"
    marks: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()

    def render(self, sample: Sample, answer: bool = False) -> Rendered:
        """The sample as one text. answer: it goes on with the words that open the assistant's turn.

        Raises DataError, naming the sample, for texts with private characters, for a template that refuses the chat,
        loses a picture or a learned word, or treats marked words otherwise than the words alone.
        """
        _check_texts(sample)
        marked, plain = self._text(sample, answer, marked=True), self._text(sample, answer, marked=False)
        if marked.replace(_OPEN, "").replace(_CLOSE, "") != plain:
            # Most templates strip a message's text; marks protect its blanks.
            sample = _stripped(sample)
            marked, plain = self._text(sample, answer, marked=True), self._text(sample, answer, marked=False)
        if marked.replace(_OPEN, "").replace(_CLOSE, "") != plain:
            raise DataError(
                f"sample '{sample.key}': the chat template changes the words to learn, so they cannot be found in "
                "what it makes; use a template that keeps them"
            )
        text, spans = _unmarked(marked)
        self._check_kept(sample, text, spans)
        return self._with_ends(Rendered(text, spans), answer)

    def _check_kept(self, sample: Sample, text: str, spans: Sequence[tuple[int, int]]) -> None:
        for name, mark, kind in (("pictures", IMAGE, Image), ("videos", VIDEO, Video)):
            given = sum(isinstance(part, kind) for part in sample.parts)
            if text.count(mark) != given:
                raise DataError(
                    f"sample '{sample.key}' has {given} {name}, but the chat template made room for "
                    f"{text.count(mark)}; write no '{self.image}' or '{self.video}' into texts, and use a template "
                    "that knows pictures"
                )
        targets = sum(part.target and bool(part.text) for part in sample.texts)
        targets += sum(image.target for image in sample.images)
        if len(spans) != targets:
            raise DataError(
                f"sample '{sample.key}' has {targets} parts to learn, but the chat template keeps {len(spans)} of them"
            )

    def _text(self, sample: Sample, answer: bool, marked: bool) -> str:
        if not self.source or not any(text.role for text in sample.texts):
            return self._joined(sample, marked)
        return self._rendered(_messages(sample, self._takes_lists, self.image, self.video, marked), answer, sample.key)

    def _joined(self, sample: Sample, marked: bool) -> str:
        """Parts one after the other; an answer of the assistant has its end where the chat goes on, too."""
        written = [_written(part, IMAGE, VIDEO, marked) for part in sample.parts]
        for at, (part, following) in enumerate(pairwise(sample.parts)):
            image_follows = isinstance(following, Image) and following.role == "assistant"
            if not isinstance(part, Video) and part.role == "assistant" and not image_follows and self.ends:
                written[at] += self.ends[0]
        return "".join(written)

    def _rendered(self, messages: list[dict[str, Any]], answer: bool, key: str) -> str:
        from jinja2 import TemplateError

        environment, template = self._program
        budget = environment.start(sum(len(text) for text in _strings(messages)))
        try:
            text = template.render(messages=messages, add_generation_prompt=answer, tools=None, **self.marks)
        except TooLong as error:
            raise DataError(
                f"sample '{key}': the chat template does more than {budget:,} steps; it may run without end"
            ) from error
        except (RecursionError, MemoryError) as error:
            raise DataError(
                f"sample '{key}': the chat template calls itself too deeply, or fills the memory"
            ) from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            # A template's own refusal, or a mistake in it, of whatever kind: it is not our program.
            raise DataError(f"sample '{key}': the chat template refuses the chat: {error}") from error
        return text.replace(self.image, IMAGE).replace(self.video, VIDEO)

    def _with_ends(self, rendered: Rendered, answer: bool) -> Rendered:
        """Learned words with the end of their turn."""
        text, spans = rendered.text, []
        for first, end in rendered.spans:
            rest = text[end:]
            blanks = len(rest) - len(rest.lstrip())
            stop = next((mark for mark in self.ends if rest.lstrip().startswith(mark)), None)
            if stop is not None:
                end += blanks + len(stop)
            elif not rest.strip() and self.ends and not answer:
                text = text[:end] + self.ends[0]
                end = len(text)
            spans.append((first, end))
        return replace(rendered, text=text, spans=tuple(spans))

    @cached_property
    def _program(self) -> tuple[Any, Any]:
        """The environment and the template that it made. Both at once, for several threads may come here together."""
        from jinja2 import TemplateError

        environment = bounded_environment()
        try:
            return environment, environment.bounded(self.source)
        except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            # Of Jinja, or of the Python that it makes of a template, which has bounds of its own.
            raise CheckpointError(f"the chat template is not Jinja that can be read: {error}") from error

    @cached_property
    def _takes_lists(self) -> bool:
        """Whether it takes a message's content as a list of parts, not as one text: the words of such a one arrive.

        A template that knows texts alone refuses the list, loses it, or writes it out as Python does.
        """
        parts = [{"type": "text", "text": _WORDS}]
        try:
            text = self._rendered([{"role": "user", "content": parts}], answer=False, key="a first try")
        except DataError:
            return False
        return _WORDS in text and str(parts) not in text and json.dumps(parts) not in text


def _messages(sample: Sample, lists: bool, image: str, video: str, marked: bool) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "content": [entry for part in parts for entry in _as_entries(part, marked)]
            if lists
            else "".join(_written(part, image, video, marked) for part in parts),
        }
        for role, parts in sample.turns
    ]


def _as_entries(part: Part, marked: bool) -> list[dict[str, str]]:
    """A part of a message as chat templates know it. The template itself writes an image, so marks stand beside it."""
    if isinstance(part, Text):
        return [{"type": "text", "text": _written(part, "", "", marked)}]
    if isinstance(part, Image) and part.target and marked:
        return [{"type": "text", "text": _OPEN}, {"type": "image"}, {"type": "text", "text": _CLOSE}]
    return [{"type": "video" if isinstance(part, Video) else "image"}]


def _written(part: Part, image: str, video: str, marked: bool) -> str:
    if isinstance(part, Video):
        return video
    written = part.text if isinstance(part, Text) else image
    return f"{_OPEN}{written}{_CLOSE}" if marked and part.target and written else written


def _unmarked(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text without marks, and the spans that stood between them."""
    plain, spans = "", []
    first = 0
    for piece in re.split(f"([{_OPEN}{_CLOSE}])", text):
        if piece == _OPEN:
            first = len(plain)
        elif piece == _CLOSE:
            spans.append((first, len(plain)))
        else:
            plain += piece
    return plain, tuple(spans)


def _stripped(sample: Sample) -> Sample:
    return replace(
        sample,
        parts=tuple(replace(part, text=part.text.strip()) if isinstance(part, Text) else part for part in sample.parts),
    )


def _check_texts(sample: Sample) -> None:
    for text in sample.texts:
        if _PRIVATE.search(text.text):
            raise DataError(f"sample '{sample.key}': its text holds a character between U+E010 and U+E013; remove it")


def _strings(value: Any) -> Iterator[str]:
    """All texts in a list of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)
