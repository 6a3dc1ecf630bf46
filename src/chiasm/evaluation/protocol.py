"""Hashes that say whether two figures may be compared, and whether responses on disk are still those of this model."""

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
from chiasm.evaluation.request import Request
from chiasm.evaluation.task import Task
from chiasm.models.remote import RemoteModel

_BYTES = 16


def protocol(requests: str, processor: str, scoring: str = "") -> str:
    """A hash of all that a score depends on besides the weights: what is asked, and the model's processor, which makes
    tokens and pixels of it; see `requests_hash` and `processor_hash`.

    scoring: by what a model scores that can score in several ways.
    """
    return _hash([requests, processor, *([scoring] if scoring else [])])


def requests_hash(task: Task, requests: Sequence[Request]) -> str:
    """A hash of what is asked and how it is measured: figures may be compared where it is the same.

    The task's settings (k, templates, ...); of every request its class and its `content`; the versions of chiasm and
    torch. Where the data lie does not count, what they hold does.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    versions = {"chiasm": __version__, "torch": torch.__version__}
    _feed(digest, [task.chosen(), task.settings(), versions])
    shared: dict[int, tuple[object, str]] = {}  # requests that share their texts share the tuple, which lives as long

    def hashed(value: object) -> str:
        if id(value) not in shared:
            shared[id(value)] = value, _hash(value)
        return shared[id(value)][1]

    for request in requests:
        _feed(digest, [type(request).__name__, request.content(hashed)])
    return digest.hexdigest()


def fingerprint(model: object) -> str:
    """A hash of a model's class and weights; "" for what is not a torch module and so can't be told from others.

    Of a remote model, whose weights nobody sees, its address and its name stand for them.
    """
    if isinstance(model, RemoteModel):
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

    Of a remote model: the model's name, how it decodes, and how images are encoded for it.
    """
    if isinstance(model, RemoteModel):
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
