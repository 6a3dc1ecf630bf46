"""Requests answered by generating: batches by the number of tokens, each image read once, remote models at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, runtime_checkable

from rich.progress import Progress

from chiasm.data.box_formats.floats import located
from chiasm.data.sample import Part, Sample, Text
from chiasm.errors import DataError, RemoteError
from chiasm.evaluation.instance import Instance
from chiasm.evaluation.request import Failed, GenerateRequest, Response, part_key
from chiasm.models.generative import GenerativeModel, SharedPrefix
from chiasm.models.model import Generator
from chiasm.models.remote import RemoteModel, Usage

BATCH_TOKENS = 8192
_SAMPLES = 8  # per batch of a model that cannot count their tokens; between batches, progress is kept
_REFUSED = 10  # refusals without a single answer after which a remote model is not asked any more


@runtime_checkable
class PrefixSharing(Protocol):
    """A generator that reads only once what several requests share, as generative models with a decoder do."""

    def prompt_length(self, sample: Sample) -> int:
        """Tokens that are read before the answer. Raises DataError if they are too many."""

    def replies(self, groups: Sequence[SharedPrefix]) -> list[list[str]]:
        """The replies to the requests of each group."""


@dataclass(frozen=True)
class PendingReply:
    """A request that waits for its batch. tokens: of prompt and reply, where they can be counted.

    shareable: how many parts of its sample it may share with others; None where it shares nothing, such as an image
    without a question. prefix: what these are, equal where they are; None where no other request begins so.
    """

    instance: Instance[GenerateRequest]
    tokens: int = 0
    shareable: int | None = None
    prefix: Hashable = None

    @property
    def request(self) -> GenerateRequest:
        return self.instance.request

    @property
    def own_limit(self) -> int | None:
        """The limit of new tokens that its whole batch must have; None where each request may have its own."""
        return self.request.max_tokens if self.shareable is None else None


class Replies:
    """Asks a generator. batch_tokens: of prompts and replies that it is given at once."""

    def __init__(self, model: Generator, progress: Progress, batch_tokens: int = BATCH_TOKENS) -> None:
        self._model, self._progress, self._batch_tokens = model, progress, batch_tokens

    def ask(self, instances: Sequence[Instance[GenerateRequest]]) -> None:
        """Gets the responses to all requests, kept as they come."""
        bar = self._progress.add_task("replies", total=len(instances), visible=bool(instances))
        if isinstance(self._model, RemoteModel):
            for cost in _ask_remote(instances, self._model):
                self._progress.update(bar, advance=1, description=f"replies, {cost}")
            return
        if isinstance(self._model, PrefixSharing):
            pending = [prompt for instance in instances if (prompt := _measured(instance, self._model)) is not None]
            self._progress.advance(bar, len(instances) - len(pending))
            batches = batched(pending, self._batch_tokens)
        else:
            batches = list(_in_turn([PendingReply(instance) for instance in instances]))
        for batch in batches:
            for prompt, response in zip(batch, self._responses(batch), strict=True):
                prompt.instance.keep(_spelled(prompt.request, response, self._model))
            self._progress.advance(bar, len(batch))

    def _responses(self, batch: Sequence[PendingReply]) -> list[Response]:
        """Where a batch fails, each of its requests is put alone, and only the one to blame has failed."""
        try:
            if isinstance(self._model, PrefixSharing) and all(prompt.shareable is not None for prompt in batch):
                return _with_shared_prefixes(batch, self._model)
            samples = [prompt.request.sample for prompt in batch]
            answered = self._model.generate(samples, max_tokens=batch[0].request.max_tokens)
            return [prompt.request.response(sample) for prompt, sample in zip(batch, answered, strict=True)]
        except DataError as error:
            if len(batch) > 1:
                return [response for prompt in batch for response in self._responses([prompt])]
            if batch[0].shareable is not None:
                return self._responses([replace(batch[0], shareable=None)])
            return [Failed(str(error))]


def batched(pending: Sequence[PendingReply], budget: int) -> list[list[PendingReply]]:
    """Batches of at most `budget` tokens, a row counted as long as the longest, or of a single row.

    Requests that share nothing are generated from, all with one limit; they stand in batches of their own.
    Requests that begin alike stay together as far as that goes. The longest come first: if they fit into memory, all
    do, and the time left is estimated on the safe side.
    """
    groups: dict[Hashable, list[PendingReply]] = {}
    for at, prompt in enumerate(pending):
        groups.setdefault(prompt.prefix if prompt.prefix is not None else at, []).append(prompt)
    chunks: list[list[PendingReply]] = []
    for group in groups.values():
        rows = max(1, budget // max(prompt.tokens for prompt in group)) if group[0].shareable is not None else 1
        chunks += [group[at : at + rows] for at in range(0, len(group), rows)]
    chunks.sort(key=lambda chunk: -max(prompt.tokens for prompt in chunk))
    batches: list[list[PendingReply]] = []
    longest = 0
    for chunk in chunks:
        fits = batches and batches[-1][0].own_limit == chunk[0].own_limit
        if fits and (len(batches[-1]) + len(chunk)) * longest <= budget:
            batches[-1].extend(chunk)
        else:
            batches.append(list(chunk))
            longest = max(prompt.tokens for prompt in chunk)
    return batches


def _measured(instance: Instance[GenerateRequest], model: PrefixSharing) -> PendingReply | None:
    """With its tokens, and what it may share; None where it has failed by being too long."""
    request, parts = instance.request, instance.request.sample.parts
    try:
        tokens = model.prompt_length(request.sample) + request.max_tokens
    except DataError as error:
        instance.keep(Failed(str(error)))
        return None
    last = parts[-1]
    if request.modality != "text" or not isinstance(last, Text) or not last.text:
        return PendingReply(instance, tokens)  # nothing is asked beyond the image: it stands alone
    shown = [at + 1 for at, part in enumerate(parts) if not isinstance(part, Text)]
    if not shown:
        return PendingReply(instance, tokens, len(parts) - 1)
    return PendingReply(instance, tokens, shown[-1], tuple(part_key(part) for part in parts[: shown[-1]]))


def _with_shared_prefixes(batch: Sequence[PendingReply], model: PrefixSharing) -> list[Response]:
    groups = []
    for _, several in groupby(batch, key=lambda prompt: prompt.prefix if prompt.prefix is not None else id(prompt)):
        pending = list(several)
        first = pending[0].request.sample
        begun = replace(first, parts=first.parts[: pending[0].shareable])
        added = tuple(_texts(prompt.request.sample.parts[prompt.shareable :]) for prompt in pending)
        groups.append(SharedPrefix(begun, added, tuple(prompt.request.max_tokens for prompt in pending)))
    return [reply for several in model.replies(groups) for reply in several]


def _texts(parts: Sequence[Part]) -> tuple[Text, ...]:
    return tuple(part for part in parts if isinstance(part, Text))


def _in_turn(pending: Sequence[PendingReply]) -> Iterator[list[PendingReply]]:
    for _, several in groupby(pending, key=lambda prompt: prompt.request.max_tokens):
        alike = list(several)
        yield from (alike[at : at + _SAMPLES] for at in range(0, len(alike), _SAMPLES))


def _spelled(request: GenerateRequest, response: Response, model: object) -> Response:
    """The response; where it is to hold boxes, with these in the spelling that tasks read."""
    if request.boxes is None or not isinstance(response, str):
        return response
    own = model.processor.settings.boxes if isinstance(model, GenerativeModel) else None
    return located(own or request.boxes, request.sample, response)


def _ask_remote(instances: Sequence[Instance[GenerateRequest]], model: RemoteModel) -> Iterator[str]:
    """Asks a remote model; after each response, what was spent so far.

    Raises RemoteError if nothing but refusals comes: the fault is then in how the model is asked.
    """
    answered, refused = any(len(instance.responses) for instance in instances), 0
    requests = [instance.request for instance in instances]
    for at, (response, usage) in model.concurrently(_answering(model), requests):
        instances[at].keep(_spelled(requests[at], response, model), usage)
        if not isinstance(response, Failed):
            answered = True
        else:
            refused += 1
            if refused == _REFUSED and not answered:
                raise RemoteError(f"the first {_REFUSED} requests were all refused; the last: {response.reason}")
        yield model.cost


def _answering(model: RemoteModel) -> Callable[[GenerateRequest], tuple[Response, Usage]]:
    def answering(request: GenerateRequest) -> tuple[Response, Usage]:
        try:
            answered, usage = model.answer(request.sample, request.max_tokens)
        except DataError as error:
            return Failed(str(error)), {}
        return request.response(answered), usage

    return answering
