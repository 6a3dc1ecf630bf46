"""Memory for batches, used again when a batch is gone."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Buffers:
    """Hands out float tensors, and takes their memory back when the last tensor that shares it is gone.

    A batch of pictures is tens of megabytes. Memory of that size comes fresh from the operating system, which clears
    every page of it at the first touch: that takes longer than filling it. As many buffers are kept as were in use at
    once, all of the size that was asked for last. Threads may share one object.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.float32]] = deque()

    def empty(self, *shape: int) -> Tensor:
        """An uninitialised float tensor."""
        count = math.prod(shape)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(count, np.float32)
        if memory.size != count:
            memory = np.empty(count, np.float32)
        lent = memory[:]  # torch holds on to this view as long as any tensor needs it
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)
