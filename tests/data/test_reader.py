from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch

from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.errors import DataError
from tests.worlds import Patches, tiny_processor


def _reader(position: int = 0, **changes: object) -> Reader:
    settings = {"batch_size": 10, "seed": 5, "position": position, **changes}
    source = settings.pop("source", Patches(64))
    return Reader(source, tiny_processor(), **settings)  # type: ignore[arg-type]


def _same(a: Batch, b: Batch) -> bool:
    assert a.texts is not None
    assert b.texts is not None
    assert a.images is not None
    assert b.images is not None
    return (
        a.keys == b.keys
        and torch.equal(a.texts.ids_BT, b.texts.ids_BT)
        and torch.equal(a.images.pixels, b.images.pixels)
    )


def test_an_epoch_shows_every_sample_once() -> None:
    keys = [key for batch in islice(_reader(batch_size=16), 4) for key in batch.keys]
    assert sorted(keys) == sorted(sample.key for sample in Patches(64))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_reader_goes_on_where_another_stopped(threads: int) -> None:
    whole = list(islice(_reader(), 20))
    first = _reader(threads=threads)
    began = list(islice(first, 7))
    rest = list(islice(_reader(position=first.position, threads=threads), 13))
    assert first.position == 70
    assert all(_same(a, b) for a, b in zip(whole, [*began, *rest], strict=True))


@pytest.mark.parametrize("ranks", [2, 5])
def test_ranks_share_the_batches_of_one_process(ranks: int) -> None:
    whole = list(islice(_reader(), 6))
    shares = [list(islice(_reader(rank=rank, ranks=ranks), 6)) for rank in range(ranks)]
    for step in range(6):
        assert whole[step].keys == tuple(key for share in shares for key in share[step].keys)


def test_captions_vary_between_epochs_and_are_drawn_evenly() -> None:
    texts = []
    reader = _reader(batch_size=64)
    tokenizer = tiny_processor().tokenizer
    for batch in islice(reader, 20):
        assert batch.texts is not None
        texts += [tokenizer.decode(ids) for ids in batch.texts.ids_BT]
    share = sum("left of" in text for text in texts) / len(texts)
    assert 0.45 < share < 0.55  # 1,280 draws: five standard deviations are 0.07


def test_mixed_captions_are_the_first_in_half_of_the_draws() -> None:
    class Four(Patches):
        def __getitem__(self, index: int) -> Sample:
            return replace(super().__getitem__(index), captions=("first", "one", "two", "three"))

    tokenizer = tiny_processor().tokenizer
    counts = Counter[str]()
    for batch in islice(_reader(source=Four(64), batch_size=64, captions="mixed"), 20):
        assert batch.texts is not None
        counts.update(tokenizer.decode(ids).strip() for ids in batch.texts.ids_BT)
    assert abs(counts["first"] - 640) < 5 * (1280 / 4) ** 0.5
    assert all(abs(counts[other] - 1280 / 6) < 5 * (1280 * 5 / 36) ** 0.5 for other in ("one", "two", "three"))


def test_a_broken_sample_is_skipped_counted_and_named() -> None:
    reader = _reader(source=Patches(64, broken=(3,)), max_skipped=0.5)
    keys = [key for batch in islice(reader, 13) for key in batch.keys]  # 130 samples: two epochs and two more
    assert "patches/3" not in keys
    assert len(keys) == 130 - len(reader.skips.samples)
    assert reader.skips.reasons() == {"patch 3 is broken": len(reader.skips.samples)}
    assert len(reader.skips.samples) in (2, 3)


def test_a_sample_that_the_processor_cannot_read_leaves_the_others(tmp_path: object) -> None:
    class OneBad(Patches):
        def __getitem__(self, index: int) -> Sample:
            if index == 7:
                return Sample("bad", (Image(b"not a picture"),), captions=("x",))
            return super().__getitem__(index)

    reader = _reader(source=OneBad(64), batch_size=64, max_skipped=0.5)
    batch = next(iter(reader))
    assert len(batch) == 63
    assert [skipped.key for skipped in reader.skips.samples] == ["bad"]
    assert "not a picture" in reader.skips.samples[0].reason


def test_too_many_broken_samples_stop_the_run() -> None:
    reader = _reader(source=Patches(64, broken=tuple(range(8))), max_skipped=0.05)
    with pytest.raises(DataError, match=r"could not be read, more than the 5.0%"):
        list(islice(reader, 40))


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be shared evenly by 3"):
        _reader(ranks=3)
