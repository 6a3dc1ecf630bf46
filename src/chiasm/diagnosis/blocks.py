"""Pictures in a terminal: two pixels a character, the upper one as its ink, the lower one as its ground."""

from __future__ import annotations

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text


def blocks(pixels_HWC: NDArray[np.uint8], columns: int = 28) -> Text:
    """An image of (H, W, 3) as lines of half blocks, `columns` characters wide and at most as high as wide."""
    height, width = pixels_HWC.shape[:2]
    scale = min(columns / width, columns / height)
    extent = (max(1, round(width * scale)), max(2, round(height * scale / 2) * 2))
    pixels_uint8 = np.asarray(PIL.Image.fromarray(pixels_HWC).resize(extent, PIL.Image.Resampling.BOX))
    lines = []
    for upper, lower in zip(pixels_uint8[::2], pixels_uint8[1::2], strict=True):
        line = Text()
        for ink, ground in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append("▀", Style(color=Color.from_rgb(*ink), bgcolor=Color.from_rgb(*ground)))
        lines.append(line)
    return Text("\n").join(lines)
