"""A model that lives elsewhere, as an evaluation sees it: asked many things at once, each with a price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from chiasm.data.image import Image
from chiasm.data.sample import Sample

Usage = Mapping[str, Any]  # what is reported beside an answer: "model", "fingerprint", tokens "in" and "out"
Item = TypeVar("Item")
Found = TypeVar("Found")


@runtime_checkable
class RemoteModel(Protocol):
    """A model behind a connection. Nothing is sent before the first request.

    A request that is refused, or has no answer after all repetitions, raises DataError: it alone has failed.
    RemoteError is raised where nothing more can be asked: a wrong key, a spent budget, a server that is gone.
    """

    @property
    def fingerprint(self) -> str:
        """A hash that stands for the weights, of which only the place and the name are known."""

    def protocol(self) -> Mapping[str, Any]:
        """What answers depend on besides the requests: the model's name, how it decodes, how images are encoded."""

    def description(self) -> Mapping[str, str]:
        """What results say of the model: its name and its endpoint."""

    def answer(self, sample: Sample, max_tokens: int) -> tuple[Sample, Usage]:
        """The sample with the answer as its last part, and what that took. Safe to call from several threads."""

    def concurrently(self, ask: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[tuple[int, Found]]:
        """(index, result of `ask`) of each item in the order of completion, as many at once as the model allows.

        After an error, or an interruption, nothing more is begun; what is under way (and paid for) is still yielded.
        """

    def remember(self, usages: Iterable[Usage]) -> None:
        """Counts what answers of earlier runs took, so that a budget holds for all of them together."""

    @property
    def cost(self) -> str:
        """What was spent so far, in words."""


@runtime_checkable
class RemoteScorer(RemoteModel, Protocol):
    """A remote model that also scores."""

    def rate(self, image: Image, text: str) -> tuple[float, Usage]:
        """How well the text fits the image, and what that took. Safe to call from several threads."""
