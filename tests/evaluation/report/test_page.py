"""The page as a browser gets it: whole, self-contained, and safe with texts from strangers."""

import base64
import builtins
import hashlib
import io
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
import pytest

from chiasm.errors import ChiasmError, MissingExtra
from chiasm.evaluation.report import write_report
from chiasm.evaluation.report.display import percent
from chiasm.evaluation.result import Candidate, Evaluation, Example, TaskResult, TextOrImage
from tests.evaluation.report.fake_runs import probes, retrieval, score, write_run

_VOID = {"meta", "img", "input", "br", "link", "hr"}
_HOSTILE = "</style><script>alert(1)</script> & \"quoted\" 'too' {{ 7 * 7 }} $x^2$"


@dataclass
class _Page(HTMLParser):
    """Elements, attributes and text of a page; fails where tags do not balance."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags, f"</{tag}> closes nothing"
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open_tags and self.open_tags[-1] == "script":
            self.scripts.append(data)
        elif not self.open_tags or self.open_tags[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def _parsed(file: Path) -> _Page:
    page = _Page()
    page.feed(file.read_text(encoding="utf-8"))
    page.close()
    assert page.open_tags == []
    return page


pytestmark = pytest.mark.xdist_group("report page")


def _two(folder: Path) -> list[Path]:
    clip = write_run(folder / "clip", "clip-small")
    return [clip, write_run(folder / "siglip", "siglip-small", skill=1.08, seed=1, loss="sigmoid")]


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return _two(tmp_path)


@pytest.fixture(scope="module")
def page_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs, for all tests that only read it."""
    folder = tmp_path_factory.mktemp("two")
    return write_report(_two(folder), folder / "report.html")


def test_contains_every_score_with_interval_and_chance(two: list[Path], tmp_path: Path) -> None:
    page = _parsed(write_report(two, tmp_path / "deep" / "report.html", title="Scenes"))
    text = page.text
    assert "Scenes" in text
    for run in two:
        for result in Evaluation.load(run / "evaluation").results:
            assert result.protocol in text
            for one in result.scores:
                for value in (one.value, one.chance, *one.baselines.values()) if not one.group else (one.value,):
                    assert percent(value) in text
                assert f"{percent(one.low)}\N{EN DASH}{percent(one.high)}" in text


def test_pictures_are_in_the_page_and_nothing_else_is_loaded(page_of_two: Path) -> None:
    page = _parsed(page_of_two)
    images = [uri for uri in page.values("src") if uri.startswith("data:")]
    assert len(images) > 50
    for uri in images:
        head, _, body = uri.partition(",")
        assert head == "data:image/jpeg;base64"
        with PIL.Image.open(io.BytesIO(base64.b64decode(body, validate=True))) as image:
            image.load()
            assert max(image.size) == 64
    assert page.values("src") == images
    assert all(address.startswith("#") for address in page.values("href"))
    assert not page.values("srcset")
    assert not page.values("action")
    source = page_of_two.read_text()
    assert not re.search(r"https?://|@import|url\((?!#)", re.sub(r"<pre>.*?</pre>", "", source, flags=re.DOTALL))


def test_only_its_own_script_may_run(page_of_two: Path) -> None:
    page = _parsed(page_of_two)
    (policy,) = (one["content"] for _, one in page.elements if one.get("http-equiv") == "Content-Security-Policy")
    (script,) = page.scripts
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_texts_of_strangers_are_inert(tmp_path: Path) -> None:
    hostile = TaskResult(
        "probes",
        f"task {_HOSTILE}",
        (score(f"metric {_HOSTILE}", 0.6, 0.5, 100), score(f"metric {_HOSTILE}", 0.5, 0.5, 50, f"kind {_HOSTILE}")),
        f"hash {_HOSTILE}",
        1.0,
        (
            Example(
                f"key {_HOSTILE}",
                right=False,
                query=TextOrImage(text=f"query {_HOSTILE}"),
                candidates=(Candidate(TextOrImage(text=f"caption {_HOSTILE}"), 0.3, true=False),),
                group=f"kind {_HOSTILE}",
            ),
        ),
    )
    run = write_run(tmp_path / "run", f"name {_HOSTILE}", results=[hostile])
    page = _parsed(write_report([run], tmp_path / "report.html", title=f"title {_HOSTILE}"))
    assert len(page.scripts) == 1
    assert "alert(1)" not in page.scripts[0]
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == tags["style"] == 1
    for start in ("title", "name", "caption", "query"):
        assert f"{start} {_HOSTILE}" in page.text


