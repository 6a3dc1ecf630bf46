"""What questions share is done once: batches by tokens, pictures of all tasks, shares of several processes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import CapabilityError, DataError, RecipeError
from chiasm.evaluation.instance import Instance
from chiasm.evaluation.replies import PendingReply, batched
from chiasm.evaluation.request import GenerateRequest
from chiasm.evaluation.request_runner import RunOptions
from chiasm.evaluation.response_cache import ResponseCache
from chiasm.evaluation.run import ask, quick_scores
from chiasm.evaluation.share import Share
from chiasm.evaluation.table import table
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.captioning import Captioning
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.pairs import Pairs
from chiasm.evaluation.tasks.probes import Probes
from chiasm.evaluation.tasks.retrieval import Retrieval
from chiasm.models.generative import SharedPrefix
from chiasm.models.llava import LLaVA
from tests.evaluation.fakes import Counting, FunctionScorer, HashEmbedder, Listed, number_of, sees, undecodable, world
from tests.evaluation.test_run import run, score, unseconded
from tests.models.generative_models import small_llava
from tests.worlds import Patches, tiny_clip


class Reader(Counting):
    """Replies with the picture's number and the question; a prompt is as long as its characters, a picture 10."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.batches: list[list[tuple[int, int]]] = []  # of each group: the number of its picture, its questions

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        return [replace(one, parts=(*one.parts, Text(self._said(one)))) for one in samples]

    def prompt_length(self, sample: Sample) -> int:
        return 10 * len(sample.images) + sum(len(text.text) for text in sample.texts)

    def replies(self, groups: Sequence[SharedPrefix]) -> list[list[str]]:
        self._count(self.asked, [sample.texts[-1].text for group in groups for sample in group.samples])
        found = [[self._said(sample) for sample in group.samples] for group in groups]
        self.batches.append([(number_of(group.begun.image), len(group.questions)) for group in groups])
        return found

    def _said(self, sample: Sample) -> str:
        if "impossible" in sample.texts[-1].text:
            raise DataError("cannot be said")
        return f"{number_of(sample.image)}: {sample.texts[-1].text}"


def pending(lengths: Sequence[int], begins: Sequence[str | None], max_tokens: int = 32) -> list[PendingReply]:
    requests = [GenerateRequest(str(at), Sample(str(at), (Text("x"),)), max_tokens) for at in range(len(lengths))]
    return [
        PendingReply(Instance(request, ResponseCache()), tokens, 1, begin)
        for request, tokens, begin in zip(requests, lengths, begins, strict=True)
    ]


def test_batches_hold_so_many_tokens_and_keep_pictures_together() -> None:
    lengths = [30, 5, 8, 30, 7, 6, 50, 5]
    begins = ["a", "b", None, "a", "b", "b", "c", None]
    batches = [[int(one.request.key) for one in batch] for batch in batched(pending(lengths, begins), 60)]
    assert batches == [[6], [0, 3], [2, 1, 4, 5, 7]]
    for batch in batches:
        assert len(batch) * max(lengths[at] for at in batch) <= 60
    tight = [[int(one.request.key) for one in batch] for batch in batched(pending(lengths, begins), 10)]
    assert tight == [[6], [0], [3], [2], [4], [5], [1, 7]]
    alone = [replace(one, shareable=None) for one in pending([3] * 6, [None] * 6)]
    alone[1:3] = [replace(one, shareable=None) for one in pending([3] * 2, [None] * 2, max_tokens=5)]
    mixed = [*alone, *pending([4], [None])]
    assert [len(batch) for batch in batched(mixed, 100)] == [1, 1, 2, 3]
    assert [len(batch) for batch in batched(alone[3:], 6)] == [2, 1]


def test_pictures_without_a_question_are_asked_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Listed(tuple(Patches(6)[at] for at in range(6)))
    model, asked_at_once = small_llava(), []
    whole = type(model).generate

    def counted(self: LLaVA, samples: Sequence[Sample], **more: Any) -> list[Sample]:
        asked_at_once.append(len(samples))
        return whole(self, samples, **more)

    monkeypatch.setattr(type(model), "generate", counted)
    evaluation = run(model, [Captioning(data, prompt="", metrics=("BLEU",), max_tokens=4)], tmp_path)
    assert asked_at_once == [18], "as it is, blind and shuffled"
    kept = {line["key"]: line["text"] for line in _lines(tmp_path / "cache/captioning.jsonl", "")}
    for sample in data.samples:
        last = whole(model, [Sample("x", sample.images)], max_tokens=4)[0].texts[-1]
        assert kept[sample.key] == last.text
    assert {"blind", "shuffled"} <= set(evaluation.results[0].scores[0].baselines)


