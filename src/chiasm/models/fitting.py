"""Whether tensors fit a model, told in one sentence for every kind of checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chiasm.errors import CheckpointError

Shape = Sequence[int]
_LISTED = 3  # tensors named of each kind


def require_fit(expected: Mapping[str, Shape], found: Mapping[str, Shape], source: str, target: str) -> None:
    """Raises CheckpointError unless the tensors found are those expected, by name and shape.

    source: what was read, such as a file. target: what it should fit, such as "its config". The error names the first
    few that are missing, unexpected and of another shape, and counts the rest.
    """
    report_misfits(
        source,
        target,
        missing={name: shape for name, shape in expected.items() if name not in found},
        unexpected={name: shape for name, shape in found.items() if name not in expected},
        misshapen={
            name: (found[name], shape)
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != tuple(shape)
        },
    )


def report_misfits(
    source: str,
    target: str,
    missing: Mapping[str, Shape],
    unexpected: Mapping[str, Shape],
    misshapen: Mapping[str, tuple[Shape, Shape]],
) -> None:
    """Raises CheckpointError where there is a tensor that does not fit. misshapen: (shape found, shape expected)."""
    faults = {
        "missing": [f"{name} {tuple(shape)}" for name, shape in missing.items()],
        "unexpected": [f"{name} {tuple(shape)}" for name, shape in unexpected.items()],
        "misshapen": [f"{name} {tuple(has)} instead of {tuple(wants)}" for name, (has, wants) in misshapen.items()],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_first(names)}" for kind, names in faults.items() if names)
        raise CheckpointError(f"{source} does not fit {target}: {listed}")


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
