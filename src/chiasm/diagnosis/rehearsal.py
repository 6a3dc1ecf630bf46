"""A training step tried on a few samples: bytes of activations, names of losses, tensors without a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.adaptation.adapted import adapt
from chiasm.data.batch import Batch
from chiasm.data.processor import Processor
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.diagnosis.setting import Setting
from chiasm.errors import DataError
from chiasm.models.model import Model
from chiasm.nn.device import choose_device
from chiasm.nn.precision import Precision, autocast, choose_precision
from chiasm.training.distributed import Ranks
from chiasm.training.dummy_images import with_dummy_images
from chiasm.training.findings import dead_tensors
from chiasm.training.learner import Learner
from chiasm.training.optimiser import freeze

MOST_PARAMETERS = 200_000_000  # of a model that is built to be tried; of a larger one only the shapes are walked
_SAMPLES = (2, 6)  # batch sizes that are tried; a line through both gives any other
_LOW = 0.6  # of what is kept in float32 is kept in 16 bits: norms and softmaxes stay as they are
Drawn = list[tuple[Sample, np.random.Generator]]  # samples, with the generators that draw for them


@dataclass(frozen=True)
class Rehearsal:
    """What a tried step needs and does.

    fixed, per_unit: bytes kept for the backward pass, for a batch of any size and for each sample of it, or for
        each token where batches are bounded by tokens.

    tried: whether a step was really made; losses, finite and dead are known only then.
    losses: their names, without those that are only logged. dead: trainable tensors that no gradient reaches.
    """

    fixed: float
    per_unit: float
    tried: bool
    losses: tuple[str, ...] = ()
    finite: bool = True
    dead: tuple[str, ...] = ()

    def activations(self, size: int) -> float:
        """Bytes kept for the backward pass of a batch of so many samples, or tokens."""
        return self.fixed + self.per_unit * size


def rehearse(setting: Setting) -> Rehearsal | None:
    """Tries a step; None where there is no model, or no samples to try it on."""
    if setting.model is None or setting.processor is None or not setting.trainable:
        return None
    read = _batches(setting, setting.processor)
    if read is None:
        return None
    by_tokens = setting.recipe.data.budget is not None
    batches = [batch for batch, _ in read]
    sizes = [len(batch.stream.ids_T) if by_tokens and batch.stream is not None else len(batch) for batch in batches]
    count = sum(parameter.numel() for parameter in setting.model.parameters())
    if count <= MOST_PARAMETERS:
        return _tried(setting, setting.processor, read, sizes)
    return _walked(setting.model, batches, sizes, 1.0 if _precision(setting) == "float32" else _LOW)


def _batches(setting: Setting, processor: Processor) -> list[tuple[Batch, Drawn]] | None:
    """Batches of the sizes to try, made of training samples as the loop would get them, and these samples."""
    data = setting.recipe.data
    most = max(_SAMPLES)
    try:
        reader = Reader(data.train, processor, 1, seed=setting.recipe.seed, captions=data.captions)
    except DataError:  # an empty source; its own check tells
        return None
    drawn: Drawn = []
    for position in range(min(len(data.train), 8 * most)):
        try:
            sample, _ = reader.sample_at(position)
            processor([sample])
        except DataError:  # counted and named by the checks that read the data
            continue
        drawn.append((sample, np.random.default_rng((setting.recipe.seed, position))))
        if len(drawn) == most:
            break
    if len(drawn) < 2:
        return None
    sizes = sorted({min(size, len(drawn)) for size in _SAMPLES})
    chosen = [drawn[:size] for size in sizes]
    return [(processor([sample for sample, _ in pairs], [rng for _, rng in pairs]), pairs) for pairs in chosen]


def _tried(setting: Setting, processor: Processor, read: list[tuple[Batch, Drawn]], sizes: list[int]) -> Rehearsal:
    """A real forward and backward pass on the CPU, without a step of the optimiser."""
    settings = setting.recipe.training
    with torch.random.fork_rng():
        torch.manual_seed(setting.recipe.seed)
        assert setting.model is not None
        model = type(setting.model)(setting.model.config, processor)
        whole = {id(parameter) for parameter in model.parameters()}
        adapt(model, setting.recipe.adapters)
        objective = setting.objective.build(model).train()
        for parameter in model.parameters():  # half of an adapter begins as zeros, which let no gradient through
            if id(parameter) not in whole and parameter.requires_grad and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    freeze(model, settings)
    model.train()
    kept: list[int] = []
    named: dict[str, Tensor] = {}
    cpu, precision = torch.device("cpu"), _precision(setting)
    learner = Learner(model, objective)
    objective.begin_step(model, settings.steps - 1, settings.steps)  # when all of its losses are there
    for bare, drawn in read:
        learner.zero_grad()
        batch = objective.extend(processor, bare, [sample for sample, _ in drawn], [rng for _, rng in drawn])
        with autocast(cpu, precision):
            batch = with_dummy_images(learner.prepare(batch), model, processor)
        with autocast(cpu, precision), _Kept(learner) as counter:
            named = learner.losses(batch)
        kept.append(counter.bytes)
        weighed = [settings.loss_weights.get(name, 1.0) * loss for name, loss in named.items() if name[0] != "_"]
        torch.autograd.backward(torch.stack(weighed).sum())
    finite = all(math.isfinite(float(loss.detach())) for loss in named.values())
    fixed, per_unit = _line(sizes, kept)
    return Rehearsal(
        fixed,
        per_unit,
        True,
        tuple(name for name in named if name[0] != "_"),
        finite,
        tuple(dead_tensors(learner, Ranks())),
    )


def _precision(setting: Setting) -> Precision:
    """The precision that the run would train in on this machine."""
    settings = setting.recipe.training
    return choose_precision(settings.precision, choose_device(settings.device))


def _walked(model: Model, batches: list[Batch], sizes: list[int], share: float) -> Rehearsal | None:
    """A pass over the model's parts on the meta device, shapes without values; None for models of unknown parts."""
    model.train()
    kept = []
    for batch in batches:
        with _Kept(model) as counter:
            outputs = list(model.part_outputs(batch))  # held until counted: storages are told apart by where they are
        if not outputs:
            return None
        kept.append(round(counter.bytes * share))
        del outputs
    fixed, per_unit = _line(sizes, kept)
    return Rehearsal(fixed, per_unit, tried=False)


class _Kept:
    """Counts the bytes that are kept for the backward pass, weights left out, each storage once."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._met = {_storage(tensor) for tensor in tensors}
        self.bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        if (storage := _storage(tensor)) not in self._met:
            self._met.add(storage)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    def __enter__(self) -> _Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _line(sizes: list[int], kept: list[int]) -> tuple[float, float]:
    """(intercept, slope) of the line through two points, none negative; (0, kept / size) of a single point."""
    if len(sizes) == 1:
        return 0.0, kept[0] / sizes[0]
    per_unit = (kept[1] - kept[0]) / (sizes[1] - sizes[0])
    return max(0.0, kept[0] - per_unit * sizes[0]), max(0.0, per_unit)
