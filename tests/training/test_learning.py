"""The whole road, learned: small models on scenes with one thing each, judged on scenes that they never saw."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from chiasm.evaluation.run import quick_scores
from chiasm.experiment import Experiment
from chiasm.recipe import load_recipe

# A few things that differ in colour and shape, plain, so that a minute's learning shows.
EASY = ["data.train.objects=[1,1]", "data.train.backgrounds=[plain]", "data.batch_size=64", "training.steps=150", "data.captions=first"]
SAME = [f"evaluation.{at}.data.{entry}" for at in range(3) for entry in ("objects=[1,1]", "backgrounds=[plain]", "count=120")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip/scenes", "siglip/scenes"])
def test_a_model_learns_to_see_scenes(name: str, tmp_path: Path) -> None:
    """Colours (chance 0.25), and which of 120 pictures a caption tells (chance 0.042 among the first five)."""
    recipe = load_recipe(name, [*EASY, *SAME, "training.evaluate_every=0"])
    experiment = Experiment(recipe, tmp_path / "run", console=Console(file=io.StringIO()))
    assert experiment.train()
    after = quick_scores(experiment.model, recipe.evaluation, by_kind=True)
    print(name, after)
    # Each bound is more than four standard deviations above chance.
    assert after["probes: accuracy (colour)"] > 0.45
    assert after["retrieval: text to image R@5"] > 0.15
    assert after["hard negatives: accuracy (replaced_attribute)"] > 0.6
