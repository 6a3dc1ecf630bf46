"""The training loop; the only one. It knows named losses, and nothing of what they mean."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from chiasm.config import suggest
from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.errors import DataError, RecipeError, TrainingError
from chiasm.models.model import Model
from chiasm.nn.device import choose_device
from chiasm.nn.precision import DTYPES, Precision, autocast, bf16_gain, choose_precision
from chiasm.nn.recompute import recompute_layers
from chiasm.objectives.objective import Objective
from chiasm.training.average import Average
from chiasm.training.cached import cached_losses
from chiasm.training.checkpoint import Checkpoints, Progress, State
from chiasm.training.distributed import Ranks
from chiasm.training.dummy_images import with_dummy_images
from chiasm.training.findings import dead_tensors, write_nonfinite
from chiasm.training.monitor import Monitor, in_words
from chiasm.training.optimiser import build_optimiser, freeze, set_learning_rate
from chiasm.training.pace import Pace
from chiasm.training.parallel import share_model
from chiasm.training.settings import Training
from chiasm.training.signals import stopping

Evaluate = Callable[[Model], Mapping[str, float]]
_SIGNAL_GRACE = 2.0  # seconds; with torchrun a Ctrl-C comes twice


class Loop:
    """One run: a model, its data, and a folder that holds all that the run leaves behind.

    recipe: the text that is saved with every checkpoint. evaluate: figures of the live model, asked every
    `settings.evaluate_every` steps and at the end, on the first rank alone. objective: what is learned; None for the
    family's own losses. ranks: the processes that share the work; the reader hands out this one's share.
    """

    def __init__(
        self,
        model: Model,
        reader: Reader,
        settings: Training,
        folder: Path,
        *,
        name: str = "training",
        recipe: str = "",
        evaluate: Evaluate | None = None,
        objective: Objective | None = None,
        console: Console | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.settings, self.reader, self.folder, self.recipe, self.evaluate = settings, reader, folder, recipe, evaluate
        self.model, self.ranks = model, ranks or Ranks()
        folder.mkdir(parents=True, exist_ok=True)
        self.device = choose_device(settings.device)
        self.precision = self._agreed_precision()
        freeze(model, settings)
        if settings.recompute and not recompute_layers(model):
            raise RecipeError("training.recompute: this model has no layers that can be computed again")
        self.parallel = share_model(model, settings, self.ranks, self.device, objective)
        self.learner = self.parallel.learner
        self.objective = self.learner.objective
        self.optimiser = build_optimiser(model, settings, self.objective)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.average = Average(model, settings.ema) if settings.ema is not None else None
        self.progress = Progress(precision=self.precision)
        self.monitor = Monitor(
            folder,
            settings.steps,
            name,
            console or Console(),
            trackers=settings.trackers,
            recipe=recipe,
            silent=not self.ranks.first,
        )
        self.pace = Pace(self.device, DTYPES[self.precision], counts=not settings.compile)
        self.checkpoints = Checkpoints(folder / "checkpoints", settings, self.ranks, self._warn)
        self._features = torch.compile(self.learner.features) if settings.compile and self.learner.compares else None
        self._losses: Callable[[Batch], dict[str, Tensor]] = (
            torch.compile(self.learner.losses) if settings.compile else self.learner.losses
        )
        if not self.ranks.first:  # dropout differs between ranks
            torch.manual_seed(torch.initial_seed() + self.ranks.rank)
        self._stop = False
        self._since = time.perf_counter()

    def resume(self) -> int:
        """Goes back to the newest sound checkpoint, if there is one; returns its step."""
        progress = self.checkpoints.restore(self.model, self._state())
        if progress is not None:
            self._keep_precision(progress)
            self.progress = progress
            self.reader.position = progress.position
            if self.ranks.first:  # the counts are of all ranks, which are summed at each step
                self.reader.skips.seen, self.reader.skips.count = progress.samples_seen, progress.samples_skipped
        self.monitor.forget_after(self.progress.step)
        return self.progress.step

    def run(self) -> bool:
        """Trains to the last step. Returns False if a signal to any rank stopped it first, after saving a checkpoint.

        Raises TrainingError if a loss or gradient is not finite and the recipe does not skip such steps, or if another
        rank is gone.
        """
        self.learner.train()
        self._since = time.perf_counter()
        grace = _SIGNAL_GRACE if self.ranks.count > 1 else 0.0
        self._tell_precision()
        with self.monitor, stopping(self._on_signal, grace=grace), self.ranks.watching(self.checkpoints.newest):
            with closing(self._batches()) as batches:  # a generator left behind keeps its threads
                for batch, sizes in batches:
                    self._step(batch, sizes)
            if self.ranks.any(self._stop):
                path = self._save()
                self.monitor.say(f"stopped at step {self.progress.step}; saved {path}; go on with --resume")
                return False
            self._tell_skips()
        return True

    def finished(self) -> Model | None:
        """The model that stands for the run, on the first rank; with the averaged weights where the recipe has them."""
        return self.parallel.whole(self.average.state_dict(self.model) if self.average is not None else None)

    def _agreed_precision(self) -> Precision:
        """The precision that the recipe sets; where it leaves the choice, the better one on every rank's device."""
        choice = choose_precision(self.settings.precision, self.device)
        if self.settings.precision != "auto":
            return choice
        return "float32" if self.ranks.any(choice == "float32") else choice

    def _keep_precision(self, progress: Progress) -> None:
        """Has a resumed run go on in the precision that it began in, whatever this device would have chosen."""
        if self.settings.precision != "auto" or progress.precision == self.precision:
            return
        self._warn(
            f"training.precision: auto goes on in {progress.precision}, in which this run began; here a new run would "
            f"take {self.precision}"
        )
        self.precision = progress.precision
        self.pace = Pace(self.device, DTYPES[self.precision], counts=not self.settings.compile)

    def _tell_precision(self) -> None:
        """Prints which precision `auto` took, and why, as a run begins."""
        if self.settings.precision == "auto" and self.progress.step == 0:
            gain = bf16_gain(self.device)
            self.monitor.say(f"precision: {self.precision}; bf16 products are {gain:.1f} times as fast as float32 here")
            self.monitor.write({"step": 0, "precision": self.precision, "bf16_gain": round(gain, 2)})

    def _batches(self) -> Generator[tuple[Batch, list[int]]]:
        """This rank's share of each batch with the sizes of all shares, until the last step or a signal to any rank."""
        empty = 0
        with closing(self.reader.shares()) as shares:
            while self.progress.step < self.settings.steps:
                batch = next(shares)
                sizes, stop, seen, skipped = self._agree(batch)
                if min(sizes) == 0 < sum(sizes):
                    batch = self.reader.evened()
                    sizes, stop, seen, skipped = self._agree(batch)
                if stop:
                    return
                empty = 0 if min(sizes) else empty + self.reader.handed
                try:
                    self.reader.judge(seen, skipped, empty)
                except DataError as error:
                    self.ranks.refuse(error)
                self.progress.samples_seen, self.progress.samples_skipped = seen, skipped
                if batch is not None and min(sizes):
                    yield batch, sizes

    def _agree(self, batch: Batch | None) -> tuple[list[int], bool, int, int]:
        """The samples that each rank has, whether one of them is to stop, and all samples seen and skipped so far."""
        skips = self.reader.skips
        counts = self.ranks.gather([len(batch or ()), self._stop, skips.seen, skips.count]).long()
        _, stop, seen, skipped = counts.sum(0).tolist()
        return counts[:, 0].tolist(), bool(stop), seen, skipped

    def _step(self, batch: Batch, sizes: Sequence[int] = ()) -> None:
        step = self.progress.step
        rate = set_learning_rate(self.optimiser, self.settings, step)
        self.objective.begin_step(self.model, step, self.settings.steps)
        with self.pace.counting():
            losses = self._backward(batch, sizes)
        self.scaler.unscale_(self.optimiser)
        if step == (0 if self.model.adaptation is None else 1):  # adapters begin with a zero, past which none arrives
            self._report_dead_tensors()
        norm = self._gradient_norm()
        if math.isfinite(losses["loss"]) and math.isfinite(norm):
            self.scaler.step(self.optimiser)
        else:
            self._nonfinite(batch, losses, norm)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.objective.end_step(self.model)
        if self.average is not None:
            self.average.update(self.model)
        self.progress.step, self.progress.position = step + 1, self.reader.position
        seconds = time.perf_counter() - self._since  # waiting for data counts: it is what a user waits for
        self.progress.seconds += seconds
        self.pace.stepped(sum(sizes) or len(batch), seconds)
        self._after_step(losses, norm, rate)
        self._since = time.perf_counter()

    def _backward(self, batch: Batch, sizes: Sequence[int] = ()) -> dict[str, float]:
        """Gradients of the weighed sum of the losses; returns each loss and the sum, "loss", as means over all ranks.

        sizes: samples of every rank. A rank's loss counts by its share of what losses are means over (`Model.weight`),
        so that the mean over the ranks, which their gradients become, is that over the whole batch.
        """
        sizes = sizes or [len(batch)]
        totals: dict[str, Tensor] = {}
        count = min(self.settings.accumulate, *sizes)
        parts = self._prepared(batch.split(count) if count > 1 else [batch])
        if self.learner.compares and len(parts) > 1:
            named = self._cached(parts)
            self.parallel.reduce()
            return self.ranks.mean(_numbers({"loss": self._weighed(named), **named}))
        weights = [self.learner.weight(part) for part in parts]
        counts = self.ranks.gather([sum(weights), batch.images is not None])
        whole = float(counts[:, 0].sum())
        elsewhere = self.ranks.count > 1 and bool(counts[:, 1].any())  # all go through what one of them needs
        processor = self.reader.processor
        parts = [with_dummy_images(part, self.model, processor, elsewhere=elsewhere) for part in parts]
        for part, weight in zip(parts, weights, strict=True):
            share = self.ranks.count * weight / whole
            with nullcontext() if part is parts[-1] else self.parallel.local():
                with self._autocast():
                    named = self.parallel.call(self._losses, part.to(self.device))
                loss = self._weighed(named) * share
                torch.autograd.backward(self.scaler.scale(loss))
            shares = {"loss": loss, **{name: value * share for name, value in named.items()}}
            for name, value in shares.items():
                totals[name] = totals[name] + value.detach() if name in totals else value.detach()
        self.parallel.reduce()
        return self.ranks.mean(_numbers(totals))

    def _prepared(self, parts: list[Batch]) -> list[Batch]:
        """The parts with what the objective makes of them without gradients."""
        if not self.objective.prepares:
            return parts
        with torch.no_grad(), self._autocast():
            return [self.parallel.call(self.learner.prepare, part) for part in parts]

    def _cached(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """The losses of all parts as one batch, whose samples are compared with each other."""
        return cached_losses(
            self.learner,
            parts,
            self._weighed,
            features=self._features,
            autocast=self._autocast,
            scale=self.scaler.scale,
            call=self.parallel.call,
            local=self.parallel.local,
        )

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)

    def _weighed(self, named: Mapping[str, Tensor]) -> Tensor:
        """The sum of the losses, each times its weight in the recipe."""
        weights = self.settings.loss_weights
        return torch.stack([weights.get(name, 1.0) * loss for name, loss in named.items() if name[0] != "_"]).sum()

    def _gradient_norm(self) -> float:
        """Clips the gradient, that of each part with an optimiser of its own apart; not finite if one is not."""
        common = self.settings.clip_norm if self.settings.clip_norm is not None else math.inf
        apart: dict[str, tuple[float, list[nn.Parameter]]] = {"": (common, [])}
        for group in self.optimiser.param_groups:
            apart.setdefault(group.get("part", ""), (group.get("clip", common), []))[1].extend(group["params"])
        norms = [self.parallel.clip(parameters, limit) for limit, parameters in apart.values()]
        return norms[0] if all(map(math.isfinite, norms)) else math.nan

    def _after_step(self, losses: dict[str, float], norm: float, rate: float) -> None:
        settings, step = self.settings, self.progress.step
        last = step == settings.steps
        logged = step % settings.log_every == 0 or step == 1 or last
        if logged or self.monitor.waits(step):
            pace = self.pace.figures(settings.steps - step)
            self.monitor.show(step, in_words(losses["loss"], pace))
        if logged:
            self.pace.restart()
            self.monitor.write(
                {
                    "step": step,
                    "samples": self.progress.position,
                    "seconds": round(self.progress.seconds, 3),
                    "loss": losses["loss"],
                    "losses": {name: value for name, value in losses.items() if name != "loss"},
                    "learning_rate": rate,
                    "gradient_norm": norm,
                    "skipped_samples": self.progress.samples_skipped,
                    **pace,
                }
            )
        evaluated = settings.evaluate_every and (last or step % settings.evaluate_every == 0)
        figures = self._evaluate() if evaluated else {}
        due = settings.checkpoint_every and step % settings.checkpoint_every == 0 and not last
        if due or (evaluated and self._is_best(figures)):
            self._save(figures)

    def _evaluate(self) -> dict[str, float]:
        """Figures of the model as it stands, on the first rank; the others wait, however long it takes."""
        if self.evaluate is None:
            return {}
        averaged = self.average.state_dict(self.model) if self.average is not None else None
        with self.parallel.standing(averaged) as model:
            figures = self.ranks.on_first(lambda: self._figures_of(model)) or {}
        self.learner.train()
        return figures

    def _figures_of(self, model: Model | None) -> dict[str, float]:
        assert self.evaluate is not None
        assert model is not None
        # Asking a model must not change what it learns next: its mode and the random numbers are put back.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            figures = dict(self.evaluate(model))
        self.monitor.write({"step": self.progress.step, "evaluation": figures})
        if self.settings.best is not None and self.settings.best not in figures:
            raise TrainingError(
                f"training.best: the evaluation has no figure '{self.settings.best}'"
                + suggest(self.settings.best, figures)
            )
        return figures

    def _is_best(self, figures: Mapping[str, float]) -> bool:
        best = self.settings.best
        return self.ranks.any(best is not None and best in figures and self.checkpoints.is_best(figures[best]))

    def _state(self) -> State:
        weights = self.average.weights if self.average is not None else {}
        return State(self.parallel, self.optimiser, self.scaler, weights, self.objective.saved())

    def _save(self, figures: Mapping[str, float] | None = None) -> Path:
        return self.checkpoints.save(self._state(), self.progress, self.recipe, figures)

    def _tell_skips(self) -> None:
        seen, count = self.progress.samples_seen, self.progress.samples_skipped
        if count:
            common = ", ".join(f"{times} x {reason}" for reason, times in self.reader.skips.reasons().most_common(3))
            self._warn(f"{count} of {seen} samples could not be read" + (f": {common}" if common else ""))

    def _warn(self, text: str) -> None:
        self.monitor.say(text, warning=True)

    def _report_dead_tensors(self) -> None:
        """After the first steps: trainable tensors that the losses do not reach are nearly always a mistake."""
        dead = dead_tensors(self.learner, self.ranks)
        if dead:
            more = f" and {len(dead) - 8} more" if len(dead) > 8 else ""
            self._warn(f"no gradient reaches {len(dead)} trainable tensors: {', '.join(dead[:8])}{more}")
            self.monitor.write({"step": self.progress.step + 1, "without_gradient": dead})

    def _nonfinite(self, batch: Batch, losses: dict[str, float], norm: float) -> None:
        step = self.progress.step + 1
        overflow = self.precision == "fp16" and math.isfinite(losses["loss"])
        if overflow:
            self.scaler.step(self.optimiser)  # does nothing but lower the scale: so it finds the one that fits
        if overflow or self.settings.on_nonfinite == "skip":
            self.progress.skipped_steps += 1
            self.monitor.write({"step": step, "skipped_step": str(losses), "gradient_norm": str(norm)})
            return
        file = write_nonfinite(self.folder, step, self.model, batch, losses, norm, self.ranks)
        self.ranks.refuse(
            TrainingError(
                f"the loss or gradient is not finite at step {step} (loss {losses['loss']}, gradient norm {norm}); its "
                f"samples and tensors are in {file}; lower training.learning_rate, or set training.on_nonfinite: skip"
            )
        )

    def _on_signal(self) -> None:
        self._stop = True


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, fetched at once: a GPU is waited for each time."""
    return dict(zip(losses, torch.stack([loss.detach().float() for loss in losses.values()]).tolist(), strict=True))
