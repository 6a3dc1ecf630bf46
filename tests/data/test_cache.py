from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.config import dump
from chiasm.data import cache as cache_module
from chiasm.data.cache import DecodedImages
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.locations import Url, UrlImage
from chiasm.data.order import Blocks
from chiasm.data.processor import PairProcessor
from chiasm.data.reader import Reader
from chiasm.data.sample import Box, Sample, Text
from chiasm.data.source import Source
from chiasm.data.sources.mixture import Mixture
from chiasm.data.sources.webdataset import WebDataset, write_shards
from chiasm.errors import CheckpointError, DataError, RecipeError
from chiasm.experiment.recipe import load_recipe
from chiasm.experiment.run import Experiment
from tests.data.cached import AUGMENTED, QUIET, TRANSFORM, Jpegs, filled, jpeg, source_of
from tests.worlds import tiny_processor


def test_training_from_the_cache_gives_the_bits_of_the_exact_path(tmp_path: Path) -> None:
    source, tokenizer = source_of(), tiny_processor().tokenizer
    processor = PairProcessor(TRANSFORM, tokenizer)
    plain = Reader(source, processor, 5, seed=3, threads=2)
    cached = Reader(filled(source, tmp_path), processor, 5, seed=3, threads=2)
    for ours, theirs in islice(zip(plain, cached, strict=True), 12):
        assert ours.keys == theirs.keys
        assert ours.images is not None
        assert theirs.images is not None
        assert torch.equal(ours.images.pixels, theirs.images.pixels)
        assert ours.texts is not None
        assert theirs.texts is not None
        assert torch.equal(ours.texts.ids_BT, theirs.texts.ids_BT)


def test_the_source_is_not_read_again(tmp_path: Path) -> None:
    source = source_of()
    decoded = filled(source, tmp_path)
    assert sorted(set(source.read)) == list(range(20))
    source.read.clear()
    for index in range(20):
        sample = decoded[index]
        original = source.samples[index]
        assert (sample.key, sample.captions, sample.meta) == (original.key, original.captions, original.meta)
        assert np.array_equal(sample.image.pixels_uint8(), TRANSFORM.pixels_uint8(original.image))
    assert source.read == []
    assert [sample.key for sample in decoded] == [sample.key for sample in source.samples]


def test_pictures_are_decoded_once_and_found_again_by_content(tmp_path: Path, decodings: list[str]) -> None:
    source = source_of()
    filled(source, tmp_path)
    filled(source, tmp_path)
    assert len(decodings) == 20
    turned = Jpegs(tuple(reversed(source.samples)))
    assert np.array_equal(
        filled(turned, tmp_path)[0].image.pixels_uint8(), TRANSFORM.pixels_uint8(turned.samples[0].image)
    )
    assert len(decodings) == 20
    changed = Jpegs((replace(source.samples[0], parts=(Image(jpeg(99)),)), *source.samples[1:]))
    assert np.array_equal(filled(changed, tmp_path)[0].image.pixels_uint8(), TRANSFORM.pixels_uint8(Image(jpeg(99))))
    assert len(decodings) == 21
    filled(source, tmp_path, replace(TRANSFORM, interpolation="bilinear"))
    assert len(decodings) == 41


def test_equal_pictures_are_stored_once(tmp_path: Path) -> None:
    one = source_of(1).samples[0]
    decoded = filled(Jpegs(tuple(replace(one, key=f"copy/{i}") for i in range(200))), tmp_path)
    assert decoded.images.bytes == 32 * 32 * 3
    assert {decoded[i].key for i in range(200)} == {f"copy/{i}" for i in range(200)}


def test_an_interrupted_cache_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodings: list[str]
) -> None:
    monkeypatch.setattr(cache_module, "_CHUNK", 5)
    source, whole = source_of(), Jpegs.__getitem__

    def stopped(self: Jpegs, index: int) -> Sample:
        if index == 12:
            raise KeyboardInterrupt
        return whole(self, index)

    monkeypatch.setattr(Jpegs, "__getitem__", stopped)
    with pytest.raises(KeyboardInterrupt):
        filled(source, tmp_path)
    monkeypatch.setattr(Jpegs, "__getitem__", whole)
    (folder,) = tmp_path.iterdir()
    with (folder / "levels.npy").open("ab") as rows, (folder / "pictures.keys").open("a") as keys:
        rows.write(b"half a row")  # as a kill in the middle of a write leaves them
        keys.write("deadbeef")
    decoded = filled(source, tmp_path)
    assert len(decodings) == len(set(decodings)) == 20
    for index in range(20):
        assert np.array_equal(decoded[index].image.pixels_uint8(), TRANSFORM.pixels_uint8(source[index].image))


