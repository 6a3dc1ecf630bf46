"""Checkpoints by name: through the Hub's own client, against a Hub on this machine and against a prepared cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import chiasm
from chiasm.cli import main
from chiasm.data.image import Image
from chiasm.errors import CheckpointError, MissingExtra
from chiasm.models import folder as model_folder
from chiasm.models.dual_encoder import DualEncoder
from chiasm.weights import hub, open_clip, transformers
from tests.weights import foreign, test_open_clip, test_transformers_clip, tiny
from tests.weights.fake_hub import COMMIT, OLD, Hub, served

SRC = Path(chiasm.__file__).parents[1]

# What a user does, in a process of its own: the client reads its environment when it is imported.
SCRIPT = """
import json, sys
import chiasm
from chiasm.errors import ChiasmError
for name in sys.argv[1:]:
    try:
        model = chiasm.load(name)
        print(json.dumps(float(sum(value.double().abs().sum() for value in model.state_dict().values()))))
    except ChiasmError as error:
        print(json.dumps(str(error)))
"""


def asked(names: list[str], home: Path, **settings: str) -> list[Any]:
    """The sum of each model's weights, or what was told in its stead."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(SRC),
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def weight(model: Any) -> float:
    return float(sum(value.double().abs().sum() for value in model.state_dict().values()))


def clip_folder(folder: Path, seed: int = 0) -> Path:
    model = tiny.clip_model()
    with torch.no_grad():
        model.logit_scale.fill_(2.0 + seed)
    return test_transformers_clip.written(folder, model)


