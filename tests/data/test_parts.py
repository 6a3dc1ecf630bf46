"""Batches are split, joined and moved by what their fields declare, whatever is in them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from chiasm.data.batch import Batch, ImageFeatures, Images, PackedImages, PatchImages, PixelImages, Stream, Tokens
from chiasm.data.parts import BatchPart, Counts, Owner, Per, Whole

SAMPLES = 7
PICTURES = torch.tensor([2, 0, 1, 3, 0, 1, 2])  # of each sample


@dataclass(frozen=True)
class Boxes(BatchPart):
    """Boxes of samples, words of each box, a table that all share, and a stream nested in it."""

    row_K: Annotated[Tensor, Owner("box")]
    corners_4K: Annotated[Tensor, Per("box", axis=1)]
    words_K: Annotated[Tensor, Counts("word", per="box")]
    ids_W: Annotated[Tensor, Per("word")]
    names: Annotated[tuple[str, ...], Per("sample")]
    table: Annotated[Tensor, Whole()]
    rejected: Stream
    ragged_BX: Annotated[Tensor | None, Per("sample", fill=-1.0)] = None


@dataclass(frozen=True)
class Undeclared(BatchPart):
    numbers: Tensor


def _owners() -> Tensor:
    return torch.arange(SAMPLES).repeat_interleave(PICTURES)


def _stream() -> Stream:
    lengths = torch.tensor([3, 1, 4, 1, 5, 2, 6])
    ids = torch.arange(int(lengths.sum()))
    return Stream(ids, lengths, ids % 2 == 0, ids % 3 == 0, torch.stack([ids, -ids, ids * 2]))


def _pixels() -> Images:
    row_N = _owners()
    tiles_N = torch.arange(len(row_N)) % 3 + 1
    count = int(tiles_N.sum())
    return PixelImages(torch.arange(count * 12.0).view(count, 3, 2, 2), row_N, tiles_N, torch.stack([row_N, row_N], 1))


def _patches() -> Images:
    row_N = _owners()
    return PatchImages(torch.randn(len(row_N), 4, 12), row_N, torch.randint(1, 3, (len(row_N), 2)))


def _packed() -> Images:
    row_N = _owners()
    grid_N2 = torch.stack([torch.arange(len(row_N)) % 2 + 1, torch.arange(len(row_N)) % 3 + 1], 1)
    lengths_N = grid_N2.prod(1)
    return PackedImages(torch.randn(int(lengths_N.sum()), 5), row_N, lengths_N, grid_N2)


def _features() -> Images:
    return ImageFeatures(torch.randn(int(PICTURES.sum()), 4, 3), _owners())


def _batch(images: Images) -> Batch:
    row_K = torch.tensor([0, 0, 2, 3, 3, 3, 6])
    words_K = torch.tensor([1, 2, 0, 3, 1, 1, 2])
    boxes = Boxes(
        row_K,
        torch.arange(28).view(4, 7),
        words_K,
        torch.arange(int(words_K.sum())),
        tuple("abcdefg"),
        torch.arange(3),
        _stream(),
    )
    ids_BT = torch.arange(SAMPLES * 5).view(SAMPLES, 5)
    texts = Tokens(ids_BT, torch.full((SAMPLES,), 5), ids_BT > 7)
    return Batch(tuple(f"key {at}" for at in range(SAMPLES)), images, texts, _stream()).adding(boxes)


def _same(found: Any, known: Any, where: str = "batch") -> None:
    assert type(found) is type(known), where
    if isinstance(known, Tensor):
        assert torch.equal(found, known), where
    elif isinstance(known, BatchPart):
        for field in fields(known):  # type: ignore[arg-type]
            _same(getattr(found, field.name), getattr(known, field.name), f"{where}.{field.name}")
    elif isinstance(known, tuple):
        assert len(found) == len(known), where
        for at, pair in enumerate(zip(found, known, strict=True)):
            _same(*pair, f"{where}[{at}]")
    else:
        assert found == known, where


@pytest.mark.parametrize("make", [_pixels, _patches, _packed, _features])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 9])
def test_parts_put_together_are_the_whole(make: Any, parts: int) -> None:
    batch = _batch(make())
    split = batch.split(parts)
    assert [len(part) for part in split] == [len(part.texts or ()) for part in split]
    assert sum(map(len, split)) == SAMPLES
    _same(Batch.concatenated(split), batch)


@pytest.mark.parametrize("make", [_pixels, _patches, _packed, _features])
def test_a_part_has_what_is_of_its_samples_and_nothing_else(make: Any) -> None:
    """Each sample's own, found by hand through the owners."""
    batch = _batch(make())
    for at, part in enumerate(batch.split(SAMPLES)):
        assert part.keys == (f"key {at}",)
        assert batch.images is not None
        assert (len(part.images) if part.images is not None else 0) == int(PICTURES[at])
        boxes, whole = part.part(Boxes), batch.part(Boxes)
        assert torch.equal(boxes.corners_4K, whole.corners_4K[:, whole.row_K == at])
        assert not boxes.row_K.any()  # counted from the first sample of the part
        of_words = torch.arange(len(whole.row_K)).repeat_interleave(whole.words_K)
        assert torch.equal(boxes.ids_W, whole.ids_W[whole.row_K[of_words] == at])
        assert boxes.names == ("abcdefg"[at],)
        assert torch.equal(boxes.table, whole.table)
        _same(boxes.rejected, _stream().of_rows(at, at + 1))
        assert part.stream is not None
        start = int(_stream().lengths_B[:at].sum())
        assert part.stream.ids_T.tolist() == list(range(start, start + int(_stream().lengths_B[at])))
        assert part.stream.positions_AT is not None
        assert torch.equal(part.stream.positions_AT[1], -part.stream.ids_T)


