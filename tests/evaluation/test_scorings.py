"""Models that score in several ways, none of which is a product of their embeddings."""

from collections.abc import Sequence
from pathlib import Path

import torch

from chiasm.data.image import Image
from chiasm.evaluation.request_runner import RunOptions
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.tasks.retrieval import Retrieval
from tests.evaluation.fakes import HashEmbedder, number_of, sees, world


class SeveralWays(HashEmbedder):
    """Embeds by chance, scores by sight, or contrary to it."""

    scorings = ("sight", "contrary")

    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: str) -> torch.Tensor:
        sign = 1.0 if by == "sight" else -1.0
        return torch.tensor([[sign * sees(number_of(image), text) for text in texts] for image in images])


def test_a_model_that_scores_in_several_ways_is_not_compared_by_its_embeddings(tmp_path: Path) -> None:
    tasks = [Retrieval(world(6), captions="first")]
    by_sight, contrary = (
        evaluate(SeveralWays(), tasks, tmp_path / by, options=RunOptions(by)).results[0].scores[0].value
        for by in ("", "contrary")
    )
    assert by_sight == 1.0
    assert contrary < 0.5