def write_program(file: Path) -> None:
    """An archive of TorchScript, as OpenAI's own files are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))


@pytest.fixture
def here() -> Iterator[Hub]:
    with served() as running:
        yield running


def test_names_are_fetched_cached_and_told(here: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    first = clip_folder(tmp_path / "first")
    older = clip_folder(tmp_path / "older", seed=1)
    for extra in ("modeling_evil.py", "pytorch_model.bin", "tf_model.h5", "onnx/config.json", "pictures/more.txt"):
        (first / extra).parent.mkdir(exist_ok=True)
        (first / extra).write_text("{}")
    here.add("some/clip", first, **{OLD: older})
    both = clip_folder(tmp_path / "both")
    other = chiasm.load(both)
    torch.nn.init.constant_(other.get_parameter("log_scale"), 1.5)
    open_clip.save(other, both)
    here.add("some/both", both)
    here.add("some/empty", clip_folder(tmp_path / "empty"))
    (tmp_path / "empty" / "model.safetensors").unlink()
    here.gated.add("some/gated")
    model_folder.save(other, tmp_path / "own")
    here.add("some/own", tmp_path / "own")
    names = ["some/clip", "some/clip@v1", f"some/clip@{OLD}", "some/both", "hf-hub:some/both"]
    wrong = ["some/clip@v9", "some/absent", "some/gated", "some/empty", "some/own"]
    sums = asked(names + wrong, home, HF_ENDPOINT=here.address)
    old = weight(chiasm.load(older))
    assert sums[:3] == pytest.approx([weight(chiasm.load(first)), old, old], abs=1e-9)
    assert sums[3:5] == pytest.approx([weight(transformers.load(both)), weight(open_clip.load(both))], abs=1e-9)
    assert sums[3] != sums[4]
    assert "has no revision 'v9'" in sums[5]
    assert "no repository of that name on the Hub that you may read" in sums[6]
    assert "is gated: accept its terms at" in sums[7]
    assert "holds no weights; expected one of model.safetensors" in sums[8]
    assert sums[9] == pytest.approx(weight(other), abs=1e-9)  # a folder of our own
    fetched = set(here.fetched)
    assert "model.safetensors" in fetched
    assert {name for name in fetched if not name.endswith((".json", ".safetensors", ".txt", ".model"))} == set()
    assert {"onnx/config.json", "pictures/more.txt"} & fetched == set()

    # What is in the cache is found again without a network, and told apart from what is not.
    again = ["some/clip", "hf-hub:some/both", "some/absent"]
    for settings in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        cached = asked(again, home, **settings)
        assert cached[:2] == pytest.approx([sums[0], sums[4]], abs=1e-9)
        expected = "HF_HUB_OFFLINE is set" if "HF_HUB_OFFLINE" in settings else "the Hub at http://127.0.0.1:9 cannot"
        assert expected in cached[2]


def test_shards_and_pickles(here: Hub, tmp_path: Path) -> None:
    """Shards by their index; pickled tensors where there is nothing else, and never a program."""
    home = tmp_path / "home"
    home.mkdir()
    peer = tiny.clip_model()
    sharded = test_transformers_clip.written(tmp_path / "sharded", peer)
    (sharded / "model.safetensors").unlink()
    peer.save_pretrained(sharded, max_shard_size="100KB")
    here.add("some/sharded", sharded)
    pickled = test_transformers_clip.written(tmp_path / "pickled", peer)
    (pickled / "model.safetensors").unlink()
    torch.save(peer.state_dict(), pickled / "pytorch_model.bin")
    here.add("some/pickled", pickled)
    program = test_transformers_clip.written(tmp_path / "program", peer)
    (program / "model.safetensors").unlink()
    write_program(program / "pytorch_model.bin")
    here.add("some/program", program)
    sums = asked(["some/sharded", "some/pickled", "some/program"], home, HF_ENDPOINT=here.address)
    assert sums[0] == pytest.approx(sums[1], abs=1e-9)
    assert "is an archive of TorchScript" in sums[2]
    assert sum(name.startswith("model-0000") for name in here.fetched) > 1


def test_of_foreign_models_only_safetensors_are_fetched_and_of_unknown_ones_nothing(here: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    foreign.phi(tmp_path / "phi")
    here.add("some/phi", tmp_path / "phi")
    settings = json.loads((tmp_path / "phi" / "config.json").read_text())
    own_code = {"model_type": "phi_of_mine", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    for name, entries in (("pickled", settings), ("mine", settings | own_code)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(entries))
        torch.save({"large": torch.zeros(2)}, tmp_path / name / "pytorch_model.bin")
        here.add(f"some/{name}", tmp_path / name)
    told = asked(["some/pickled", "some/mine"], home, HF_ENDPOINT=here.address)
    assert "holds no weights; expected one of model.safetensors, model.safetensors.index.json; pickled" in told[0]
    assert "runs only by code of its own" in told[1]
    assert [name for name in here.fetched if name != "config.json"] == []
    assert asked(["some/phi"], home, HF_ENDPOINT=here.address) == pytest.approx([weight(chiasm.load(tmp_path / "phi"))])


def test_a_tokenizer_of_another_repository_is_fetched(here: Hub, tmp_path: Path) -> None:
    """As open_clip's configs name them; where they name none, OpenAI's."""
    home = tmp_path / "home"
    home.mkdir()
    whole = tmp_path / "whole"
    open_clip.save(test_open_clip.own_model(test_open_clip.OWN_VIT), whole)
    expected = weight(open_clip.load(whole))
    (tmp_path / "lender").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (whole / name).rename(tmp_path / "lender" / name)
    settings = json.loads((whole / "open_clip_config.json").read_text())
    settings["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "some/tokenizer"
    (whole / "open_clip_config.json").write_text(json.dumps(settings))
    here.add("some/model", whole)
    here.add("some/tokenizer", tmp_path / "lender")
    assert asked(["some/model"], home, HF_ENDPOINT=here.address) == pytest.approx([expected], abs=1e-9)


def cached(home: Path, name: str, folder: Path) -> None:
    """A repository as the client keeps it: contents by hash, a snapshot of links, and where `main` stands."""
    place = home / "hub" / f"models--{name.replace('/', '--')}"
    for part in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    for at, file in enumerate(sorted(one for one in folder.iterdir() if one.is_file())):
        (place / "blobs" / str(at)).write_bytes(file.read_bytes())
        (place / "snapshots" / COMMIT / file.name).symlink_to(f"../../blobs/{at}")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


def test_a_cache_that_others_filled_is_read(offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = clip_folder(tmp_path / "theirs")
    cached(offline, "some/clip", folder)
    model = chiasm.load("some/clip", image_size=48)
    assert isinstance(model, DualEncoder)
    assert model.processor.images([Image(tiny.photos(1)[0])]).pixels.shape[-1] == 48
    # A folder of that name comes first.
    monkeypatch.chdir(tmp_path)
    local = clip_folder(tmp_path / "some" / "clip", seed=3)
    scale = load_file(local / "model.safetensors")["logit_scale"]
    assert chiasm.load("some/clip").state_dict()["log_scale"] == scale
    assert hub.fetch(hub.Name("some/clip"))[0].path.is_relative_to(offline)


def test_the_evaluation_takes_a_name(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    cached(offline, "some/clip", clip_folder(tmp_path / "theirs"))
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "some/clip"]) == 2
    assert "say with --tasks and --out" in capsys.readouterr().err
    recipe = tmp_path / "tasks.yaml"
    text = (Path(chiasm.__file__).parent / "recipes" / "clip" / "scenes.yaml").read_text()
    recipe.write_text(text)
    assert main(["eval", "some/absent", "--tasks", str(recipe), "--out", "out"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("openai/clip-vit-base-patch32", hub.Name("openai/clip-vit-base-patch32")),
        ("a/b.c-d@refs/pr/3", hub.Name("a/b.c-d", "refs/pr/3")),
        ("hf-hub:laion/CLIP@v1.0", hub.Name("laion/CLIP", "v1.0", open_clip=True)),
        ("runs/a/b", None),
        ("nothing", None),
        ("../up", None),
        ("/etc/passwd", None),
        ("a/..", None),
        ("a/b@../c", None),
    ],
)
def test_names(text: str, name: hub.Name | None) -> None:
    assert hub.name_of(text) == name


def test_without_the_client_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"there is no folder runs/clip.*pip install 'chiasm\[hub\]'"):
        chiasm.load("runs/clip")


def test_a_program_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ViT-B-32.pt"
    write_program(file)
    with pytest.raises(CheckpointError, match=r"archive of TorchScript.*openai/clip-vit-base-patch32"):
        chiasm.load(file)
    torch.save({"a": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        chiasm.load(file)
