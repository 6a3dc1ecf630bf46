"""Per-sample random seeds, for objectives that draw outside of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from chiasm.data.batch import Batch
from chiasm.data.parts import BatchPart, Per


@dataclass(frozen=True)
class Seeds(BatchPart):
    """A seed for each sample, (B,), drawn by its position in the data. An objective adds them in `extend`, and draws
    by them in `prepare` or in its losses."""

    seed_B: Annotated[Tensor, Per("sample")]

    @classmethod
    def drawn(cls, generators: Sequence[np.random.Generator]) -> Seeds:
        """A seed from each generator."""
        return cls(torch.tensor([int(generator.integers(2**62)) for generator in generators], dtype=torch.long))

    @classmethod
    def generators(cls, batch: Batch) -> list[np.random.Generator]:
        """A generator for each sample, always anew: what is drawn for a sample depends on nothing but its seed."""
        return [np.random.default_rng(seed) for seed in batch.part(cls).seed_B.tolist()]
