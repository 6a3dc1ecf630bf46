"""Phrases answered by boxes: measured as torchvision measures, read without guessing, shown with both boxes drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.data.box_formats.floats import Floats
from chiasm.data.box_formats.kosmos import Kosmos
from chiasm.data.image import Image
from chiasm.data.sample import Box, Sample, Text
from chiasm.data.sources.coco import Coco
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.metrics.overlap import overlap
from chiasm.evaluation.report import write_report
from chiasm.evaluation.request import Failed, GenerateRequest
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.tasks.grounding import Grounding
from tests import peers
from tests.evaluation.fakes import Listed
from tests.models.generative_models import small_llava
from tests.shared_data import shared_data

SIZE = 40


def sample(key: str, *boxes: Box) -> Sample:
    pixels = np.full((SIZE, SIZE, 3), sum(map(ord, key)) % 200, np.uint8)
    return Sample(key, (Image(pixels),), boxes=boxes)


BALL, CUP = Box((0.1, 0.2, 0.5, 0.6), "the ball"), Box((0.5, 0.5, 1.0, 1.0), "the cup")
WORLD = Listed(
    (
        sample("a", BALL, CUP),
        sample("b", BALL, Box((0.6, 0.6, 0.9, 0.9), "The  Ball"), CUP),  # two balls: which one?
        sample("c", CUP, CUP),
        sample("d"),  # a photo in which nobody has drawn a box is no question, and so no mistake
    )
)


class Replies:
    """Replies by a function of key and question, to be read by the task's own convention."""

    def __init__(self, function: Callable[[str, str], str]) -> None:
        self.function, self.asked = function, list[str]()

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        assert max_tokens == 64
        said = [Text(self.function(one.key, one.texts[-1].text)) for one in samples]
        self.asked += [one.texts[-1].text for one in samples]
        return [replace(one, parts=(*one.parts, text)) for one, text in zip(samples, said, strict=True)]


