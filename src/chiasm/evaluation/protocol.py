"""Hashes that say whether two figures may be compared, and whether answers on disk are still those of this model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from chiasm import __version__
from chiasm.data.processor import Processor
from chiasm.evaluation.task import (
    EmbedRequest,
    GenerateRequest,
    Request,
    ScoreOrGenerate,
    ScoreRequest,
    Task,
    image_key,
    part_key,
)
from chiasm.weights.endpoint import Endpoint

_BYTES = 16


def protocol(asked: str, processor: str, scoring: str = "") -> str:
    """A hash of all that a score depends on besides the weights: what is asked, and the model's processor, which makes
    tokens and pixels of it; see `asked_hash` and `processor_hash`.

    scoring: by what a model scores that can score in several ways.
    """
    return _hash([asked, processor, *([scoring] if scoring else [])])


def asked_hash(task: Task, questions: Sequence[Request]) -> str:
    """A hash of what is asked and how it is measured: figures may be compared where it is the same.

    The task's settings (k, templates, ...); of every question its key and kind, texts, right answers and the content of
    its pictures; the versions of chiasm and torch. Where the data lie does not count, what they hold does.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    versions = {"chiasm": __version__, "torch": torch.__version__}
    _feed(digest, [task.chosen(), task.settings(), versions])
    columns: dict[int, str] = {}  # questions that share their texts share the tuple
    for question in questions:
        if isinstance(question, ScoreRequest):
            if id(question.texts) not in columns:
                columns[id(question.texts)] = _hash(question.texts)
            pictures = [image_key(image) for image in question.images]
            _feed(digest, [question.key, question.kind, pictures, columns[id(question.texts)], question.true])
            if isinstance(
                question, ScoreOrGenerate
            ):  # both forms count, so that models asked in either can be compared
                _feed(digest, [_words(question.words), question.choices, question.words_only])
        elif isinstance(question, GenerateRequest):
            _feed(digest, _words(question))
        elif isinstance(question, EmbedRequest):
            pictures = [image_key(image) for image in question.images]
            _feed(digest, [question.key, question.kind, pictures, "vector", question.to_learn_from])
        else:
            _feed(digest, [question.key, "broken"])
    return digest.hexdigest()


def _words(question: GenerateRequest) -> list[object]:
    parts = [part_key(part) for part in question.sample.parts]
    return [question.key, question.kind, parts, question.max_tokens, question.true]


def fingerprint(model: object) -> str:
    """A hash of a model's class and weights; "" for what is not a torch module and so can't be told from others.

    Of an endpoint, where nobody sees the weights, its address and the model's name stand for them.
    """
    if isinstance(model, Endpoint):
        return model.fingerprint
    if not isinstance(model, nn.Module):
        return ""
    digest = hashlib.blake2b(type(model).__qualname__.encode(), digest_size=_BYTES)
    for name, tensor in sorted(model.state_dict().items()):
        _feed(digest, [name, str(tensor.dtype), list(tensor.shape)])
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def processor_hash(model: object) -> str:
    """A hash of all files that the model's processor saves; "" where the model has none.

    Of an endpoint: the model's name, how it decodes, and how pictures are encoded for it.
    """
    if isinstance(model, Endpoint):
        return _hash(model.protocol())
    processor = getattr(model, "processor", None)
    if not isinstance(processor, Processor):
        return ""
    digest = hashlib.blake2b(digest_size=_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        processor.save(Path(folder))
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                _feed(digest, [file.relative_to(folder).as_posix()])
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _hash(value: object) -> str:
    digest = hashlib.blake2b(digest_size=_BYTES)
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: hashlib.blake2b, value: object) -> None:
    digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
