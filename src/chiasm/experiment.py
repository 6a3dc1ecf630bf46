"""A recipe becomes a run: a model and its data, trained by the loop, evaluated by the tasks, kept in one folder.

runs/NAME/   recipe.yaml   metrics.jsonl   checkpoints/   checkpoint/   evaluation/   report.html"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from chiasm.adaptation.adapted import adapt, check_adapters, merged, put
from chiasm.config import dump, parse, suggest
from chiasm.data.cache import DecodedSource, PictureCache
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.processor import Processor
from chiasm.data.reader import Reader
from chiasm.data.source import Source
from chiasm.errors import DataError, RecipeError, TrainingError
from chiasm.evaluation.asking import Way
from chiasm.evaluation.result import Evaluation
from chiasm.evaluation.run import check, evaluate, quick_scores
from chiasm.models import folder as model_folder
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.features import CachedProcessor
from chiasm.models.model import Model, ModelConfig
from chiasm.models.speaker_features import CachedChatProcessor, Reading
from chiasm.recipe import Piece, Recipe, Start, laid_over, learned_by
from chiasm.training.distributed import Ranks
from chiasm.training.loop import Loop
from chiasm.training.monitor import METRICS
from chiasm.weights import load, packages
from chiasm.weights.foreign import ForeignModel

RECIPE, CHECKPOINT, EVALUATION, BASE, STAGES = "recipe.yaml", "checkpoint", "evaluation", "base", "stages"
_LEARNED_FROM = 4000  # samples whose captions a tokenizer is learned from


class Experiment:
    """One recipe in one folder.

    resume: go on from the newest checkpoint. Raises TrainingError if the folder holds another run and neither
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
        self.console = (console or Console()) if self.ranks.first else Console(quiet=True)
        self.ranks.on_first(lambda: self._check_folder(resume, overwrite))
        self.ranks.on_first(lambda: self._check_start(overwrite))
        # Whatever is wrong is told before anything is removed or written.
        self.model = self.ranks.together(lambda: _checked(build_model(recipe), recipe))
        self.ranks.on_first(lambda: self._check_evaluation())
        reader = self.ranks.in_turn(self._reader) if recipe.data.features else self.ranks.together(self._reader)
        self.ranks.on_first(lambda: self._claim_folder(overwrite))
        if recipe.adapters:
            self.ranks.on_first(self._keep_base)
            torch.manual_seed(recipe.seed)
            adapt(self.model, recipe.adapters, self._base)
        self.finished = self.ranks.any(self.ranks.first and resume and self.checkpoint.is_dir())
        if self.finished:
            if self.model.adaptation is not None:
                put(self.model, self.model.adaptation.read(self.model, self.checkpoint))
            else:
                model_folder.load_weights(self.model, self.checkpoint / model_folder.WEIGHTS)
            self._say("the run is finished; only its evaluation is done again")
            return
        self.loop = Loop(
            self.model,
            reader,
            recipe.training,
            folder,
            name=recipe.name,
            recipe=recipe.text(),
            evaluate=self._live_figures if recipe.evaluation else None,
            console=self.console,
            ranks=self.ranks,
        )
        if resume:
            self._say(f"going on from step {self.loop.resume()} of {recipe.training.steps}")

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.recipe.training.steps

    @property
    def checkpoint(self) -> Path:
        """Where the trained model is, once the run is finished."""
        return self.folder / CHECKPOINT

    def train(self) -> bool:
        """Trains to the end and saves the model; False if a signal stopped the run first. All ranks call this."""
        if self.finished:
            return True
        if not self.loop.run():
            return False
        self.model = self.loop.finished() or self.model
        self.ranks.on_first(
            lambda: model_folder.save(
                self.model, self.checkpoint, self.recipe.text(), model_card(self.recipe, self.model)
            )
        )
        return True

    def evaluate(self) -> Evaluation | None:
        """Asks the trained model all tasks of the recipe, and writes the answers and scores; None without tasks.

        The first rank does this, and None is what the others get; none of them has to wait for it.
        """
        if not self.recipe.evaluation or not self.ranks.first:
            return None
        about = {
            "name": self.recipe.name,
            "step": str(self.steps),
            "checkpoint": str(self.checkpoint),
        }
        way = Way(self.recipe.score_by)
        evaluation = evaluate(self.model, self.recipe.evaluation, self.folder / EVALUATION, about=about, way=way)
        card = model_card(self.recipe, self.model, evaluation)
        (self.checkpoint / "README.md").write_text(card)
        return evaluation

    @property
    def _base(self) -> str:
        """What adapters are put on to: the model that the run starts from, or where a new one is kept."""
        return self.recipe.start.checkpoint if self.recipe.start is not None else str(self.folder / BASE)

    def _keep_base(self) -> None:
        """Checkpoints hold adapters alone, so a new model is kept once as it was before them."""
        if self.recipe.start is None and not Path(self._base).is_dir():
            model_folder.save(self.model, Path(self._base))

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _check_evaluation(self) -> None:
        check(self.model, self.recipe.evaluation, Way(self.recipe.score_by))
        for tracker in self.recipe.training.trackers:
            tracker.check()
        best, titles = self.recipe.training.best, [f"{task.title}: " for task in self.recipe.evaluation]
        if best is not None and not best.startswith(tuple(titles)):
            raise RecipeError(
                f"training.best: '{best}' is no figure of a task of this recipe; they begin with "
                + " or ".join(f"'{title}'" for title in titles or ["(there is no task)"])
            )

    def _live_figures(self, model: Model) -> Mapping[str, float]:
        return quick_scores(model, self.recipe.evaluation, way=Way(self.recipe.score_by))

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

    def _decoded(self, cache: PictureCache | Literal["decoded"]) -> Source:
        transform = self.model.processor.transform
        if transform is None:
            raise RecipeError("data.cache keeps pictures that are all made alike; this model's processor makes others")
        data = self.recipe.data
        source = DecodedSource(data.train, transform, PictureCache() if cache == "decoded" else cache, data.threads)
        source.fill(self.console)
        return source

    def _with_features(self, folder: Path) -> Processor:
        frozen = {name for name, part in self.recipe.training.parts.items() if part.frozen}
        frozen |= {name for name, part in self.model.named_children() if getattr(part, "frozen", False)}
        cached: CachedProcessor | CachedChatProcessor
        if isinstance(self.model, DualEncoder) and {"vision", "text"} & frozen:
            cached = CachedProcessor(self.model, folder, images="vision" in frozen, texts="text" in frozen)
        elif isinstance(self.model, Reading) and "vision" in frozen:
            cached = CachedChatProcessor(self.model, folder)
        else:
            raise RecipeError(
                "data.features keeps the outputs of frozen towers; freeze one or both with "
                "training.parts: {vision: {frozen: true}, text: {frozen: true}}"
            )
        if self.ranks.first:
            cached.fill(self.recipe.data.train, self.console)
        return cached

    def _check_folder(self, resume: bool, overwrite: bool) -> None:
        """Raises TrainingError unless the folder is free, or it is said what to do with the run in it."""
        file, text = self.folder / RECIPE, self.recipe.text()
        if resume:
            if not file.exists():
                raise TrainingError(f"{self.folder} holds no run to go on with; leave --resume out to begin one")
            if learned_by(old := file.read_text()) != learned_by(text):
                raise TrainingError(
                    f"{self.folder} holds a run of another recipe ({_changed_lines(old, text)}); go on with the recipe "
                    "that it began with, or give --out another folder"
                )
        elif overwrite:
            if self.folder.is_dir() and any(self.folder.iterdir()) and not file.exists():
                raise TrainingError(f"{self.folder} holds other things than a run; they are not removed")
        elif any((self.folder / name).exists() for name in (METRICS, CHECKPOINT, STAGES, "checkpoints")):
            raise TrainingError(
                f"{self.folder} already holds a run; --resume goes on with it, --overwrite starts anew, "
                "--out FOLDER keeps both"
            )

    def _check_start(self, overwrite: bool) -> None:
        """Raises TrainingError where removing the older run would remove the model that this one begins from."""
        start = self.recipe.start
        begun = [start.checkpoint] if start is not None else []
        begun += [one.checkpoint for one in self.recipe.pretrained.values() if isinstance(one, Piece)]
        if overwrite and any(Path(one).resolve().is_relative_to(self.folder.resolve()) for one in begun):
            raise TrainingError(
                f"{self.folder} holds the model to start from, and --overwrite would remove it; give another --out"
            )

    def _claim_folder(self, overwrite: bool) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in self.folder.iterdir() if overwrite else ():
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                elif old.name != RECIPE:  # the mark of a run stays until another takes its place, whatever ends us
                    old.unlink()
            aside = self.folder / f"{RECIPE}.new"
            aside.write_text(self.recipe.text())
            aside.replace(self.folder / RECIPE)
        except OSError as error:
            raise TrainingError(f"cannot write the run folder {self.folder}: {error.strerror or error}") from error


