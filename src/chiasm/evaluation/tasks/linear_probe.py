"""Linear probe: how well a linear map of the images' embeddings separates classes.

Logistic regression by L-BFGS, its L2 strength swept on a part of the training samples, as in CLIP (Radford et al. 2021,
arXiv:2103.00020, section 3.2 and appendix A.3); k-shot variants as in its figure 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chiasm.data.order import Shuffle
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.sources.folder import Folder
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.choice import items_of
from chiasm.evaluation.confidence import confidences
from chiasm.evaluation.examples import example, picked
from chiasm.evaluation.logistic import Logistic, fit
from chiasm.evaluation.ranking import hit_share, rank
from chiasm.evaluation.request import Broken, EmbedRequest, Failed, Request, Response, of_type
from chiasm.evaluation.result import Example, TextOrImage
from chiasm.evaluation.task import Items, Measured, MetricCounts, Show, Task
from chiasm.evaluation.tasks.classification import label_of

_COARSE = (1e-4, 1e-2, 1e0, 1e2, 1e4)  # then narrowed, half the way to both neighbours each time, to a tenth
_NARROWED = (10.0, 10**0.5)


@dataclass(frozen=True)
class LinearProbe(Task):
    """Top-1 and mean per class accuracy of a probe on all of `train`, and top-1 of probes on k images a class.

    Samples of both sources have labels. A model must embed; its embeddings are what `embed_images` gives: unit length,
    in the shared space (CLIP's own figures take the tower's features before the last map, which are wider).
    train: what the probes are fitted on. validation: the share of it on which the L2 strength is chosen (of the k-shot
    probes too: see `shots`); the full probe is then fitted on all of it.
    strength: a fixed one instead of the sweep; the probe minimises the sum of losses + strength / 2 * |W|^2.
    shots: k, the images a class of each k-shot figure. They are drawn from what is left beside the validation part,
    `draws` times, and an item's credit is its mean over the draws. Their strength is chosen on the whole validation
    part, as is usual: so the figures are for k labels a class with a well-set strength, which takes more labels.
    """

    train: Source = field(kw_only=True)
    validation: float = 0.2
    strength: float | None = None
    shots: tuple[int, ...] = ()
    draws: int = 3
    seed: int = 0

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        data = {"source": "folder", **Folder.example(folder)}
        return {"data": data, "train": data}

    @classmethod
    def other_settings(cls) -> Mapping[str, Any]:
        return {"shots": [2]}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation < 1:
            raise RecipeError(f"linear_probe.validation is a share of train, between 0 and 1, not {self.validation:g}")
        if self.strength is not None and self.strength <= 0:
            raise RecipeError(f"linear_probe.strength must be above 0, not {self.strength:g}")
        if self.draws < 1 or any(k < 1 for k in self.shots):
            raise RecipeError("linear_probe.shots and linear_probe.draws must be at least 1")

    def construct_requests(self, sample: Sample) -> Iterator[Request]:
        yield EmbedRequest(sample.key, (sample.image,), kind=label_of(sample))

    def build_all_requests(self) -> Sequence[Request]:
        """The samples to classify, and then those to learn from, in the order of their sources."""
        return [*super().build_all_requests(), *self._to_learn_from]

    @cached_property
    def _to_learn_from(self) -> list[Request]:
        found: list[Request] = []
        for index in range(len(self.train)):
            try:
                sample = self.train[index]
                key, label = f"train/{sample.key}", label_of(sample)
                found.append(EmbedRequest(key, (sample.image,), to_learn_from=True, kind=label))
            except DataError as error:
                found.append(Broken(f"train/sample {index}", str(error), to_learn_from=True))
        return found

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        probed = self._probed(requests, responses)
        items, full = probed.items, probed.metric("top-1 accuracy", probed.scores(probed.full))
        metrics = [full, replace(full, name="mean per class", mean="kinds")]
        facts = {
            "classes": len(probed.labels),
            "pictures to learn from": len(probed.label_N),
            "L2 strength": probed.strength,
            "pictures to learn from that failed": len(requests) - len(items) - len(probed.label_N),
        }
        for k in self.shots:
            earned = []
            strength = self.strength or probed.swept(probed.drawn(k, self.seed))
            for draw in range(self.draws):
                rows = probed.drawn(k, self.seed + draw)
                earned.append(probed.metric("", probed.scores(probed.fitted(rows, strength))).credit_I)
            facts[f"L2 strength, {k}-shot"] = strength
            metrics.append(MetricCounts(f"{k}-shot accuracy", full.items, np.mean(earned, axis=0), full.chance_I))
        return Measured(tuple(metrics), facts)

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        probed = self._probed(requests, responses)
        scores_IC = probed.scores(probed.full)
        hits_I = rank(scores_IC, probed.true_IC).hits(1)

        def class_of(column: int) -> TextOrImage:
            return TextOrImage(text=probed.labels[column])

        found, asked = [], dict(of_type(probed.items, EmbedRequest))
        for at in picked(hits_I, scores_IC, probed.true_IC):
            request = asked[at]
            image = show(request.images[0])
            found.append(example(request.key, image, scores_IC[at], probed.true_IC[at], class_of, request.kind))
        return found

    def _probed(self, requests: Sequence[Request], responses: Sequence[Response]) -> _Probed:
        """The last ones are kept, with their fits: examples come from the responses that were just measured."""
        if not self._last or self._last[0].given is not responses:
            self._last[:] = [_Probed(self, requests, responses)]
        return self._last[0]

    @cached_property
    def _last(self) -> list[_Probed]:
        return []


class _Probed:
    """Embeddings to learn from and embeddings to classify, out of the responses to a task's requests."""

    def __init__(self, task: LinearProbe, requests: Sequence[Request], responses: Sequence[Response]) -> None:
        self.task, self.given = task, responses
        places = [at for at, request in enumerate(requests) if not request.to_learn_from]
        self.items, self.responses = [requests[at] for at in places], [responses[at] for at in places]
        known = [
            (request.kind, np.asarray(response)[0])
            for at, request in of_type(requests, EmbedRequest)
            if request.to_learn_from and not isinstance(response := responses[at], Failed)
        ]
        if not known:
            raise DataError(f"task '{task.title}' has no image to learn from that can be read; check its train entry")
        self.labels = sorted({label for label, _ in known})
        column = {label: at for at, label in enumerate(self.labels)}
        if len(column) < 2:
            raise DataError(f"task '{task.title}' learns to separate classes, but its train entry has only one")
        self.label_N = torch.tensor([column[label] for label, _ in known])
        self.x_ND = torch.from_numpy(np.stack([vector for _, vector in known])).double()
        self.true_IC = np.zeros((len(self.items), len(column)), np.bool_)
        for at, request in of_type(self.items, EmbedRequest):
            if request.kind in column:  # else no candidate is right: it counts as wrong
                self.true_IC[at, column[request.kind]] = True

    @cached_property
    def kept(self) -> tuple[list[int], list[int]]:
        """Rows to learn from and rows to choose the strength on."""
        order = list(Shuffle(len(self.x_ND), self.task.seed, epoch=0))
        count = max(1, round(self.task.validation * len(order)))
        return sorted(order[count:]), sorted(order[:count])

    @cached_property
    def strength(self) -> float:
        return self.task.strength or self.swept(self.kept[0])

    @cached_property
    def full(self) -> Logistic:
        """The probe on all there is to learn from."""
        return self.fitted(range(len(self.x_ND)), self.strength)

    def fitted(self, rows: Sequence[int], strength: float, start: Logistic | None = None) -> Logistic:
        chosen = torch.tensor(list(rows))
        return fit(self.x_ND[chosen], self.label_N[chosen], len(self.labels), strength, start)

    def swept(self, rows: Sequence[int]) -> float:
        """The strength whose probe on these rows is best on the validation part; of several best, the strongest."""
        validation = torch.tensor(self.kept[1])
        found: dict[float, float] = {}

        def accuracy(strength: float, start: Logistic | None = None) -> Logistic:
            probe = self.fitted(rows, strength, start)
            right_N = probe(self.x_ND[validation]).argmax(1) == self.label_N[validation]
            found[strength] = float(right_N.double().mean())
            return probe

        probe = None
        for strength in sorted(_COARSE, reverse=True):  # from the strongest on, each begins where the last ended
            probe = accuracy(strength, probe)
        for step in _NARROWED:
            best = max(found, key=lambda strength: (found[strength], strength))
            for strength in (best / step, best * step):
                accuracy(strength)
        return max(found, key=lambda strength: (found[strength], strength))

    def drawn(self, k: int, seed: int) -> list[int]:
        """k rows of each class, of those that are not for validation. Raises DataError where a class has fewer."""
        generator = np.random.default_rng((seed, k))
        rows = generator.permutation(self.kept[0])
        of_class = [rows[self.label_N[rows].numpy() == column] for column in range(len(self.labels))]
        if (fewest := min(map(len, of_class))) < k:
            raise DataError(
                f"task '{self.task.title}': a class has only {fewest} images beside the validation part, too few for "
                f"{k} shots; leave {k} out of shots"
            )
        return [row for several in of_class for row in several[:k].tolist()]

    def scores(self, probe: Logistic) -> NDArray[np.float32]:
        """(I, C) logits; NaN for what could not be asked."""
        found_IC = np.full(self.true_IC.shape, np.nan, np.float32)
        for at, response in enumerate(self.responses):
            if isinstance(response, np.ndarray):
                found_IC[at] = probe(torch.from_numpy(response)).numpy()[0]
        return found_IC

    def metric(self, name: str, scores_IC: NDArray[np.float32]) -> MetricCounts:
        ranking = rank(scores_IC, self.true_IC)
        items = items_of(self.items, ranking)
        count_I = np.where([bool(request.verbs) for request in self.items], len(self.labels), 0)
        chance_I = hit_share(np.zeros_like(count_I), count_I, self.true_IC.sum(axis=1), 1)
        named = Items(
            keys=items.keys,
            samples=items.keys,
            kinds=items.kinds,
            tied_I=items.tied_I,
            failed_I=items.failed_I,
            choices=tuple(self.labels[at] for at in ranking.best_I.tolist()),
            confidence=partial(confidences, scores_IC, self.true_IC, items.keys),
        )
        return MetricCounts(name, named, ranking.hits(1), chance_I)
