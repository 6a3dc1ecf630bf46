"""Shares of a source, and labelled pictures with sentences for captions."""

from __future__ import annotations

import pytest

from chiasm.data.sample import Sample
from chiasm.data.sources.folder import Folder
from chiasm.data.sources.part import Subset
from chiasm.data.sources.prompts import Prompts
from chiasm.errors import DataError, RecipeError
from tests.evaluation.fakes import Listed, picture
from tests.shared_data import shared_data
from tests.worlds import Patches


@pytest.mark.parametrize("share", [0.5, 0.8, 0.123, 0.99])
def test_a_part_and_its_rest_are_the_whole_and_never_meet(share: float) -> None:
    whole = Patches(61)
    part, rest = Subset(whole, share), Subset(whole, share, rest=True)
    keys = [one.key for one in part], [one.key for one in rest]
    assert len(part) == round(61 * share)
    assert sorted(keys[0] + keys[1]) == sorted(one.key for one in whole)
    assert not set(keys[0]) & set(keys[1])
    assert list(part.indices) == sorted(part.indices)
    assert [one.key for one in Subset(Patches(61), share)] == keys[0]
    assert [one.key for one in Subset(whole, share, seed=1)] != keys[0]


def test_a_part_is_drawn_evenly_from_classes_that_stand_in_a_row() -> None:
    """Folders come sorted by class: the first 80% would lack two classes."""
    whole = Folder(shared_data("cifar10") / "train")
    labels = [str(one.label) for one in Subset(whole, 0.9, rest=True)]
    counts = [labels.count(label) for label in sorted(set(labels))]
    assert len(counts) == 10
    assert sum(counts) == 400
    assert min(counts) > 20  # 40 are expected of each, with a deviation of 6


def test_what_is_wrong_with_a_part_is_told() -> None:
    for share in (0.0, 1.0, -1.0, 1.5):
        with pytest.raises(RecipeError, match="between 0 and 1"):
            Subset(Patches(4), share)
    with pytest.raises(DataError, match="leaves one part empty"):
        len(Subset(Patches(4), 0.01))
    part = Subset(Patches(8, broken=(1, 2, 3, 4, 5, 6, 7)), 0.5)
    with pytest.raises(DataError, match="patch"):
        part[3]
    assert part.called(3) == f"sample {part.indices[3]} of the source"


def test_captions_are_the_sentences_of_the_class() -> None:
    data = Listed((Sample("a", (picture(1),), ("old",), label="polar_bear"), Sample("b", (picture(2),))))
    prompts = Prompts(data, ("a photo of a {}.", "{} {}"), {"dog": "hound"})
    assert prompts[0].captions == ("a photo of a polar bear.", "polar bear polar bear")
    assert prompts[0].images == data[0].images
    assert len(prompts) == 2
    renamed = Prompts(data, ("my {}",), {"polar_bear": "white bear"})
    assert renamed[0].captions == ("my white bear",)
    with pytest.raises(DataError, match="sample 'b' has no label"):
        prompts[1]
    with pytest.raises(RecipeError, match=r"has no \{\}"):
        Prompts(data, ("a photo",))
    with pytest.raises(RecipeError, match="at least one"):
        Prompts(data, ())
