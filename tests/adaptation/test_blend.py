"""Blended weights: closed forms, the bits at both ends, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import chiasm
from chiasm.adaptation.blend import blend
from chiasm.cli import main
from chiasm.config import dump
from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import Augment, ImageTransform
from chiasm.errors import CheckpointError, RecipeError
from chiasm.evaluation.curve import Curve
from chiasm.models import clip, folder
from chiasm.nn.image_towers import efficientnet_lite
from tests.worlds import Patches, tiny_clip, tiny_processor


def _with(model: clip.CLIP, **changes: Any) -> clip.CLIP:
    return clip.CLIP(replace(model.config, **changes), model.processor)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_weights_lie_on_the_line_between_both(alpha: float) -> None:
    first, second = tiny_clip(0), tiny_clip(1)
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    blended = blend(first, second, alpha).state_dict()
    for name, tensor in blended.items():
        ours, theirs = before[name].double(), second.state_dict()[name].double()
        torch.testing.assert_close(tensor.double(), (1 - alpha) * ours + alpha * theirs, rtol=0, atol=1e-6)
        assert torch.equal(first.state_dict()[name], before[name])


def test_at_both_ends_stand_the_models_themselves_bit_for_bit() -> None:
    first, second = tiny_clip(0), tiny_clip(1)
    second.log_scale.data += 1e30  # so far apart that a sum would round the other away
    images = [sample.image for sample in Patches(8)]
    for alpha, end in ((0.0, first), (1.0, second)):
        found = blend(first, second, alpha)
        assert all(torch.equal(tensor, end.state_dict()[name]) for name, tensor in found.state_dict().items())
        assert isinstance(found, clip.CLIP)
        assert torch.equal(found.embed_images(images), end.embed_images(images))


def test_half_precision_and_counts_of_batches() -> None:
    def model(seed: int) -> clip.CLIP:
        torch.manual_seed(seed)
        config = replace(tiny_clip().config, vision=efficientnet_lite.Config())
        made = clip.CLIP(config, tiny_processor())
        for name, buffer in made.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(seed)
        return made

    counts = {
        alpha: {int(one) for name, one in blend(model(3), model(8), alpha).named_buffers() if "tracked" in name}
        for alpha in (0.4, 0.6)
    }
    assert counts == {0.4: {3}, 0.6: {8}}
    half = blend(tiny_clip(0).half(), tiny_clip(1).half(), 0.5)  # made anew in float32, from values of float16
    expected = (tiny_clip(0).half().image_head.weight.float() + tiny_clip(1).half().image_head.weight.float()) / 2
    torch.testing.assert_close(half.state_dict()["image_head.weight"].float(), expected, rtol=2e-3, atol=1e-4)


def test_what_matters_in_training_alone_may_differ() -> None:
    first = tiny_clip(0)
    second = _with(tiny_clip(1), image_dropout=0.5)
    assert isinstance(first.processor.image, ImageTransform)
    second.processor = PairProcessor(replace(first.processor.image, augment=Augment()), first.processor.tokenizer)
    assert dump(blend(first, second, 0.5).config)["image_dropout"] == 0.5


def test_models_of_another_shape_or_other_input_are_refused() -> None:
    first = tiny_clip(0)
    with pytest.raises(CheckpointError, match=r"cannot be blended: their configs differ in width: 16 and 8"):
        blend(first, _with(first, width=8), 0.5)
    other = tiny_clip(1)
    texts = ["entirely different words to learn from, again and again"]
    other.processor = PairProcessor(
        first.processor.image, Tokenizer(learn_tokenizer(texts, 280), TextTransform(context=16))
    )
    with pytest.raises(CheckpointError, match=r"given different input: their tokenizer\.json differ"):
        blend(first, other, 0.5)
    other.processor = PairProcessor(replace(first.processor.image, mean=(0.4, 0.5, 0.5)), first.processor.tokenizer)
    with pytest.raises(CheckpointError, match=r"processor\.json differ"):
        blend(first, other, 0.5)
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(RecipeError, match="0 to 1"):
            blend(first, tiny_clip(1), alpha)


TASKS = """
name: tasks
data: {train: {source: scenes, count: 8}, batch_size: 2}
processor: {tokenizer: {learn: 300}}
model: {family: clip, size: small}
training: {steps: 1}
evaluation:
  - {task: pairs, data: {source: scenes, seed: 2, count: 6}}
  - {task: retrieval, data: {source: scenes, seed: 2, count: 6}}
"""


def test_the_command_saves_a_blend_and_draws_its_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        folder.save(tiny_clip(seed), tmp_path / name)
    (tmp_path / "tasks.yaml").write_text(TASKS)
    models, out = [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out"
    tasks = ["--tasks", str(tmp_path / "tasks.yaml"), "--alphas", "1,0,0.5"]
    assert main(["blend", *models, "--alpha", "0.25", *tasks, "evaluation.1.limit=3", "--out", str(out)]) == 0
    made = chiasm.load(out)
    expected = blend(tiny_clip(0), tiny_clip(1), 0.25).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in made.state_dict().items())
    curve = Curve.load(out)
    assert (curve.alphas, curve.names) == ((0.0, 0.5, 1.0), ("a", "b"))
    assert list(curve.headlines()) == ["pairs: accuracy", "retrieval: image to text R@1"]
    assert all(len(values) == 3 for values in curve.figures.values())
    assert "<svg" in (out / "blend.html").read_text()
    assert "alpha 0.5:  pairs " in capsys.readouterr().out

    assert main(["blend", *models, "--alpha", "0.5", "--out", str(out)]) == 2
    assert "already holds a model" in capsys.readouterr().err
    assert main(["blend", *models, "--out", str(tmp_path / "none")]) == 2
    assert "--alpha" in capsys.readouterr().err
    assert main(["blend", *models, "--alpha", "2", "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_the_curve_of_a_model_and_itself_is_flat(tmp_path: Path) -> None:
    from chiasm.evaluation.curve import blend_curve
    from chiasm.evaluation.run import quick_scores
    from chiasm.evaluation.tasks.classification import Classification

    model, task = tiny_clip(0), Classification(Patches(32))
    curve = blend_curve(model, model, [task], [0.0, 0.5, 1.0], ("a", "a"))
    assert {name: values[0] for name, values in curve.figures.items()} == quick_scores(model, [task])
    assert all(len(set(values)) == 1 for values in curve.figures.values())
