"""How a family says which layout of pictures it is made for, and the one check that its processor has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from chiasm.data.layout import Layout
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class NeededLayout:
    """kind: the class of layouts. settings: what some of its fields must be, by their names ("transform.size")."""

    kind: type[Layout]
    settings: Mapping[str, object] = field(default_factory=dict)

    def require(self, layout: Layout | None, family: str) -> None:
        """Raises RecipeError unless a processor's layout is of this kind, with these settings."""
        if not isinstance(layout, self.kind):
            name = self.kind.chosen_name()
            raise RecipeError(f"{family} needs another layout of pictures; set processor.layout to {name}")
        found = {name: attrgetter(name)(layout) for name in self.settings}
        if found != self.settings:
            raise RecipeError(
                f"processor.layout has {_listed(found)}, but {family} is made for {_listed(self.settings)}"
            )


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
