from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from chiasm.data.cache import DecodedSource
from chiasm.data.image import Image


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that were decoded to be stored, by key."""
    seen: list[str] = []
    whole = DecodedSource._decoded

    def counted(self: DecodedSource, image: Image) -> NDArray[np.uint8]:
        seen.append(image.key)
        return whole(self, image)

    monkeypatch.setattr(DecodedSource, "_decoded", counted)
    return seen
