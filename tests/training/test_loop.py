from __future__ import annotations

import io
import json
import math
import os
import signal
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._dynamo.utils import counters

from chiasm.adaptation.adapted import adapt
from chiasm.adaptation.adapters import lora
from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.errors import TrainingError
from chiasm.models import clip
from chiasm.models.model import Model
from chiasm.nn import precision
from chiasm.training import loop as loop_module
from chiasm.training.loop import Loop
from chiasm.training.settings import PartSettings, Training
from tests.worlds import Patches, tiny_clip, tiny_processor


def _loop(folder: Path, model: Model | None = None, console: Console | None = None, **changes: Any) -> Loop:
    settings = Training(**{"steps": 12, "learning_rate": 1e-3, "device": "cpu", "log_every": 1, **changes})
    reader = Reader(Patches(64), tiny_processor(), 16, seed=1)
    shown = console or Console(quiet=True)
    return Loop(model or tiny_clip(), reader, settings, folder, recipe="name: test\n", console=shown)


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _weights(loop: Loop) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def _parameter(loop: Loop, name: str) -> torch.nn.Parameter:
    return loop.model.get_parameter(name)


def test_one_step_is_adamw_on_the_clipped_gradient(tmp_path: Path) -> None:
    """The loop's first step, against torch's own pieces put together by hand."""
    loop = _loop(tmp_path, steps=1, clip_norm=0.1, weight_decay=0.2)
    loop.run()
    model = tiny_clip()
    batch = next(iter(Reader(Patches(64), tiny_processor(), 16, seed=1)))
    learned = [model.vision.get_parameter("position"), model.text.get_parameter("position")]
    matrices = [p for p in model.parameters() if p.ndim >= 2 and all(p is not one for one in learned)]
    others = [*(p for p in model.parameters() if p.ndim < 2), *learned]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.2}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    torch.autograd.backward(model.losses(batch)["contrastive"])
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimiser.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loop.model.state_dict()[name], tensor)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, optimiser: str) -> None:
    whole = _loop(tmp_path / "whole", ema=0.9, optimiser=optimiser)
    whole.run()
    first = _loop(tmp_path / "cut", ema=0.9, checkpoint_every=5, optimiser=optimiser)
    for batch in islice(iter(first.reader), 7):  # stops between two checkpoints
        first._step(batch)
    second = _loop(tmp_path / "cut", tiny_clip(seed=9), ema=0.9, checkpoint_every=5, optimiser=optimiser)
    torch.manual_seed(77)
    assert second.resume() == 5
    second.run()
    assert second.average is not None
    assert whole.average is not None
    for name, tensor in _weights(whole).items():
        assert torch.equal(_weights(second)[name], tensor), name
    for name, tensor in whole.average.weights.items():
        assert torch.equal(second.average.weights[name], tensor), name
    told = [(line["step"], line["loss"]) for line in _lines(tmp_path / "cut")]
    assert told == [(line["step"], line["loss"]) for line in _lines(tmp_path / "whole")]


def test_dropout_too_goes_on_with_the_same_random_numbers(tmp_path: Path) -> None:
    def with_dropout(seed: int) -> clip.CLIP:
        model = tiny_clip(seed)
        model.image_dropout.p = 0.3
        return model

    torch.manual_seed(3)
    whole = _loop(tmp_path / "whole", with_dropout(0))
    torch.manual_seed(3)
    whole.run()
    cut = _loop(tmp_path / "cut", with_dropout(0), checkpoint_every=4)
    cut.model.train()
    torch.manual_seed(3)
    for batch in islice(iter(cut.reader), 6):
        cut._step(batch)
    again = _loop(tmp_path / "cut", with_dropout(5))
    assert again.resume() == 4
    again.run()
    for name, tensor in _weights(whole).items():
        assert torch.equal(_weights(again)[name], tensor), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_stops(number: signal.Signals, tmp_path: Path) -> None:
    loop = _loop(tmp_path, steps=1000)
    seen: list[int] = []

    def losses(batch: Batch) -> dict[str, Tensor]:
        seen.append(len(batch))
        if len(seen) == 3:
            os.kill(os.getpid(), number)
        return loop.model.losses(batch)

    loop._losses = losses
    before = signal.getsignal(number)
    assert loop.run() is False
    assert loop.checkpoints.steps() == [3]
    assert signal.getsignal(number) is before


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    loop = _loop(tmp_path, checkpoint_every=2, keep=2)
    loop.run()
    assert loop.checkpoints.steps() == [8, 10]
    (loop.checkpoints.folder / "step-000099").mkdir()  # what a kill leaves half-written does not count
    assert loop.checkpoints.steps() == [8, 10]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_samples(tmp_path: Path) -> None:
    loop = _loop(tmp_path)
    loop._losses = lambda batch: {"contrastive": loop.model.losses(batch)["contrastive"] * math.nan}
    before = _weights(loop)
    with pytest.raises(TrainingError, match="not finite at step 1"):
        loop.run()
    facts = json.loads((tmp_path / "nonfinite-step-000001.json").read_text())
    assert len(facts["samples"]) == 16
    assert "log_scale" in facts["gradients"]
    tensors = load_file(tmp_path / "nonfinite-step-000001.safetensors")
    batch = next(iter(Reader(Patches(64), tiny_processor(), 16, seed=1)))
    assert batch.images is not None
    assert batch.texts is not None
    assert torch.equal(tensors["images.pixels"], batch.images.pixels)
    assert torch.equal(tensors["texts.ids_BT"], batch.texts.ids_BT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in _weights(loop).items())


