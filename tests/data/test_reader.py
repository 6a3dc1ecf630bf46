from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch

from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.order import Blocks
from chiasm.data.processor import PairProcessor
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.sources.mixture import Mixture
from chiasm.data.transforms import Augment, ImageTransform
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


@dataclass(frozen=True)
class FSDP(Patches):
    """Patches in shards, some shuffled together."""

    counts: tuple[int, ...] = (20, 44)
    together: int = 1

    def blocks(self) -> Blocks:
        return Blocks(self.counts, self.together)


SOURCES = [
    Patches(64),
    FSDP(64),
    FSDP(64, counts=(1, 30, 0, 3, 30), together=2),
    Mixture((Patches(30), FSDP(40, counts=(15, 25)))),
    Mixture({"few": Patches(10), "many": Patches(54)}, {"few": 2, "many": 1}),
]


@pytest.mark.parametrize("source", SOURCES)
def test_threads_and_ranks_decide_nothing_and_a_run_resumes_with_any_number_of_them(source: Source) -> None:
    """One reader, against a run that stops in mid-epoch twice and goes on with other threads and ranks each time."""
    whole = list(islice(_reader(source=source, batch_size=12), 18))
    found: list[tuple[str, ...]] = []
    position = 0
    for threads, ranks, steps in ((1, 3, 4), (4, 1, 3), (2, 6, 11)):
        readers = [
            _reader(source=source, batch_size=12, position=position, threads=threads, rank=rank, ranks=ranks)
            for rank in range(ranks)
        ]
        shares = [list(islice(reader, steps)) for reader in readers]
        for step in range(steps):
            at = len(found)
            found.append(tuple(key for share in shares for key in share[step].keys))
            pixels = torch.cat([_pixels(share[step]) for share in shares])
            assert torch.equal(pixels, _pixels(whole[at]))
        assert {reader.position for reader in readers} == {position + 12 * steps}
        position += 12 * steps
    assert found == [batch.keys for batch in whole]


def _pixels(batch: Batch) -> torch.Tensor:
    assert batch.images is not None
    return batch.images.pixels


def test_fewer_shards_than_readers_neither_hang_nor_repeat() -> None:
    """One shard of 64 for 8 ranks of 3 threads each: an epoch still shows every sample once."""
    source = FSDP(64, counts=(64,))
    keys = [
        key
        for rank in range(8)
        for batch in islice(_reader(source=source, batch_size=16, rank=rank, ranks=8, threads=3), 4)
        for key in batch.keys
    ]
    assert sorted(keys) == sorted(sample.key for sample in Patches(64))


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


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_sample_that_cannot_be_read_changes_nothing_of_the_others(ranks: int) -> None:
    """What is random of them follows from their place alone, whatever else is in the batch."""

    class OneBad(Patches):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, parts=(Image(b"not a picture"),)) if index == 7 else sample

    plain = tiny_processor()
    assert isinstance(plain.image, ImageTransform)
    processor = PairProcessor(replace(plain.image, augment=Augment((0.1, 1.0), flip=0.5)), plain.tokenizer)
    known = Reader(Patches(64, broken=(7,)), processor, 16, seed=5, max_skipped=1.0)
    expected = list(islice(known, 4))
    shares = [
        list(islice(Reader(OneBad(64), processor, 16, seed=5, max_skipped=1.0, rank=rank, ranks=ranks), 4))
        for rank in range(ranks)
    ]
    for step, whole in enumerate(expected):
        assert whole.keys == tuple(key for share in shares for key in share[step].keys)
        assert torch.equal(_pixels(whole), torch.cat([_pixels(share[step]) for share in shares]))


def test_too_many_broken_samples_stop_the_run() -> None:
    reader = _reader(source=Patches(64, broken=tuple(range(8))), max_skipped=0.05)
    with pytest.raises(DataError, match=r"could not be read, more than the 5.0%"):
        list(islice(reader, 40))


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be shared evenly by 3"):
        _reader(ranks=3)
