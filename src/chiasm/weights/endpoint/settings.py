"""The settings of a remote model, as an endpoint's file gives them: its address, requests, limits and prices.

url: https://host/v1
model: name-of-the-model
key: HOST_API_KEY                     # the name of an environment variable, never the key itself
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from chiasm.config import dump
from chiasm.errors import RecipeError

_OURS = ("model", "messages", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "stream", "n")


@dataclass(frozen=True)
class Encoding:
    """The encoding of images in requests.

    longest: pixels of the longer side at most; a larger image is scaled down (bicubic). quality: of JPEG, 1 to 95.
    detail: OpenAI's `detail`; only sent where it is not "auto".
    """

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = 95
    longest: int = 1024
    detail: Literal["auto", "low", "high"] = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise RecipeError(f"pictures.quality is 1 to 95, not {self.quality}")
        if self.longest < 1:
            raise RecipeError(f"pictures.longest must be at least 1 pixel, not {self.longest}")


@dataclass(frozen=True)
class EndpointSettings:
    """Address, model, requests, limits and prices of an endpoint.

    url: up to and without "/chat/completions". model: its name there. key: which environment variable holds the key.

    temperature, seed: not sent where None. limit: what the endpoint calls the most tokens of a reply.
    extra: further entries of every request, such as `{top_p: 0.9}`.
    score_by: "yes" also scores texts, by the probability of "yes" to the question whether the picture shows them; the
        endpoint must offer `top_logprobs`.
    concurrency: requests at once. requests_a_minute, tokens_a_minute: limits to keep, None for none.
    price_in, price_out: of a million tokens, in any currency. budget: the most that may be spent, in the same.
    timeout: seconds until an answer is given up. retries: how often a request is sent again.
    """

    url: str
    model: str
    key: str = ""
    temperature: float | None = 0.0
    seed: int | None = None
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict)
    pictures: Encoding = field(default_factory=Encoding)
    score_by: Literal["", "yes"] = ""
    concurrency: int = 8
    requests_a_minute: float | None = None
    tokens_a_minute: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None
    timeout: float = 120.0
    retries: int = 5

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise RecipeError("url must be that of an endpoint, such as https://host/v1")
        if address.username or address.password or address.query:
            raise RecipeError("url must hold no user, password or query; give the key as an environment variable")
        if self.key and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key):
            raise RecipeError("key must be the name of an environment variable in capitals, not the key itself")
        if not self.model:
            raise RecipeError("model must be the name of a model at the endpoint")
        if taken := sorted(set(self.extra) & {*_OURS, "temperature", "seed"}):
            raise RecipeError(f"extra.{taken[0]} is not for you to set there; chiasm does")
        for name in ("concurrency", "requests_a_minute", "tokens_a_minute", "timeout"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise RecipeError(f"{name} must be above 0, not {value}")
        for name in ("price_in", "price_out", "budget", "retries"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise RecipeError(f"{name} must not be negative, but is {value}")
        if self.budget is not None and not self.price_in + self.price_out:
            raise RecipeError("a budget needs price_in and price_out, the prices of a million tokens")

    def protocol(self) -> dict[str, Any]:
        """The settings that replies depend on besides the requests; not the address, nor the limits."""
        names = ("model", "temperature", "seed", "limit", "extra", "pictures", "score_by")
        return {name: dump(getattr(self, name)) for name in names}
