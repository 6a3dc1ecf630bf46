"""Checks for settings of the recipe that are surely mistakes, or do not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding
from chiasm.errors import DataError
from chiasm.nn.device import choose_device

_LONG = 2000  # steps without a checkpoint


class SettingsCheck(Check):
    """Looks at the recipe alone, not at the data."""

    def findings(self) -> Iterator[Finding]:
        yield from self._rates()
        yield from self._times()
        yield from self._parts()
        yield from self._data()

    def _rates(self) -> Iterator[Finding]:
        training = self.setting.recipe.training
        rates = {"training.learning_rate": training.learning_rate} | {
            f"training.parts.{name}.learning_rate": part.learning_rate
            for name, part in training.parts.items()
            if part.learning_rate is not None
        }
        for name, rate in rates.items():
            if rate == 0:
                yield self.found("error", f"{name} is 0", "Nothing is learned.", "Give a rate, or freeze the part.")
            elif rate >= 0.1:
                yield self.found(
                    "warning",
                    f"{name} is {rate:g}",
                    f"Rates of {training.optimiser} lie between 1e-6 and 1e-2; above, training diverges.",
                    "Lower it; YAML reads 1e-3 as meant.",
                )
        if training.warmup > 0.5:
            yield self.found(
                "error" if training.warmup == 1 else "warning",
                f"training.warmup is {training.warmup:.0%} of the steps",
                "The learning rate rises for most of the run and hardly stays at its peak.",
                "It is a share: 0.05 stands for 5% of the steps.",
            )
        if training.schedule == "constant" and training.final_learning_rate:
            yield self.found(
                "warning",
                "training.final_learning_rate is given, but the schedule is constant",
                "It is not used.",
                "Set training.schedule: cosine, or leave it out.",
            )
        if training.final_learning_rate > 1:
            yield self.found(
                "warning",
                f"training.final_learning_rate is {training.final_learning_rate:g} times the peak",
                "The learning rate grows to the end.",
                "It is a share of the peak: 0.1 stands for a tenth of it.",
            )
        if training.ema is not None and 1 / (1 - training.ema) > training.steps:
            yield self.found(
                "warning",
                f"training.ema of {training.ema:g} looks back {1 / (1 - training.ema):,.0f} steps; "
                f"the run has {training.steps:,}",
                "The average is still mostly the first weights when the run ends, and it is what is evaluated.",
                f"Set it to at most {1 - 10 / max(20, training.steps):.4f}.",
            )

    def _times(self) -> Iterator[Finding]:
        training = self.setting.recipe.training
        for name in ("evaluate_every", "checkpoint_every"):
            if getattr(training, name) > training.steps:
                yield self.found(
                    "warning",
                    f"training.{name} is {getattr(training, name):,}, but the run has {training.steps:,} steps",
                    "It never comes to that before the end.",
                    "Lower it, or set it to 0 if that is meant.",
                )
        if not training.checkpoint_every and training.steps > _LONG:
            yield self.found(
                "note",
                f"no checkpoint is written in {training.steps:,} steps",
                "A run that is killed starts from the beginning.",
                "Set training.checkpoint_every.",
            )
        if training.precision == "fp16" and choose_device("auto").type == "cpu":
            yield self.found(
                "warning",
                "training.precision is fp16, and there is no GPU",
                "Most CPUs compute 16 bits slower than 32.",
                "Set training.precision: float32, or auto, which measures what is faster.",
            )

    def _parts(self) -> Iterator[Finding]:
        if self.setting.model is None:
            return
        if not self.setting.trainable:
            yield self.found(
                "error", "the whole model is frozen", "Nothing is left to train.", "Free a part in training.parts."
            )
        parts, transform = self.setting.recipe.training.parts, self.setting.transform
        frozen = any(name.split(".")[0] == "vision" and part.frozen for name, part in parts.items())
        if frozen and transform is not None and transform.augment is not None and not self._tower_learns():
            yield self.found(
                "warning",
                "pictures are augmented, but the vision tower is frozen",
                "It is made new views that it cannot learn from, and its features cannot be kept with data.features.",
                "Leave the augmentation out, or free the tower.",
            )

    def _tower_learns(self) -> bool:
        """Whether some tensor of the vision tower still learns."""
        model = self.setting.model
        assert model is not None
        return any(
            parameter.requires_grad for name, parameter in model.named_parameters() if name.startswith("vision.")
        )

    def _data(self) -> Iterator[Finding]:
        recipe = self.setting.recipe
        try:
            count = len(recipe.data.train)
        except DataError:  # reported where the data are read
            return
        if count < recipe.data.batch_size:
            yield self.found(
                "error",
                f"data.batch_size is {recipe.data.batch_size:,}, but there are {count:,} training samples",
                "A sample would stand twice in a batch, so `chiasm train` refuses.",
                "Lower data.batch_size.",
            )
            return
        if recipe.data.budget is None:
            epochs = recipe.training.steps * recipe.data.batch_size / count
            title = f"each of {count:,} training samples is seen {epochs:.3g} times"
            yield self.found("note", title, figures={"epochs": epochs, "samples": float(count)})
        if not recipe.evaluation:
            yield self.found("note", "the recipe evaluates nothing", "", "Add tasks under `evaluation`.")
