"""Tables that map a family's tensors to the names and forms in which others store them, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from chiasm.models.fitting import require_fit

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Form:
    """A conversion between our tensors and stored ones. join: ours to theirs; split: theirs to as many of ours."""

    join: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor, int], Sequence[Tensor]]


AS_IS = Form(lambda ours: ours[0], lambda theirs, _: (theirs,))
TRANSPOSED = Form(lambda ours: ours[0].T, lambda theirs, _: (theirs.T,))
STACKED = Form(
    lambda ours: torch.cat(tuple(ours)), lambda theirs, count: theirs.chunk(count)
)  # along the rows: q, k and v in one
ONE_VALUE = Form(lambda ours: ours[0].reshape(1), lambda theirs, _: (theirs.reshape(()),))  # a scalar, as a list of one
ONE_MORE = Form(lambda ours: ours[0][None], lambda theirs, _: (theirs[0],))  # a batch of one
TWO_MORE = Form(lambda ours: ours[0][None, None], lambda theirs, _: (theirs[0, 0],))  # one row of a batch of one


@dataclass(frozen=True)
class Rule:
    """A line of a table: our name, or several for tensors stored as one; their name; the form of the values.

    "*" stands for one part of a name, between dots; both sides have the same ones, in the same order.
    """

    ours: str | tuple[str, ...]
    theirs: str
    form: Form = AS_IS


@dataclass(frozen=True)
class Link:
    """A rule with the stars filled in: these tensors of ours are that tensor of theirs."""

    ours: tuple[str, ...]
    theirs: str
    form: Form


def links(table: Iterable[Rule], names: Iterable[str]) -> list[Link]:
    """The table spelled out for a model with tensors of these names.

    Raises ValueError if not every tensor is named by exactly one rule: the table is wrong then, not the checkpoint.
    """
    names = list(names)
    found: list[Link] = []
    for rule in table:
        ours = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
        pattern = re.compile(re.escape(ours[0]).replace(r"\*", r"([^.]+)"))
        for name in names:
            if match := pattern.fullmatch(name):
                parts = match.groups()
                found.append(Link(tuple(_filled(name, parts) for name in ours), _filled(rule.theirs, parts), rule.form))
    linked = [name for link in found for name in link.ours]
    if sorted(linked) != sorted(names):
        raise ValueError(f"the table does not name each tensor once: {sorted(set(linked) ^ set(names)) or linked}")
    return found


def take_tensors(
    model: M, table: Iterable[Rule], state: Mapping[str, Tensor], source: str, left_out: Iterable[str] = ()
) -> M:
    """The model with its values taken from a foreign checkpoint, in the model's own precision.

    The model may stand on the meta device. left_out: patterns of names in the checkpoint that are knowingly not read.
    Raises CheckpointError naming the first tensors that are missing, unexpected and misshapen, see `require_fit`.
    """
    ours = model.state_dict()
    linked = links(table, ours)
    with torch.device("meta"):
        expected = {link.theirs: link.form.join([_blank(ours[name]) for name in link.ours]).shape for link in linked}
    skipped = re.compile("|".join(re.escape(pattern).replace(r"\*", r"[^.]+") for pattern in left_out))
    found = {name: value.shape for name, value in state.items() if name in expected or not skipped.fullmatch(name)}
    require_fit(expected, found, source, f"{type(model).__name__} as it is configured there")
    values: dict[str, Tensor] = {}
    for link in linked:
        for name, value in zip(link.ours, link.form.split(state[link.theirs], len(link.ours)), strict=True):
            # A copy of its own: parts of one stored tensor share memory, and the file itself may be mapped into it.
            values[name] = value.detach().to(ours[name].dtype, copy=True).contiguous()
    model.load_state_dict(values, assign=True)
    return model


def renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """A checkpoint with prefixes of its names replaced, as versions of a library name the same parts differently.

    The first prefix that fits a name counts; names that none fits stay.
    """

    def name_of(name: str) -> str:
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        return prefixes.get(old, "") + name.removeprefix(old)

    return {name_of(name): tensor for name, tensor in state.items()}


def give_tensors(model: nn.Module, table: Iterable[Rule]) -> dict[str, Tensor]:
    """The model's values under the checkpoint's names, on the CPU."""
    ours = model.state_dict()
    return {
        link.theirs: link.form.join([ours[name].detach().cpu() for name in link.ours]).contiguous()
        for link in links(table, ours)
    }


def _filled(pattern: str, parts: Sequence[str]) -> str:
    rest = iter(parts)
    return re.sub(r"\*", lambda _: next(rest), pattern)


def _blank(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
