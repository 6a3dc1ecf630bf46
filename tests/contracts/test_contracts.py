"""The contracts bite: a choice that breaks its promise is told so, and one that keeps it passes all of them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.cli import main
from chiasm.contracts import components, models, sources
from chiasm.contracts.contract import Contract, Trial, outcomes
from chiasm.data.batch import Batch, Images
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import ContractError
from chiasm.models import clip
from chiasm.models import folder as model_folder
from chiasm.models.model import Model


@dataclass(frozen=True)
class Numbers(Source):
    """Grey pictures. count: of them. broken: what is wrong with them."""

    count: int = 3
    broken: str = ""
    asked: list[int] = field(default_factory=list, compare=False, init=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.asked.append(index)
        key = "alike" if self.broken == "keys" else str(index)
        level = len(self.asked) if self.broken == "drifts" else index
        label = str(len(self.asked)) if self.broken == "relabels" else None
        return Sample(key, (Image(np.full((8, 8, 3), level, np.uint8)),), (f"number {index}",), label=label)

    def at(self, position: int, seed: int) -> int:
        if self.broken == "order":
            return self.count
        self.asked.append(position)
        return len(self.asked) % self.count if self.broken == "remembers" else super().at(position, seed)


@pytest.mark.parametrize(
    ("broken", "contract", "told"),
    [
        ("keys", sources.gives_samples, r"source\[1\] and source\[0\] share the key 'alike'"),
        ("drifts", sources.gives_the_same_sample_again, "is not the same each time"),
        ("relabels", sources.gives_the_same_sample_again, "is not the same each time"),
        ("order", sources.its_order_follows_from_seed_and_position, "indices outside of 0 to 2"),
        ("remembers", sources.its_order_follows_from_seed_and_position, "depends on what was asked before"),
    ],
)
def test_a_broken_source_is_told(
    broken: str, contract: Contract, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract(Trial(Numbers, tmp_path))
    monkeypatch.setattr(Numbers, "example", classmethod(lambda cls, folder: {"broken": broken}))
    with pytest.raises(ContractError, match=told):
        contract(Trial(Numbers, tmp_path))


def test_what_every_choice_promises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [found for found in outcomes(clip.Config) if found.problem and found.promise.startswith("It says")]
    monkeypatch.setattr(sys.modules[__name__], "__doc__", "")
    with pytest.raises(ContractError, match="needs a docstring that says what it is"):
        components.says_what_it_is(Trial(Numbers, tmp_path))

    class Undecorated(Numbers):
        """A field of its own, which no recipe can set."""

        extra: int = 3

    class Plain(Source):
        """No dataclass, so that no entry can be parsed into it."""

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Sample:
            return Sample(str(index), ())

    for kind in (Undecorated, Plain):
        with pytest.raises(ContractError, match=f"the class {kind.__name__} must be decorated"):
            components.is_a_frozen_dataclass(Trial(kind, tmp_path))
    with pytest.raises(ContractError, match="the class Plain must be decorated"):
        sources.gives_samples(Trial(Plain, tmp_path))
    monkeypatch.setattr(Numbers, "example", classmethod(lambda cls, folder: {"cuont": 2}))
    with pytest.raises(ContractError, match=r"its example\(\) gives no Numbers: .*did you mean 'count'"):
        components.is_written_and_read_back(Trial(Numbers, tmp_path))
    monkeypatch.setattr(Numbers, "example", classmethod(lambda cls, folder: None))
    with pytest.raises(ContractError, match=r"its example\(\) gives None, which is no mapping"):
        components.is_written_and_read_back(Trial(Numbers, tmp_path))


class Lopsided(clip.CLIP):
    """CLIP, with what the test breaks."""

    broken = ""

    def encode_images(self, images: Images) -> Tensor:
        x_ND = super().encode_images(images)
        return x_ND - x_ND.mean(0) if self.broken == "company" else x_ND.detach() if self.broken == "cut" else x_ND

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {} if self.broken == "silent" else super().losses(batch)

    def embed_texts(self, texts: Any) -> Tensor:
        if self.broken == "letters":
            texts = list(texts)
        found = super().embed_texts(texts)
        if self.broken == "empty" and not len(texts):
            return found[:, :1]
        return 2 * found if self.broken == "length" else found

    def score(self, images: Any, texts: Any) -> Tensor:
        return 2 * super().score(images, texts) if self.broken == "scaled" else super().score(images, texts)


@dataclass(frozen=True)
class LopsidedConfig(clip.Config):
    """As CLIP's."""

    @classmethod
    def model(cls) -> type[clip.CLIP]:
        return Lopsided


_clip = clip.SIZES["small"]
SIZES = {"small": LopsidedConfig(_clip.vision, _clip.text, _clip.width)}