def test_tiles_go_with_their_pictures() -> None:
    part = _pixels().of_rows(2, 4)
    assert isinstance(part, PixelImages)
    assert part.tiles_N is not None
    assert part.row_N.tolist() == [0, 1, 1, 1]
    assert part.tiles_N.tolist() == [3, 1, 2, 3]
    assert part.sizes_N2 is not None
    assert part.sizes_N2[:, 0].tolist() == [2, 3, 3, 3]
    assert part.pixels[:, 0, 0, 0].tolist() == [12.0 * at for at in range(3, 12)]


def test_lengths_that_differ_are_filled_up_where_a_field_says_so() -> None:
    first, second = (
        Tokens(torch.ones(2, width, dtype=torch.long), torch.tensor([width, 1]), torch.ones(2, width, dtype=torch.bool))
        for width in (3, 5)
    )
    both = Tokens.joined([first, second], [0, 2])
    assert both.ids_BT.tolist() == [[1, 1, 1, 0, 0]] * 2 + [[1] * 5] * 2
    assert both.target_BT.tolist() == [[True] * 3 + [False] * 2] * 2 + [[True] * 5] * 2
    assert both.lengths_B.tolist() == [3, 1, 5, 1]


def test_a_batch_without_pictures_may_stand_before_one_with_some() -> None:
    batch = _batch(_pixels())
    parts = [batch.of_rows(1, 2), batch.of_rows(2, 5), batch.of_rows(4, 5)]
    assert [part.images is None for part in parts] == [True, False, True]
    both = Batch.concatenated(parts)
    assert both.images is not None
    assert both.images.row_N.tolist() == [1, 2, 2, 2]


def test_all_of_a_batch_moves() -> None:
    moved = _batch(_packed()).to("meta")
    boxes = moved.part(Boxes)
    assert moved.images is not None
    assert moved.stream is not None
    assert {t.device.type for t in (moved.images.pixels, moved.stream.ids_T, boxes.ids_W, boxes.rejected.ids_T)} == {
        "meta"
    }
    assert moved.keys[0] == "key 0"


def test_a_part_takes_the_place_of_one_of_its_class() -> None:
    batch = _batch(_pixels())
    again = batch.adding(batch.part(Boxes))
    assert len(again.added) == 1
    with pytest.raises(KeyError, match="nothing added a Tokens"):
        batch.part(Tokens)


def test_a_tensor_that_says_nothing_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Undeclared\.numbers is a tensor that does not say what its rows belong to"):
        Undeclared(torch.ones(3)).of_rows(0, 1)