def test_questions_of_all_tasks_and_baselines_on_one_picture_are_asked_together(tmp_path: Path) -> None:
    tasks: list[Task] = [
        Probes(world(6), name="which", form="words"),
        Probes(world(6), name="again", form="words"),
    ]
    model = Reader()
    run(model, tasks, tmp_path, fingerprint="m", options=RunOptions(batch_tokens=4000))
    groups = [group for batch in model.batches for group in batch]
    # Each picture is asked about by two tasks, plain and shuffled; the grey one by both tasks' blind runs.
    assert Counter(groups) == Counter([(at, 4) for at in range(6)] + [(-1, 12)])


def test_answers_find_their_questions_whatever_the_order_and_the_stops(tmp_path: Path) -> None:
    data = world(9)
    tasks: list[Task] = [Probes(data, name="which", form="words")]
    whole = Reader()
    expected = run(whole, tasks, tmp_path / "whole", fingerprint="m", options=RunOptions(batch_tokens=100))
    lines = [json.loads(line) for line in (tmp_path / "whole/cache/which.jsonl").read_text().splitlines()[1:]]
    for line in lines:
        assert line["run"] or line["text"].startswith(line["key"].removeprefix("s").split("/")[0] + ": ")
    stopped = Reader(stop_after=10)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tasks, tmp_path / "parts", fingerprint="m", options=RunOptions(batch_tokens=100))
    rest = Reader()
    found = run(rest, tasks, tmp_path / "parts", fingerprint="m", options=RunOptions(batch_tokens=70))
    assert unseconded(found) == unseconded(expected)
    assert len(stopped.asked) + len(rest.asked) == len(whole.asked)


def test_one_question_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    samples = list(world(6).samples)
    bad = samples[2].questions[0]
    samples[2] = replace(samples[2], questions=(replace(bad, text="impossible?"), *samples[2].questions[1:]))
    tasks: list[Task] = [Probes(replace(world(6), samples=tuple(samples)), form="words")]
    found = run(Reader(), tasks, tmp_path)
    assert score(found, "probes", "accuracy").failed == 1


