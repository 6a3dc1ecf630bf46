"""Hashes of what is asked and of who is asked: every part of a question counts, and where data lie does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from chiasm.data.box_formats.kosmos import Kosmos
from chiasm.data.image import Image
from chiasm.data.sample import Box, GroundedSpan, Part, Sample, Text, Video
from chiasm.evaluation import protocol as hashes
from chiasm.evaluation.protocol import fingerprint, protocol, requests_hash
from chiasm.evaluation.request import (
    Broken,
    EmbedRequest,
    GenerateImageRequest,
    GenerateRequest,
    Request,
    ScoreOrGenerate,
    ScoreRequest,
)
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.pairs import Pairs
from tests.evaluation.fakes import picture, world

TASK = Pairs(world(2))
SHOWN = Text("where is it?", "user", grounded_spans=(GroundedSpan((9, 11), (Box((0.1, 0.1, 0.2, 0.2), "it"),)),))
MATCH = ScoreRequest("k", (picture(1), picture(2)), (("a",), ("b", "c")), (0,), kind="kind", sample_key="s")
ASK = GenerateRequest(
    "k", Sample("s", (picture(1), SHOWN, Video((picture(2), picture(3)), (0.0, 1.0)))), 8, ("right",), kind="kind"
)
EITHER = ScoreOrGenerate.of(MATCH, ASK, ("a", "b"))
VECTOR = EmbedRequest("k", (picture(1),), kind="kind")


def parts(*several: Part) -> GenerateRequest:
    return replace(ASK, sample=Sample("s", several))


def mentioning(mention: GroundedSpan) -> Text:
    return replace(SHOWN, grounded_spans=(mention,))


(PICTURE, _, CLIP) = ASK.sample.parts
assert isinstance(CLIP, Video)
CHANGED: list[tuple[Request, Request]] = [
    *((MATCH, replace(MATCH, **change)) for change in (
        {"key": "l"},
        {"kind": "other"},
        {"images": (picture(1), picture(3))},
        {"images": (picture(2), picture(1))},
        {"texts": (("a",), ("b", "d"))},
        {"texts": (("a", "b"), ("c",))},
        {"true": (1,)},
    )),
    *((ASK, replace(ASK, **change)) for change in (
        {"key": "l"},
        {"kind": "other"},
        {"max_tokens": 9},
        {"references": ("right", "right")},
        {"boxes": Kosmos()},
    )),
    *((ASK, parts(*several)) for several in (
        (picture(9), SHOWN, CLIP),
        (SHOWN, PICTURE, CLIP),
        (PICTURE, replace(SHOWN, text="where is it!"), CLIP),
        (PICTURE, replace(SHOWN, role=""), CLIP),
        (PICTURE, mentioning(GroundedSpan((0, 5), SHOWN.grounded_spans[0].boxes)), CLIP),
        (PICTURE, mentioning(GroundedSpan((9, 11), (Box((0.1, 0.1, 0.2, 0.3), "it"),))), CLIP),
        (PICTURE, SHOWN, Video(CLIP.images, (0.0, 2.0))),
        (PICTURE, SHOWN, Video(CLIP.images[::-1], CLIP.seconds)),
        (PICTURE, SHOWN, *CLIP.images),
    )),
    (EITHER, MATCH),
    (EITHER, replace(EITHER, words=replace(ASK, max_tokens=9))),
    (EITHER, replace(EITHER, choices=("a", "c"))),
    (EITHER, replace(EITHER, words_only=True)),
    (EITHER, replace(EITHER, true=(1,))),
    (VECTOR, replace(VECTOR, key="l")),
    (VECTOR, replace(VECTOR, kind="other")),
    (VECTOR, replace(VECTOR, images=(picture(2),))),
    (VECTOR, replace(VECTOR, to_learn_from=True)),
    (VECTOR, Broken("k", "gone")),
    (ASK, GenerateImageRequest("k", ASK.sample, 8, ("right",), kind="kind")),
    (Broken("k", "gone"), Broken("l", "gone")),
]  # fmt: skip


@pytest.mark.parametrize(("question", "other"), CHANGED)
def test_every_part_of_a_question_counts(question: Request, other: Request) -> None:
    before = replace(MATCH, key="before")
    first = requests_hash(TASK, [before, question])
    assert first == requests_hash(TASK, [before, question])
    assert first != requests_hash(TASK, [before, other])
    assert first != requests_hash(TASK, [question, before])
    assert first != requests_hash(TASK, [before, question, question])


def test_where_data_lie_and_what_they_are_called_does_not_count(tmp_path: Path) -> None:
    copies = [tmp_path / name for name in ("one.png", "two.png")]
    for file in copies:
        picture(1).decode().save(file)
    same: Sequence[tuple[Request, Request]] = (
        (vector_of(copies[0]), vector_of(copies[1])),
        (MATCH, replace(MATCH, texts=tuple(tuple(one) for one in map(list, MATCH.texts)))),  # equal, not the same tuple
        (Broken("k", f"no file {copies[0]}"), Broken("k", f"no file {copies[1]}")),
    )
    for first, second in same:
        assert requests_hash(TASK, [first]) == requests_hash(TASK, [second])
    assert requests_hash(TASK, [MATCH]) == requests_hash(replace(TASK, name="another"), [MATCH])


def vector_of(file: Path) -> EmbedRequest:
    return replace(VECTOR, images=(Image(file),))


def test_the_task_its_settings_and_the_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = Classification(world(2))
    other = replace(task, templates=("a {}.",))
    assert len({requests_hash(one, [MATCH]) for one in (TASK, replace(TASK, limit=1), task, other)}) == 4
    first = requests_hash(TASK, [MATCH])
    for place, name in ((hashes, "__version__"), (torch, "__version__")):
        with monkeypatch.context() as changed:
            changed.setattr(place, name, "another")
            assert requests_hash(TASK, [MATCH]) != first
    assert requests_hash(TASK, [MATCH]) == first


def test_a_protocol_is_of_questions_processor_and_scoring() -> None:
    every = {protocol(*one) for one in (("q", "p"), ("r", "p"), ("q", "r"), ("q", "p", "yes"), ("q", "p", "gain"))}
    assert len(every) == 5
    assert protocol("q", "p", "") == protocol("q", "p")


def test_a_fingerprint_is_of_every_value_its_type_and_its_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    first = fingerprint(model)
    assert first == fingerprint(model)
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        tensor.view(-1)[-1] += 1
        assert fingerprint(model) != first, name
        tensor.copy_(kept)
    assert fingerprint(model) == first
    assert (
        len({first, fingerprint(nn.Sequential(*model, nn.Identity(), nn.BatchNorm1d(3))), fingerprint(model[0])}) == 3
    )
    half = model.half()
    assert fingerprint(half) != first != fingerprint(half.float())  # of other values, and rounded ones
    assert fingerprint(object()) == ""
