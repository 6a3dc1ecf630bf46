"""Models that answer with images: kept as PNG by their hash, never asked for twice, compared, shown in the report."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chiasm.data.image import Image
from chiasm.data.sample import Part, Sample, Text
from chiasm.errors import CapabilityError
from chiasm.evaluation import outcomes
from chiasm.evaluation.comparison import compare_evaluations
from chiasm.evaluation.examples import image_example
from chiasm.evaluation.report.compared import write_comparison
from chiasm.evaluation.report.page import write_report
from chiasm.evaluation.request import GenerateImageRequest, GenerateRequest, Request, Response, of_type
from chiasm.evaluation.response_cache import ResponseCache
from chiasm.evaluation.result import Evaluation, Example
from chiasm.evaluation.task import Items, Measured, MetricCounts, Show, Task
from tests.evaluation.fakes import Counting, HashEmbedder, Listed, undecodable
from tests.evaluation.test_run import run, score, unseconded

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 200), "grey": (128, 128, 128)}


def square(colour: str, side: int = 24) -> Image:
    return Image(np.full((side, side, 3), COLOURS[colour], np.uint8))


def colour_of(image: Image) -> str:
    mean = np.asarray(image.decode()).reshape(-1, 3).mean(axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


@dataclass(frozen=True)
class Paint(Task):
    """Asks for a square of each sample's colour; right if the answer is of that colour, on average."""

    def construct_requests(self, sample: Sample) -> Iterable[Request]:
        prompt = Text(f"a {sample.meta['colour']} square", "user")
        yield GenerateImageRequest(sample.key, Sample(sample.key, (prompt,)), references=(str(sample.meta["colour"]),))

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        right_I, failed_I = np.zeros(len(requests)), np.ones(len(requests), np.bool_)
        for at, request in of_type(requests, GenerateImageRequest):
            if isinstance(response := responses[at], Image):
                right_I[at], failed_I[at] = colour_of(response) == request.references[0], False
        keys = tuple(request.key for request in requests)
        items = Items(keys, keys, ("",) * len(keys), np.zeros(len(keys), np.bool_), failed_I, ("",) * len(keys))
        return Measured((MetricCounts("colour accuracy", items, right_I, np.zeros(len(keys))),))

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        (metric,) = self.measure(requests, responses).metrics
        return [
            image_example(request, responses[at], show, right=bool(metric.credit_I[at]))
            for at, request in of_type(requests, GenerateImageRequest)
        ]


