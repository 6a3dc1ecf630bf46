"""A task that breaks its promise is told so by the contract that it breaks; one that keeps it passes all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.contracts import tasks
from chiasm.contracts.contract import Contract, Trial, outcomes
from chiasm.data.sample import Sample
from chiasm.errors import ContractError
from chiasm.evaluation.choice import Choice
from chiasm.evaluation.request import Request, Response, ScoreRequest
from chiasm.evaluation.result import Example
from chiasm.evaluation.task import Measured, Show


@dataclass(frozen=True)
class Backwards(Choice):
    """A caption against its own words backwards. `broken` says what is wrong with the task.

    least: words that a caption must have. ending: what is put behind each text. only: kinds of scene; all by default.
    """

    least: int = 3
    ending: str = "."
    only: tuple[str, ...] = ()

    @classmethod
    def other_settings(cls) -> Mapping[str, Any]:
        given = {"only": ["few", "many"]}
        others: dict[str, dict[str, Any]] = {"unsaid": {}, "same": {"only": []}, "misspelt": {**given, "olny": ["few"]}}
        return others.get(broken, given)

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        kind = "few" if sample.meta["objects"] == 1 else "many"
        words = sample.captions[0].rstrip(".").split()
        if len(words) >= self.least and (not self.only or kind in self.only):
            texts = ((" ".join(words) + self.ending,), (" ".join(reversed(words)) + self.ending,))
            key = {"keys": "alike", "restless": f"{sample.key}/{id(self)}"}.get(broken, sample.key)
            yield ScoreRequest(key, (sample.image,), texts, (0,), kind=kind, sample_key=sample.key)

    def samples(self) -> Iterator[Any]:
        """Where what cannot be read is dropped without a word, no item stands for it."""
        dropping = broken == "dropped"
        yield from (one for one in super().samples() if not (dropping and isinstance(one, Request)))

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        metric = self.accuracy(requests, responses)
        rows = [np.asarray(row)[0] if isinstance(row, np.ndarray) else np.array([0.0, 1.0]) for row in responses]
        if broken == "ties":  # won, as by the >= of some official scripts
            metric = replace(metric, credit_I=np.array([float(row[0] >= row[1]) for row in rows]))
        if broken == "place":  # ties go to the second place, and chance is said to be what that earns
            credit_I = np.array([float(row[0] > row[1]) for row in rows])
            metric = replace(metric, credit_I=credit_I, chance_I=np.zeros_like(metric.chance_I))
        if broken == "reversed":
            metric = replace(metric, credit_I=1 - metric.credit_I)
        if broken == "generous":
            metric = replace(metric, credit_I=3 * metric.credit_I)
        if broken == "twice":
            items = replace(metric.items, keys=(metric.items.keys[0],) * len(metric.items.keys))
            metric = replace(metric, items=items)
        if broken == "kinds":
            metric = replace(metric, items=replace(metric.items, kinds=("dozens",) * len(metric.items.keys)))
        if broken == "short":
            metric = replace(metric, credit_I=metric.credit_I[1:])
        if broken == "first":  # the first item counts for all
            metric = replace(metric, credit_I=np.full_like(metric.credit_I, metric.credit_I[-1]))
        if broken == "lucky":
            failed_I = metric.items.failed_I
            metric = replace(metric, credit_I=np.where(failed_I, 0.5, metric.credit_I))
        return Measured((metric,))

    def settings(self) -> Mapping[str, object]:
        found = dict(super().settings())
        if broken == "ignores":
            del found["least"]
        return {**found, "name": self.name} if broken == "name" else found

    def constants(self) -> Mapping[str, Sequence[Response]]:
        return {} if broken == "constants" else super().constants()

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        return [] if broken == "shows" else super().examples(requests, responses, show)


broken = ""


def test_a_task_that_keeps_its_promises_passes() -> None:
    found = list(outcomes(Backwards))
    assert len(found) > 12
    assert not [outcome for outcome in found if outcome.problem]
    assert all(outcome.promise.endswith(".") for outcome in found), "each is a whole sentence"


@pytest.mark.parametrize(
    ("how", "contract", "told"),
    [
        ("keys", tasks.asks_what_can_be_told_apart, "two questions share the key 'alike'"),
        ("restless", tasks.asks_what_can_be_told_apart, "a second task of the same entries asks something else"),
        ("twice", tasks.measures_every_item, "accuracy: two items share a key"),
        ("short", tasks.measures_every_item, "accuracy: not one credit an item"),
        ("kinds", tasks.measures_every_item, "has items of the kind 'dozens', which no question is of"),
        ("generous", tasks.measures_every_item, "earns less than 0, or more than the best"),
        ("constants", tasks.measures_every_item, "gives no answer that nobody has to look for"),
        ("ties", tasks.a_constant_answer_gets_chance, "the same answer to all earns 1.0000, but chance is 0.5000"),
        ("place", tasks.chance_is_what_random_scores_get, "in the mean, but chance is said to be 0.0000"),
        ("reversed", tasks.right_answers_get_the_best, "the right answers earn 0.0000, not 1"),
        ("first", tasks.a_wrong_answer_costs_something, "a wrong answer to 'scenes/1/0' costs nothing"),
        ("dropped", tasks.what_cannot_be_read_counts_as_wrong, "of one sample that cannot be read 0 requests say so"),
        ("lucky", tasks.what_cannot_be_read_counts_as_wrong, "an item that was not asked earns 0.5"),
        ("name", tasks.its_hash_says_what_was_asked, "the hash depends on the task's name"),
        ("ignores", tasks.its_hash_says_what_was_asked, "least=4 gives the same hash as the settings of its example"),
        ("unsaid", tasks.its_hash_says_what_was_asked, r"say in other_settings\(\) .* what else than \(\) 'only' may"),
        ("misspelt", tasks.its_hash_says_what_was_asked, r"other_settings\(\) of Backwards names 'olny', which is no"),
        ("same", tasks.each_setting_is_written_and_read_back, r"'only' may be; \[\] is the same"),
        ("shows", tasks.is_evaluated_beside_blind_and_shuffled, r"examples\(\) shows nothing"),
        ("ties", tasks.is_evaluated_beside_blind_and_shuffled, "earns 1.0000 on grey images, above chance"),
    ],
)
def test_a_broken_task_is_told(
    how: str, contract: Contract, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.contracts.test_broken_tasks.broken", how)
    with pytest.raises(ContractError, match=told):
        contract(Trial(Backwards, tmp_path))