def test_a_speaker_with_a_broken_picture_ends_and_says_so(tmp_path: Path) -> None:
    samples = [Patches(6)[at] for at in range(6)]
    cut = Image(_jpeg(samples[0].image)[:-40])
    samples[1], samples[3] = replace(samples[1], parts=(undecodable(),)), replace(samples[3], parts=(cut,))
    data = Listed(tuple(samples))
    tasks: list[Task] = [Classification(data), Retrieval(data)]
    found = run(small_llava(), tasks, tmp_path)
    assert score(found, "classification", "top-1 accuracy").failed == 2
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table([found]))
    assert "2 failed" in console.export_text()
    lines = [json.loads(line) for line in (tmp_path / "cache/classification.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "failed" in line and not line["run"]]) == 2


def _jpeg(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.decode().save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.slow
def test_a_clip_and_a_speaker_stand_in_one_table(tmp_path: Path) -> None:
    data = world(8)
    tasks: list[Task] = [Pairs(data), Probes(data), Classification(data)]
    vlm = small_llava()
    rows = {
        by: run(vlm, tasks, tmp_path / by, options=RunOptions(score_by=by)) for by in ("", "likelihood", "gain", "yes")
    }
    clip = run(tiny_clip(), tasks, tmp_path / "clip")
    shown = table([clip, rows["yes"]])
    assert shown.row_count == table([clip]).row_count, "the same rows: same tasks, metrics, items and chance"
    assert unseconded(rows[""]) == unseconded(rows["likelihood"])
    assert rows[""].model["scored by"] == "likelihood"
    assert "scored by" not in clip.model
    protocols = {one.results[0].protocol for one in rows.values()}
    assert len(protocols) == 3, "how it is scored is part of the protocol"
    assert {one.results[0].requests for one in rows.values()} == {clip.results[0].requests}
    gains = score(rows["gain"], "pairs", "accuracy").baselines["blind"]
    assert gains == pytest.approx(0.5), "a grey picture gains nothing over a grey picture: all ties"
    with pytest.raises(CapabilityError, match="LLaVA does not score by 'yess'; did you mean 'yes'"):
        run(vlm, tasks, tmp_path / "x", options=RunOptions(score_by="yess"))
    with pytest.raises(CapabilityError, match="has no choice of scores"):
        quick_scores(tiny_clip(), tasks, options=RunOptions(score_by="yes"))


def test_a_speakers_scores_do_not_depend_on_what_else_is_asked(tmp_path: Path) -> None:
    data, model = world(5), small_llava()
    together = run(model, [Pairs(data), Classification(data)], tmp_path / "together")
    alone = [run(model, [task], tmp_path / task.title).results[0] for task in (Pairs(data), Classification(data))]
    for ours, theirs in zip(together.results, alone, strict=True):
        assert [one.value for one in ours.scores] == [one.value for one in theirs.scores]
        kept = [
            {line["key"]: line["scores"] for line in _lines(tmp_path / place / f"cache/{ours.name}.jsonl", "")}
            for place in ("together", ours.name)
        ]
        for key, rows in kept[0].items():
            np.testing.assert_allclose(rows, kept[1][key], atol=1e-4)


def _lines(file: Path, run_name: str) -> list[dict]:
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    return [line for line in lines if line["run"] == run_name]


@pytest.mark.parametrize("kind", [HashEmbedder, lambda: FunctionScorer(sees), Reader])
def test_shares_together_are_the_whole(tmp_path: Path, kind: type[Counting]) -> None:
    tasks: list[Task] = (
        [Pairs(world(9)), Retrieval(world(9))] if kind is not Reader else [Probes(world(9), form="words")]
    )
    expected = run(kind(), tasks, tmp_path / "whole", fingerprint="m")
    parts = []
    for place in (1, 2, 3):
        part = kind()
        options = RunOptions(share=Share(place, 3))
        ask(part, tasks, tmp_path / "parts", fingerprint="m", options=options, progress=False)  # type: ignore[arg-type]
        parts.append(part)
    last = kind()
    found = run(last, tasks, tmp_path / "parts", fingerprint="m")
    assert unseconded(found) == unseconded(expected)
    assert last.pictures + last.texts + last.asked == []
    for log in ("pictures", "texts", "asked"):
        every = [one for part in parts for one in getattr(part, log)]
        assert len(every) == len(getattr_whole(kind, tasks, tmp_path, log)), "nothing is asked twice"
        assert all(getattr(part, log) for part in parts) == bool(every), "each has something to do"


def getattr_whole(kind: type[Counting], tasks: list[Task], folder: Path, log: str) -> list[str]:
    whole = kind()
    run(whole, tasks, folder / f"again-{log}", fingerprint="m")
    return list(getattr(whole, log))


def test_what_a_dead_process_left_is_asked_by_the_next(tmp_path: Path) -> None:
    tasks: list[Task] = [Pairs(world(9))]
    expected = run(FunctionScorer(sees), tasks, tmp_path / "whole", fingerprint="m")
    dead, options = FunctionScorer(sees, stop_after=2), RunOptions(share=Share(2, 2))
    with pytest.raises(KeyboardInterrupt):
        ask(dead, tasks, tmp_path / "parts", fingerprint="m", options=options, progress=False)
    ask(
        FunctionScorer(sees),
        tasks,
        tmp_path / "parts",
        fingerprint="m",
        options=RunOptions(share=Share(1, 2)),
        progress=False,
    )
    rest = FunctionScorer(sees)
    assert unseconded(run(rest, tasks, tmp_path / "parts", fingerprint="m")) == unseconded(expected)
    assert len(rest.asked) == 5 - 2
    assert not set(rest.asked) & set(dead.asked)


def test_failures_are_asked_again_unless_they_shall_be_kept(tmp_path: Path) -> None:
    def diverged(number: int, text: str) -> float:
        return float("nan") if number == 2 else sees(number, text)

    tasks: list[Task] = [Pairs(world(4))]
    run(FunctionScorer(diverged), tasks, tmp_path, fingerprint="m")
    kept = FunctionScorer(sees)
    found = run(kept, tasks, tmp_path, fingerprint="m", options=RunOptions(keep_failed=True))
    assert (kept.asked, score(found, "pairs", "accuracy").failed) == ([], 2)
    mended = FunctionScorer(sees)
    found = run(mended, tasks, tmp_path, fingerprint="m")
    assert (score(found, "pairs", "accuracy").failed, len(mended.asked)) == (0, 1)  # the one picture


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="share"):
        Share.parse(text)


def test_evaluate_leaves_a_speaker_as_it_was() -> None:
    model = small_llava().train()
    quick_scores(model, [Pairs(world(2))])
    assert model.training
    assert not torch.is_inference_mode_enabled()