def test_a_run_that_breaks_off_leaves_no_threads(tmp_path: Path) -> None:
    loop = _loop(tmp_path)
    loop._losses = lambda batch: {"contrastive": loop.model.losses(batch)["contrastive"] * math.nan}
    with pytest.raises(TrainingError) as kept:  # with the frames of the run, which keep its generators
        loop.run()
    assert kept.traceback
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("reader", "planner"))]


def test_or_its_step_is_skipped_and_counted(tmp_path: Path) -> None:
    loop = _loop(tmp_path, steps=4, on_nonfinite="skip")
    real = loop.model.losses
    loop._losses = lambda batch: {"c": real(batch)["contrastive"] * (math.inf if loop.progress.step == 1 else 1.0)}
    loop.run()
    assert loop.progress.skipped_steps == 1
    assert all(tensor.isfinite().all() for tensor in _weights(loop).values())


def test_bf16_learns_in_low_precision_and_keeps_full_weights(tmp_path: Path) -> None:
    loop = _loop(tmp_path, steps=3, precision="bf16")
    seen: list[torch.dtype] = []
    head = loop.model.get_submodule("text_head")
    head.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    loop.run()
    assert set(seen) == {torch.bfloat16}
    assert all(tensor.dtype == torch.float32 for tensor in _weights(loop).values())
    assert [line["loss"] for line in _lines(tmp_path)] == pytest.approx(_full_losses(tmp_path / "full"), rel=0.05)


def test_auto_is_chosen_once_and_kept_where_another_machine_would_choose_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _loop(tmp_path / "whole", precision="bf16")
    whole.run()
    _bf16_is(4.0, monkeypatch)
    first = _loop(tmp_path / "cut", precision="auto", checkpoint_every=5)
    first.run()
    assert _lines(tmp_path / "cut")[0] == {"step": 0, "precision": "bf16", "bf16_gain": 4.0}
    _bf16_is(0.2, monkeypatch)
    told = Console(record=True, width=200, quiet=False, file=io.StringIO())
    second = _loop(tmp_path / "cut", tiny_clip(seed=9), precision="auto", console=told)
    assert second.resume() == 10
    assert "auto goes on in bf16, in which this run began; here a new run would take float32" in told.export_text()
    second.run()
    assert second.pace.work.dtype == torch.bfloat16
    for name, tensor in _weights(whole).items():
        assert torch.equal(_weights(second)[name], tensor), name
    fresh = _loop(tmp_path / "fresh", precision="auto", steps=1)
    fresh.run()
    assert _lines(tmp_path / "fresh")[0] == {"step": 0, "precision": "float32", "bf16_gain": 0.2}


