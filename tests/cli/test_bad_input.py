"""What users get wrong with models that speak, through the command line: one sentence each, no traceback, no output.

an architecture that nobody knows            test_an_unknown_architecture
tensors missing, misshapen, not ours         test_tensors_that_do_not_fit (chiasm's folders, transformers', foreign)
a chat template that raises or never ends    test_a_template_that_raises_or_never_ends (more: tests/data/test_chat.py)
more pictures than places, and the reverse   test_pictures_and_places_that_differ
a picture beyond the budget of tokens        test_what_is_longer_than_the_context
a prompt beyond the context                  test_what_is_longer_than_the_context
a box outside of its picture                 test_a_box_outside_of_its_picture"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from safetensors.torch import load_file, save_file

from chiasm.cli import main
from chiasm.data.sample import Box
from chiasm.errors import DataError
from chiasm.models import folder
from tests.models.generative_models import CHAT, small_llava
from tests.weights import foreign

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail; the one sentence that it says."""

    def run(*words: str | Path) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        told = capsys.readouterr()
        assert "Traceback" not in told.err + told.out
        (said,) = [line for line in told.err.splitlines() if line.startswith("chiasm ")]
        return said

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small speaker's folder; its template, settings and weights are files to be spoiled."""
    folder.save(small_llava(), tmp_path / "model")
    return tmp_path / "model"


def chats(tmp_path: Path, text: str = "<image>\nWhat is it?", size: tuple[int, int] = (64, 64)) -> list[str]:
    """The words of a command that reads one conversation about a picture."""
    PIL.Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "red.png")
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "red"}]
    images = ["red.png"] * text.count("<image>")
    row = {"id": "one", "conversations": turns, "image": images}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    return ["--source", "llava", f"path={tmp_path / 'rows.json'}"]


def training(model: Path, tmp_path: Path) -> list[str | Path]:
    """The words of a command that trains on that conversation."""
    (tmp_path / "train.yaml").write_text(
        f"name: a\n"
        f"data: {{train: {{source: llava, path: {tmp_path / 'rows.json'}}}, captions: keep, batch_size: 1}}\n"
        f"start: {{checkpoint: {model}}}\n"
        "training: {steps: 1, learning_rate: 1e-3}\n"
    )
    return ["train", tmp_path / "train.yaml", "--out", tmp_path / "run", "--overwrite"]


def spoil(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_an_unknown_architecture(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "lava", "architectures": ["LavaModel"]}))
    said = refused("show", tmp_path)
    assert re.search(
        r"holds a 'lava', which neither chiasm nor transformers [\d.]+ knows; did you mean 'llava'\?", said
    )
    spoil(tmp_path / "config.json", auto_map={"AutoModel": "code.Lava"})
    assert "runs only by code of its own; such code is never run here" in refused("show", tmp_path)


@pytest.mark.parametrize("kind", ["ours", "transformers", "foreign"])
def test_tensors_that_do_not_fit(kind: str, refused: Refused, model: Path, tmp_path: Path) -> None:
    place = tmp_path / kind
    if kind == "ours":
        place = model
    else:
        (foreign.phi if kind == "foreign" else foreign.llama)(place)
    state = load_file(place / "model.safetensors")
    first, second = [name for name, tensor in state.items() if tensor.ndim == 2][:2]
    shapes = {name: tuple(state[name].shape) for name in (first, second)}
    del state[first]
    state[second] = state[second][:-1].contiguous()
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    said = refused("show", place)
    wrong = (shapes[second][0] - 1, shapes[second][1])
    assert re.search(f"missing:? {re.escape(f'{first} {shapes[first]}')}", said)
    has, wants = re.escape(str(wrong)), re.escape(str(shapes[second]))
    assert re.search(f"{re.escape(second)} (is )?{has},? (instead of|expected) {wants}", said)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('no system role here') }}", "the chat template refuses the chat: no system role here"),
        ("{{ messages.nothing.at_all }}", "the chat template refuses the chat"),
        ("{% for a in 'a' * 999 %}{% for b in 'a' * 999 %}{% endfor %}{% endfor %}", "it may run without end"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself too deeply"),
        ("{% for %}", "the chat template is not Jinja that can be read"),
    ],
)
def test_a_template_that_raises_or_never_ends(
    template: str, told: str, refused: Refused, model: Path, tmp_path: Path
) -> None:
    (model / "processor" / "chat_template.jinja").write_text(template)
    said = refused("show", model, *chats(tmp_path))
    assert told in said
    assert "'0/one'" in said or "Jinja" in said


def test_pictures_and_places_that_differ(refused: Refused, model: Path, tmp_path: Path) -> None:
    deaf = "{% for m in messages %}{{ m.content | replace('<image>', '') }}{% endfor %}"
    (model / "processor" / "chat_template.jinja").write_text(deaf)
    said = refused("show", model, *chats(tmp_path))
    assert "sample '0/one' has 1 pictures, but the chat template made room for 0" in said
    (model / "processor" / "chat_template.jinja").write_text(CHAT + "<image>")
    said = refused("show", model, *chats(tmp_path))
    assert "sample '0/one' has 1 pictures, but the chat template made room for 2" in said
    words = chats(tmp_path)
    row = json.loads((tmp_path / "rows.json").read_text())[0]
    (tmp_path / "rows.json").write_text(json.dumps([row | {"image": ["red.png", "red.png"]}]))
    assert "has 1 <image> placeholders but 2 images; they must agree" in refused("show", model, *words)
    (tmp_path / "rows.json").write_text(json.dumps([row | {"image": []}]))
    assert "has 1 <image> placeholders but 0 images; they must agree" in refused("show", model, *words)


def test_slots_that_the_features_do_not_fill(refused: Refused, model: Path, tmp_path: Path) -> None:
    (model / "processor" / "chat_template.jinja").write_text(CHAT)
    layout = json.loads((model / "processor" / "processor.json").read_text())["layout"]
    spoil(model / "processor" / "processor.json", layout=layout | {"image_tokens": 3})
    chats(tmp_path)
    told = refused(*training(model, tmp_path))
    assert re.search(r"processor\.layout has .*image_tokens 3, but LLaVA is made for .*image_tokens 16", told)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_what_is_longer_than_the_context(refused: Refused, model: Path, tmp_path: Path) -> None:
    chats(tmp_path, "<image>\n" + "What is it? " * 99)
    said = refused(*training(model, tmp_path))
    assert re.search(r"'0/one' has \d{3,} tokens, \d+ of them for its pictures, but the context is 512; shorten", said)
    chats(tmp_path, "<image>" * 99 + "What is it?")
    said = refused(*training(model, tmp_path))
    assert re.search(r"'0/one' has \d+ tokens, \d{3,} of them for its pictures, but the context is 512", said)
    assert "give smaller pictures" in said


def test_a_box_outside_of_its_picture() -> None:
    with pytest.raises(DataError, match=r"the box \(0.5, 0.5, 1.5, 0.9\) for 'cube' is not inside its picture"):
        Box((0.5, 0.5, 1.5, 0.9), "cube")