def test_what_cannot_be_decoded_is_remembered_and_skipped_as_ever(tmp_path: Path, decodings: list[str]) -> None:
    samples = list(source_of(40).samples)
    samples[7] = replace(samples[7], parts=(Image(jpeg(7)[:-300]),))
    samples[8] = replace(samples[8], parts=(Image(tmp_path / "absent.jpg"),))
    source = Jpegs(tuple(samples), broken=(9,))
    filled(source, tmp_path / "cache")
    decoded = filled(source, tmp_path / "cache")
    assert len(decodings) == 38  # the absent one and the one that is gone have no content to decode
    for index, reason in ((7, "broken"), (8, "absent.jpg"), (9, "jpeg 9 is gone")):
        with pytest.raises(DataError, match=reason):
            decoded[index].image.decode()
    for one in (source, decoded):
        reader = Reader(one, PairProcessor(TRANSFORM, tiny_processor().tokenizer), 10, max_skipped=0.2)
        keys = [key for batch in islice(reader, 4) for key in batch.keys]
        assert sorted(keys) == sorted(sample.key for i, sample in enumerate(samples) if i not in (7, 8, 9))
        assert reader.skips.count == 3


def test_other_samples_keep_what_the_source_tells_of_them(tmp_path: Path) -> None:
    pictures = [Image(jpeg(i)) for i in range(3)]
    chat = Sample("chat", (Text("look", "user"), pictures[0], Text("and", "user"), pictures[1]))
    boxed = Sample("boxed", (pictures[2],), captions=("a box",), boxes=(Box((0, 0, 0.5, 0.5), "box"),))
    odd = Sample("odd", (pictures[2],), captions=("tuple",), meta={"pair": (1, 2)})  # JSON would make it a list
    decoded = filled(Jpegs((chat, boxed, odd)), tmp_path)
    assert [part.text for part in decoded[0].parts if isinstance(part, Text)] == ["look", "and"]
    assert [image.size for image in decoded[0].images] == [(32, 32), (32, 32)]
    assert np.array_equal(decoded[0].images[1].pixels_uint8(), TRANSFORM.pixels_uint8(pictures[1]))
    assert decoded[1].boxes == boxed.boxes
    assert decoded[2].meta == odd.meta


def test_a_disk_that_is_too_small_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")  # stands for shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(20 * 32 * 32 * 3 - 1))
    with pytest.raises(DataError, match=r"20 samples need about 0\.0 GB.*data\.cache\.folder"):
        filled(source_of(), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(20 * 32 * 32 * 3))
    filled(source_of(), tmp_path)
    for entry, transform, least in (({"crops": 4}, AUGMENTED, 20 * 4 * 32 * 32 * 3), ({}, AUGMENTED, 20 * 3 * 37 * 37)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, least=least: usage(least - 1))
        with pytest.raises(DataError, match="20 samples need about"):
            filled(source_of(), tmp_path, transform, **entry)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0))
    filled(source_of(), tmp_path)  # nothing is missing, so no room is needed


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    decoded = filled(source_of(), tmp_path)
    with (decoded.folder / "levels.npy").open("r+b") as rows:
        rows.truncate(100)
    with pytest.raises(CheckpointError, match="is damaged; remove it"):
        DecodedImages(decoded.folder)


