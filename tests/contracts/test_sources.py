"""What every source promises, found by walking the folder."""

from __future__ import annotations

import importlib

import pytest

from chiasm.data.source import Source
from chiasm.errors import RecipeError


@pytest.mark.parametrize("name", Source.names())
def test_a_source_says_in_one_line_what_it_reads(name: str) -> None:
    kind = Source.choose(name)
    first = (importlib.import_module(kind.__module__).__doc__ or "").strip().splitlines()[0]
    assert len(first) > 20
    assert kind.__doc__


def test_the_walk_finds_the_sources() -> None:
    assert {"captions", "folder", "scenes", "sugarcrepe"} <= set(Source.names())
    with pytest.raises(RecipeError, match="did you mean 'scenes'"):
        Source.choose("scene")
