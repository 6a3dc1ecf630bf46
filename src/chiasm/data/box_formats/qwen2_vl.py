"""Boxes of Qwen2-VL (Wang et al. 2024, arXiv:2409.12191, section 2.2): corners in thousandths, below 1,000.

<|object_ref_start|>a red ball<|object_ref_end|><|box_start|>(120,44),(563,998)<|box_end|>"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_formats import qwen_vl
from chiasm.data.box_formats.qwen_vl import CORNER

_OPEN, _CLOSE = r"<\|box_start\|>", r"<\|box_end\|>"
_BOX = rf"{_OPEN}\s*{CORNER}\s*,\s*{CORNER}\s*{_CLOSE}"


@dataclass(frozen=True)
class Qwen2VL(qwen_vl.QwenVL):
    """Boxes in thousandths as Qwen-VL writes them, between Qwen2-VL's own special tokens."""

    around: ClassVar[tuple[str, str]] = ("<|object_ref_start|>", "<|object_ref_end|>")
    box: ClassVar[tuple[str, str]] = ("<|box_start|>", "<|box_end|>")
    run: ClassVar[str] = rf"(?:{_BOX}\s*)*{_BOX}"
    quiet: ClassVar[str] = r"<\|object_ref_(?:start|end)\|>"
    trace: ClassVar[str] = rf"{_OPEN}[^<]*(?:{_CLOSE})?|{_CLOSE}"
