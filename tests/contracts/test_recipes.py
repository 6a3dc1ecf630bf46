"""Every recipe that chiasm ships runs: parsed, built, trained for two steps, evaluated, reported, loaded again."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

import chiasm
from chiasm.data.sample import Sample, Text
from chiasm.evaluation.report import write_report
from chiasm.experiment.entries import shipped_recipes
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.experiment.run import Experiment
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.model import Generator
from tests.shared_data import shared_data

SHORT = ["training.steps=2", "training.evaluate_every=1", "data.batch_size=8"]


def _recipe(name: str, folder: Path, clip: Path) -> Recipe:
    """The recipe, cut short; with the real data where it leaves them to the user. clip: what others start from."""
    text = shipped_recipes()[name].read_text()
    overrides = [*SHORT, "data.batch_size=2"] if "smollm2" in name else [*SHORT]  # of 135 million parameters
    overrides += [f"data.root={shared_data('flickr8k').parent}"] if "root: ???" in text else []
    overrides += [f"data.features={folder}/features"] if "features:" in text or name.startswith("finetune/") else []
    if "runs/clip-" in text:
        overrides += [f"pretrained.vision.checkpoint={clip}"]
    if name == "llava/smollm2-scenes":  # llava/smollm2-easy-vqa has all of SmolLM2; here are two layers of its shape
        overrides += ["model.language.layers=2", f"pretrained={{vision: {{checkpoint: {clip}, part: vision}}}}"]
    if name.endswith("easy-vqa"):
        overrides = [one for one in overrides if not one.startswith("data.root")] + [f"data.root={_easy_vqa()}"]
    if name.startswith("finetune/"):
        overrides += [f"data.root={shared_data('cifar10').parent}", f"start.checkpoint={clip}"]
    if name == "finetune/probe":
        few = f"{{source: part, share: 0.05, of: {{source: folder, path: {shared_data('cifar10')}/train}}}}"
        overrides += [f"evaluation.0.train={few}", "evaluation.0.shots=[1]", "evaluation.0.validation=0.2"]
    short = load_recipe(name, overrides)
    overrides += [f"evaluation.{at}.limit=4" for at in range(len(short.evaluation))]
    return load_recipe(name, overrides)


def _easy_vqa() -> Path:
    spec = find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs easy-vqa")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_recipes() if "photos" not in name])
def test_a_shipped_recipe_runs_from_data_to_report(name: str, tmp_path: Path, trained_clip: Path) -> None:
    recipe = _recipe(name, tmp_path, trained_clip / "checkpoint")
    run = tmp_path / "run"
    experiment = Experiment(recipe, run, console=Console(quiet=True))
    assert experiment.train()
    evaluation = experiment.evaluate()
    assert evaluation is not None
    assert [result.name for result in evaluation.results] == [task.title for task in recipe.evaluation]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    # A SigLIP learns its bias late; a page that is seen whole has no rows of tiles that a learned vector could end.
    unreached = [line for line in lines if "without_gradient" in line]
    assert (
        not unreached
        or "siglip" in name
        or (name.endswith("-whole") and unreached[0]["without_gradient"] == ["newline"])
    )
    page = write_report([run], run / "report.html").read_text()
    assert recipe.name in page
    model = chiasm.load(run / "checkpoint")
    if isinstance(model, DualEncoder):
        assert model.embed_texts(["a red circle"]).shape[0] == 1
    else:
        assert isinstance(model, Generator)
        assert len(model.generate([Sample("a", (Text("a red circle"),))], max_tokens=2)) == 1
    assert "| task |" in (run / "checkpoint" / "README.md").read_text()
    assert load_recipe(run / "recipe.yaml") == recipe
