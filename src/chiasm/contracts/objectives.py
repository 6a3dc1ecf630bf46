"""What every objective promises: losses that reach what learns, and a run that is the same in parts and after a resume.

Each is tried on the size `small` of the family that it names, `example_family`, with the entries of its `example`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from chiasm.contracts.contract import Trial, instance, require
from chiasm.contracts.small_models import backward, fill_zeros, scenes, small
from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.models import folder as model_folder
from chiasm.models.model import Model, ModelConfig
from chiasm.objectives.objective import Objective, ObjectiveConfig
from chiasm.training.distributed import Ranks
from chiasm.training.findings import dead_tensors
from chiasm.training.learner import Learner
from chiasm.training.loop import Loop
from chiasm.training.settings import Training

BASE = ObjectiveConfig

Config = type[ObjectiveConfig]

_STEPS = 4
_BATCH = 8
_SAMPLES = 20  # so that an epoch ends within the run


class _Interrupted(Exception):
    """Ends a run between two checkpoints, as a crash would."""


def losses_reach_all_that_learns(trial: Trial[Config]) -> None:
    """Its losses are finite scalars, and their gradient reaches all that learns, but for `expected_zero_grad`."""
    learner, reader = _learner(trial)
    fill_zeros(learner)
    learner.objective.begin_step(learner.model, _STEPS - 1, _STEPS)
    backward(learner.losses(_prepared(learner, next(iter(reader)))))
    # A softmax does not change when every key gets the same bias.
    missing = [name for name in dead_tensors(learner, Ranks()) if not name.endswith("attention.k.bias")]
    require(not missing, f"no gradient reaches {', '.join(missing[:5])}; see expected_zero_grad")


def what_is_added_follows_from_the_position(trial: Trial[Config]) -> None:
    """What `extend` and `prepare` add follows from the sample and its position alone: again, resumed, and in parts."""
    learner, reader = _learner(trial)
    objective, model = learner.objective, learner.model
    require(
        objective.prepares or type(objective).prepare is Objective.prepare,
        f"{type(objective).__name__} has a prepare(), but `prepares` is not True, so the loop never calls it",
    )
    objective.begin_step(model, _STEPS - 1, _STEPS)
    batches = iter(reader)
    first, second = next(batches), next(batches)
    torch.manual_seed(77)
    later = next(iter(_reader(model, objective, position=_BATCH)))
    _same(later, second, "extend() draws otherwise where a run begins at the same position")
    if not objective.prepares:
        return
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    whole = _prepared(learner, first)
    gradients = [name for name, tensor in _tensors(whole.added) if tensor.requires_grad]
    gradients += [name for name, parameter in learner.named_parameters() if parameter.grad is not None]
    require(not gradients, f"prepare() leaves a gradient at {', '.join(gradients[:5])}")
    changed = [name for name, tensor in learner.state_dict().items() if not torch.equal(tensor, before[name])]
    require(not changed, f"prepare() changes {', '.join(changed[:5])}")
    torch.manual_seed(78)
    _same(_prepared(learner, first), whole, "prepare() gives something else when it is called again")
    for part, expected in zip(first.split(3), whole.split(3), strict=True):
        _same(_prepared(learner, part), expected, "what prepare() adds of a sample depends on the others", 1e-4)


def parts_of_a_batch_learn_what_the_whole_does(trial: Trial[Config]) -> None:
    """A batch that is split to save memory gives the same losses, and teaches the same, to rounding."""
    whole, parts = _run(trial, "whole"), _run(trial, "parts", accumulate=3)
    logged, logged_in_parts = ([line["losses"] for line in _logged(run)] for run in (whole, parts))
    for step, (expected, found) in enumerate(zip(logged, logged_in_parts, strict=True), 1):
        names, expected_names = sorted(found), sorted(expected)
        require(names == expected_names, f"step {step} in parts has the losses {names}, not {expected_names}")
        for name, value in expected.items():
            require(
                abs(found[name] - value) <= 1e-4 * abs(value) + 1e-5,
                f"the loss '{name}' of step {step} is {value:.5f}, but {found[name]:.5f} where the batch comes in "
                "parts; see weight() and ContrastiveObjective",
            )
    begun, ended = _state(_loop(trial, "begun")), _state(whole)
    for name, tensor in _state(parts).items():
        if tensor.is_floating_point():
            apart, moved = float((tensor - ended[name]).norm()), float((ended[name] - begun[name]).norm())
            require(
                apart <= 0.01 * moved + 5e-6 * tensor.numel() ** 0.5,
                f"{name} learns otherwise where the batch comes in parts ({apart:.2g} apart after moving {moved:.2g})",
            )


def a_resumed_run_ends_with_the_same_bits(trial: Trial[Config]) -> None:
    """A run that is interrupted between two checkpoints, and resumed, ends with the same bits."""

    def interrupted(_: Model) -> Mapping[str, float]:
        raise _Interrupted

    expected = _state(_run(trial, "whole"))
    cut = _loop(trial, "cut", checkpoint_every=2, evaluate_every=3, evaluate=interrupted)
    with suppress(_Interrupted):
        cut.run()
    again = _loop(trial, "cut", other_weights=True)
    require(again.resume() == 2, "the run does not resume at its checkpoint of step 2")
    again.run()
    found = _state(again)
    require(found.keys() == expected.keys(), "a resumed run has other tensors; see saved()")
    other = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    require(not other, f"a resumed run ends with other values of {', '.join(other[:5])}; see saved()")


def what_it_owns_is_no_part_of_the_model(trial: Trial[Config]) -> None:
    """A checkpoint of the model has the model's own tensors and no others, and opens as the same family."""
    run = _run(trial, "run", checkpoint_every=2)
    checkpoint = run.checkpoints.path(_STEPS - 2)
    found, expected = load_file(checkpoint / model_folder.WEIGHTS).keys(), _model(trial.subject).state_dict().keys()
    more, fewer = sorted(found - expected), sorted(expected - found)
    require(not more, f"the model's checkpoint holds {', '.join(more[:5])}, which the model alone does not have")
    require(not fewer, f"the model's checkpoint lacks {', '.join(fewer[:5])}")
    require(type(model_folder.load(checkpoint)) is type(run.model), "the checkpoint opens as another model")


