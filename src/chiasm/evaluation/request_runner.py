"""Questions to answers, by whichever of the three verbs the model has: embed before score, generate for open ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.progress import Progress

from chiasm.evaluation.embeddings import Embeddings
from chiasm.evaluation.item import Item
from chiasm.evaluation.replies import BATCH_TOKENS, PrefixSharing, Replies
from chiasm.evaluation.response_cache import ResponseCache
from chiasm.evaluation.scoring import Scores, ScoresBy, scoring
from chiasm.evaluation.share import Share
from chiasm.evaluation.task import (
    Broken,
    EmbedRequest,
    Failed,
    GenerateRequest,
    Request,
    Response,
    ScoreOrGenerate,
    ScoreRequest,
    Task,
    image_key,
)
from chiasm.models.model import VERBS, Embedder, Generator, Model, Scorer
from chiasm.weights.endpoint import Endpoint

Askable = Embedder | Scorer | Generator | Model | Endpoint  # a model offers those of the verbs that it can


@dataclass(frozen=True)
class RunOptions:
    """How a model is asked.

    score_by: by what a model scores that can score in several ways; "" takes its first.
    batch_tokens: of prompts and replies that a model is given at once, where it can tell how many there are.
    share: of the pictures, where several processes ask. keep_failed: what failed before is not asked again.
    """

    score_by: str = ""
    batch_tokens: int = BATCH_TOKENS
    share: Share = field(default_factory=Share)
    keep_failed: bool = False


DEFAULT_OPTIONS = RunOptions()


class RequestRunner:
    """Asks one model: each picture and each text once if it embeds, each picture once if its questions can share it.

    cache: folder of the embeddings; None keeps them in memory. identity: of the model and its processor.
    A question about a picture that cannot be decoded is answered by `Failed`; so is one whose scores are not numbers.
    Raises CapabilityError if the model cannot score in the way that is asked for.
    """

    def __init__(
        self,
        model: Askable,
        progress: Progress,
        cache: Path | None = None,
        identity: str = "",
        way: RunOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.model, self.way = model, way
        self.scoring = scoring(model, way.score_by)
        folder = way.share.folder(cache) if cache else None
        others = way.share.others(cache) if cache else []
        self.embeddings = Embeddings(model, progress, folder, identity, others) if isinstance(model, Embedder) else None
        self.scores = Scores(model, progress, self.scoring) if isinstance(model, Scorer) else None
        # Where there are several ways to score, an inner product of embeddings is none of them.
        self._by_product = self.embeddings is not None and not isinstance(model, ScoresBy)
        self.replies = Replies(model, progress, way.batch_tokens) if isinstance(model, Generator) else None

    @property
    def jointly(self) -> bool:
        """Whether questions of several tasks, asked together, share work; else one task is finished after the other."""
        if isinstance(self.model, Endpoint):
            return False
        return isinstance(self.model, (Embedder, Scorer, PrefixSharing))

    def prepare(self, items: Sequence[Item]) -> None:
        """Asks what of this process's share has no answer yet. Answers are kept as they come."""
        formed = [replace(item, question=self._form(item.question)) for item in items]
        matches = [item for item in formed if isinstance(item.question, ScoreRequest)]
        if self.embeddings is not None:
            kinds = (ScoreRequest, EmbedRequest) if self._by_product else (EmbedRequest,)
            embedded = [item.question for item in formed if isinstance(item.question, kinds)]
            self.embeddings.prepare(embedded, self.way.share)
        if self._by_product:
            matches = []
        asks = [item for item in formed if isinstance(item.question, GenerateRequest)]
        if self.scores is not None:
            self.scores.ask(self._left(matches))
        if self.replies is not None:
            self.replies.ask(self._left(asks))

    def answers(self, questions: Sequence[Request], responses: ResponseCache, run: str = "") -> list[Response]:
        """The answers, in order, to questions that were prepared. run: under which name the journal keeps them."""
        formed = [self._form(question) for question in questions]
        found: dict[int, Response] = {}
        if self.embeddings is not None:
            if self._by_product:
                matches = [(at, one) for at, one in enumerate(formed) if isinstance(one, ScoreRequest)]
                products = self.embeddings.answers([one for _, one in matches])
                found = {at: answer for (at, _), answer in zip(matches, products, strict=True)}
            found |= {at: self.embeddings.vector(one) for at, one in enumerate(formed) if isinstance(one, EmbedRequest)}
        for at, one in enumerate(formed):
            if isinstance(one, Broken):
                found[at] = Failed(one.reason)
            elif at not in found:
                answer = responses.get(run, one.key)
                assert answer is not None, f"'{one.key}' was not prepared"
                found[at] = answer
        return [found[at] for at in range(len(formed))]

    def _form(self, question: Request) -> Request:
        """The form in which this model is asked: words where the question has them and the model can but generate."""
        if not isinstance(question, ScoreOrGenerate):
            return question
        in_words = question.words_only or not isinstance(self.model, (Embedder, Scorer))
        return replace(question.words, key=question.key) if in_words else question

    def _left(self, items: Sequence[Item]) -> list[Item]:
        """Those of this share without an answer. Questions on one picture are of one share."""
        keys = [_image(item) for item in items]
        mine = self.way.share.mine(keys)
        return [
            item
            for item, key in zip(items, keys, strict=True)
            if key in mine and item.responses.get(item.run, item.question.key) is None
        ]


def lack(model: Askable, task: Task) -> str:
    """Why a model cannot be asked a task: the verbs of which it has none. "" where it can be."""
    can = [verb for verb, kind in VERBS.items() if isinstance(model, kind)]
    for question in task.asked:
        needs = _needs(question)
        if needs and not set(needs) & set(can):
            only = " and ".join(can) or "train"
            return f"needs a model that can {' or '.join(needs)}, but {type(model).__name__} can only {only}"
    return ""


def _image(item: Item) -> str:
    """The first picture of a question; its own key where it has none."""
    assert not isinstance(item.question, Broken)
    return image_key(item.question.images[0]) if item.question.images else f"/{item.question.key}"


def _needs(question: Request) -> tuple[str, ...]:
    """The verbs of which a model must have one."""
    if isinstance(question, ScoreOrGenerate):
        return ("generate",) if question.words_only else ("embed", "score", "generate")
    if isinstance(question, ScoreRequest):
        return "embed", "score"
    if isinstance(question, EmbedRequest):
        return ("embed",)
    return ("generate",) if isinstance(question, GenerateRequest) else ()
