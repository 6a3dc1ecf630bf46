"""Classes from outside of chiasm: named by the user, and never imported because a checkpoint names them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import chiasm
from chiasm import additions
from chiasm.additions import ANY, allowing
from chiasm.cli import main
from chiasm.config import dump, parse
from chiasm.data.source import Source
from chiasm.errors import CheckpointError, RecipeError
from chiasm.experiment.recipe import load_recipe, load_tasks
from chiasm.models import folder as model_folder
from chiasm.models.clip import Config as CLIPConfig
from chiasm.models.model import ModelConfig
from tests.worlds import Patches, tiny_clip

SOURCE = '''"""Grey pictures, each with its number."""
from dataclasses import dataclass
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source

@dataclass(frozen=True)
class Greys(Source):
    """count: of them."""
    count: int = 4
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        import numpy as np
        return Sample(f"grey/{index}", (Image(np.full((64, 64, 3), index, np.uint8)),), (f"number {index}",))

SIZES = {"ten": Greys(10)}
'''
FAMILY = '''"""CLIP under another name (arXiv:2103.00020)."""
from dataclasses import dataclass
from chiasm.models import clip

@dataclass(frozen=True)
class Config(clip.Config):
    """As CLIP's."""
    @classmethod
    def model(cls):
        return Copy

class Copy(clip.CLIP):
    """CLIP."""

