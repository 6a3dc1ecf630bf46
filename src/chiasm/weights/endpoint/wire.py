"""Samples to the messages of an OpenAI-compatible endpoint, and its replies read back."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image

from chiasm.data.image import Image
from chiasm.data.sample import Part, Sample, Text, Video
from chiasm.errors import DataError
from chiasm.models.remote import Usage
from chiasm.weights.endpoint.settings import Encoding


@dataclass(frozen=True)
class Reply:
    """A reply and the tokens it used. likeliest: log p of the likeliest first tokens, where that was asked for."""

    text: str
    usage: Usage
    likeliest: Mapping[str, float]


def messages(sample: Sample, encoding: Encoding) -> list[dict[str, Any]]:
    """A sample as messages of one role each (`Sample.turns`)."""
    return [_message(sample.key, role, parts, encoding) for role, parts in sample.turns]


def _message(key: str, role: str, parts: Sequence[Part], encoding: Encoding) -> dict[str, Any]:
    if all(isinstance(part, Text) for part in parts):  # what servers of text alone understand too
        return {"role": role, "content": "".join(part.text for part in parts if isinstance(part, Text))}
    if role != "user":
        raise DataError(f"sample '{key}' has a picture in the {role}'s turn; only users may show them")
    detail = {} if encoding.detail == "auto" else {"detail": encoding.detail}
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Video):
            raise DataError(f"sample '{key}' has videos, which endpoints are not sent")
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        else:
            content.append({"type": "image_url", "image_url": {"url": data_url(part, encoding), **detail}})
    return {"role": role, "content": content}


def data_url(image: Image, encoding: Encoding) -> str:
    """The picture as RGB, scaled down where it is larger than the encoding allows, as a data URL."""
    decoded = image.decode()
    if max(decoded.size) > encoding.longest:
        scale = encoding.longest / max(decoded.size)
        size = max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale))
        decoded = decoded.resize(size, PIL.Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if encoding.format == "jpeg":
        decoded.save(buffer, format="JPEG", quality=encoding.quality)
    else:
        decoded.save(buffer, format="PNG")
    return f"data:image/{encoding.format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def read(body: Any) -> Reply:
    """The reply in an answer's body. Raises ValueError where it is no reply of this protocol, DataError where the model
    refuses.
    """
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list) or not body["choices"]:
        raise ValueError("the answer holds no choices")
    choice = body["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("the answer holds no message")
    if message.get("refusal"):
        raise DataError(f"the endpoint refuses: {_short(message['refusal'])}")
    if choice.get("finish_reason") == "content_filter":
        raise DataError("the endpoint's content filter refuses")
    return Reply(_words(message.get("content")), _usage(body), _likeliest(choice))


def complaint(body: Any) -> tuple[str, str]:
    """(message, code) of an error's body; empty where it gives none."""
    error = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(error, str):
        return _short(error), ""
    if not isinstance(error, dict):
        return "", ""
    return _short(error.get("message") or error.get("detail") or ""), str(error.get("code") or "")


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    raise ValueError("the answer's message holds no text")


def _usage(body: Mapping[str, Any]) -> Usage:
    counted = body.get("usage")
    counts = counted if isinstance(counted, dict) else {}
    found = {
        "model": body.get("model"),
        "fingerprint": body.get("system_fingerprint"),
        "in": counts.get("prompt_tokens"),
        "out": counts.get("completion_tokens"),
    }
    kinds = {"model": str, "fingerprint": str, "in": int, "out": int}
    return {name: value for name, value in found.items() if isinstance(value, kinds[name])}


def _likeliest(choice: Mapping[str, Any]) -> dict[str, float]:
    """log p by token; tokens that differ in case or blanks alone are one, their probabilities added."""
    logs = choice.get("logprobs")
    content = logs.get("content") if isinstance(logs, dict) else None
    first = content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
    listed = first.get("top_logprobs")
    found: dict[str, float] = {}
    for entry in listed if isinstance(listed, list) else ():
        token, log_p = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        if isinstance(token, str) and isinstance(log_p, (int, float)):
            word = token.strip().lower()
            found[word] = math.log(math.exp(found.get(word, -math.inf)) + math.exp(log_p) or 1e-300)
    return found


def _short(words: Any) -> str:
    return " ".join(str(words).split())[:300]
