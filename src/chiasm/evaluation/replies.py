"""Questions answered in words: batches by the number of tokens, each picture read once, endpoints asked all at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, runtime_checkable

from rich.progress import Progress

from chiasm.data.box_formats.floats import located
from chiasm.data.sample import Part, Sample, Text
from chiasm.errors import DataError, RemoteError
from chiasm.evaluation.item import Item
from chiasm.evaluation.task import Failed, GenerateRequest, Response, part_key
from chiasm.models.generative import GenerativeModel, SharedPrefix
from chiasm.models.model import Generator
from chiasm.weights.endpoint import Endpoint, Told

BATCH_TOKENS = 8192
_SAMPLES = 8  # handed at once to a model that cannot tell how long they are; between them, progress is kept
_REFUSED = 10  # refusals without a single answer after which an endpoint is not asked any more


@runtime_checkable
class PrefixSharing(Protocol):
    """A generator that reads what several questions share only once, as speakers do."""

    def prompt_length(self, sample: Sample) -> int:
        """Tokens that are read before the answer. Raises DataError if they are too many."""

    def replies(self, groups: Sequence[SharedPrefix]) -> list[list[str]]:
        """The answers to the questions of each group."""


@dataclass(frozen=True)
class Asked:
    """A question to be answered in words. tokens: of prompt and reply, where they can be told.

    parts: how many parts of its sample it may share with others; None where it shares nothing, such as a picture
    without a question. begins: what these are, alike where they are; None where no other begins so.
    """

    item: Item
    question: GenerateRequest
    tokens: int = 0
    parts: int | None = None
    begins: Hashable = None


class Replies:
    """Asks a generator. batch_tokens: of prompts and replies that it is given at once."""

    def __init__(self, model: Generator, progress: Progress, batch_tokens: int = BATCH_TOKENS) -> None:
        self._model, self._progress, self._batch_tokens = model, progress, batch_tokens

    def ask(self, items: Sequence[Item]) -> None:
        """Answers of questions in words, kept as they come."""
        asked = [Asked(item, item.question) for item in items if isinstance(item.question, GenerateRequest)]
        bar = self._progress.add_task("replies", total=len(asked), visible=bool(asked))
        if isinstance(self._model, Endpoint):
            for told in _at_once(asked, self._model):
                self._progress.update(bar, advance=1, description=told)
            return
        if isinstance(self._model, PrefixSharing):
            measured = [one for each in asked if (one := _measured(each, self._model)) is not None]
            self._progress.advance(bar, len(asked) - len(measured))
            batches = batched(measured, self._batch_tokens)
        else:
            batches = list(_in_turn(asked))
        for batch in batches:
            for one, answer in zip(batch, self._answers(batch), strict=True):
                one.item.keep(_spelled(one.question, answer, self._model))
            self._progress.advance(bar, len(batch))

    def _answers(self, batch: Sequence[Asked]) -> list[Response]:
        """Where a batch fails, each of its questions is asked alone, and only the one to blame has failed."""
        try:
            if isinstance(self._model, PrefixSharing) and all(one.parts is not None for one in batch):
                return _shared(batch, self._model)
            samples = [one.question.sample for one in batch]
            return [_reply(one) for one in self._model.generate(samples, max_tokens=batch[0].question.max_tokens)]
        except DataError as error:
            if len(batch) > 1:
                return [answer for one in batch for answer in self._answers([one])]
            if batch[0].parts is not None:
                return self._answers([replace(batch[0], parts=None)])
            return [Failed(str(error))]


def batched(asked: Sequence[Asked], budget: int) -> list[list[Asked]]:
    """Batches of at most `budget` tokens, a row counted as long as the longest, or of a single row.

    Questions that share nothing are generated from, all with one limit; they stand in batches of their own.
    Questions that begin alike stay together as far as that goes. The longest come first: if they fit into memory, all
    do, and the time left is told on the safe side.
    """
    together: dict[Hashable, list[Asked]] = {}
    for at, one in enumerate(asked):
        together.setdefault(one.begins if one.begins is not None else at, []).append(one)
    pieces: list[list[Asked]] = []
    for group in together.values():
        rows = max(1, budget // max(one.tokens for one in group)) if group[0].parts is not None else 1
        pieces += [group[at : at + rows] for at in range(0, len(group), rows)]
    pieces.sort(key=lambda piece: -max(one.tokens for one in piece))
    batches: list[list[Asked]] = []
    longest = 0
    for piece in pieces:
        fits = batches and _limit(batches[-1][0]) == _limit(piece[0])
        if fits and (len(batches[-1]) + len(piece)) * longest <= budget:
            batches[-1].extend(piece)
        else:
            batches.append(list(piece))
            longest = max(one.tokens for one in piece)
    return batches


def _limit(asked: Asked) -> int | None:
    """Of new tokens, where all of a batch need the same; None where each may have its own."""
    return asked.question.max_tokens if asked.parts is None else None


def _measured(asked: Asked, model: PrefixSharing) -> Asked | None:
    """With its tokens, and what it may share; None where it has failed by being too long."""
    question, parts = asked.question, asked.question.sample.parts
    try:
        tokens = model.prompt_length(question.sample) + question.max_tokens
    except DataError as error:
        asked.item.keep(Failed(str(error)))
        return None
    last = parts[-1]
    if not isinstance(last, Text) or not last.text:
        return replace(asked, tokens=tokens)  # nothing is asked beyond the picture: it stands alone
    shown = [at + 1 for at, part in enumerate(parts) if not isinstance(part, Text)]
    if not shown:
        return replace(asked, tokens=tokens, parts=len(parts) - 1)
    return replace(asked, tokens=tokens, parts=shown[-1], begins=tuple(part_key(part) for part in parts[: shown[-1]]))


def _shared(batch: Sequence[Asked], model: PrefixSharing) -> list[Response]:
    groups = []
    for _, several in groupby(batch, key=lambda one: one.begins if one.begins is not None else id(one)):
        first, *others = several
        begun = replace(first.question.sample, parts=first.question.sample.parts[: first.parts])
        adds = [_texts(one.question.sample.parts[one.parts :]) for one in (first, *others)]
        groups.append(SharedPrefix(begun, tuple(adds), tuple(one.question.max_tokens for one in (first, *others))))
    return [reply for several in model.replies(groups) for reply in several]


def _texts(parts: Sequence[Part]) -> tuple[Text, ...]:
    return tuple(part for part in parts if isinstance(part, Text))


def _in_turn(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    for _, several in groupby(asked, key=lambda one: one.question.max_tokens):
        alike = list(several)
        yield from (alike[at : at + _SAMPLES] for at in range(0, len(alike), _SAMPLES))


def _spelled(question: GenerateRequest, answer: Response, model: object) -> Response:
    """The answer; where it is to hold boxes, with these in the spelling that tasks read."""
    if question.boxes is None or not isinstance(answer, str):
        return answer
    own = model.processor.settings.boxes if isinstance(model, GenerativeModel) else None
    return located(own or question.boxes, question.sample, answer)


def _reply(sample: Sample) -> Response:
    last = sample.parts[-1] if sample.parts else None
    return last.text if isinstance(last, Text) else Failed("the model's reply holds no text")


def _at_once(asked: Sequence[Asked], model: Endpoint) -> Iterator[str]:
    """Asks an endpoint; after each answer, what to tell beside the bar.

    Raises RemoteError if nothing but refusals comes: the fault is then in how the endpoint is asked.
    """
    answered, refused = any(len(one.item.responses) for one in asked), 0
    for at, (answer, told) in model.concurrently(_replying(model), [one.question for one in asked]):
        asked[at].item.keep(_spelled(asked[at].question, answer, model), told)
        if not isinstance(answer, Failed):
            answered = True
        else:
            refused += 1
            if refused == _REFUSED and not answered:
                raise RemoteError(f"the first {_REFUSED} questions were all refused; the last: {answer.reason}")
        yield f"replies, {model.cost}"


def _replying(model: Endpoint) -> Callable[[GenerateRequest], tuple[Response, Told]]:
    def replying(question: GenerateRequest) -> tuple[Response, Told]:
        try:
            reply = model.reply(question.sample, question.max_tokens)
        except DataError as error:
            return Failed(str(error)), {}
        return reply.text, reply.told

    return replying