_small = clip.SIZES["small"]
SIZES = {"small": Config(_small.vision, _small.text, _small.width)}
'''

Make = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes an importable package of modules, under a name that no other test has imported."""
    made: list[str] = []

    def make(**modules: str) -> str:
        name = f"outside_{len(made)}_{abs(hash(tmp_path))}"
        folder = tmp_path / "site" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        made.append(name)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return name

    additions.entries_of.cache_clear()
    yield make
    additions.entries_of.cache_clear()
    for module in [module for module in sys.modules if module.partition(".")[0] in made]:
        del sys.modules[module]


def _forget(name: str) -> None:
    """As in a new process."""
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def _offer(site: Path, group: str, **entries: str) -> None:
    """Installs a distribution that offers entry points."""
    info = site / f"dist_{len(list(site.iterdir()))}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {info.name.partition('-')[0]}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")


def _recipe(folder: Path, source: str, family: str = "clip") -> Path:
    file = folder / "recipe-of-mine.yaml"
    file.write_text(
        f"name: mine\nseed: 3\ndata: {{train: {source}, batch_size: 2}}\nmodel: {{family: '{family}', size: small}}\n"
        "processor: {tokenizer: {learn: 300}, text: {context: 40}, image: {size: 64}}\n"
        "training: {steps: 1, learning_rate: 1e-3}\n"
    )
    return file


def test_a_recipe_names_a_module_or_a_class_and_is_written_back(package: Make, tmp_path: Path) -> None:
    name = package(greys=SOURCE)
    for written in (f"{name}.greys", f"{name}.greys:Greys"):
        file = _recipe(tmp_path, f"{{source: '{written}', size: ten}}")
        recipe = load_recipe(file, ["data.train.count=7"])
        assert len(recipe.data.train) == 7
        assert recipe.data.train[2].captions == ("number 2",)
        assert dump(recipe.data.train) == {"source": f"{name}.greys", "count": 7}
        (tmp_path / "again.yaml").write_text(recipe.text())
        assert load_recipe(tmp_path / "again.yaml") == recipe
    with pytest.raises(RecipeError, match=r"data\.train\.cuont: there is no such key; did you mean 'count'"):
        load_recipe(file, ["data.train.cuont=7"])


def test_a_class_among_several_is_written_with_its_own_name() -> None:
    assert dump(Patches(3))["source"] == "tests.worlds"
    assert parse(Source, dump(Patches(3))) == Patches(3)  # type: ignore[type-abstract]


def test_an_installed_package_offers_short_names(
    package: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = package(greys=SOURCE)
    _offer(tmp_path / "site", "chiasm.sources", greys=f"{name}.greys:Greys", captions="nowhere", bad="nowhere.at_all")
    assert "greys" in Source.names()
    assert f"{name}.greys" not in sys.modules  # a name alone imports nothing
    assert len(load_recipe(_recipe(tmp_path, "greys")).data.train) == 4
    assert Source.choose("captions").__module__ == "chiasm.data.sources.captions"
    with pytest.raises(RecipeError, match="there is no source 'grays'; did you mean 'greys'"):
        load_recipe(_recipe(tmp_path, "grays"))
    with pytest.raises(RecipeError, match="there is no module 'nowhere'; install its package"):
        load_recipe(_recipe(tmp_path, "bad"))
    assert main(["ls", "sources"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "greys Grey pictures, each with its number." in told
    assert "there is no module 'nowhere'" in told
    _offer(tmp_path / "site", "chiasm.sources", greys="another.module")
    additions.entries_of.cache_clear()
    with pytest.raises(RecipeError, match=f"several packages offer a source 'greys'; name one: .*{name}"):
        load_recipe(_recipe(tmp_path, "greys"))


@pytest.mark.parametrize(
    ("module", "name", "told"),
    [
        ("", "PACKAGE.lost", r"there is no module 'PACKAGE\.lost'; install its package"),
        ("", "no_such_package.part", "there is no module 'no_such_package'; install"),
        (
            "import no_such_thing",
            "PACKAGE.mod",
            "importing 'PACKAGE.mod' fails: ModuleNotFoundError: No module named 'no_s",
        ),
        ("1 / 0", "PACKAGE.mod", "importing 'PACKAGE.mod' fails: ZeroDivisionError: division by zero"),
        ("x = 1", "PACKAGE.mod", r"the module PACKAGE.mod \(.*mod\.py\) defines no subclass of Source"),
        ("x = 1", "PACKAGE.mod:Greys", r"'Greys' is not there in the module PACKAGE\.mod"),
        ("x = 1", "PACKAGE.mod:x", r"'x' is no Source in the module"),
        (
            SOURCE + "class More(Greys): pass\n",
            "PACKAGE.mod",
            "several; say which: PACKAGE.mod:Greys or PACKAGE.mod:More",
        ),
    ],
)
def test_a_name_that_leads_nowhere_is_told_in_a_sentence(
    module: str, name: str, told: str, package: Make, tmp_path: Path
) -> None:
    own = package(mod=module)
    with pytest.raises(RecipeError, match=r"recipe-of-mine\.yaml: data\.train: .*" + told.replace("PACKAGE", own)):
        load_recipe(_recipe(tmp_path, f"{{source: '{name.replace('PACKAGE', own)}'}}"))


def test_the_command_line_trains_shows_and_evaluates_what_is_added(
    package: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = package(greys=SOURCE, copy=FAMILY)
    run = str(tmp_path / "run")
    assert main(["show", f"{name}.greys", "count=2", "--out", str(tmp_path / "a.png")]) == 0
    file = _recipe(tmp_path, f"{name}.greys", f"{name}.copy")
    file.write_text(file.read_text() + f"evaluation: [{{task: retrieval, data: {{source: '{name}.greys'}}}}]\n")
    assert main(["train", str(file), "--out", run]) == 0
    config = json.loads((tmp_path / "run/checkpoint/config.json").read_text())
    assert config["family"] == f"{name}.copy"
    _forget(name)
    capsys.readouterr()
    assert main(["eval", run, "--out", str(tmp_path / "again")]) == 2
    told = capsys.readouterr().err
    assert f"names '{name}.greys', which is no part of chiasm" in told
    assert f"--allow {name}\n" in told
    assert name not in sys.modules
    assert main(["eval", run, "--out", str(tmp_path / "again"), "--allow", name]) == 0


def test_a_checkpoint_imports_nothing_that_the_user_has_not_named(package: Make, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    name = package(copy=f"open({str(mark)!r}, 'w').close()\n" + FAMILY)
    _offer(tmp_path / "site", "chiasm.models", short=f"{name}.copy")
    with allowing(ANY):
        config = parse(ModelConfig, {"family": "short", "size": "small"})  # type: ignore[type-abstract]
    assert mark.exists()
    clip = tiny_clip()
    assert isinstance(config, CLIPConfig)
    own = replace(config, vision=clip.config.vision, text=clip.config.text, width=clip.config.width)
    model = own.model()(own, clip.processor)
    model.load_state_dict(clip.state_dict())
    model_folder.save(model, tmp_path / "model")
    for family in (f"{name}.copy", f"{name}.copy:Config", "short"):
        file = tmp_path / "model/config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "family": family}))
        _forget(name)
        mark.unlink()
        for allow in ((), "another_package", f"{name}_too"):
            with pytest.raises(
                RecipeError, match=rf"config\.json: names '{name}\.copy'.*allow it: .*allow=\['{name}'\]"
            ):
                chiasm.load(tmp_path / "model", allow=allow)
        assert not mark.exists()
        again = chiasm.load(tmp_path / "model", allow=[name])
        assert mark.exists()
        assert type(again).__name__ == "Copy"
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in clip.state_dict().items())
        assert type(chiasm.load(tmp_path / "model")).__name__ == "Copy"  # the program has imported it by now
    file.write_text(json.dumps({**json.loads(file.read_text()), "family": "os.path:join"}))
    with pytest.raises(RecipeError, match=r"'join' is no ModelConfig in the module os\.path"):
        chiasm.load(tmp_path / "model", allow="os")


def test_the_processor_and_the_recipe_of_a_checkpoint_import_nothing_either(package: Make, tmp_path: Path) -> None:
    name = package(greys=SOURCE)
    entries = f"evaluation: [{{task: retrieval, data: {{source: '{name}.greys'}}}}]"
    (tmp_path / "tasks.yaml").write_text(entries)
    with pytest.raises(RecipeError, match=f"names '{name}.greys', which is no part of chiasm"):
        load_tasks(tmp_path / "tasks.yaml", of_checkpoint=True)
    assert name not in sys.modules
    from tests.models.generative_models import small_llava

    model_folder.save(small_llava(), tmp_path / "model")
    file = next((tmp_path / "model/processor").glob("*.json"), None)
    settings = tmp_path / "model/processor/processor.json"
    assert file is not None
    content = json.loads(settings.read_text())
    content["layout"]["layout"] = f"{name}.greys"
    settings.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=f"names '{name}.greys'"):
        chiasm.load(tmp_path / "model")
    assert name not in sys.modules


def test_a_module_beside_the_recipe_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"beside_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    before = list(sys.path)
    recipe = load_recipe(_recipe(tmp_path, f"{{source: '{name}:Greys'}}"))
    assert dump(recipe.data.train)["source"] == f"{name}:Greys"  # a name without a dot would be one of chiasm's own
    assert sys.path == before
    _forget(name)


def test_a_checkpoint_of_an_older_chiasm_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_folder.save(tiny_clip(), tmp_path / "model")
    file = tmp_path / "model/config.json"
    assert json.loads(file.read_text())["chiasm"] == chiasm.__version__
    file.write_text(json.dumps({**json.loads(file.read_text()), "chiasm": "0.1.0"}))
    with pytest.raises(
        CheckpointError, match=rf"written by chiasm 0\.1\.0, whose checkpoints version {chiasm.__version__}"
    ):
        chiasm.load(tmp_path / "model")
    run = [
        "train",
        "clip/scenes",
        "training.steps=1",
        "data.batch_size=4",
        "evaluation=[]",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(run) == 0
    file = tmp_path / "run/checkpoint/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chiasm": "0.1.0"}))
    assert main([*run, "--resume"]) == 2
    assert "was written by chiasm 0.1.0" in capsys.readouterr().err
