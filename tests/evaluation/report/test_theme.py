"""Colours can be read, in light and dark, and told apart."""

import re
from itertools import combinations
from pathlib import Path

import pytest

import chiasm.evaluation.report as report
from chiasm.evaluation.report import theme

_CSS = (Path(report.__file__).parent / "page.css").read_text()
_COLOUR = re.compile(r"--([\w-]+):\s*#([0-9a-f]{6})")


def _colours(dark: bool) -> dict[str, tuple[int, ...]]:
    start = _CSS.index("prefers-color-scheme: dark") if dark else 0
    block = _CSS[start : _CSS.index("}", start)]
    return {name: tuple(bytes.fromhex(value)) for name, value in _COLOUR.findall(block)}


def _contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG 2.2, "contrast ratio"."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_formula() -> None:
    assert _contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert _contrast((0x76,) * 3, (255, 255, 255)) == pytest.approx(4.54, abs=0.01)  # the published borderline grey


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_the_page(dark: bool) -> None:
    colours = _colours(dark)
    texts = ["ink", "muted", "right", "wrong", *(theme.variable(at)[2:] for at in range(6))]
    for name in texts:
        for ground in ("paper", "raised"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def test_every_colour_of_a_plot_is_defined_by_the_page() -> None:
    light, dark = _colours(False), _colours(True)
    assert set(light) == set(dark)
    assert {theme.variable(at)[2:] for at in range(20)} <= set(light)


def test_models_differ_in_colour_or_mark() -> None:
    looks = [(theme.variable(at), theme.marker(at)) for at in range(30)]
    assert len(set(looks)) == 30
    assert all(one != other for one, other in combinations([theme.shape(at) for at in range(5)], 2))