def test_overlap_is_that_of_torchvision() -> None:
    peers.open_clip()  # skips where torchvision is not there
    from torchvision.ops import box_iou

    generator = np.random.default_rng(0)
    corners = np.sort(generator.random((200, 2, 2)), axis=1).reshape(200, 4)
    theirs = box_iou(torch.tensor(corners[:100]), torch.tensor(corners[100:])).diagonal()
    assert overlap(corners[:100], corners[100:]).tolist() == pytest.approx(theirs.tolist(), abs=1e-12)
    missing = np.full((1, 4), np.nan)
    assert overlap(missing, corners[:1]).tolist() == [0.0]
    assert overlap(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [0.0]


def test_ambiguous_phrases_are_not_asked() -> None:
    asked = Grounding(WORLD).requests
    assert [one.key for one in asked] == ["a/0", "a/1", "b/0", "c/0"]
    assert [one.sample.texts[0].text for one in asked if isinstance(one, GenerateRequest)] == [
        "Where is the ball?",
        "Where is the cup?",
        "Where is the cup?",
        "Where is the cup?",
    ]
    first = asked[0]
    assert isinstance(first, GenerateRequest)
    (mention,) = first.sample.texts[0].grounded_spans
    assert first.sample.texts[0].text[slice(*mention.span)] == "the ball"
    assert first.references == ("[0.100000, 0.200000, 0.500000, 0.600000]",)


def test_scenes_give_their_phrases() -> None:
    task = Grounding(Scenes(12, seed=3, objects=(2, 5)))
    asked = [one for one in task.requests if isinstance(one, GenerateRequest)]
    assert len(asked) > 12
    phrases = [(one.sample.key, one.sample.texts[0].text) for one in asked]
    assert len(set(phrases)) == len(phrases)


def test_scores_of_known_replies() -> None:
    task = Grounding(WORLD)
    replies = [
        "It is [0.1000, 0.2000, 0.5000, 0.6000].",  # right
        "[0.5000, 0.5000, 1.0000, 0.7500]",  # half of it: IoU 0.5
        "[0.5000, 0.5000, 1.0000, 1.0000] [0.0000, 0.0000, 0.1000, 0.1000]",  # two: only the lenient reading takes one
        "somewhere [?]",
    ]
    measured = task.measure(task.requests, replies)
    enough, mean = measured.metrics
    assert (enough.name, mean.name) == ("IoU >= 0.5", "mean IoU")
    assert enough.credit_I.tolist() == [1, 1, 0, 0]
    assert mean.credit_I.tolist() == pytest.approx([1, 0.5, 0, 0])
    assert enough.items.unparsed_I is not None
    assert enough.items.unparsed_I.tolist() == [False, False, True, True]
    assert mean.lenient is not None
    assert mean.lenient.credit_I.tolist() == pytest.approx([1, 0.5, 1, 0])
    assert mean.lenient.items.unparsed_I is not None
    assert mean.lenient.items.unparsed_I.tolist() == [False, False, False, True]
    unclear = task.measure(task.requests, ["[0.1000, 0.2000, 0.5000, 0.6000] [?]", "", Failed("no"), ""])
    assert unclear.metrics[0].credit_I.tolist() == [0, 0, 0, 0]


def test_constants_are_measured_by_the_same_rule() -> None:
    twice = (Box((0.0, 0.0, 0.1, 0.1), "z"), Box((0.1, 0.0, 0.2, 0.1), "z"))  # ambiguous, so never asked about
    several = (
        sample("t", Box((0.0, 0.0, 0.5, 0.5), "x"), *twice),
        sample("broken", CUP),
        sample("u", Box((0.5, 0.0, 1.0, 0.5), "y"), Box((0.25, 0.0, 0.75, 0.5), "w")),
    )
    task = Grounding(WORLD, train=Listed(several, broken=("broken",)))
    constants = task.constants()
    assert set(constants) == {"centre box", "whole picture", "mean box of training"}
    assert constants["mean box of training"][0] == "[0.2500, 0.0000, 0.7500, 0.5000]"
    whole = task.measure(task.requests, constants["whole picture"]).metrics[1]
    assert whole.credit_I.tolist() == pytest.approx([0.16, 0.25, 0.25, 0.25])
    with pytest.raises(DataError, match="no boxes to take the mean of"):
        Grounding(WORLD, train=Listed((sample("t"),))).constants()


def test_replies_in_any_convention_are_brought_into_one(tmp_path: Path) -> None:
    """A model behind no processor of ours spells as the task says."""
    right = Kosmos().write([BALL.corners])
    model = Replies(lambda _key, text: f"here{right}" if "ball" in text else "<object><patch_index_0001>")
    evaluation = evaluate(model, [Grounding(WORLD, boxes=Kosmos())], tmp_path, progress=False)
    (result,) = evaluation.results
    by_name = {score.name: score for score in result.scores}
    assert by_name["IoU >= 0.5"].value == 0.25
    assert by_name["IoU >= 0.5"].unparsed == 0.75
    assert by_name["mean IoU"].baselines["centre box"] == pytest.approx(
        np.mean([0.0875 / 0.3225, 1 / 7, 1 / 7, 1 / 7]), abs=1e-3
    )
    assert {"blind", "shuffled"} <= by_name["mean IoU"].baselines.keys()


def test_a_speaker_answers_in_its_own_convention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_llava()
    model.processor.settings = replace(model.processor.settings, boxes=Floats(digits=2))
    monkeypatch.setattr(model.processor, "decode", lambda _ids: "It is [0.10, 0.20, 0.50, 0.60]")
    task = Grounding(WORLD, limit=1, max_tokens=2, boxes=Kosmos())  # for models without a convention of their own
    evaluation = evaluate(model, [task], tmp_path, progress=False)
    score = evaluation.results[0].scores[0]
    assert (score.value, score.unparsed) == (0.5, 0.0)
    assert evaluation.results[0].examples[-1].reply == "It is [0.1000, 0.2000, 0.5000, 0.6000]"


def test_examples_show_both_boxes(tmp_path: Path) -> None:
    model = Replies(lambda _key, text: "[0.1, 0.2, 0.5, 0.6]" if "ball" in text else "no box")
    folder = tmp_path / "evaluation"
    evaluation = evaluate(model, [Grounding(WORLD)], folder, progress=False)
    examples = {one.key: one for one in evaluation.results[0].examples}
    seen = np.asarray(Image(folder / "pictures" / examples["a/0"].query.picture).decode()).astype(int)
    green, grey = seen[80, 16], seen[10, 10]  # of 160 pixels: on the left side of the ball's box, and beside it
    assert green[1] > green[0] + 60
    assert abs(grey[0] - grey[1]) < 12
    (candidate,) = examples["a/0"].candidates
    both = np.asarray(Image(folder / "pictures" / candidate.shown.picture).decode()).astype(int)
    assert both[80, 16][0] > both[80, 16][1] + 60  # the reply's box lies over it
    assert candidate.score == pytest.approx(1.0)
    assert examples["a/0"].right
    assert not examples["a/1"].candidates
    assert (examples["a/0"].earned, examples["a/1"].earned) == ("IoU 1.00", "no box")
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "IoU &gt;= 0.5" in page or "IoU >= 0.5" in page
    assert page.count("data:image/jpeg;base64,") >= 3


def test_what_cannot_be_asked_is_told() -> None:
    with pytest.raises(RecipeError, match=r"needs \{phrase\} once"):
        Grounding(WORLD, prompt="Where?")
    with pytest.raises(DataError, match="nothing to ask about"):
        _ = Grounding(Listed((sample("x"),))).requests


def test_boxes_of_real_photos() -> None:
    """Every answer that is the truth is right, however small the thing; every photo is asked about or has no boxes."""
    root = shared_data("coco")
    photos = next(iter(sorted(root.rglob("*.jpg")))).parent
    task = Grounding(Coco(photos, instances=root / "annotations" / "instances.json"))
    true = [question.references[0] for question in task.requests if isinstance(question, GenerateRequest)]
    assert len(true) == len(task.requests) > 100
    enough, mean = task.measure(task.requests, true).metrics
    assert enough.credit_I.all()
    assert float(mean.credit_I.min()) > 0.9
