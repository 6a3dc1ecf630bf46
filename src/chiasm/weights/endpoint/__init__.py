"""Models behind OpenAI-compatible endpoints, with the same methods as local models."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar

import torch
from torch import Tensor

from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.errors import DataError
from chiasm.models.caption_scores import shown
from chiasm.models.remote import Found, Item, RemoteModel, RemoteScorer, Usage
from chiasm.weights.endpoint.client import Client
from chiasm.weights.endpoint.settings import Encoding, EndpointSettings
from chiasm.weights.endpoint.wire import Reply, messages

__all__ = ["Encoding", "Endpoint", "EndpointSettings", "Reply", "ScoringEndpoint", "connect"]

_LISTED = 20  # how many of the likeliest tokens endpoints return at most


class Endpoint(RemoteModel):
    """A remote model that generates. Nothing is sent before the first request."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self._client = Client(settings)

    @property
    def fingerprint(self) -> str:
        """A hash of the endpoint, the model's name and the settings, in place of one of the weights."""
        identity = json.dumps([self.settings.url, self.settings.protocol()], sort_keys=True)
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    def protocol(self) -> Mapping[str, Any]:
        """The settings that replies depend on besides the requests."""
        return self.settings.protocol()

    def description(self) -> Mapping[str, str]:
        """The model's name there, and the endpoint."""
        return {"name": self.settings.model, "endpoint": self.settings.url}

    def generate(self, samples: Sequence[Sample], *, max_tokens: int = 128) -> list[Sample]:
        """Each sample with the reply as its last part. Raises DataError for the first that is refused."""
        found: dict[int, Sample] = {}
        for index, reply in self.concurrently(lambda sample: self.reply(sample, max_tokens), samples):
            found[index] = samples[index].answered(reply.text)
        return [found[index] for index in range(len(samples))]

    def answer(self, sample: Sample, max_tokens: int) -> tuple[Sample, Usage]:
        """The sample with the reply as its last part, and the tokens used; for errors see `Client.chat`."""
        reply = self.reply(sample, max_tokens)
        return sample.answered(reply.text), reply.usage

    def reply(self, sample: Sample, max_tokens: int, *, likeliest: bool = False) -> Reply:
        """The model's reply to one sample; for errors see `Client.chat`.

        likeliest: whether to ask for the log-probabilities of its first token, too.
        """
        settings = self.settings
        body: dict[str, Any] = {"model": settings.model, "messages": messages(sample, settings.pictures)}
        body[settings.limit] = max_tokens
        body |= {name: value for name in ("temperature", "seed") if (value := getattr(settings, name)) is not None}
        body |= {"logprobs": True, "top_logprobs": _LISTED} if likeliest else {}
        characters = sum(len(text.text) for text in sample.texts)
        return self._client.chat(body | dict(settings.extra), characters, len(sample.images), max_tokens)

    def concurrently(self, ask: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[tuple[int, Found]]:
        """(index, result of `ask`) of each item in the order of completion, several running at once.

        After an error, or an interruption, nothing more is begun; what is under way (and paid for) is still yielded.
        """
        stopped: BaseException | None = None
        self._client.stopped.clear()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            indexes: dict[Future[Found], int] = {pool.submit(ask, item): index for index, item in enumerate(items)}
            waiting = set(indexes)
            try:
                while waiting:
                    try:
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    except KeyboardInterrupt as error:
                        if stopped is not None:
                            raise
                        stopped, done = error, set()
                    for future in done:
                        error_or_none = None if future.cancelled() else future.exception()
                        if error_or_none is not None:
                            stopped = stopped or error_or_none
                        elif not future.cancelled():
                            yield indexes[future], future.result()
                    if stopped is not None and not self._client.stopped.is_set():
                        self._client.stopped.set()
                        waiting = {future for future in waiting if not future.cancel()}
            finally:
                self._client.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
        if stopped is not None:
            raise stopped

    def remember(self, usages: Iterable[Usage]) -> None:
        """Adds the cost of answers of earlier runs, so that a budget holds for all of them together."""
        for usage in usages:
            self._client.purse.pay(usage)

    @property
    def cost(self) -> str:
        """The cost so far, in words."""
        return str(self._client.purse)


class ScoringEndpoint(Endpoint, RemoteScorer):
    """A remote model that also scores, by the log-probabilities of its first token (VQAScore, arXiv:2404.01291)."""

    scorings: ClassVar[tuple[str, ...]] = ("yes",)

    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: str = "yes") -> Tensor:
        """(N_images, N_texts) of 0 to 1: p("yes") / (p("yes") + p("no")) to whether the picture shows the text.

        A word that is not among the 20 likeliest tokens counts as 0. Raises DataError where neither is.
        """
        if by not in self.scorings:
            raise ValueError(f"an endpoint scores by {self.scorings}, not by '{by}'")
        pairs = [(image, text) for image in images for text in texts]
        found = dict(self.concurrently(lambda pair: self.rate(*pair)[0], pairs))
        return torch.tensor([found[index] for index in range(len(pairs))]).reshape(len(images), len(texts))

    def rate(self, image: Image, text: str) -> tuple[float, Usage]:
        """The score of one pair, and the tokens used."""
        reply = self.reply(shown(image, text), 1, likeliest=True)
        if not reply.likeliest:
            raise DataError("the endpoint tells no log-probabilities; leave score_by out, or choose another endpoint")
        yes, no = (math.exp(reply.likeliest.get(word, -math.inf)) for word in ("yes", "no"))
        if not yes + no:
            raise DataError(f"neither yes nor no is among the {_LISTED} likeliest first tokens")
        return yes / (yes + no), reply.usage


def connect(settings: EndpointSettings) -> Endpoint:
    """The endpoint with the methods that its settings ask for."""
    return ScoringEndpoint(settings) if settings.score_by else Endpoint(settings)