def build_model(recipe: Recipe) -> Model:
    """The recipe's model before training: its processor, its first weights, its pretrained parts; or a trained one."""
    if recipe.start is not None:
        return _started(recipe.start, recipe.processor)
    assert recipe.model is not None
    kind = recipe.model.model()
    processor = build_processor(recipe)
    torch.manual_seed(recipe.seed)
    model = kind(recipe.model, processor)
    model.check()
    for part, weights in recipe.pretrained.items():
        if isinstance(weights, Piece):
            _take_piece(model, part, weights)
        else:
            packages.load_packaged(model, part, weights)
    return model


def _checked(model: Model, recipe: Recipe) -> Model:
    check_adapters(model, recipe.adapters)
    return model


def _take_piece(model: Model, name: str, piece: Piece) -> None:
    """Puts a part of a trained model into a part of this one, which has just its tensors or fewer."""
    trained = merged(load(piece.checkpoint))
    of_other = piece.part or name
    for where, owner, part in (("", model, name), (".part", trained, of_other)):
        if part not in (parts := dict(owner.named_modules())):
            what = f"{piece.checkpoint} has" if where else "the model has"
            raise RecipeError(f"pretrained.{name}{where}: {what} no part '{part}'{suggest(part, parts)}")
    target, given = model.get_submodule(name), trained.get_submodule(of_other).state_dict()
    # A first stage may have learned with more than the second needs, such as words beside queries.
    taken = {key: tensor for key, tensor in given.items() if key in target.state_dict()}
    model_folder.assign(target, taken, f"pretrained.{name}: {piece.checkpoint}")


