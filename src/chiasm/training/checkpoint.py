"""Checkpoints from which a run goes on to the same bits: a model folder, and beside it all else that the run is.

step-000500/   model.safetensors, config.json, processor/, recipe.yaml
               training-00000-of-00002.safetensors   a rank's slices of optimiser and average, its random numbers
               training.json (step, data position)   SHA256SUMS, written last"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from chiasm.errors import CheckpointError
from chiasm.models import folder as model_folder
from chiasm.models.model import Model
from chiasm.nn.precision import Precision
from chiasm.training.distributed import Ranks, StoppedElsewhere
from chiasm.training.parallel import SingleProcess, first_row, local
from chiasm.training.settings import Training
from chiasm.training.slices import Slices, write_slices

_FACTS, _SUMS = "training.json", "SHA256SUMS"
_OBJECTIVE = "objective/"  # before the names of what an objective owns
T = TypeVar("T")


@dataclass
class Progress:
    """How far a run has come. position: samples of the data handed out. seconds: spent training, over all sittings.

    precision: that it learns in, which another machine might not choose again.
    """

    step: int = 0
    position: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    samples_seen: int = 0
    samples_skipped: int = 0
    precision: Precision = "float32"


@dataclass(frozen=True)
class State:
    """The state that a checkpoint holds beside the progress.

    average: the tensors of the averaged weights. objective: those of what the objective owns.
    """

    parallel: SingleProcess
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Mapping[str, Tensor]
    objective: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that this rank writes: its slices and random numbers; the first also what all ranks share."""
        ranks = self.parallel.ranks
        shared = {f"average/{name}": tensor for name, tensor in self.average.items()}
        shared |= {f"{_OBJECTIVE}{name}": tensor for name, tensor in self.objective.items()}
        for name, parameter in _named(self.optimiser):
            for key, value in self.optimiser.state[parameter].items():
                shared[f"optimiser/{name}/{key}"] = value
        own = {name: tensor for name, tensor in shared.items() if ranks.first or isinstance(tensor, DTensor)}
        own[f"random/{ranks.rank}/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            own[f"random/{ranks.rank}/cuda"] = torch.cuda.get_rng_state()
        return own

    @torch.no_grad()
    def restore(self, saved: Slices, step: int) -> None:
        """Restores what `tensors` returned, by whatever number of ranks it was written."""
        names = list(saved.parts)
        for name, parameter in _named(self.optimiser):
            prefix = f"optimiser/{name}/"
            keys = [full for full in names if full.startswith(prefix)]
            if keys:  # else no gradient ever reached it; the loop reported it after the first step
                self.optimiser.state[parameter] = {
                    full.removeprefix(prefix): saved.like(full, parameter) for full in keys
                }
        for name, tensor in self.average.items():
            tensor.copy_(saved.like(f"average/{name}", tensor))
        for name, tensor in self.objective.items():
            local(tensor).copy_(local(saved.like(f"{_OBJECTIVE}{name}", tensor)))
        ranks = self.parallel.ranks
        if f"random/{ranks.rank}/cpu" not in saved:  # there were fewer ranks: this one begins numbers of its own
            torch.manual_seed(step * ranks.count + ranks.rank)
            return
        torch.set_rng_state(saved.rows(f"random/{ranks.rank}/cpu"))
        if torch.cuda.is_available() and f"random/{ranks.rank}/cuda" in saved:
            torch.cuda.set_rng_state(saved.rows(f"random/{ranks.rank}/cuda"))


class Checkpoints:
    """The checkpoints of one run, those of them that the recipe keeps. Every rank calls `save` and `restore`."""

    def __init__(self, folder: Path, settings: Training, ranks: Ranks, say: Callable[[str], None]) -> None:
        self.folder, self.settings, self.ranks, self.say = folder, settings, ranks, say

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first; what a kill left half-written does not count."""
        found = [path for path in self.folder.glob("step-*") if path.suffix == "" and (path / _SUMS).exists()]
        return sorted(int(path.name.removeprefix("step-")) for path in found)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def newest(self) -> str:
        """The checkpoint from which a run can go on, as part of an error's sentence."""
        steps = self.steps()
        return (
            f"the newest checkpoint is {self.path(steps[-1])}; go on with --resume" if steps else "none was saved yet"
        )

    def is_best(self, value: float) -> bool:
        """Whether a checkpoint with this figure is among those that the recipe keeps as the best."""
        return sum(known >= value for known in self._figures().values()) < self.settings.keep_best

    def save(self, state: State, progress: Progress, recipe: str, figures: Mapping[str, float] | None = None) -> Path:
        """Written aside and renamed. Raises CheckpointError, keeping the older ones, if the disk does not take it.

        figures: of an evaluation at this very step.
        """
        path, ranks = self.path(progress.step), self.ranks
        aside = path.with_name(path.name + ".new")
        own = aside / f"training-{ranks.rank:05d}-of-{ranks.count:05d}.safetensors"
        facts = {**asdict(progress), "scaler": state.scaler.state_dict(), "figures": dict(figures or {})}
        model = state.parallel.whole()

        def begin() -> None:
            assert model is not None
            model_folder.recover(path)
            model_folder.write(model, aside, recipe, card="")
            (aside / _FACTS).write_text(json.dumps(facts, indent=1) + "\n")

        def finish() -> None:
            write_sums(aside, dict(zip(_training_files(aside), sums, strict=True)))
            model_folder.replace(aside, path)
            self._prune()

        try:
            ranks.on_first(_as_checkpoint_error(path, begin))
            digest = ranks.together(_as_checkpoint_error(path, lambda: _written(state, own)))
            sums = [bytes(row).hex() for row in ranks.gather(list(digest)).byte().tolist()]
            ranks.on_first(_as_checkpoint_error(path, finish))
        except (CheckpointError, StoppedElsewhere):
            if ranks.first:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        return path

    def restore(self, model: Model, state: State) -> Progress | None:
        """Puts a run back to its newest checkpoint, random numbers included; None if there is none.

        A damaged one is reported and set aside, and the one before it taken. Raises CheckpointError if none is sound.
        """
        self.ranks.on_first(self._recover)
        damaged: list[str] = []
        while (step := self._agreed_newest()) is not None:
            path = self.path(step)
            if (wrong := self._damage(path)) is None:
                self.ranks.on_first(self._prune)  # after a save that was killed there may be some too many
                if damaged:
                    self.say(f"{'; '.join(damaged)}; going on from {path}")
                return self.ranks.together(_as_checkpoint_error(path, partial(_restored, path, model, state), "read"))
            damaged.append(f"the checkpoint {path} is damaged ({wrong})")
            self.ranks.on_first(partial(_set_aside, path))
        if damaged:
            self.ranks.refuse(
                CheckpointError(f"{'; '.join(damaged)}, and no other is left: begin the run anew with --overwrite")
            )
        return None

    def _agreed_newest(self) -> int | None:
        steps = self.steps()
        step = int(self.ranks.gather([steps[-1] if steps else -1])[0, 0])
        return step if step >= 0 else None

    def _damage(self, path: Path) -> str | None:
        """What is wrong with the files of a checkpoint; the ranks share the work of reading them."""
        sums = read_sums(path)
        names = sorted(sums.keys() | {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()})
        names.remove(_SUMS)
        missing = [at for at, name in enumerate(names) if name not in sums or not (path / name).exists()]
        own = range(self.ranks.rank, len(names), self.ranks.count)
        wrong = missing or [at for at in own if sum_of(path / names[at]) != sums[names[at]]]
        first_wrong = self.ranks.gather([wrong[0] if wrong else -1], patient=True).max()
        if first_wrong < 0:
            return None if {_FACTS, model_folder.WEIGHTS} <= sums.keys() else f"{_SUMS} is cut short"
        return f"{names[int(first_wrong)]} is not what {_SUMS} says"

    def _recover(self) -> None:
        """Mends what a kill has left: a whole NAME.new takes its place, what is half-written or half-removed goes."""
        for aside in self.folder.glob("step-*.new"):
            path = aside.with_suffix("")
            if not path.exists() and (aside / _SUMS).exists():  # it was whole, and only its last rename is missing
                aside.rename(path)
        for left in [*self.folder.glob("step-*.new"), *self.folder.glob("step-*.old")]:
            model_folder.recover(left.with_suffix(""))
        for gone in self.folder.glob("step-*.gone"):
            shutil.rmtree(gone)

    def _figures(self) -> dict[int, float]:
        """The figure that decides which checkpoints are the best, by step, of those that have it."""
        facts = {step: json.loads((self.path(step) / _FACTS).read_text())["figures"] for step in self.steps()}
        return {step: of[self.settings.best] for step, of in facts.items() if self.settings.best in of}

    def _prune(self) -> None:
        steps, every = self.steps(), self.settings.keep_every
        figures = self._figures()
        best = sorted(figures, key=lambda step: (figures[step], step))[-self.settings.keep_best :]
        kept = {*steps[-self.settings.keep :], *best, *(step for step in steps if every and step % every == 0)}
        for step in set(steps) - kept:
            gone = self.path(step).rename(self.path(step).with_suffix(".gone"))  # in one go: half of one is none
            shutil.rmtree(gone)


def sum_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_sums(folder: Path, known: Mapping[Path, str]) -> None:
    """Has the disk take a folder's files, then writes their sums as `sha256sum --check SHA256SUMS` reads them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{known.get(file) or sum_of(file)}  {file.relative_to(folder)}\n" for file in files]
    model_folder.sync(folder)
    (folder / _SUMS).write_text("".join(lines))
    model_folder.sync(folder)


def read_sums(folder: Path) -> dict[str, str]:
    """The sums by file; lines that make no sense are left out."""
    lines = (folder / _SUMS).read_text(errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def _written(state: State, file: Path) -> bytes:
    write_slices(state.tensors(), file)
    return bytes.fromhex(sum_of(file))


def _training_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("training-*.safetensors"))


@torch.no_grad()
def _restored(path: Path, model: Model, state: State) -> Progress:
    weights = model.state_dict()
    if model.adaptation is not None:  # little enough that every rank reads all of it
        for name, whole in model.adaptation.read(model, path).items():
            first = first_row(weights[name])
            own = local(weights[name])
            own.copy_(whole[first : first + len(own)] if own.ndim else whole)
    elif any(isinstance(tensor, DTensor) for tensor in weights.values()):
        saved = Slices([path / model_folder.WEIGHTS])
        for name, tensor in weights.items():
            local(tensor).copy_(local(saved.like(name, tensor)))
    else:
        model_folder.load_weights(model, path / model_folder.WEIGHTS)
    facts = json.loads((path / _FACTS).read_text())
    state.restore(Slices(_training_files(path)), facts["step"])
    if scaler := facts.pop("scaler"):
        state.scaler.load_state_dict(scaler)
    del facts["figures"]
    return Progress(**facts)


def _set_aside(path: Path) -> None:
    aside = path.with_suffix(".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _as_checkpoint_error(path: Path, act: Callable[[], T], verb: str = "write") -> Callable[[], T]:
    """`act`, with its failure raised as a CheckpointError that names the folder."""

    def run() -> T:
        try:
            return act()
        except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own words
            what = getattr(error, "strerror", None) or error
            end = "; older checkpoints are kept" if verb == "write" else ""
            raise CheckpointError(f"cannot {verb} the checkpoint {path}: {what}{end}") from error

    return run


def _named(optimiser: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    return [pair for group in optimiser.param_groups for pair in zip(group["names"], group["params"], strict=True)]
