"""A recipe of several stages: each is a run that starts from the model of the one before it.

runs/NAME/   recipe.yaml   metrics.jsonl   stages/1-FIRST/ ...   checkpoint -> that of the last   evaluation/ ..."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from chiasm.experiment.assembly import check_parts, model_config
from chiasm.experiment.recipe import Recipe
from chiasm.experiment.run import Experiment
from chiasm.experiment.run_folder import CHECKPOINT, RECIPE, STAGES
from chiasm.training.distributed import Ranks
from chiasm.training.monitor import METRICS


def experiment(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Experiment:
    """The experiment that a recipe describes: one run, or several stages. See Experiment."""
    kind = Staged if recipe.stages else Experiment
    return kind(recipe, folder, resume=resume, overwrite=overwrite, console=console, ranks=ranks)


class _Stage(Experiment):
    """One stage's run. Its recipe names the stage before it by a relative path, so that the folder may be moved."""

    @property
    def text(self) -> str:
        start, here = self.recipe.start, self.folder.resolve()
        if start is None or not Path(start.checkpoint).resolve().is_relative_to(here.parent):
            return self.recipe.text()
        near = os.path.relpath(Path(start.checkpoint).resolve(), here)
        return replace(self.recipe, start=replace(start, checkpoint=near)).text()


class Staged(Experiment):
    """Several stages in one folder, trained one after the other; `resume` continues in whichever was interrupted."""

    def _begin(self) -> None:
        self.recipes = self.ranks.together(lambda: list(self._recipes()))
        self.ranks.on_first(self._check_stages)
        self.ranks.on_first(self._claim_folder)
        done = [self._is_done(at) for at in range(len(self.recipes) - 1)]
        self.at = done.index(False) if False in done else len(done)
        self.stage = self._stage(self.at)

    def _train(self) -> bool:
        """Trains the stages that are not done; False if a signal stopped one of them."""
        for at in range(self.at, len(self.recipes)):
            if at > self.at:
                self.stage, self.at = self._stage(at), at
            steps, name = self.recipes[at].training.steps, self.recipe.stages[at].name
            self._print(f"stage {at + 1} of {len(self.recipes)}, {name}: {steps:,} steps")
            done = self.stage.train()
            self.ranks.on_first(self._join_metrics)
            if not done:
                return False
        self.model = self.stage.model
        self.ranks.on_first(self._point_at_last)
        return True

    @property
    def steps(self) -> int:
        """How many training steps all stages have together."""
        return sum(recipe.training.steps for recipe in self.recipes)

    def _recipes(self) -> Iterator[Recipe]:
        for at in range(len(self.recipe.stages)):
            yield self.recipe.stage(at, str(self._place(at - 1).resolve()) if at else None)

    def _place(self, at: int) -> Path:
        return self.folder / STAGES / f"{at + 1}-{self.recipe.stages[at].name}"

    def _is_done(self, at: int) -> bool:
        return self.ranks.any(self.ranks.first and (self._place(at) / CHECKPOINT).is_dir())

    def _stage(self, at: int) -> Experiment:
        begun = self.ranks.any(self.ranks.first and (self._place(at) / RECIPE).exists())
        return _Stage(self.recipes[at], self._place(at), resume=begun, console=self.console, ranks=self.ranks)

    def _check_stages(self) -> None:
        """Raises ChiasmError for parts that any stage names and the model has not, before the first is trained."""
        config = model_config(self.recipe)
        for recipe in self.recipes:
            check_parts(config, recipe)

    def _join_metrics(self) -> None:
        """Joins the metrics of all stages into those of one run; steps are counted on from stage to stage."""
        lines, before = list[str](), 0
        for at, named in enumerate(self.recipe.stages):
            file = self._place(at) / METRICS
            for line in file.read_text().splitlines() if file.exists() else ():
                figures = json.loads(line)
                lines.append(json.dumps({**figures, "step": figures["step"] + before, "stage": named.name}) + "\n")
            before += self.recipes[at].training.steps
        aside = self.folder / f"{METRICS}.new"
        aside.write_text("".join(lines))
        aside.replace(self.folder / METRICS)

    def _point_at_last(self) -> None:
        last = self._place(len(self.recipes) - 1) / CHECKPOINT
        if not self.checkpoint.is_symlink():
            self.checkpoint.symlink_to(last.relative_to(self.folder))
