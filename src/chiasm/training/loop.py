"""The training loop; the only one. It knows named losses, and nothing of what they mean."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from torch import Tensor, nn

from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.errors import RecipeError, TrainingError
from chiasm.models.model import Comparing, Model
from chiasm.nn.device import choose_device
from chiasm.nn.recompute import recompute_layers
from chiasm.training.average import Average
from chiasm.training.cached import cached_losses
from chiasm.training.checkpoint import Checkpoints, Progress
from chiasm.training.monitor import Monitor
from chiasm.training.optimiser import build_optimiser, freeze, set_learning_rate
from chiasm.training.settings import Training

Evaluate = Callable[[Model], Mapping[str, float]]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loop:
    """One run: a model, its data, and a folder that holds all that the run leaves behind.

    recipe: the text that is saved with every checkpoint. evaluate: figures of the live model, asked every
    `settings.evaluate_every` steps and at the end.
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
        console: Console | None = None,
    ) -> None:
        self.settings, self.reader, self.folder, self.recipe, self.evaluate = settings, reader, folder, recipe, evaluate
        folder.mkdir(parents=True, exist_ok=True)
        self.device = choose_device(settings.device)
        self.model = model.to(self.device)
        freeze(model, settings)
        if settings.recompute and not recompute_layers(model):
            raise RecipeError("training.recompute: this model has no layers that can be computed again")
        self.optimiser = build_optimiser(model, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.average = Average(model, settings.ema) if settings.ema is not None else None
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep)
        self.progress = Progress()
        self.monitor = Monitor(folder, settings.steps, name, console or Console())
        self._losses: Callable[[Batch], dict[str, Tensor]] = (
            torch.compile(model.losses) if settings.compile else model.losses
        )
        self._stop = False
        self._since = time.perf_counter()

    def resume(self) -> int:
        """Goes back to the newest checkpoint, if there is one; returns its step."""
        steps = self.checkpoints.steps()
        if steps:
            weights = self.average.weights if self.average is not None else None
            self.progress = self.checkpoints.restore(
                steps[-1], self.model, self.optimiser, average=weights, scaler=self.scaler
            )
            self.reader.position = self.progress.position
            self.reader.skips.seen, self.reader.skips.count = self.progress.samples_seen, self.progress.samples_skipped
        self.monitor.forget_after(self.progress.step)
        return self.progress.step

    def run(self) -> bool:
        """Trains to the last step. Returns False if a signal stopped it first; then a checkpoint was saved.

        Raises TrainingError if a loss or gradient is not finite and the recipe does not skip such steps.
        """
        self.model.train()
        self._since = time.perf_counter()
        with self.monitor, _signals(self._on_signal):
            batches = iter(self.reader) if self.progress.step < self.settings.steps else iter(())
            for batch in batches:
                self._step(batch)
                if self._stop:
                    path = self._save()
                    self.monitor.say(f"stopped at step {self.progress.step}; saved {path}; go on with --resume")
                    return False
                if self.progress.step == self.settings.steps:
                    break
            self._tell_skips()
        return True

    def finished_weights(self) -> dict[str, Tensor] | None:
        """The averaged weights, where the recipe keeps an average; they stand for the run."""
        return self.average.state_dict(self.model) if self.average is not None else None

    def _step(self, batch: Batch) -> None:
        step = self.progress.step
        rate = set_learning_rate(self.optimiser, self.settings, step)
        losses = self._backward(batch)
        self.scaler.unscale_(self.optimiser)
        if step == 0:
            self._report_dead_tensors()
        norm = self._gradient_norm()
        if math.isfinite(losses["loss"]) and math.isfinite(norm):
            self.scaler.step(self.optimiser)
        else:
            self._nonfinite(batch, losses, norm)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        self.progress.step, self.progress.position = step + 1, self.reader.position
        self.progress.samples_seen, self.progress.samples_skipped = self.reader.skips.seen, self.reader.skips.count
        seconds = time.perf_counter() - self._since  # waiting for data counts: it is what a user waits for
        self.progress.seconds += seconds
        self._after_step(batch, losses, norm, rate, seconds)
        self._since = time.perf_counter()

    def _backward(self, batch: Batch) -> dict[str, float]:
        """Gradients of the weighed sum of the losses; returns each loss and the sum, "loss"."""
        totals: dict[str, float] = {"loss": 0.0}
        parts = batch.split(self.settings.accumulate)
        if isinstance(self.model, Comparing) and len(parts) > 1:
            named = cached_losses(
                self.model,
                parts,
                self._weighed,
                features=torch.compile(self.model.features) if self.settings.compile else None,
                autocast=self._autocast,
                scale=self.scaler.scale,
            )
            return {"loss": float(self._weighed(named))} | {name: float(one) for name, one in named.items()}
        weights = [self.model.weight(part) for part in parts]
        for part, weight in zip(parts, weights, strict=True):
            share = weight / sum(weights)
            with self._autocast():
                named = self._losses(part.to(self.device))
            loss = self._weighed(named) * share
            torch.autograd.backward(self.scaler.scale(loss))
            totals["loss"] += float(loss.detach())
            for name, value in named.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) * share
        return totals

    def _autocast(self) -> torch.autocast:
        precision = self.settings.precision
        dtype = _DTYPES.get(precision, torch.bfloat16)
        return torch.autocast(self.device.type, dtype=dtype, enabled=precision != "float32")

    def _weighed(self, named: Mapping[str, Tensor]) -> Tensor:
        """The sum of the losses, each times its weight in the recipe."""
        weights = self.settings.loss_weights
        return torch.stack([weights.get(name, 1.0) * loss for name, loss in named.items() if name[0] != "_"]).sum()

    def _gradient_norm(self) -> float:
        trainable = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        limit = self.settings.clip_norm if self.settings.clip_norm is not None else math.inf
        return float(nn.utils.clip_grad_norm_(trainable, limit))

    def _after_step(self, batch: Batch, losses: dict[str, float], norm: float, rate: float, seconds: float) -> None:
        settings, step = self.settings, self.progress.step
        last = step == settings.steps
        pace = len(batch) / seconds
        self.monitor.show(step, f"loss {losses['loss']:.3f}  {pace:,.0f} samples/s")
        if step % settings.log_every == 0 or step == 1 or last:
            self.monitor.write(
                {
                    "step": step,
                    "samples": self.progress.position,
                    "seconds": round(self.progress.seconds, 3),
                    "loss": losses["loss"],
                    "losses": {name: value for name, value in losses.items() if name != "loss"},
                    "learning_rate": rate,
                    "gradient_norm": norm,
                    "samples_per_second": round(pace, 1),
                    "skipped_samples": self.reader.skips.count,
                }
            )
        if settings.evaluate_every and (last or step % settings.evaluate_every == 0):
            self._evaluate()
        if settings.checkpoint_every and step % settings.checkpoint_every == 0 and not last:
            self._save()

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        # Asking a model must not change what it learns next: its mode and the random numbers are put back.
        random = torch.get_rng_state()
        swapped = self.average.in_place(self.model) if self.average is not None else nullcontext()
        with swapped:
            figures = dict(self.evaluate(self.model))
        self.model.train()
        torch.set_rng_state(random)
        self.monitor.write({"step": self.progress.step, "evaluation": figures})

    def _save(self) -> Path:
        return self.checkpoints.save(
            self.model,
            self.optimiser,
            self.progress,
            recipe=self.recipe,
            average=self.average.weights if self.average is not None else None,
            scaler=self.scaler,
        )

    def _tell_skips(self) -> None:
        skips = self.reader.skips
        if skips.count:
            common = ", ".join(f"{count} x {reason}" for reason, count in skips.reasons().most_common(3))
            self.monitor.say(f"{skips.count} of {skips.seen} samples could not be read: {common}", warning=True)

    def _report_dead_tensors(self) -> None:
        """After the first step: trainable tensors that the losses do not reach are nearly always a mistake."""
        dead = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
        ]
        if dead:
            more = f" and {len(dead) - 8} more" if len(dead) > 8 else ""
            self.monitor.say(
                f"no gradient reaches {len(dead)} trainable tensors: {', '.join(dead[:8])}{more}", warning=True
            )
            self.monitor.write({"step": 1, "without_gradient": dead})

    def _nonfinite(self, batch: Batch, losses: dict[str, float], norm: float) -> None:
        step = self.progress.step + 1
        overflow = self.settings.precision == "fp16" and math.isfinite(losses["loss"])
        if overflow:
            self.scaler.step(self.optimiser)  # does nothing but lower the scale: so it finds the one that fits
        if overflow or self.settings.on_nonfinite == "skip":
            self.progress.skipped_steps += 1
            self.monitor.write({"step": step, "skipped_step": str(losses), "gradient_norm": str(norm)})
            return
        file = self.folder / f"nonfinite-step-{step:06d}.json"
        bad = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ]
        shown = {name: str(value) for name, value in losses.items()}  # JSON has no word for what is not finite
        facts = {"step": step, "losses": shown, "gradient_norm": str(norm), "gradients": bad, "samples": batch.keys}
        file.write_text(json.dumps(facts, indent=1) + "\n")
        raise TrainingError(
            f"the loss or gradient is not finite at step {step} (loss {losses['loss']}, gradient norm {norm}); its "
            f"samples and tensors are in {file}; lower training.learning_rate, or set training.on_nonfinite: skip"
        )

    def _on_signal(self) -> None:
        self._stop = True


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run after the step that is under way; a second signal ends it at once."""

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
