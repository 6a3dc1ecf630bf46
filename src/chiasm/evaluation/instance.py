"""A request of a task together with the cache in which its response is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from chiasm.evaluation.request import Request, Response
from chiasm.evaluation.response_cache import ResponseCache
from chiasm.models.remote import Usage

R = TypeVar("R", bound=Request, covariant=True)
S = TypeVar("S", bound=Request)


@dataclass(frozen=True)
class Instance(Generic[R]):
    """A request of a task. responses: where its response is kept. run: the model's own, "", or that of a baseline."""

    request: R
    responses: ResponseCache
    run: str = ""

    def of(self, request: S) -> Instance[S]:
        """Another request, such as this one in another form, whose response is kept under the same key."""
        return Instance(request, self.responses, self.run)

    @property
    def response(self) -> Response | None:
        """The response in the cache; None where there is none yet."""
        return self.responses.get(self.run, self.request.key)

    def keep(self, response: Response, usage: Usage | None = None) -> None:
        """Keeps the response. usage: what a remote model reports beside it."""
        self.responses.add(self.run, self.request.key, response, usage)
