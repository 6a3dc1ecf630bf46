"""Colours that follow the reader's light or dark setting, in pictures that matplotlib drew.

A plot is drawn with stand-in colours. In its SVG each becomes a CSS variable, so that page.css alone decides how
the page and its plots look, on a light screen, on a dark one and on paper."""

from __future__ import annotations

import re

INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"  # stand-ins
_MODELS = ("#010200", "#010201", "#010202", "#010203", "#010204", "#010205")
_MARKERS = ("o", "s", "^", "D", "v")  # with the colours: 30 models that can be told apart, in grey too
# The same markers for HTML, as SVG paths in a box from -6 to 6.
_SHAPES = {
    "o": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "s": "M-4.5 -4.5h9v9h-9z",
    "^": "M0 -5L5 4.5L-5 4.5z",
    "D": "M0 -5.5L5.5 0L0 5.5L-5.5 0z",
    "v": "M0 5L5 -4.5L-5 -4.5z",
}
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", PAPER: "--paper"} | {
    colour: f"--model-{index}" for index, colour in enumerate(_MODELS)
}


def colour(index: int) -> str:
    """The stand-in colour of the model at that place."""
    return _MODELS[index % len(_MODELS)]


def variable(index: int) -> str:
    """The CSS variable with the colour of the model at that place."""
    return _VARIABLES[colour(index)]


def marker(index: int) -> str:
    """The matplotlib marker of the model at that place."""
    return _MARKERS[index % len(_MARKERS)]


def shape(index: int) -> str:
    """The same marker as an SVG path."""
    return _SHAPES[marker(index)]


def themed(svg: str, name: str) -> str:
    """The inner part of an SVG file from matplotlib, ready to stand in a page.

    name: unique among the plots of a page; it keeps their element ids apart.
    """
    start = svg.index(">", svg.index("<svg")) + 1
    inner = svg[start : svg.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r"<style\b.*?</style>", "", inner, flags=re.DOTALL)  # it would speak to the whole page
    inner = re.sub(r"<[^>]*>", lambda tag: _themed_tag(tag.group(), name), inner)
    return re.sub(r">\s+<", "><", inner).strip()


def _themed_tag(tag: str, name: str) -> str:
    """Only tags are changed, never the text between them: that is the user's."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag).replace("url(#", f"url(#{name}-")
    tag = re.sub(r"font-family: [^;\"]*", "font-family: inherit", tag)
    for stand_in, css in _VARIABLES.items():
        tag = tag.replace(stand_in, f"var({css})")
    return re.sub(r"\s*\n\s*", " ", tag)