@pytest.mark.slow
def test_a_recipe_trains_from_the_cache_as_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    small = [
        "data.train.count=64",
        "data.batch_size=16",
        "training.steps=2",
        "training.warmup=1",
        "evaluation=[]",
    ]
    weights = []
    for name, more in (("plain", []), ("cached", ["data.cache=decoded"])):
        experiment = Experiment(load_recipe("clip/scenes", [*small, *more]), tmp_path / name, console=QUIET)
        assert experiment.train()
        weights.append(experiment.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert list((tmp_path / "cache" / "pictures").glob("*/levels.npy"))
    with pytest.raises(RecipeError, match=r"leave data\.cache out"):
        load_recipe("clip/scenes", [*small, "data.cache=decoded", "data.features=features"])


class _Held(Source):
    """A source whose order, stretches and names are unlike those that every source has."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        if index == 5:
            raise DataError("it is gone")
        return Sample(f"s/{index}", (Image(jpeg(index)),), captions=(f"picture {index}",))

    def blocks(self) -> Blocks | None:
        return Blocks((4, 4), 1)

    def called(self, index: int) -> str:
        return f"shelf {index}"


def test_order_and_names_are_the_sources_own(tmp_path: Path) -> None:
    held = _Held()
    mixture = Mixture({"a": source_of(5), "b": source_of(9), "c": held}, {"a": 3, "b": 1, "c": 1})
    write_shards(source_of(24).samples, tmp_path / "shards", per_shard=4)
    shards = WebDataset(str(tmp_path / "shards" / "shard-{000000..000005}.tar"), together=2)
    for name, source in (("held", held), ("mixture", mixture), ("shards", shards)):
        decoded = filled(source, tmp_path / name)
        assert [decoded.at(place, 3) for place in range(60)] == [source.at(place, 3) for place in range(60)]
        assert decoded.blocks() == source.blocks()
        assert [decoded.called(i) for i in range(len(source))] == [source.called(i) for i in range(len(source))]
        tokenizer = tiny_processor().tokenizer
        readers = [
            Reader(one, PairProcessor(TRANSFORM, tokenizer), 4, seed=1, max_skipped=0.5) for one in (source, decoded)
        ]
        for ours, theirs in islice(zip(*readers, strict=True), 9):
            assert ours.keys == theirs.keys
            assert ours.images is not None
            assert theirs.images is not None
            assert torch.equal(ours.images.pixels, theirs.images.pixels)
        assert readers[0].skips == readers[1].skips
    assert held.blocks() is not None
    assert shards.blocks() is not None


def test_pictures_of_a_store_are_kept(tmp_path: Path) -> None:
    fsspec: Any = pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")
    store = fsspec.filesystem("memory")
    store.pipe("/cached/0.jpg", jpeg(0))
    images = (UrlImage(Url("memory://cached/0.jpg")), UrlImage(Url("memory://cached/1.jpg")))
    source = Jpegs(tuple(Sample(f"{i}", (one,), captions=("a picture",)) for i, one in enumerate(images)))
    for transform in (TRANSFORM, AUGMENTED):
        decoded = filled(source, tmp_path, transform)
        assert decoded[0].image.size != (0, 0)
        with pytest.raises(DataError, match=r"there is no picture at memory://cached/1\.jpg"):
            transform(decoded[1].image)
    assert np.array_equal(filled(source, tmp_path)[0].image.pixels_uint8(), TRANSFORM.pixels_uint8(Image(jpeg(0))))
    fast = replace(TRANSFORM, asked_decoding="fast")
    assert np.array_equal(fast.pixels_uint8(images[0]), fast.pixels_uint8(Image(jpeg(0))))
    store.store.clear()


def test_models_that_speak_learn_from_the_cache(tmp_path: Path) -> None:
    layout = Fixed(4, TRANSFORM)
    entries = {
        "layout": dump(layout),
        "tokenizer": {"learn": 300},
        "ends": ["<|endoftext|>"],
    }
    processor = ChatProcessor.from_recipe(entries, ["a picture of noise"])
    assert processor.transform == TRANSFORM
    source = source_of(6)
    decoded = filled(source, tmp_path)
    plain, cached = (
        processor([one[i].with_caption("noise") for i in range(6)], [np.random.default_rng(i) for i in range(6)])
        for one in (source, decoded)
    )
    assert plain.images is not None
    assert cached.images is not None
    assert torch.equal(plain.images.pixels, cached.images.pixels)
    assert plain.stream is not None
    assert cached.stream is not None
    assert torch.equal(plain.stream.ids_T, cached.stream.ids_T)