def test_ids_are_unique_and_every_reference_has_its_target(page_of_two: Path) -> None:
    page = _parsed(page_of_two)
    ids = page.values("id")
    assert [one for one, times in Counter(ids).items() if times > 1] == []
    assert {address[1:] for address in page.values("href")} <= set(ids)
    used = re.findall(r"url\(#([^)]+)\)", " ".join(page.values("clip-path") + page.values("style")))
    assert set(used) <= set(ids)


def test_what_is_seen_can_also_be_read_aloud(page_of_two: Path) -> None:
    page = _parsed(page_of_two)
    assert all(one.get("alt") for tag, one in page.elements if tag == "img")
    assert all(one.get("scope") in ("row", "col") for tag, one in page.elements if tag == "th")
    labelled = [one for tag, one in page.elements if tag == "svg" and one.get("aria-hidden") != "true"]
    assert len(labelled) >= 6
    assert all(one.get("role") == "img" and one.get("aria-label") for one in labelled)


@pytest.mark.parametrize("number", [1, 3, 8])
def test_any_number_of_models(number: int, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run{at}", f"model {at}", skill=0.8 + at / 20, seed=at) for at in range(number)]
    text = _parsed(write_report(runs, tmp_path / "report.html")).text
    assert all(f"model {at}" in text for at in range(number))
    assert ("difference" in text) == (number > 1)


def test_a_model_that_was_only_evaluated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "foreign", log=False, examples=False)
    page = _parsed(write_report([run], tmp_path / "report.html"))
    assert "What was evaluated" in page.text
    assert {"training", "examples"}.isdisjoint(page.values("id"))


def test_models_with_different_tasks(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", "one", examples=False, results=[probes(1.0, 0, None)])
    other = write_run(tmp_path / "two", "other", examples=False, results=[retrieval(1.0, 0, None)])
    text = _parsed(write_report([one, other], tmp_path / "report.html")).text
    assert text.count("not evaluated") == 2


def test_different_questions_are_pointed_out(two: list[Path], page_of_two: Path, tmp_path: Path) -> None:
    assert "were not asked the same" not in _parsed(page_of_two).text
    evaluation = Evaluation.load(two[1] / "evaluation")
    changed = replace(evaluation.results[0], requests="other")
    Evaluation(evaluation.model, (changed, *evaluation.results[1:])).save(two[1] / "evaluation")
    assert _parsed(write_report(two, tmp_path / "report.html")).text.count("were not asked the same") == 1


def test_ties_and_failures_stand_beside_the_score(tmp_path: Path) -> None:
    odd = replace(score("accuracy", 0.6, 0.5, 100, ties=0.123), failed=7)
    result = TaskResult("probes", "probes", (odd,), "hash", 1.0, facts={"median rank": 12.0})
    text = _parsed(write_report([write_run(tmp_path / "run", "one", results=[result])], tmp_path / "report.html")).text
    assert "ties 12.3" in text
    assert "7 failed" in text
    assert "probes: median rank" in text


def test_missing_results_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ChiasmError, match=r"results\.json; run `chiasm eval` first"):
        write_report([tmp_path / "run"], tmp_path / "report.html")
    with pytest.raises(ChiasmError, match="no run folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(ChiasmError, match="at least one run"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_missing_packages_are_named(package: str, two: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=rf"'{package}': pip install 'chiasm\[eval\]'"):
        write_report(two, two[0] / "report.html")


def test_runs_without_evaluation_and_unfinished_ones_are_compared(tmp_path: Path) -> None:
    whole, cut = write_run(tmp_path / "a", "a"), write_run(tmp_path / "b", "b", seed=1)
    shutil.rmtree(cut / "evaluation")
    lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(lines[: len(lines) // 2]))
    both = write_report([whole, cut], tmp_path / "both.html").read_text()
    assert both.count("not evaluated") > 0
    assert "is not finished" in both
    assert all(word in both for word in ('id="by-steps"', 'id="by-time"', "training time, seconds"))
    alone = write_report([cut], tmp_path / "alone.html").read_text()
    assert "trained, not evaluated" in alone
    assert "contrastive loss" in alone
    assert 'id="scores"' not in alone
    assert 'name="axis"' not in alone  # one run has one shape
