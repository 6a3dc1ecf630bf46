"""What scenes hold: laws, controls, and things that can be told apart."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from chiasm.data.scenes.looks import Look, combination
from chiasm.data.scenes.placement import GRID, coverage
from chiasm.data.scenes.rng import Law, Rng
from chiasm.data.scenes.vocabulary import COLOURS, HOLLOW, SHAPES, TEXTURES
from chiasm.data.scenes.world import Scene
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import RecipeError


def _scenes(count: int, **controls: object) -> list[Scene]:
    source = Scenes(count, **controls)  # type: ignore[arg-type]  # each test names its own controls
    return [source.scene(i) for i in range(count)]


def _chi_square(counts: Counter[str], expected: dict[str, float]) -> float:
    """Pearson's statistic over its degrees of freedom: about 1 if the law holds."""
    total = counts.total()
    terms = [(counts[name] - total * share) ** 2 / (total * share) for name, share in expected.items()]
    return sum(terms) / (len(terms) - 1)


def _one_shape_each(scenes: Iterable[Scene]) -> list[Look]:
    """One shape of each scene, any: the shapes of a group are alike, so several would not be independent."""
    random = np.random.default_rng(0)
    looks = [[thing.look for thing in scene.things if not thing.look.text] for scene in scenes]
    return [shapes[random.integers(len(shapes))] for shapes in looks if shapes]


@pytest.mark.parametrize("law", ["uniform", "zipf"])
def test_concepts_follow_their_law(law: str) -> None:
    looks = _one_shape_each(_scenes(6000, seed=11, frequencies=law, objects=(1, 3)))
    for kind, names in (("shape", tuple(SHAPES)), ("colour", tuple(COLOURS))):
        weights = [1 / rank if law == "zipf" else 1.0 for rank in range(1, len(names) + 1)]
        expected = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
        assert _chi_square(Counter(getattr(look, kind) for look in looks), expected) < 2.2, kind
    textured = Counter(look.texture for look in looks if look.shape not in HOLLOW)
    weights = [1 / rank if law == "zipf" else 1.0 for rank in (1, 2, 3, 4)]
    assert _chi_square(textured, {t: w / sum(weights) for t, w in zip(TEXTURES, weights, strict=True)}) < 4


def test_given_frequencies_are_kept() -> None:
    looks = _one_shape_each(_scenes(3000, seed=12, frequencies={"red": 10, "blue": 0, "star": 19}))
    colours, shapes = Counter(look.colour for look in looks), Counter(look.shape for look in looks)
    assert colours["blue"] == 0
    assert colours["red"] / len(looks) == pytest.approx(10 / 19, abs=0.03)
    assert shapes["star"] / len(looks) == pytest.approx(19 / 38, abs=0.03)


def test_numbers_of_things_and_of_groups_are_even() -> None:
    scenes = _scenes(6000, seed=13)
    sizes = Counter(str(len(scene.things)) for scene in scenes)
    assert _chi_square(sizes, dict.fromkeys("123456", 1 / 6)) < 3
    grouped = [s for s in scenes if s.group is not None and sum(not t.look.text for t in s.things) >= 4]
    assert _chi_square(Counter(str(s.group.number) for s in grouped if s.group), dict.fromkeys("1234", 1 / 4)) < 3.8


@pytest.mark.slow
def test_held_out_combinations_are_neither_shown_nor_mentioned_in_seen_scenes() -> None:
    held_out = ("red circle", "large striped", "small white star")
    looks = [combination(one) for one in held_out]
    seen = Scenes(1500, seed=14, held_out=held_out)
    for i, sample in enumerate(seen):
        assert not any(thing.look.fits(one) for thing in seen.scene(i).things for one in looks)
        texts = (*sample.captions, *(n.text for n in sample.negatives))
        texts += tuple(statement for q in sample.questions for statement in q.statements)
        assert not any(re.search(r"\bred (\w+ )?circle\b", text) for text in texts)
        assert not any(re.search(r"\blarge (\w+ )?striped\b", text) for text in texts)
    withheld = Scenes(500, seed=14, held_out=held_out, only="held_out")
    shown = [[one for one in looks if any(t.look.fits(one) for t in withheld.scene(i).things)] for i in range(500)]
    assert all(shown)
    assert Counter(one for found in shown for one in found).keys() == set(looks)
    everything = Scenes(500, seed=14, held_out=held_out, only="all")
    assert [everything.scene(i) for i in range(500)] == [Scenes(500, seed=14).scene(i) for i in range(500)]