@pytest.mark.parametrize(
    ("broken", "contract", "told"),
    [
        ("company", models.parts_of_a_batch_add_up, "the feature 'image' depends on the other samples of its batch"),
        ("company", models.embeddings_do_not_depend_on_company, "embedding depends on those beside it|unit length"),
        ("cut", models.losses_reach_all_that_learns, r"no gradient reaches .*vision\."),
        ("silent", models.losses_reach_all_that_learns, "gives no loss"),
        ("length", models.embeddings_do_not_depend_on_company, "embeddings are not of unit length"),
        ("empty", models.embeddings_do_not_depend_on_company, r"nothing embedded is of shape \(0, 1\)"),
        ("scaled", models.embeddings_do_not_depend_on_company, "scores are not the cosines of the embeddings"),
        ("letters", models.refuses_what_is_no_list, "'a red circle' is embedded, though it is no list of texts"),
    ],
)
def test_a_broken_family_is_told(
    broken: str, contract: Contract, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract(Trial(LopsidedConfig, tmp_path))
    monkeypatch.setattr(Lopsided, "broken", broken)
    with pytest.raises(ContractError, match=told):
        contract(Trial(LopsidedConfig, tmp_path))


def test_a_checkpoint_that_gives_back_another_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.a_checkpoint_gives_it_back(Trial(LopsidedConfig, tmp_path / "a"))
    load = model_folder.load

    def other(folder: Path) -> Model:
        model = load(folder)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return model

    monkeypatch.setattr(model_folder, "load", other)
    with pytest.raises(ContractError, match="another value comes back for"):
        models.a_checkpoint_gives_it_back(Trial(LopsidedConfig, tmp_path / "b"))


def test_the_command_checks_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"checked_{abs(hash(tmp_path))}"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / name / "recipes").mkdir(parents=True)
    (tmp_path / name / "__init__.py").write_text("")
    source = (
        '"""Grey pictures, each with its number."""\nfrom dataclasses import dataclass\nimport numpy as np\n'
        "from chiasm.data.image import Image\nfrom chiasm.data.sample import Sample\n"
        "from chiasm.data.source import Source\n\n@dataclass(frozen=True)\nclass Greys(Source):\n"
        '    """count: of them."""\n    count: int = 4\n    def __len__(self):\n        return self.count\n'
        "    def __getitem__(self, index):\n        picture = Image(np.full((64, 64, 3), index, np.uint8))\n"
        '        return Sample(KEY, (picture,), (f"number {index}",))\n'
    )
    (tmp_path / name / "greys.py").write_text(source.replace("KEY", "str(index)"))
    (tmp_path / name / "recipes/greys.yaml").write_text(
        f"# A small CLIP on grey pictures.\nname: greys\ndata: {{train: {{source: {name}.greys}}, batch_size: 2}}\n"
        "model: {family: clip, size: small}\nprocessor: {tokenizer: {learn: 300}, text: {context: 40}, image: "
        "{size: 64}}\ntraining: {steps: 9, learning_rate: 1e-3}\n"
    )
    assert main(["check", name, "--verbose"]) == 0
    told = capsys.readouterr().out
    assert f"kept    source: {name}.greys: It has samples" in told
    assert "kept    recipe: greys: Cut short to two steps" in told
    assert f"{name}: 1 choices, 1 recipes: " in told
    assert " 0 broken" in told
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]
    (tmp_path / name / "greys.py").write_text(source.replace("KEY", "undefined"))
    assert main(["check", f"{name}.greys"]) == 1
    assert "NameError: name 'undefined' is not defined (" in capsys.readouterr().out
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]
    (tmp_path / name / "greys.py").write_text(source.replace("KEY", "__import__('json').loads('')"))
    assert main(["check", f"{name}.greys"]) == 1
    told = capsys.readouterr().out
    assert told.count("JSONDecodeError") == 1
    assert told.count("        as above\n") == 1
    assert re.search(r"JSONDecodeError: .*greys\.py:\d+\)", told), "the line of the package itself"
    assert main(["check", "json"]) == 2
    assert "json defines no choice of a recipe" in capsys.readouterr().err
    (tmp_path / name / "unfinished.py").write_text(source.partition("    def __getitem__")[0])
    assert main(["check", f"{name}.unfinished"]) == 2
    assert "has no recipes; Greys leaves __getitem__ abstract" in capsys.readouterr().err


def test_the_command_checks_every_recipe_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"recipes_{abs(hash(tmp_path))}"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / name / "recipes").mkdir(parents=True)
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "recipes/a.yaml").write_text("name: a\nmodle: clip\n")
    (tmp_path / name / "recipes/b.yaml").write_text("# A recipe without any data.\nname: b\n")
    assert main(["check", name, "--verbose"]) == 1
    told = capsys.readouterr().out
    assert "broken  recipe: a: Its first line is a comment" in told
    assert "did you mean 'model'" in told
    assert "kept    recipe: b: Its first line is a comment" in told
    assert "broken  recipe: b: Cut short to two steps" in told
    assert f"{name}: 0 choices, 2 recipes: 1 promises kept, 3 broken" in told
