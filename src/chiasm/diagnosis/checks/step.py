"""Checks the first step on a few samples: its memory, losses that are not finite, tensors without a gradient."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from chiasm.config import suggest
from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding
from chiasm.diagnosis.machine import free_memory, gib
from chiasm.diagnosis.rehearsal import Rehearsal, rehearse
from chiasm.diagnosis.setting import Setting
from chiasm.errors import ChiasmError
from chiasm.nn.device import choose_device

_NEAR = 0.85  # of the free memory: beyond, the allocator's waste and the batches read ahead may be too much


class Step(Check):
    """Runs a forward and a backward pass; for a large model, only computes shapes."""

    def findings(self) -> Iterator[Finding]:
        try:
            tried = rehearse(self.setting)
        except ChiasmError as error:
            if not any(str(error) in finding.title for finding in self.setting.findings):  # not reported yet
                yield self.found("error", f"the first step fails: {error}", "`chiasm train` stops here.")
            return
        if tried is not None and tried.tried:
            yield from self._losses(tried)
        yield from self._memory(tried)

    def _losses(self, tried: Rehearsal) -> Iterator[Finding]:
        if not tried.finite:
            yield self.found(
                "error",
                "the first loss is not finite",
                "Nothing can be learned from it.",
                "Check the pretrained weights, and the normalisation of the pictures.",
            )
        if tried.dead:
            named = ", ".join(tried.dead[:6]) + (f" and {len(tried.dead) - 6} more" if len(tried.dead) > 6 else "")
            yield self.found(
                "warning",
                f"no gradient reaches {len(tried.dead)} trainable tensors: {named}",
                "They stay as they are, though they count as trained.",
                "Freeze them with training.parts, or check which losses are weighed.",
            )
        weights = self.setting.recipe.training.loss_weights
        for name in weights:
            if name not in tried.losses:
                yield self.found(
                    "error",
                    f"training.loss_weights.{name}: the model has no such loss{suggest(name, tried.losses)}",
                    "The weight is never used.",
                    "Correct the name.",
                )
        if tried.losses and not any(weights.get(name, 1.0) for name in tried.losses):
            yield self.found(
                "error", "all losses have the weight 0", "Nothing is learned.", "Raise training.loss_weights."
            )

    def _memory(self, tried: Rehearsal | None) -> Iterator[Finding]:
        if self.setting.model is None:
            return
        recipe = self.setting.recipe
        try:
            device = choose_device(recipe.training.device)
        except ChiasmError as error:
            yield self.found("error", str(error), "`chiasm train` stops here.", "Set training.device.")
            return
        needs = {
            "weights": float(sum(parameter.nbytes for parameter in self.setting.model.parameters()))
        }  # some in few bits
        needs["gradients"] = 4.0 * sum(parameter.numel() for parameter in self.setting.trainable)
        needs["optimiser"] = optimiser_bytes(self.setting)
        if recipe.training.ema is not None:
            needs["average"] = needs["weights"]
        budget = recipe.data.budget
        unit, whole = ("tokens", budget.tokens) if budget is not None else ("samples", recipe.data.batch_size)
        part = -(-whole // recipe.training.accumulate)
        if tried is not None:
            needs["activations"] = tried.activations(part)
        total, free = sum(needs.values()), free_memory(device)
        parts = ", ".join(f"{name} {gib(amount)}" for name, amount in needs.items())
        figures = {**needs, "total": total, **({"free": float(free)} if free is not None else {})}
        title = f"a step takes about {gib(total)} on {device}" + (f"; {gib(free)} are free" if free is not None else "")
        why = f"Estimated: {parts} (for {part:,} {unit} at once)."
        of, learned = (
            sum(parameter.numel() for parameter in parameters)
            for parameters in (self.setting.model.parameters(), self.setting.trainable)
        )
        if learned < of:
            why += f" {learned:,} of {of:,} values learn."
        if tried is None:
            why += " Activations could not be estimated."
        if free is None or total <= _NEAR * free:
            yield self.found("note", title, why, figures=figures)
            return
        size = "batch_size" if budget is None else "batch_tokens"
        mend = f"Lower data.{size}, or raise training.accumulate, freeze parts, or choose a smaller model."
        over = total > free
        yield self.found("error" if over else "warning", title, why, mend, figures=figures)


def optimiser_bytes(setting: Setting) -> float:
    """Bytes of the optimiser's state: AdamW keeps two numbers a weight, Muon one for each weight of a linear layer."""
    trainable = {id(parameter): parameter.numel() for parameter in setting.trainable}
    muon = 0
    if setting.recipe.training.optimiser == "muon" and setting.model is not None:
        linears = {id(module.weight) for module in setting.model.modules() if isinstance(module, nn.Linear)}
        muon = sum(count for parameter, count in trainable.items() if parameter in linears)
    return 4.0 * muon + 8.0 * (sum(trainable.values()) - muon)
