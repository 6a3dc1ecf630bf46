from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from chiasm.cli import main
from chiasm.config import module_names
from chiasm.experiment.recipe import PretrainedPart, load_recipe

# AdamW, as a step of Muon takes as long as all else.
TINY = ["training.steps=2", "data.batch_size=8", "training.evaluate_every=0", "training.optimiser=adamw"]
FEW = [f"evaluation.{at}.limit=3" for at in range(3)]


def _train(folder: Path, *more: str) -> int:
    return main(["train", "clip/scenes", *TINY, *FEW, *more, "--out", str(folder)])


@pytest.mark.slow
def test_train_then_eval_then_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert _train(run) == 0
    told = capsys.readouterr().out
    assert "retrieval" in told
    assert (run / "report.html").as_uri() in told.replace("\n", "")
    assert main(["eval", str(run), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "evaluation" / "results.json").exists()
    assert main(["report", str(run), str(run), "--out", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").stat().st_size > 10_000


def test_without_the_drawing_library_a_run_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert _train(tmp_path / "run") == 0
    assert "pip install 'chiasm[eval]'; then: chiasm report" in capsys.readouterr().out
    assert (tmp_path / "run" / "evaluation" / "results.json").exists()


@pytest.mark.slow
def test_a_run_is_not_overwritten_unasked(
    trained_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained_clip, tmp_path / "run")
    assert _train(run) == 2
    assert "already holds a run; --resume goes on with it" in capsys.readouterr().err
    assert _train(run, "training.learning_rate=0.5", "--resume") == 2
    assert "holds a run of another recipe (learning_rate: 0.5)" in capsys.readouterr().err
    assert _train(run, "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "clip/scnes"], "there is no recipe 'clip/scnes'; did you mean 'clip/scenes'?"),
        (["train", "clip/scenes", "trainig.steps=3"], "trainig: there is no such key; did you mean 'training'?"),
        (
            ["train", "clip/scenes", "processor.text.context=99"],
            "processor.text.context is 99, but the text tower reads",
        ),
        (["train", "clip/photos-pretrained-towers"], "leaves data.root to you: add data.root=VALUE"),
        (["eval", "nowhere"], "there is no folder nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["show", "scenes", "sede=3"], "sede: there is no such key; did you mean 'seed'?"),
        (["show", "captions", "path=missing.jsonl"], "missing.jsonl"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_show_writes_a_contact_sheet(tmp_path: Path) -> None:
    file = tmp_path / "scenes.png"
    assert main(["show", "scenes", "--count", "4", "--columns", "2", "--out", str(file), "seed=3"]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("what", ["models", "recipes", "sources", "tasks"])
def test_ls_lists(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", what]) == 0
    told = capsys.readouterr().out
    expected = {"models": "151,277,313", "recipes": "clip/scenes", "sources": "sugarcrepe", "tasks": "retrieval"}
    assert expected[what] in told


@pytest.mark.parametrize("command", module_names("chiasm.cli"))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: chiasm" in capsys.readouterr().out


def test_an_unknown_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ls", "models", "--fast"])
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_trains_three_models_and_shows_what_the_chat_model_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", *TINY, *FEW, "--out", str(out)]) == 0
    names = ["clip-scenes", "siglip-scenes", "chat-scenes"]
    told = capsys.readouterr().out
    assert all(name in told for name in names)
    results = [json.loads((out / name / "evaluation" / "results.json").read_text())["results"] for name in names]
    figures = [
        {(one["name"], score["name"], score["items"]) for one in each for score in one["scores"]} for each in results
    ]
    assert figures[0] == figures[1] < figures[2], "the chat model is asked all that the others are asked, and more"
    page = (out / "report.html").read_text()
    example = next(one for one in results[2][-1]["examples"] if one["references"])
    assert example["query"]["text"] in page
    assert all(reference in page for reference in example["references"])
    begun = load_recipe(out / "chat-scenes" / "recipe.yaml").pretrained["vision"]
    assert isinstance(begun, PretrainedPart)
    assert (Path(begun.checkpoint) / "checkpoint" / "model.safetensors").exists()

    assert main(["demo", *TINY, *FEW, "--out", str(out)]) == 2
    assert "`chiasm demo --resume` goes on where it stopped" in capsys.readouterr().err
    shutil.rmtree(out / "chat-scenes")
    kept = (out / "clip-scenes" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert main(["demo", *TINY, *FEW, "--out", str(out), "--resume"]) == 0
    assert capsys.readouterr().out.count("the run is finished") == 2
    assert (out / "clip-scenes" / "checkpoint" / "model.safetensors").stat().st_mtime_ns == kept
    assert (out / "chat-scenes" / "checkpoint" / "model.safetensors").exists()
