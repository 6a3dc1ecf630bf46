"""Which things to ask after: those a picture shows, and others that it does not, ever harder to deny.

The three samplings of POPE (Li et al. 2023, arXiv:2305.10355, section 4.1): any thing at random, the things that most
pictures show, and those that most often stand beside the thing asked after before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, SupportsInt

from chiasm.errors import DataError

Split = Literal["random", "popular", "adversarial"]
SPLITS: tuple[Split, ...] = ("random", "popular", "adversarial")


class Polling:
    """Things of a set of pictures, and how often they are shown, alone and together.

    shown: of each picture its distinct things, in the order of their annotation.
    Things of equal count keep the order in which they first come, so that polls follow from the data alone.
    """

    def __init__(self, shown: Sequence[Sequence[str]]) -> None:
        self.names = list(dict.fromkeys(name for things in shown for name in things))
        self.popular = _by_count(Counter(name for things in shown for name in things))
        together: dict[str, Counter[str]] = {name: Counter() for name in self.names}
        for things in shown:
            for name in things:
                together[name].update(other for other in things if other != name)
        self.beside = {name: _by_count(others) for name, others in together.items()}

    def poll(
        self, things: Sequence[str], split: Split, each: int, draw: Callable[[int], SupportsInt]
    ) -> Iterator[tuple[str, bool]]:
        """`each` things that a picture shows, each followed by one that it does not: (name, whether shown).

        Where a ranking holds no other thing that is absent, one is drawn at random; none is asked after twice.
        draw: a random number below the one given. Raises DataError if there are not enough other things.
        """
        used = set(things)
        for name in things[:each]:
            yield name, True
            ranking = {"random": [], "popular": self.popular, "adversarial": self.beside[name]}[split]
            absent = next((other for other in ranking if other not in used), None)
            if absent is None:
                left = [other for other in self.names if other not in used]
                if not left:
                    raise DataError(
                        f"the annotations name only {len(self.names)} things, too few to ask for absent ones"
                    )
                absent = left[int(draw(len(left)))]
            used.add(absent)
            yield absent, False


def _by_count(counts: Counter[str]) -> list[str]:
    return [name for name, _ in counts.most_common()]  # equal counts stay in the order of their first coming