class Painter(Counting):
    """Answers with a square of the colour that the prompt names, grey if it names none; `wrong` colours come out red.

    It reads what several requests share only once, but answers such requests in words alone.
    """

    def __init__(self, wrong: Sequence[str] = (), stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.wrong = wrong

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        self._count(self.asked, [sample.texts[-1].text for sample in samples])
        return [replace(sample, parts=(*sample.parts, *self._drawn(sample.texts[-1].text))) for sample in samples]

    def prompt_length(self, sample: Sample) -> int:
        return 8

    def replies(self, groups: Sequence[object]) -> list[list[str]]:
        raise AssertionError("an image is no reply in words")

    def _drawn(self, prompt: str) -> tuple[Part, ...]:
        named = next((colour for colour in COLOURS if colour in prompt), "grey")
        return Text("Here it is:"), square("red" if named in self.wrong else named), Text("I hope you like it.")


def colours() -> Listed:
    order = ["red", "green", "blue"] * 2
    return Listed(tuple(Sample(f"s{at}", (), meta={"colour": colour}) for at, colour in enumerate(order)))


def test_an_image_is_kept_by_its_hash_and_never_asked_for_twice(tmp_path: Path) -> None:
    model = Painter()
    found = run(model, [Paint(colours(), "paint")], tmp_path, fingerprint="p")
    accuracy = score(found, "paint", "colour accuracy")
    assert accuracy.value == 1
    assert accuracy.baselines == {"constant": 0, "blind": 0, "shuffled": 0}, "another text, or none, is another image"
    assert model.asked.count("") == 6
    files = sorted((tmp_path / outcomes.IMAGES).iterdir())
    assert len(files) == 4, "three colours, and the grey of the blind run, each once"
    for file in files:
        assert (Image(file).key, file.read_bytes()[:4]) == (file.stem, b"\x89PNG")
    lines = [json.loads(line) for line in (tmp_path / "cache/paint.jsonl").read_text().splitlines()[1:]]
    assert {f"{line['image']}.png" for line in lines} == {file.name for file in files}
    rows = [json.loads(line) for line in (tmp_path / "answers/paint.jsonl").read_text().splitlines()]
    assert [colour_of(Image(tmp_path / outcomes.IMAGES / row["image"])) for row in rows] == ["red", "green", "blue"] * 2

    again = Painter()
    assert unseconded(run(again, [Paint(colours(), "paint")], tmp_path, fingerprint="p")) == unseconded(found)
    assert again.asked == []
    files[0].write_bytes(files[1].read_bytes())  # no longer what its name says
    files[2].unlink()
    lost = {line["key"] for line in lines if f"{line['image']}.png" in (files[0].name, files[2].name)}
    mended = Painter()
    assert unseconded(run(mended, [Paint(colours(), "paint")], tmp_path, fingerprint="p")) == unseconded(found)
    assert 0 < len(mended.asked) < 18
    assert len(lost) > 0
    assert [Image(file).key for file in files] == [file.stem for file in files]


def test_what_is_kept_are_the_pixels_and_nothing_else(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (9, 5), (1, 2, 3)).save(buffer, "JPEG", comment=b"a secret", quality=100)
    with ResponseCache(tmp_path / "cache.jsonl", "m", "p", images=tmp_path / "images") as cache:
        cache.add("", "a", Image(buffer.getvalue()))
        cache.add("", "b", undecodable())
    (file,) = (tmp_path / "images").iterdir()
    assert b"secret" not in file.read_bytes()
    with ResponseCache(tmp_path / "cache.jsonl", "m", "p", images=tmp_path / "images", keep_failed=True) as cache:
        kept, failed = cache.get("", "a"), cache.get("", "b")
    assert isinstance(kept, Image)
    assert np.array_equal(np.asarray(kept.decode()), np.asarray(Image(buffer.getvalue()).decode()))
    assert "the model's image cannot be read" in str(failed)
    memory = ResponseCache()
    memory.add("", "a", square("red"))
    assert isinstance(memory.get("", "a"), Image)


def test_a_model_that_answers_in_words_has_failed_and_one_that_embeds_is_not_asked(tmp_path: Path) -> None:
    class Writer(Painter):
        def _drawn(self, prompt: str) -> tuple[Part, ...]:
            return (Text("a square"),)

    found = run(Writer(), [Paint(colours(), "paint")], tmp_path)
    assert score(found, "paint", "colour accuracy").failed == 6
    line = (tmp_path / "cache/paint.jsonl").read_text().splitlines()[1]
    assert json.loads(line)["failed"] == "the model's answer holds no image"
    with pytest.raises(CapabilityError, match="needs a model that can generate"):
        run(HashEmbedder(), [Paint(colours(), "paint")], tmp_path / "no")


def images_in(page: Path) -> list[str]:
    """The colours of the images that a page shows with the words for what a model made."""
    text = page.read_text(encoding="utf-8")
    made = re.findall(r'<img class="made" src="data:image/jpeg;base64,([^"]+)"', text)
    return [colour_of(Image(base64.b64decode(one))) for one in made]


def test_images_stand_beside_their_requests_in_the_report_and_in_a_comparison(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("good", "bad")]
    for folder, model in zip(folders, (Painter(), Painter(wrong=["green"])), strict=True):
        run(
            model,
            [Paint(colours(), "paint")],
            folder / "evaluation",
            about={"name": folder.name},
            fingerprint=folder.name,
        )
    report = write_report(folders, tmp_path / "report.html")
    shown = images_in(report)
    assert shown.count("red") == 2 + 4
    assert (shown.count("green"), shown.count("blue")) == (2, 4)
    assert "a green square" in report.read_text()
    saved = Evaluation.load(folders[0] / "evaluation").results[0].examples
    assert all((folders[0] / "evaluation/pictures" / example.image).is_file() for example in saved)

    evaluations = [folder / "evaluation" for folder in folders]
    comparison = compare_evaluations(evaluations[0], evaluations[1])
    (task,) = comparison.tasks
    assert [change.key for change in task.changes] == ["s1", "s4"]
    for change in task.changes:
        pair = [Image(folder / outcomes.IMAGES / name) for folder, name in zip(evaluations, change.images, strict=True)]
        assert [colour_of(image) for image in pair] == ["green", "red"]
    page, _ = write_comparison(comparison, evaluations, tmp_path / "compare.html")
    assert images_in(page) == ["green", "red"] * 2


@dataclass(frozen=True)
class FewShot(Request):
    """A kind of request that evaluation has never heard of: solved examples before the question."""

    shots: tuple[tuple[str, str], ...]
    question: str

    verbs = ("generate",)

    def form(self, verbs: object) -> Request:
        parts = [Text(f"{question} {answer}. ") for question, answer in self.shots]
        return GenerateRequest(self.key, Sample(self.key, (*parts, Text(self.question))))

    def content(self, hashed: object) -> list[object]:
        return [self.key, self.shots, self.question]

    def constant(self) -> Response:
        return self.shots[0][1]


@dataclass(frozen=True)
class Doubles(Paint):
    """Asks for the double of a number, by example."""

    def construct_requests(self, sample: Sample) -> Iterable[Request]:
        yield FewShot(sample.key, (("1", "2"), ("2", "4")), str(sample.meta["number"]))

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        asked = [(request, response) for request, response in zip(requests, responses, strict=True)]
        right_I = [response == str(2 * int(one.question)) for one, response in asked if isinstance(one, FewShot)]
        keys = tuple(request.key for request in requests)
        none_I = np.zeros(len(keys), np.bool_)
        items = Items(keys, keys, ("",) * len(keys), none_I, none_I, tuple(map(str, responses)))
        return Measured((MetricCounts("right", items, np.array(right_I, float), np.zeros(len(keys))),))

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        return []


class Doubler(Counting):
    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        self._count(self.asked, ["".join(text.text for text in sample.texts) for sample in samples])
        return [sample.answered(str(2 * int(sample.texts[-1].text))) for sample in samples]


def test_a_request_of_a_new_kind_is_one_class(tmp_path: Path) -> None:
    data = Listed(tuple(Sample(f"s{at}", (), meta={"number": at}) for at in range(5)))
    model = Doubler()
    found = run(model, [Doubles(data, "doubles")], tmp_path, fingerprint="d")
    assert model.asked[3] == "1 2. 2 4. 3"
    right = score(found, "doubles", "right")
    assert (right.value, right.baselines["constant"]) == (1, 1 / 5)
    again = Doubler()
    assert unseconded(run(again, [Doubles(data, "doubles")], tmp_path, fingerprint="d")) == unseconded(found)
    assert again.asked == []
    other = replace(data, samples=(replace(data.samples[0], meta={"number": 9}), *data.samples[1:]))
    assert run(Doubler(), [Doubles(other, "doubles")], tmp_path / "b").results[0].requests != found.results[0].requests