def build_processor(recipe: Recipe) -> Processor:
    """The recipe's processor; its tokenizer is learned from the training texts where the recipe says so.

    Where the recipe starts from a checkpoint, that model's, with the recipe's changes.
    """
    if recipe.start is not None:
        return _trainable(recipe.start).processor.changed(recipe.processor)
    assert recipe.model is not None
    kind = recipe.model.model().processor_type
    entries = laid_over(recipe.model.processor_entries(), _with_packaged(recipe.processor, kind))
    return kind.from_recipe(entries, training_texts(recipe.data.train))


def _started(start: Start, processor: Mapping[str, Any]) -> Model:
    """The model of a checkpoint with changed entries. Raises ChiasmError where they do not suit its weights."""
    trained = _trainable(start)
    config = _changed(trained.config, start)
    model = config.model()(config, trained.processor.changed(processor))
    model.check()
    model_folder.assign(model, trained.state_dict(), f"start.model: {start.checkpoint}")
    return model


def _trainable(start: Start) -> Model:
    """The model to start from. Raises CapabilityError for one that can only be asked."""
    model = load(start.checkpoint)
    if isinstance(model, ForeignModel):
        model.refuse("trained")
    return merged(model)


def model_config(recipe: Recipe) -> ModelConfig:
    """The recipe's model, or that of the checkpoint that it starts from, with the recipe's changes."""
    if recipe.start is not None:
        return _changed(_trainable(recipe.start).config, recipe.start)
    assert recipe.model is not None
    return recipe.model


def _changed(trained: ModelConfig, start: Start) -> ModelConfig:
    entries = dump(trained)
    key = trained.key
    if start.model.get(key, entries[key]) != entries[key]:
        raise RecipeError(f"start.model.{key}: {start.checkpoint} is of the family '{entries[key]}', which stays")
    return parse(ModelConfig, laid_over(entries, dict(start.model)), "start.model")  # type: ignore[type-abstract]  # a subclass


def _with_packaged(entries: Mapping[str, Any], kind: type[Processor]) -> Mapping[str, Any]:
    """`tokenizer: {package: NAME}` names packaged weights; the file inside of them stands for it.

    With the tokenizer of a model that chats come its template and its marks; the recipe's own entries go first.
    """
    tokenizer = entries.get("tokenizer")
    if not isinstance(tokenizer, Mapping) or set(tokenizer) != {"package"}:
        return entries
    package = packages.choose(str(tokenizer["package"]), "processor.tokenizer.package")
    chats = package.chat_entries() if issubclass(kind, ChatProcessor) and hasattr(package, "chat_entries") else {}
    return {**chats, **entries, "tokenizer": {"file": package.tokenizer_file()}}


def training_texts(source: Source) -> Iterator[str]:
    """The texts of the training samples, evenly spread over the source; what cannot be read is passed over here, as
    the reader will count and name it."""
    stride = max(1, len(source) // _LEARNED_FROM)
    for index in range(0, len(source), stride):
        try:
            sample = source[index]
        except DataError:
            continue
        yield from sample.captions
        yield from (text.text for text in sample.texts)


def model_card(recipe: Recipe, model: Model, evaluation: Evaluation | None = None) -> str:
    """README.md of a checkpoint: what the model is, how it was made, and its scores beside chance."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    start = f", from `{recipe.start.checkpoint}`" if recipe.start is not None else ""
    told = (
        f"A {model.config.chosen()} model of {parameters:,} parameters, trained with chiasm by the recipe in "
        f"`recipe.yaml`{start}: {_told_steps(recipe)}."
    )
    lines = [
        f"# {recipe.name}",
        "",
        told,
        "",
        "    import chiasm",
        '    model = chiasm.load("this folder")',
    ]
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


def _told_steps(recipe: Recipe) -> str:
    stages = [(f"{one.name}: ", recipe.stage(at, "")) for at, one in enumerate(recipe.stages)] or [("", recipe)]
    return ", then ".join(f"{name}{one.training.steps:,} steps of {one.data.told_size}" for name, one in stages)


def _changed_lines(old: str, new: str) -> str:
    """Up to three lines of the new recipe that differ from the old one, for an error."""
    before = set(old.splitlines())
    changed = [line.strip() for line in new.splitlines() if line not in before]
    return "; ".join(changed[:3]) or "entries were removed"