def _model(kind: Config) -> Model:
    return small(ModelConfig.choose(kind.example_family))


def _objective(trial: Trial[Config], model: Model, seed: int = 0) -> Objective:
    config = instance(trial)
    config.check(model)
    torch.manual_seed(seed)
    return config.build(model)


def _reader(model: Model, objective: Objective, position: int = 0) -> Reader:
    return Reader(scenes(_SAMPLES), model.processor, _BATCH, seed=1, position=position, extend=objective.extend)


def _learner(trial: Trial[Config]) -> tuple[Learner, Reader]:
    model = _model(trial.subject)
    objective = _objective(trial, model)
    return Learner(model, objective), _reader(model, objective)


def _loop(
    trial: Trial[Config],
    name: str,
    *,
    other_weights: bool = False,
    evaluate: Any = None,
    **settings: Any,
) -> Loop:
    """A run of a few steps. other_weights: it begins with other ones, which a resume has to put right."""
    model = _model(trial.subject)
    if other_weights:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
    objective = _objective(trial, model, seed=9 if other_weights else 0)
    return Loop(
        model,
        _reader(model, objective),
        Training(**{"steps": _STEPS, "learning_rate": 1e-3, "device": "cpu", "log_every": 1, **settings}),
        trial.folder / name,
        recipe="name: x\n",
        evaluate=evaluate,
        objective=objective,
        console=Console(quiet=True),
    )


def _run(trial: Trial[Config], name: str, **settings: Any) -> Loop:
    loop = _loop(trial, name, **settings)
    torch.manual_seed(3)  # of dropout
    loop.run()
    return loop


def _state(run: Loop) -> dict[str, Tensor]:
    """The model, and what the objective keeps for a resumed run."""
    found = {f"model.{name}": tensor.detach().clone() for name, tensor in run.model.state_dict().items()}
    return found | {f"objective.{name}": tensor.detach().clone() for name, tensor in run.objective.saved().items()}


def _logged(run: Loop) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "losses" in line]


@torch.no_grad()
def _prepared(learner: Learner, batch: Batch) -> Batch:
    """As the loop prepares it."""
    return learner.prepare(batch) if learner.objective.prepares else batch


def _tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of added parts, by the names of their classes and fields."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part, name)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name), f"{name or type(value).__name__}.{field.name}")


def _same(found: Batch, expected: Batch, problem: str, tolerance: float = 0.0) -> None:
    """What was added to two batches is alike."""
    first, second = (dict(_tensors(batch.added)) for batch in (found, expected))
    require(first.keys() == second.keys(), f"{problem} ({sorted(first)} and {sorted(second)})")
    for name, tensor in first.items():
        alike = tensor.shape == second[name].shape and torch.allclose(
            tensor.double(), second[name].double(), rtol=tolerance, atol=tolerance, equal_nan=True
        )
        require(alike, f"{problem} ({name})")
