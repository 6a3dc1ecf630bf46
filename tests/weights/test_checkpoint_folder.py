"""A foreign folder is opened once: no file of it is read twice, whoever needs it."""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import chiasm
from chiasm.errors import CheckpointError
from chiasm.models.llava import SMALL, LLaVA
from chiasm.models.model import Model
from chiasm.weights import open_clip, transformers
from chiasm.weights.checkpoint_folder import CheckpointFolder
from tests.models.generative_models import small_llava
from tests.weights.shaking import shaken
from tests.worlds import tiny_clip

_IN_OPEN, _HEAD = 0x20, struct.Struct("iIII")


@contextmanager
def opened(folder: Path) -> Iterator[Counter[str]]:
    """How often each file of a folder is opened within, by whatever program: the kernel counts."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(folder), _IN_OPEN) >= 0
    counts: Counter[str] = Counter()
    try:
        yield counts
        events = os.read(watch, 1 << 20)
        while events:
            length = _HEAD.unpack_from(events)[3]
            if name := events[_HEAD.size : _HEAD.size + length].rstrip(b"\0").decode():
                counts[name] += 1
            events = events[_HEAD.size + length :]
    finally:
        os.close(watch)


def _llava() -> Model:
    """Without the convolutions before its tower, which transformers' has not."""
    small = small_llava()
    return shaken(LLaVA(replace(small.config, vision=replace(SMALL, stem=())), small.processor))


def _clip() -> Model:
    return shaken(tiny_clip())


def _in_shards(folder: Path) -> None:
    """The weights as transformers stores large ones: in several files, with an index."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    owners = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(tensors)}
    for shard in set(owners.values()):
        own: dict[str, Tensor] = {name: tensor for name, tensor in tensors.items() if owners[name] == shard}
        safetensors.torch.save_file(own, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": owners}))


@pytest.mark.parametrize(
    ("build", "save", "change"),
    [
        (_clip, transformers.save, None),
        (_clip, transformers.save, _in_shards),
        (_clip, open_clip.save, None),
        (_llava, transformers.save, None),
        (_llava, transformers.save, _in_shards),
    ],
    ids=["clip", "clip in shards", "open_clip", "llava", "llava in shards"],
)
def test_no_file_is_opened_twice(
    build: Callable[[], Model],
    save: Callable[[Model, Path], None],
    change: Callable[[Path], None] | None,
    tmp_path: Path,
) -> None:
    model = build()
    save(model, tmp_path)
    if change is not None:
        change(tmp_path)
    with opened(tmp_path) as counts:
        again = chiasm.load(tmp_path)
    assert {"tokenizer.json", "tokenizer_config.json"} <= counts.keys()
    assert sum(name.endswith(".safetensors") for name in counts) == (2 if change is _in_shards else 1)
    assert {name: count for name, count in counts.items() if count > 1} == {}
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_the_count_sees_a_second_opening(tmp_path: Path) -> None:
    transformers.save(_clip(), tmp_path)
    with opened(tmp_path) as counts:
        chiasm.load(tmp_path)
        CheckpointFolder(tmp_path).tokenizer.get_vocab_size()
    assert counts["tokenizer.json"] == 2


def test_one_sentence_names_the_first_few_that_do_not_fit_and_counts_the_rest(tmp_path: Path) -> None:
    transformers.save(_clip(), tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    lost = [name for name in tensors if name.startswith("vision_model.encoder.layers.0.")]
    kept = {name: tensor for name, tensor in tensors.items() if name not in lost}
    kept["visual_projection.weight"] = torch.zeros(2, 3)
    kept["more"] = torch.zeros(4)
    safetensors.torch.save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        chiasm.load(tmp_path)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'model.safetensors'} does not fit CLIP as it is configured there")
    assert ": missing: vision_model.encoder.layers.0." in told
    assert f" and {len(lost) - 3} more; unexpected: more (4,); " in told
    assert told.endswith("misshapen: visual_projection.weight (2, 3) instead of (16, 32)")
    assert "\n" not in told
