from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.config import dump, parse
from chiasm.data.layout import Layout
from chiasm.errors import RecipeError
from chiasm.evaluation.task import Task
from chiasm.experiment.recipe import Data, load_recipe
from chiasm.models import clip
from chiasm.models.model import ModelConfig
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.tower import ImageTowerConfig, TextTowerConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    path: Path | None = None
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)
    weights: dict[str, float] = field(default_factory=dict)
    flag: bool = False


def test_values_are_read_by_the_types_of_their_fields() -> None:
    read = parse(
        Outer,
        {
            "count": 3,
            "path": "a/b",
            "pair": [1, "2e-3"],
            "inner": {"rate": "1e-3", "names": ["x"]},
            "weights": {"a": 1},
        },
    )
    assert read == Outer(3, Path("a/b"), "fast", (1.0, 0.002), Inner(0.001, ("x",)), {"a": 1.0})


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"count": 1, "cuont": 2}, "cuont: there is no such key; did you mean 'count'?"),
        ({"count": 1, "inner": {"raet": 2}}, "inner.raet: there is no such key; did you mean 'rate'?"),
        ({}, "count must be given"),
        ({"count": "three"}, "count: expected int, got 'three'"),
        ({"count": True}, "count: expected int, got True"),
        ({"count": 1, "flag": 1}, "flag: expected bool, got 1"),
        ({"count": 1, "mode": "fsat"}, "mode: 'fsat' is not a choice here; did you mean 'fast'?"),
        ({"count": 1, "pair": [1]}, "pair: expected 2 entries, got 1"),
        ({"count": 1, "inner": 3}, "inner: expected entries of the form 'key: value', got 3"),
        ({"count": 1, "weights": {"a": "x"}}, "weights.a: expected float, got 'x'"),
    ],
)
def test_a_mistake_is_told_with_its_place(entries: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(Outer, entries)
    assert told in str(caught.value)


@dataclass(frozen=True)
class ScoreOrGenerate:
    inner: Inner | Literal["plain"] | None = None


def test_where_entries_are_written_only_what_is_wrong_inside_of_them_is_told() -> None:
    assert parse(ScoreOrGenerate, {"inner": "plain"}).inner == "plain"
    assert parse(ScoreOrGenerate, {"inner": {"rate": 2}}).inner == Inner(2.0)
    with pytest.raises(RecipeError) as caught:
        parse(ScoreOrGenerate, {"inner": {"raet": 2}})
    assert str(caught.value) == "inner.raet: there is no such key; did you mean 'rate'?"


@given(
    st.builds(
        Outer,
        count=st.integers(),
        path=st.none() | st.just(Path("x/y")),
        mode=st.sampled_from(["fast", "slow"]),
        pair=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
        inner=st.builds(Inner, st.floats(allow_nan=False), st.lists(st.text()).map(tuple)),
        weights=st.dictionaries(st.text(), st.floats(allow_nan=False)),
        flag=st.booleans(),
    )
)
def test_what_is_dumped_parses_to_an_equal_object(value: Outer) -> None:
    assert parse(Outer, dump(value)) == value


def test_a_component_is_chosen_by_the_name_of_its_file() -> None:
    read = parse(ModelConfig, {"family": "clip", "size": "vit-b-32"})  # type: ignore[type-abstract]
    assert read == clip.SIZES["vit-b-32"]
    assert parse(ModelConfig, dump(read)) == read  # type: ignore[type-abstract]


def test_single_fields_of_a_size_can_be_changed() -> None:
    entries = {
        "family": "clip",
        "size": "vit-b-32",
        "vision": {"layers": 3},
        "text": {"tower": "transformer", "layers": 2},
    }
    read = parse(ModelConfig, entries)  # type: ignore[type-abstract]
    assert isinstance(read, clip.Config)
    assert dump(read.vision) == {**dump(clip.SIZES["vit-b-32"].vision), "layers": 3}
    assert dump(read.text) == {**dump(clip.SIZES["vit-b-32"].text), "layers": 2}


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"family": "clpi"}, "there is no family 'clpi'; did you mean 'clip'?"),
        ({"family": "model"}, "there is no family 'model'"),
        ({"family": "clip", "size": "vit-b-33"}, "model.size: clip has no size 'vit-b-33'; did you mean 'vit-b-32'?"),
        ({"family": "clip", "size": "vit-b-32", "vision": {"layer": 1}}, "model.vision.layer: there is no such key"),
        ({"size": "vit-b-32"}, "model: say which one with 'family: NAME'"),
    ],
)
def test_a_wrong_choice_names_the_nearest(entries: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(ModelConfig, entries, "model")  # type: ignore[type-abstract]
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "entries", "told"),
    [
        (
            ModelConfig,
            {"family": "clip", "size": "vit-b-32", "vision": {"hidden": 9}},
            "vision.hidden: NOW 'mlp_width' now",
        ),
        (
            ModelConfig,
            {"family": "llava", "size": "small", "language": {"groups": 2}},
            "language.groups: NOW 'kv_heads' now",
        ),
        (Layout, {"layout": "fixed", "slots": 4}, "slots: NOW 'image_tokens' now"),
        (Data, {"train": {"source": "scenes"}, "batch_slots": 4}, "batch_slots: NOW 'batch_image_tokens' now"),
        (Task, {"task": "reading"}, "there is no task 'reading' any more; it is called 'ocr' now"),
    ],
)
def test_a_key_with_another_name_today_is_told(kind: type, entries: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(kind, entries)
    assert str(caught.value).endswith(told.replace("NOW", "there is no such key any more; it is called"))


def test_a_recipe_in_another_folder_today_is_told() -> None:
    with pytest.raises(RecipeError, match="no recipe 'speaker/grounding' any more; it is called 'vlm/grounding' now"):
        load_recipe("speaker/grounding")


def test_every_new_name_is_there() -> None:
    """A former name points at a field or a choice that some class of its kind has, and at no class with the old one."""
    for base in (ImageTowerConfig, TextTowerConfig, DecoderConfig, ConnectorConfig, Layout):
        fields = [{field.name for field in dataclasses.fields(base.choose(name))} for name in base.names()]  # type: ignore[arg-type]
        for old, new in base.renamed.items():
            assert any(new in names for names in fields), (base, new)
            assert not any(old in names and new in names for names in fields)
    assert set(Task.renamed_choices.values()) <= set(Task.names())
