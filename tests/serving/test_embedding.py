from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from chiasm.errors import ChiasmError
from chiasm.models import folder as model_folder
from chiasm.serving.embedding import embed, load_keys, load_rows
from tests.worlds import Patches, tiny_clip

QUIET = Console(file=io.StringIO())


def test_rows_are_those_of_the_model(tmp_path: Path) -> None:
    model, source = tiny_clip(), Patches(150)
    told = embed(model, source, tmp_path, console=QUIET)
    assert told.rows == {"images": 150, "texts": 300}
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert isinstance(images, np.memmap)
    expected = model.embed_images([sample.image for sample in source]).numpy()
    np.testing.assert_allclose(images, expected, atol=1e-6)
    texts = [caption for sample in source for caption in sample.captions]
    np.testing.assert_allclose(load_rows(tmp_path / "texts.npy"), model.embed_texts(texts).numpy(), atol=1e-6)
    assert load_keys(tmp_path / "images.keys.jsonl")[149] == {"row": 149, "sample": "patches/149", "index": 0}
    assert load_keys(tmp_path / "texts.keys.jsonl")[299] == {"row": 149, "sample": "patches/149", "index": 1}
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["finished"]
    assert facts["shapes"] == {"images.npy": [150, 16], "texts.npy": [300, 16]}
    assert facts["data"]["count"] == 150


def test_half_precision_rounds_the_rows(tmp_path: Path) -> None:
    embed(tiny_clip(), Patches(10), tmp_path, what="images", dtype="float16", console=QUIET)
    assert not (tmp_path / "texts.npy").exists()
    found = np.load(tmp_path / "images.npy")
    expected = tiny_clip().embed_images([sample.image for sample in Patches(10)]).numpy()
    assert np.array_equal(found, expected.astype(np.float16))


def test_tokens_are_the_towers(tmp_path: Path) -> None:
    model, source = tiny_clip(), Patches(5)
    embed(model, source, tmp_path, tokens=True, console=QUIET)
    images, texts = np.load(tmp_path / "images.npy"), np.load(tmp_path / "texts.npy")
    context = model.processor.tokenizer.rules.context
    assert texts.shape == (10, context, 32)
    with torch.no_grad():
        expected = model.vision.tokens(model.processor.images([sample.image for sample in source]))
        np.testing.assert_allclose(images, expected.numpy(), atol=1e-6)
        for row, key in enumerate(load_keys(tmp_path / "texts.keys.jsonl")):
            tokens = model.processor.texts([source[key["row"]].captions[key["index"]]])
            assert key["tokens"] == tokens.lengths_B.item()
            alone = model.text.tokens(tokens)[0, : key["tokens"]].numpy()
            np.testing.assert_allclose(texts[row, : key["tokens"]], alone, atol=1e-5)
            assert not texts[row, key["tokens"] :].any()


def test_the_unreadable_is_skipped_with_its_reason(tmp_path: Path) -> None:
    told = embed(tiny_clip(), Patches(80, broken=(3, 70)), tmp_path, console=QUIET)
    assert (told.rows, told.skipped) == ({"images": 78, "texts": 156}, 2)
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert skipped[0] == {"row": 3, "what": "sample", "reason": "patch 3 is broken"}
    assert 3 not in {key["row"] for key in load_keys(tmp_path / "images.keys.jsonl")}
    again = embed(tiny_clip(), Patches(80, broken=(3, 70)), tmp_path, console=QUIET)
    assert again == told, "a finished folder is left as it is"


def test_a_broken_picture_costs_only_itself(tmp_path: Path) -> None:
    from chiasm.serving.images import ImageCollection
    from tests.serving.made import folder_of

    photos = folder_of(tmp_path / "photos")
    (photos / "red" / "broken.png").write_bytes(b"no picture")
    told = embed(tiny_clip(), ImageCollection(photos), tmp_path / "out", console=QUIET)
    assert (told.rows, told.skipped) == ({"images": 16, "texts": 0}, 1)
    skipped = json.loads((tmp_path / "out" / "skipped.jsonl").read_text())
    assert (skipped["sample"], skipped["what"]) == ("red/broken.png", "image")


class _Interrupt(Exception):
    pass


@pytest.mark.parametrize("after", range(14))
def test_an_interruption_at_any_place_goes_on_to_the_same_bytes(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the n-th time that anything is written."""
    from chiasm.data.vectors import GrowingArray
    from chiasm.serving import embedding

    source = Patches(200, broken=(5, 77))
    embed(tiny_clip(), source, tmp_path / "whole", console=QUIET)
    left = after

    def counted(name: str, owner: object) -> None:
        real = getattr(owner, name)

        def stopping(*args: object, **rest: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Interrupt
            return real(*args, **rest)

        patched.setattr(owner, name, stopping)

    with monkeypatch.context() as patched:
        counted("_count_rows", GrowingArray)
        counted("write_lines", embedding._Files)
        counted("_write", embedding._Files)
        with pytest.raises(_Interrupt):
            embed(tiny_clip(), source, tmp_path / "cut", console=QUIET)
    embed(tiny_clip(), source, tmp_path / "cut", console=QUIET)
    _expect_same(tmp_path / "whole", tmp_path / "cut")


def _expect_same(one: Path, other: Path) -> None:
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_call_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    model_folder.save(tiny_clip(), tmp_path / "model")
    words = [sys.executable, "-m", "chiasm", "embed", str(tmp_path / "model"), "scenes", "count=1500", "objects=[1,1]"]

    def run(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*words, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert run(tmp_path / "whole").wait(300) == 0
    process = run(tmp_path / "cut")
    deadline = time.monotonic() + 120
    while not (
        (tmp_path / "cut" / "images.npy").exists() and (tmp_path / "cut" / "images.npy").stat().st_size > 10_000
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not json.loads((tmp_path / "cut" / "facts.json").read_text())["finished"]
    assert np.load(tmp_path / "cut" / "images.npy", mmap_mode="r").shape[0] < 1500
    assert run(tmp_path / "cut").wait(300) == 0
    _expect_same(tmp_path / "whole", tmp_path / "cut")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    embed(tiny_clip(), Patches(5), tmp_path, console=QUIET)
    for model, source, rest, told in (
        (tiny_clip(1), Patches(5), {}, "another model"),
        (tiny_clip(), Patches(6), {}, "another data, samples"),
        (tiny_clip(), Patches(5), {"dtype": "float16"}, "another dtype"),
        (tiny_clip(), Patches(5), {"tokens": True}, "another features"),
    ):
        with pytest.raises(ChiasmError, match=told):
            embed(model, source, tmp_path, console=QUIET, **rest)
    (tmp_path / "facts.json").unlink()
    with pytest.raises(ChiasmError, match=r"holds .npy files that are not chiasm's"):
        embed(tiny_clip(), Patches(5), tmp_path, console=QUIET)


def test_a_disk_that_is_too_small_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    need = 50 * 16 * 4 + 100 * 16 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, need - 1))
    with pytest.raises(ChiasmError, match="GB free; --dtype float16 needs half of it"):
        embed(tiny_clip(), Patches(50), tmp_path, console=QUIET)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, need))
    assert embed(tiny_clip(), Patches(50), tmp_path, console=QUIET).rows["texts"] == 100
