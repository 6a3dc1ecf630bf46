"""The source that a command's argument names: a source by name, a file of its entries, a recipe, or an image folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiasm.data.source import Source


def source_of(what: str, overrides: Sequence[str], *, to_look_at: bool = False) -> Source:
    """The source that `what` names; of a recipe, its training data.

    to_look_at: start from the source's entries for display (`Source.to_look_at`). Raises ChiasmError for unknown names.
    """
    from chiasm.additions import ANY, allowing, is_dotted
    from chiasm.config import parse
    from chiasm.data.source import Source
    from chiasm.errors import RecipeError
    from chiasm.experiment.entries import override, read_entries
    from chiasm.experiment.recipe import load_recipe
    from chiasm.serving.images import ImageCollection

    if what in Source.names() or (is_dotted(what) and not what.endswith((".yaml", ".yml"))):
        entries: dict[str, object] = {"source": what}
        with allowing(ANY):
            entries |= Source.choose(what, what).to_look_at() if to_look_at else {}
    elif Path(what).is_dir():
        if overrides:
            raise RecipeError(f"{what} is a folder of pictures and takes no entries, such as {overrides[0]}")
        return ImageCollection(Path(what))
    elif Path(what).is_file() and "source" in (found := read_entries(Path(what))):
        entries = found
    else:
        return load_recipe(what, overrides).data.train
    for change in overrides:
        override(entries, change)
    with allowing(ANY):
        return parse(Source, entries, what)  # type: ignore[type-abstract]  # one of its subclasses
