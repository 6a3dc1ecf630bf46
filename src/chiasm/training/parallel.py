"""How ranks share the work on one model: each alone, each with a copy (DDP), each with a slice of it (FSDP2).

Every rank's loss counts by its share of the samples, and gradients are means over the ranks: the same gradient as one
process with the whole batch has."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from chiasm.errors import RecipeError
from chiasm.models.model import Model
from chiasm.objectives.objective import Objective
from chiasm.training.distributed import Ranks
from chiasm.training.learner import Learner
from chiasm.training.settings import Training

P = ParamSpec("P")
T = TypeVar("T")


class SingleProcess:
    """One process, and what the other ways have in common with it."""

    def __init__(self, learner: Learner, ranks: Ranks, device: torch.device) -> None:
        self.ranks, self.learner = ranks, learner.to(device)
        self.model = learner.model

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Runs a part of the model whose gradients are shared; everything that backward goes through passes here."""
        return function(*arguments, **named)

    @contextmanager
    def standing(self, state: Mapping[str, Tensor] | None) -> Iterator[Model | None]:
        """The model as `whole` gives it, while this lasts; then the live weights are back."""
        live = {name: tensor.clone() for name, tensor in self.model.state_dict().items()} if state is not None else None
        try:
            yield self.whole(state)
        finally:
            if live is not None:
                self.model.load_state_dict(live)

    @contextmanager
    def local(self) -> Iterator[None]:
        """Gradients of a backward within this stay on their rank, to be shared by a later one."""
        yield

    def reduce(self) -> None:
        """After the last backward of a step: shares the gradients that it did not share itself."""

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """Scales the gradients so that their norm over the whole model is at most `limit`; returns what it was."""
        return float(nn.utils.clip_grad_norm_(parameters, limit))

    def whole(self, state: Mapping[str, Tensor] | None = None) -> Model | None:
        """On the first rank a model that can be asked and saved, with this state; None on the others.

        state: of the same names as the model's; None leaves the live weights. All ranks must call this.
        """
        if state is not None:
            self.model.load_state_dict(state)
        return self.model if self.ranks.first else None


class DDP(SingleProcess):
    """DistributedDataParallel: every rank holds the whole model (Li et al. 2020, arXiv:2006.15704)."""

    @cached_property
    def module(self) -> DistributedDataParallel:
        # Which tensors the losses reach is the model's own business; DDP must look for those that they leave out.
        return DistributedDataParallel(_Call(self.learner), find_unused_parameters=True, gradient_as_bucket_view=True)

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return self.module(function, *arguments, **named)

    @contextmanager
    def local(self) -> Iterator[None]:
        with self.module.no_sync():
            yield


class FSDP(SingleProcess):
    """FSDP2: every rank holds a slice of each tensor and of its optimiser state (Zhao et al. 2023, arXiv:2304.11277).

    The units that are put together at a time are the blocks of the towers; the rest is one more. Scalars, such as a
    temperature, cannot be sliced: every rank holds them.
    """

    def __init__(self, learner: Learner, ranks: Ranks, device: torch.device) -> None:
        for tensor in learner.state_dict().values():
            dist.broadcast(tensor, src=0)
        model = learner.model
        # Where a plain model is needed, on the first rank: to save it, and to ask it. It waits on the CPU.
        shared = {id(model.processor): model.processor}
        self.plain = copy.deepcopy(model, shared) if ranks.first else None
        self.device = device
        mesh = ranks.mesh(device)
        self.scalars = [parameter for parameter in learner.parameters() if parameter.ndim == 0]
        for block in blocks(learner):
            fully_shard(block, mesh=mesh, ignored_params=set(self.scalars))
        self.module = _Call(learner)
        fully_shard(self.module, mesh=mesh, ignored_params=set(self.scalars))
        super().__init__(learner, ranks, device)

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return self.module(function, *arguments, **named)

    @contextmanager
    def local(self) -> Iterator[None]:
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(False)
        yield
        self.module.set_requires_gradient_sync(True)

    def reduce(self) -> None:
        for scalar in self.scalars:
            if scalar.grad is not None:
                dist.all_reduce(scalar.grad)
                scalar.grad /= self.ranks.count

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        known = [parameter for parameter in parameters if parameter.grad is not None]
        slices = [parameter for parameter in known if isinstance(parameter, DTensor)]
        copies = [parameter for parameter in known if not isinstance(parameter, DTensor)]
        of_slices = nn.utils.get_total_norm(
            [local(parameter.grad) for parameter in slices if parameter.grad is not None]
        )
        of_copies = nn.utils.get_total_norm([parameter.grad for parameter in copies if parameter.grad is not None])
        squares = of_slices.double() ** 2
        dist.all_reduce(squares)
        norm = (squares + of_copies.double() ** 2).sqrt().float()
        for kind in (slices, copies):
            nn.utils.clip_grads_with_norm_(kind, limit, norm)
        return float(norm)

    @contextmanager
    def standing(self, state: Mapping[str, Tensor] | None) -> Iterator[Model | None]:
        yield self.whole(state)

    def whole(self, state: Mapping[str, Tensor] | None = None) -> Model | None:
        own = self.plain.state_dict() if self.plain is not None else {}
        for name, tensor in (state if state is not None else self.model.state_dict()).items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if name in own:
                own[name].copy_(full)
        return self.plain


def share_model(
    model: Model, settings: Training, ranks: Ranks, device: torch.device, objective: Objective | None = None
) -> SingleProcess:
    """The model under the recipe's `training.parallel`. Raises RecipeError for what that strategy cannot do.

    objective: None for the family's own losses.
    """
    learner = Learner(model, objective)
    if ranks.count == 1:
        return SingleProcess(learner, ranks, device)
    if settings.parallel == "none":
        raise RecipeError(
            f"training.parallel is none, but there are {ranks.count} processes; use ddp or fsdp, or start one process"
        )
    if settings.parallel in ("auto", "ddp"):
        return DDP(learner, ranks, device)
    if settings.optimiser == "muon":
        raise RecipeError(
            "training.optimiser: muon needs whole matrices, of which fsdp holds slices; use adamw, or ddp"
        )
    if settings.precision == "fp16":
        raise RecipeError("training.precision: fp16 does not go with training.parallel: fsdp; use bf16")
    if learner.compares_by_layers and settings.accumulate > 1:
        raise RecipeError(
            f"training.accumulate: a {type(model).__name__} compares samples by layers that must then be whole, of "
            "which fsdp holds slices; use ddp, or accumulate: 1"
        )
    return FSDP(learner, ranks, device)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model, outermost first: the elements of its lists that have parts of their own."""
    found: list[nn.Module] = []
    for part in model.children():
        if isinstance(part, (nn.ModuleList, nn.Sequential)):
            found += [
                module
                for module in part
                if any(True for _ in module.children()) and any(True for _ in module.parameters())
            ]
        else:
            found += blocks(part)
    return found


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds: its rows, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """The index in the whole tensor of the first row that this rank holds; FSDP splits as torch.chunk does."""
    if not isinstance(tensor, DTensor):
        return 0
    mesh = tensor.device_mesh
    return min(len(tensor), mesh.get_local_rank() * math.ceil(len(tensor) / mesh.size()))


class _Call(nn.Module):
    """A module whose forward is any function of what learns: DDP and FSDP hook into forward alone."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return function(*arguments, **named)