def test_things_keep_apart_unless_they_are_meant_to_meet() -> None:
    for scene in _scenes(1500, seed=15):
        boxes = [thing.corners for thing in scene.things]
        for i, one in enumerate(boxes):
            assert 1 <= one[0] < one[2] <= GRID - 1
            assert 1 <= one[1] < one[3] <= GRID - 1
            for j, other in enumerate(boxes[:i]):
                gap = max(other[0] - one[2], one[0] - other[2], other[1] - one[3], one[1] - other[3])
                assert gap >= 2 or (i, j) in (scene.inside, scene.overlapping)


def test_overlapping_things_stay_visible_and_differ_in_colour() -> None:
    met = 0
    for scene in _scenes(1500, seed=16):
        pair = scene.inside or scene.overlapping
        if pair is None:
            continue
        upper, lower = scene.things[pair[0]], scene.things[pair[1]]
        assert upper.look.colour != lower.look.colour
        masks = []
        for thing in (upper, lower):
            x0, y0, x1, y1 = thing.corners
            whole = np.zeros((GRID, GRID), bool)
            whole[y0:y1, x0:x1] = coverage(thing.look.shape, x1 - x0, y1 - y0)
            masks.append(whole)
        mlp_width = (masks[0] & masks[1]).sum() / masks[1].sum()
        if scene.inside:
            assert mlp_width == 0 if lower.look.shape in HOLLOW else (masks[0] & ~masks[1]).sum() == 0
            assert mlp_width < 0.35
        else:
            met += 1
            assert 0.1 <= mlp_width <= 0.35
            assert (masks[0] & ~masks[1]).sum() >= 0.35 * masks[0].sum()
    assert met > 100


def test_sizes_are_told_apart_at_once() -> None:
    sides: dict[str, list[float]] = {"small": [], "large": []}
    for scene in _scenes(1000, seed=17):
        for thing in scene.things:
            if thing.look.size:
                x0, y0, x1, y1 = thing.corners
                sides[thing.look.size].append(math.sqrt((x1 - x0) * (y1 - y0)))
    assert min(sides["small"]) > 11
    assert max(sides["small"]) * 1.3 < min(sides["large"])


def test_relations_are_all_shown() -> None:
    text = " ".join(caption for sample in Scenes(600, size=32, seed=18) for caption in sample.captions)
    for relation in ("left of", "right of", "above", "below", "inside", "overlapping", "bigger than"):
        assert text.count(relation) > 20, relation


def test_dice_are_even_and_depend_on_their_key_alone() -> None:
    rolled = [Rng(1, i).integer(1, 6) for i in range(6000)]
    assert _chi_square(Counter(map(str, rolled)), dict.fromkeys("123456", 1 / 6)) < 3
    rng, again = Rng(3, 5), Rng(3, 5)
    numbers = [rng.uniform() for _ in range(1000)]
    assert numbers == [again.uniform() for _ in range(1000)]  # longer than a block
    assert len(set(numbers)) == 1000
    assert sorted(Rng(2).sample(range(9), 9)) == list(range(9))


def test_a_law_draws_by_its_weights() -> None:
    law, rng = Law({"a": 3, "b": 0, "c": 1}), Rng(4)
    drawn = Counter(law.draw(rng) for _ in range(4000))
    assert drawn["b"] == 0
    assert drawn["a"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert (law.probability("a"), law.probability("b")) == (0.75, 0.0)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"frequencies": {"rde": 2.0}}, "did you mean 'red'"),
        ({"frequencies": {"red": -1.0}}, "zero or a positive number"),
        ({"frequencies": dict.fromkeys(COLOURS, 0.0)}, "every colour has weight 0"),
        ({"held_out": ("red cirle",)}, "did you mean 'circle'"),
        ({"held_out": ("red",)}, "name two attributes"),
        ({"held_out": ("red blue",)}, "names two colours"),
        ({"held_out": ("striped ring",)}, "always plain"),
        ({"held_out": ("red circle",), "frequencies": {"red": 0.0}}, "nothing to hold out"),
        ({"only": "held_out"}, "needs combinations"),
        ({"objects": (0, 3)}, "1 to 6"),
        ({"objects": (3, 2)}, "1 to 6"),
        ({"objects": (1, 7)}, "1 to 6"),
        ({"size": 8}, "below 32 pixels"),
        ({"backgrounds": ("plian",)}, "did you mean 'plain'"),
        ({"backgrounds": ()}, "at least one"),
        ({"seed": -1}, "must not be negative"),
    ],
)
def test_mistakes_are_named(controls: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Scenes(10, **controls)  # type: ignore[arg-type]  # the mistakes that a recipe could make


def test_holding_out_everything_is_an_error_and_not_an_endless_search() -> None:
    only_red = dict.fromkeys([colour for colour in COLOURS if colour != "red"], 0.0)
    source = Scenes(5, frequencies=only_red, held_out=tuple(f"red {shape}" for shape in SHAPES))
    with pytest.raises(RecipeError, match="hold out less"):
        source[0]
