"""Requests to responses, by whichever of the three verbs the model has: embed before score, generate for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress

from chiasm.evaluation.embeddings import Embeddings
from chiasm.evaluation.instance import Instance
from chiasm.evaluation.replies import BATCH_TOKENS, PrefixSharing, Replies
from chiasm.evaluation.request import Queues, R, Request, Response, image_key
from chiasm.evaluation.response_cache import ResponseCache
from chiasm.evaluation.scoring import Scores, ScoresBy, scoring
from chiasm.evaluation.share import Share
from chiasm.evaluation.task import Task
from chiasm.models.model import VERBS, Embedder, Generator, Loader, Model, Scorer
from chiasm.models.remote import RemoteModel

Askable = Embedder | Scorer | Generator | Model | RemoteModel  # a model offers those of the verbs that it can


@dataclass(frozen=True)
class RunOptions:
    """How a model is asked.

    score_by: by what a model scores that can score in several ways; "" takes its first.
    batch_tokens: of prompts and replies that a model is given at once, where it can count them.
    share: of the images, where several processes ask. keep_failed: what failed before is not asked again.
    load: opens the folder of a model that a task itself needs, such as a judge; `chiasm.load` does.
    """

    score_by: str = ""
    batch_tokens: int = BATCH_TOKENS
    share: Share = field(default_factory=Share)
    keep_failed: bool = False
    load: Loader | None = None


DEFAULT_OPTIONS = RunOptions()


class RequestRunner:
    """Asks one model: each image and each text once if it embeds, each image once if its requests can share it.

    cache: folder of the embeddings; None keeps them in memory. identity: of the model and its processor.
    A request about an image that cannot be decoded is answered by `Failed`; so is one whose scores are not numbers.
    Raises CapabilityError if the model cannot score in the way that is asked for.
    """

    def __init__(
        self,
        model: Askable,
        progress: Progress,
        cache: Path | None = None,
        identity: str = "",
        options: RunOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.model, self.options = model, options
        self.verbs = verbs_of(model)
        self.scoring = scoring(model, options.score_by)
        folder = options.share.folder(cache) if cache else None
        others = options.share.others(cache) if cache else []
        self.embeddings = Embeddings(model, progress, folder, identity, others) if isinstance(model, Embedder) else None
        self.scores = Scores(model, progress, self.scoring) if isinstance(model, Scorer) else None
        # Where there are several ways to score, an inner product of embeddings is none of them.
        self._by_product = self.embeddings is not None and not isinstance(model, ScoresBy)
        self.replies = Replies(model, progress, options.batch_tokens) if isinstance(model, Generator) else None

    @property
    def jointly(self) -> bool:
        """Whether requests of several tasks, made together, share work; else one task is finished after the other."""
        if isinstance(self.model, RemoteModel):
            return False
        return isinstance(self.model, (Embedder, Scorer, PrefixSharing))

    def prepare(self, instances: Sequence[Instance[Request]]) -> None:
        """Asks what of this process's share has no response yet. Responses are kept as they come."""
        queues: Queues[Instance[Request]] = Queues()
        for instance in instances:
            instance.request.form(self.verbs).put(queues, instance)
        if self.embeddings is not None:
            scored = [request for _, request in queues.score] if self._by_product else []
            self.embeddings.prepare(scored, [request for _, request in queues.embed], self.options.share)
        if self.scores is not None and not self._by_product:
            self.scores.ask(self._left(queues.score))
        if self.replies is not None:
            self.replies.ask(self._left(queues.generate))

    def responses(self, requests: Sequence[Request], cache: ResponseCache, run: str = "") -> list[Response]:
        """The responses, in order, to requests that were prepared. run: under which name the cache keeps them."""
        queues: Queues[int] = Queues()
        for at, request in enumerate(requests):
            request.form(self.verbs).put(queues, at)
        found: dict[int, Response] = dict(queues.known)
        if self.embeddings is not None:
            found |= {at: self.embeddings.embedded(request) for at, request in queues.embed}
        if self.embeddings is not None and self._by_product:
            products = self.embeddings.products([request for _, request in queues.score])
            found |= {at: response for (at, _), response in zip(queues.score, products, strict=True)}
        for at, request in enumerate(requests):
            if at not in found:
                response = cache.get(run, request.key)
                assert response is not None, f"'{request.key}' was not prepared"
                found[at] = response
        return [found[at] for at in range(len(requests))]

    def _left(self, queue: Sequence[tuple[Instance[Request], R]]) -> list[Instance[R]]:
        """Those of this share without a response. Requests about one image are of one share."""
        keys = [_first_image(request) for _, request in queue]
        mine = self.options.share.mine(keys)
        return [
            instance.of(request)
            for (instance, request), key in zip(queue, keys, strict=True)
            if key in mine and instance.response is None
        ]


def verbs_of(model: Askable) -> tuple[str, ...]:
    """The verbs that a model offers."""
    return tuple(verb for verb, kind in VERBS.items() if isinstance(model, kind))


def lack(model: Askable, task: Task) -> str:
    """Why a model cannot be asked a task: the verbs of which it has none. "" where it can be."""
    can = verbs_of(model)
    for request in task.requests:
        if request.verbs and not set(request.verbs) & set(can):
            only = " and ".join(can) or "train"
            return f"needs a model that can {' or '.join(request.verbs)}, but {type(model).__name__} can only {only}"
    return ""


def _first_image(request: Request) -> str:
    """The key of the first image of a request; its own where it has none."""
    images = request.all_images
    return image_key(images[0]) if images else f"/{request.key}"
