"""One run of a recipe: its model trained by the loop, evaluated by its tasks, and kept in one folder.

runs/NAME/   recipe.yaml   metrics.jsonl   checkpoints/   checkpoint/   evaluation/   report.html"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from chiasm.adaptation.adapted import adapt
from chiasm.adaptation.tensors import put
from chiasm.data.cache import DecodedSource, ImageCache
from chiasm.data.processor import Processor
from chiasm.data.reader import Reader
from chiasm.data.source import Source
from chiasm.errors import RecipeError, TrainingError
from chiasm.evaluation.request_runner import RunOptions
from chiasm.evaluation.result import Evaluation
from chiasm.evaluation.run import check, evaluate, quick_scores
from chiasm.experiment.assembly import build_model, check_parts
from chiasm.experiment.recipe import PretrainedPart, Recipe
from chiasm.experiment.run_folder import BASE, CHECKPOINT, EVALUATION, RunFolder
from chiasm.models import folder as model_folder
from chiasm.models.model import Model
from chiasm.objectives import own
from chiasm.objectives.objective import Objective, ObjectiveConfig
from chiasm.training.distributed import Ranks
from chiasm.training.loop import Loop
from chiasm.weights import load


class Experiment:
    """One recipe in one folder.

    resume: continue from the newest checkpoint. Raises TrainingError if the folder holds another run and neither
    `resume` nor `overwrite` says what to do with it.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        console: Console | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.recipe, self.folder, self.ranks = recipe, folder, ranks or Ranks()
        self.run_folder = RunFolder(folder)
        self.resume, self.overwrite = resume, overwrite
        self.console = (console or Console()) if self.ranks.first else Console(quiet=True)
        self.ranks.on_first(self._check_folder)
        self.ranks.on_first(self._check_start)
        self._begin()

    def _begin(self) -> None:
        """Builds model and reader, then takes the folder, so that a mistake is an error before anything is removed."""
        recipe = self.recipe
        self.model = self.ranks.together(self._built)
        self.ranks.on_first(self._check_evaluation)
        reader = self.ranks.in_turn(self._reader) if recipe.data.features else self.ranks.together(self._reader)
        self.ranks.on_first(self._claim_folder)
        if recipe.adapters:
            self.ranks.on_first(self._keep_base)
            torch.manual_seed(recipe.seed)
            adapt(self.model, recipe.adapters, self._base)
        objective = self.ranks.together(self._objective)
        reader.extend = objective.extend
        self.finished = self.ranks.any(self.ranks.first and self.resume and self.checkpoint.is_dir())
        if self.finished:
            if self.model.adaptation is not None:
                put(self.model, self.model.adaptation.read(self.model, self.checkpoint))
            else:
                model_folder.load_weights(self.model, self.checkpoint / model_folder.WEIGHTS)
            self._print("the run is finished; only its evaluation is done again")
            return
        self.loop = Loop(
            self.model,
            reader,
            recipe.training,
            self.folder,
            name=recipe.name,
            recipe=self.text,
            evaluate=self._live_figures if recipe.evaluation else None,
            objective=objective,
            console=self.console,
            ranks=self.ranks,
        )
        if self.resume:
            self._print(f"going on from step {self.loop.resume()} of {recipe.training.steps}")

    @property
    def text(self) -> str:
        """The recipe as the folder keeps it."""
        return self.recipe.text()

    @property
    def steps(self) -> int:
        """How many training steps the whole run has."""
        return self.recipe.training.steps

    @property
    def checkpoint(self) -> Path:
        """Where the trained model is, once the run is finished."""
        return self.folder / CHECKPOINT

    def train(self) -> bool:
        """Trains to the end and saves the model; False if a signal stopped the run first. All ranks call this."""
        try:
            return self._train()
        finally:
            self.run_folder.release()

    def _train(self) -> bool:
        if self.finished:
            return True
        if not self.loop.run():
            return False
        self.model = self.loop.finished() or self.model
        self.ranks.on_first(
            lambda: model_folder.save(self.model, self.checkpoint, self.text, model_card(self.recipe, self.model))
        )
        return True

    def evaluate(self) -> Evaluation | None:
        """Evaluates the trained model on all tasks of the recipe, and writes responses and scores; None without tasks.

        The first rank does this, and None is what the others get; none of them has to wait for it.
        """
        if not self.recipe.evaluation or not self.ranks.first:
            return None
        about = {
            "name": self.recipe.name,
            "step": str(self.steps),
            "checkpoint": str(self.checkpoint),
        }
        evaluation = evaluate(
            self.model, self.recipe.evaluation, self.folder / EVALUATION, about=about, options=self._options
        )
        card = model_card(self.recipe, self.model, evaluation)
        (self.checkpoint / "README.md").write_text(card)
        return evaluation

    @property
    def _base(self) -> str:
        """The base of the adapters: the model that the run starts from, or where a new one is kept."""
        return self.recipe.start.checkpoint if self.recipe.start is not None else str(self.folder / BASE)

    def _keep_base(self) -> None:
        """Checkpoints hold adapters alone, so a new model is kept once as it was before them."""
        if self.recipe.start is None and not Path(self._base).is_dir():
            model_folder.save(self.model, Path(self._base))

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _check_evaluation(self) -> None:
        check(self.model, self.recipe.evaluation, self._options)
        for tracker in self.recipe.training.trackers:
            tracker.check()
        best, titles = self.recipe.training.best, [f"{task.title}: " for task in self.recipe.evaluation]
        if best is not None and not best.startswith(tuple(titles)):
            raise RecipeError(
                f"training.best: '{best}' is no figure of a task of this recipe; they begin with "
                + " or ".join(f"'{title}'" for title in titles or ["(there is no task)"])
            )

    @property
    def _options(self) -> RunOptions:
        """The options with which the trained model is evaluated."""
        return RunOptions(self.recipe.score_by, load=load)

    def _live_figures(self, model: Model) -> Mapping[str, float]:
        return quick_scores(model, self.recipe.evaluation, options=self._options)

    def _reader(self) -> Reader:
        data = self.recipe.data
        processor = self.model.processor
        if data.features is not None:
            processor = self._with_features(data.features)
        return Reader(
            data.train if data.cache is None else self._decoded(data.cache),
            processor,
            data.batch_size,
            budget=data.budget,
            seed=self.recipe.seed,
            captions=data.captions,
            max_skipped=data.max_skipped,
            threads=data.threads,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
        )

    def _decoded(self, cache: ImageCache | Literal["decoded"]) -> Source:
        transform = self.model.processor.transform
        if transform is None:
            raise RecipeError(
                "data.cache keeps images that one transform makes, which this model's processor has not; leave it out"
            )
        data = self.recipe.data
        source = DecodedSource(data.train, transform, ImageCache() if cache == "decoded" else cache, data.threads)
        source.fill(self.console)
        return source

    def _with_features(self, folder: Path) -> Processor:
        frozen = {name for name, part in self.recipe.training.parts.items() if part.frozen}
        frozen |= self.model.frozen_parts
        cached = self.model.caching_processor(folder, frozen)
        if self.ranks.first:
            cached.fill(self.recipe.data.train, self.console)
        return cached

    def _check_start(self) -> None:
        """Raises TrainingError where removing the older run would remove the model that this one begins from."""
        start = self.recipe.start
        begun = [start.checkpoint] if start is not None else []
        begun += [part.checkpoint for part in self.recipe.pretrained.values() if isinstance(part, PretrainedPart)]
        if self.overwrite and any(
            Path(checkpoint).resolve().is_relative_to(self.folder.resolve()) for checkpoint in begun
        ):
            raise TrainingError(
                f"{self.folder} holds the model to start from, and --overwrite would remove it; give another --out"
            )

    def _built(self) -> Model:
        model = build_model(self.recipe)
        check_parts(model.config, self.recipe)
        self._chosen_objective.check(model)
        return model

    @property
    def _chosen_objective(self) -> ObjectiveConfig:
        return self.recipe.objective if self.recipe.objective is not None else own.Config()

    def _objective(self) -> Objective:
        """The objective; its own parts are initialised apart, so that the model's random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return self._chosen_objective.build(self.model)

    def _check_folder(self) -> None:
        self.run_folder.check(self.text, resume=self.resume, overwrite=self.overwrite)

    def _claim_folder(self) -> None:
        self.run_folder.claim(self.text, overwrite=self.overwrite)


def model_card(recipe: Recipe, model: Model, evaluation: Evaluation | None = None) -> str:
    """README.md of a checkpoint: what the model is, how it was made, and its scores beside chance."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    start = f", from `{recipe.start.checkpoint}`" if recipe.start is not None else ""
    summary = (
        f"A {model.config.chosen()} model of {parameters:,} parameters, trained with chiasm by the recipe in "
        f"`recipe.yaml`{start}: {_steps_in_words(recipe)}."
    )
    lines = [
        f"# {recipe.name}",
        "",
        summary,
        "",
        "    import chiasm",
        '    model = chiasm.load("this folder")',
    ]
    if model.adaptation is not None:
        lines += ["", f"Adapters learned in it: {model.adaptation.described()}."]
    if evaluation is not None:
        lines += ["", "| task | figure | items | score | 95% interval | chance |", "|---|---|---|---|---|---|"]
        for result in evaluation.results:
            for score in result.scores:
                name = f"{score.name}, {score.group}" if score.group else score.name
                lines.append(
                    f"| {result.name} | {name} | {score.items} | {score.value:.1%} "
                    f"| {score.low:.1%} to {score.high:.1%} | {score.chance:.1%} |"
                )
    return "\n".join(lines) + "\n"


def _steps_in_words(recipe: Recipe) -> str:
    stages = [(f"{stage.name}: ", recipe.stage(at, "")) for at, stage in enumerate(recipe.stages)] or [("", recipe)]
    return ", then ".join(f"{name}{part.training.steps:,} steps of {part.data.size_in_words}" for name, part in stages)
