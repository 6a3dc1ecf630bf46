"""Tensors that follow the samples of a batch: split, joined and moved by what their fields declare.

A field says what its rows belong to, in its annotation:

    @dataclass(frozen=True)
    class Boxes(BatchPart):
        row_K: Annotated[Tensor, Owner("box")]          # (K,) the sample that each box belongs to, ascending
        corners_K4: Annotated[Tensor, Per("box")]       # a row a box
        weight_B: Annotated[Tensor, Per("sample")]      # a row a sample

    batch = batch.adding(Boxes(...))                    # batch.split(2) now splits the boxes too
    batch.part(Boxes).corners_K4

So an objective or a family adds fields of its own, and nothing that splits, slices, joins or moves has to know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE = "sample"


@dataclass(frozen=True)
class Per:
    """A field with one row for each `unit`, such as "sample", "image" or "token".

    axis: where the rows lie, where not first. fill: what joining fills up with where parts are of different lengths
    along another axis (padding); None: they must be alike.
    """

    unit: str
    axis: int = 0
    fill: float | None = None


@dataclass(frozen=True)
class Owner:
    """A field that says, for each `unit`, which sample of the batch it belongs to; ascending."""

    unit: str


@dataclass(frozen=True)
class Counts:
    """A field that says how many of `unit` each `per` has, in order. A field of None says that each has one."""

    unit: str
    per: str = SAMPLE


@dataclass(frozen=True)
class Whole:
    """A field that belongs to no sample, such as a table that all of them use; every part keeps all of it."""


Declared = Per | Owner | Counts | Whole
Bounds = tuple[int, int]


class BatchPart:
    """Base of frozen dataclasses whose fields follow the samples of a batch: tensors, tuples of one entry a sample,
    and other such parts. See the module for how a field says what its rows belong to."""

    def to(self, device: torch.device | str) -> Self:
        """The same part with all tensors on that device."""
        return self._changed(lambda _, value: value.to(device, non_blocking=True), lambda part: part.to(device))

    def of_rows(self, first: int, last: int) -> Self:
        """What belongs to the samples from `first` up to but not including `last`, which count from `first` on."""
        known: dict[str, Bounds] = {SAMPLE: (first, last)}

        def cut(name: str, value: Any) -> Any:
            declared = declared_of(type(self))[name]
            if isinstance(declared, Whole):
                return value
            unit = declared.per if isinstance(declared, Counts) else declared.unit
            low, high = self._bounds(unit, known)
            if isinstance(value, tuple):
                return value[low:high]
            axis = declared.axis if isinstance(declared, Per) else 0
            rows = value.narrow(axis, low, high - low) if len(value) else value
            return rows - first if isinstance(declared, Owner) else rows

        return self._changed(cut, lambda part: part.of_rows(first, last), tuples=True)

    @classmethod
    def joined(cls, parts: Sequence[Self], starts: Sequence[int]) -> Self:
        """The inverse of splitting: parts in order, one after the other. starts: the first sample of each."""
        return cls(**{field.name: _joined(cls, field.name, parts, starts) for field in fields(cls)})  # type: ignore[arg-type]  # subclasses are dataclasses

    def _changed(
        self, change: Callable[[str, Any], Any], nested: Callable[[BatchPart], BatchPart], tuples: bool = False
    ) -> Self:
        """A copy with other rows in each field, and other nested parts."""
        changed: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if isinstance(value, BatchPart):
                changed[field.name] = nested(value)
            elif isinstance(value, Tensor) or (tuples and field.name in declared_of(type(self)) and value is not None):
                changed[field.name] = change(field.name, value)
        return replace(self, **changed)  # type: ignore[type-var]  # likewise

    def _bounds(self, unit: str, known: dict[str, Bounds]) -> Bounds:
        """Where the rows of a unit begin and end that belong to the samples whose bounds are known."""
        if unit not in known:
            known[unit] = self._found(unit, known)
        return known[unit]

    def _found(self, unit: str, known: dict[str, Bounds]) -> Bounds:
        for name, declared in declared_of(type(self)).items():
            value = getattr(self, name)
            if isinstance(declared, Owner) and declared.unit == unit:
                first, last = known[SAMPLE]
                low, high = torch.searchsorted(value, torch.tensor([first, last], device=value.device)).tolist()
                return low, high
            if isinstance(declared, Counts) and declared.unit == unit:
                low, high = self._bounds(declared.per, known)
                return (low, high) if value is None else (int(value[:low].sum()), int(value[:high].sum()))
        raise TypeError(
            f"{type(self).__name__}: no field says which '{unit}' belongs to which sample (Owner or Counts)"
        )


def declared_of(kind: Any) -> dict[str, Declared]:
    """What each field of a class of parts declares. Raises TypeError for a tensor that declares nothing."""
    return _declared(kind)


@cache
def _declared(kind: Any) -> dict[str, Declared]:
    found: dict[str, Declared] = {}
    hints = get_type_hints(kind, include_extras=True)
    for name in (field.name for field in fields(kind)):
        hint = hints[name]
        marks = [mark for option in _alternatives(hint) for mark in getattr(option, "__metadata__", ())]
        declared = [mark for mark in marks if isinstance(mark, Declared)]
        if declared:
            found[name] = declared[0]
        elif any(option is Tensor for option in _alternatives(hint)):
            raise TypeError(f"{kind.__name__}.{name} is a tensor that does not say what its rows belong to: Per(UNIT)")
    return found


def _alternatives(hint: Any) -> list[Any]:
    """A type hint and, where it is a union, its members."""
    inner = hint
    if get_origin(hint) is Annotated:
        inner = get_args(hint)[0]
    return [hint, *(get_args(inner) if get_origin(inner) is not None else ())]


def _joined(kind: type, name: str, parts: Sequence[BatchPart], starts: Sequence[int]) -> Any:
    pairs = [(getattr(part, name), start) for part, start in zip(parts, starts, strict=True)]
    given = [value for value, _ in pairs if value is not None]
    if not given:
        return None
    if isinstance(given[0], BatchPart):
        return type(given[0]).joined(given, [start for value, start in pairs if value is not None])
    declared = declared_of(kind).get(name, Whole())
    if isinstance(declared, Whole):
        return given[0]
    if isinstance(declared, Owner):
        given = [value + start for value, start in pairs if value is not None]
    return sum(given, ()) if isinstance(given[0], tuple) else _joined_rows(given, declared)


def _joined_rows(values: Sequence[Tensor], declared: Declared) -> Tensor:
    axis = declared.axis if isinstance(declared, Per) else 0
    if isinstance(declared, Per) and declared.fill is not None:
        longest = [max(sides) for sides in zip(*(value.shape for value in values), strict=True)]
        values = [_filled(value, longest, axis, declared.fill) for value in values]
    return torch.cat(list(values), axis)


def _filled(value: Tensor, longest: Sequence[int], axis: int, fill: float) -> Tensor:
    missing = [
        0 if at == axis else most - side for at, (side, most) in enumerate(zip(value.shape, longest, strict=True))
    ]
    return F.pad(value, [end for most in reversed(missing) for end in (0, most)], value=fill)