def _bf16_is(gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this device multiply bf16 matrices so many times as fast as float32 ones."""
    for module in (precision, loop_module):
        monkeypatch.setattr(module, "bf16_gain", lambda _device: gain)


def _full_losses(folder: Path) -> list[float]:
    _loop(folder, steps=3).run()
    return [line["loss"] for line in _lines(folder)]


def test_fp16_skips_steps_that_overflow_until_its_scale_fits(tmp_path: Path) -> None:
    """Gradients times 2^16 and 2^15 are above what float16 holds; at 2^14 they fit."""
    loop = _loop(tmp_path, steps=4, precision="fp16", checkpoint_every=3)
    weight = _parameter(loop, "log_scale")

    def losses(batch: Batch) -> dict[str, Tensor]:
        held = weight.half() * 1  # the gradient of this product is float16: it overflows above 65504
        return {"c": (held * 3).float() * 1.0}

    loop._losses = losses
    before = _weights(loop)["log_scale"]
    batches = iter(loop.reader)
    for step, scale in enumerate([2.0**15, 2.0**14, 2.0**14]):
        loop._step(next(batches))
        assert loop.scaler.get_scale() == scale
        assert torch.equal(_weights(loop)["log_scale"], before) == (step < 2)
    assert loop.progress.skipped_steps == 2
    again = _loop(tmp_path, steps=4, precision="fp16")
    assert again.resume() == 3
    assert again.scaler.get_scale() == 2.0**14
    assert again.progress.skipped_steps == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler itself calls what is deprecated
def test_compiled_losses_learn_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the heads alone: to compile the towers takes a minute, and shows no more of the loop."""

    def heads(model: clip.CLIP, batch: Batch) -> dict[str, Tensor]:
        assert batch.texts is not None
        given = batch.texts.ids_BT[:, :1].float() / 320
        difference = model.image_head(given.expand(-1, 32)) - model.text_head(given.expand(-1, 32))
        return {"c": difference.square().mean() * model.log_scale}

    monkeypatch.setattr(clip.CLIP, "losses", heads)
    plain, compiled = _loop(tmp_path / "plain", steps=3), _loop(tmp_path / "compiled", steps=3, compile=True)
    plain.run()
    counters.clear()
    compiled.run()
    assert counters["stats"]["unique_graphs"] > 0
    for name, tensor in _weights(plain).items():
        torch.testing.assert_close(_weights(compiled)[name], tensor, atol=1e-5, rtol=1e-4)


def test_tensors_that_no_loss_reaches_are_named(tmp_path: Path) -> None:
    model = tiny_clip()
    model.register_parameter("forgotten", torch.nn.Parameter(torch.ones(3)))
    _loop(tmp_path, model, steps=2).run()
    assert [line["without_gradient"] for line in _lines(tmp_path) if "without_gradient" in line] == [["forgotten"]]


def test_with_adapters_they_are_named_a_step_later(tmp_path: Path) -> None:
    """Adapters begin with a zero, behind which no gradient arrives in the first step."""
    pytest.importorskip("peft", reason="pip install peft")
    model = adapt(tiny_clip(), {"text": lora.Config(rank=2)})
    model.register_parameter("forgotten", torch.nn.Parameter(torch.ones(3)))
    _loop(tmp_path, model, steps=3).run()
    told = [(line["step"], line["without_gradient"]) for line in _lines(tmp_path) if "without_gradient" in line]
    assert told == [(2, ["forgotten"])]


def test_frozen_parts_do_not_change_and_stay_in_eval_mode(tmp_path: Path) -> None:
    loop = _loop(tmp_path, parts={"vision": PartSettings(frozen=True)})
    before = _weights(loop)
    loop.run()
    assert not loop.model.get_submodule("vision").training
    assert loop.model.get_submodule("text").training
    for name, tensor in _weights(loop).items():
        assert torch.equal(tensor, before[name]) == name.startswith("vision."), name


def test_a_part_of_a_frozen_part_may_learn(tmp_path: Path) -> None:
    loop = _loop(tmp_path, parts={"vision.blocks": PartSettings(), "vision": PartSettings(frozen=True)})
    before = _weights(loop)
    loop.run()
    assert not loop.model.get_submodule("vision.embed").training
    assert loop.model.get_submodule("vision.blocks.0").training
    for name, tensor in _weights(loop).items():
        kept = name.startswith("vision.") and not name.startswith("vision.blocks.")
        assert torch.equal(tensor, before[name]) == kept, name


def test_evaluation_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    plain = _loop(tmp_path / "plain")
    plain.run()
    watched = _loop(tmp_path / "watched", evaluate_every=3)
    watched.evaluate = lambda model: {"drawn": float(torch.rand(())), "training": float(model.eval().training)}
    watched.run()
    assert all(torch.equal(_weights(watched)[name], tensor) for name, tensor in _weights(plain).items())
    assert [line["step"] for line in _lines(tmp_path / "watched") if "evaluation" in line] == [3, 6, 9, 12]


def test_the_average_follows_its_formula(tmp_path: Path) -> None:
    loop = _loop(tmp_path, steps=3, ema=0.5)
    expected = _weights(loop)["image_head.weight"]
    for step, batch in enumerate(islice(iter(loop.reader), 3), start=1):
        loop._step(batch)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * _parameter(loop, "image_head.weight").detach()
    assert loop.average is not None
    torch.testing.assert_close(loop.average.weights["image_head.weight"], expected)


def test_losses_are_weighed_and_only_watched_ones_are_not_summed(tmp_path: Path) -> None:
    loop = _loop(tmp_path, steps=1, loss_weights={"a": 2.0, "b": 0.5})
    one = torch.ones((), requires_grad=True)
    loop._losses = lambda batch: {"a": one * 3, "b": one * 4, "_watched": one * 100}
    loop._step(next(iter(loop.reader)))
    line = _lines(tmp_path)[-1]
    assert line["loss"] == 3 * 2 + 4 * 0.5
    assert line["losses"] == {"a": 3, "b": 4, "_watched": 100}


def test_accumulated_gradients_are_the_mean_over_the_parts(tmp_path: Path) -> None:
    """For losses that take each sample on its own; those that compare samples are in test_cached.py."""
    model = _SamplesAlone(tiny_clip())
    loop = _loop(tmp_path, model, accumulate=3)  # 16 samples: parts of 5, 6 and 5
    batch = next(iter(loop.reader))
    told = loop._backward(batch)
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loop.optimiser.zero_grad()
    whole = model.losses(batch)["closeness"]
    torch.autograd.backward(whole)
    torch.testing.assert_close(found, [p.grad for p in model.parameters() if p.grad is not None])
    assert told["loss"] == pytest.approx(float(whole.detach()), abs=1e-6)


class _SamplesAlone(Model):
    """How close each picture is to its own text."""

    def __init__(self, towers: Model) -> None:
        super().__init__(towers.config, towers.processor)
        self.towers = towers

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(self.towers, clip.CLIP)
        features = self.towers.features(batch)
        return {"closeness": -(features["image"] * features["text"]).sum(1).mean()}


def test_muon_takes_the_matrices_of_linear_layers_and_adamw_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of each kind of tensor, against torch's own optimisers run apart from each other."""
    loop = _loop(tmp_path, steps=1, optimiser="muon", clip_norm=None, weight_decay=0.2)
    loop.run()
    model = tiny_clip()
    torch.autograd.backward(model.losses(next(iter(Reader(Patches(64), tiny_processor(), 16, seed=1))))["contrastive"])
    weight, embedding = model.vision.get_parameter("blocks.0.mlp.up.weight"), model.text.get_parameter("embed.weight")
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)  # torch's products, too, run in float32
    torch.optim.Muon([weight], lr=1e-3, weight_decay=0.2, adjust_lr_fn="match_rms_adamw").step()
    torch.optim.AdamW([embedding], lr=1e-3, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6).step()
    torch.testing.assert_close(_parameter(loop, "vision.blocks.0.mlp.up.weight"), weight)
    torch.testing.assert_close(_parameter(loop, "text.embed.weight"), embedding)
    names = [name for group in loop.optimiser.param_groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chiasm.errors import CheckpointError
    from chiasm.training import slices

    loop = _loop(tmp_path, steps=6, checkpoint_every=2)
    real = save_file

    def full(tensors: dict[str, Tensor], file: Path, **rest: Any) -> None:
        if "step-000004" in str(file):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, file, **rest)

    monkeypatch.setattr(slices, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; older checkpoints are kept"):
        loop.run()
    assert loop.checkpoints.steps() == [2]
    assert not list(loop.checkpoints.folder.glob("*.new"))
    assert _loop(tmp_path).resume() == 2


@pytest.mark.slow
def test_a_small_clip_learns_which_caption_fits(tmp_path: Path) -> None:
    """64 pairs of colours; a picture's caption among all: chance is 1/64."""
    from chiasm.evaluation.run import quick_scores
    from chiasm.evaluation.tasks.retrieval import Retrieval

    loop = _loop(tmp_path, steps=250, learning_rate=3e-3, warmup=0.1)
    loop.run()
    scores = quick_scores(loop.model, [Retrieval(Patches(64), captions="first")])
    assert scores["retrieval: image to text R@1"] > 0.6
    assert scores["retrieval: text to image R@1"] > 0.6
