"""SigLIP 2's two losses against what a reader of the paper would write with loops, and what they do to a tower."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.data.batch import Batch, PixelImages
from chiasm.data.reader import Reader
from chiasm.errors import RecipeError
from chiasm.models import clip, siglip
from chiasm.nn.image_towers import efficientnet_lite
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.text_towers import transformer
from chiasm.objectives.siglip2 import Config, SigLIP2Objective, Views
from tests.objectives.worlds import VIEWS, loop, made, tiny_siglip
from tests.worlds import Patches, tiny_clip, tiny_processor


def _batch(objective: SigLIP2Objective, position: int = 0, count: int = 6) -> Batch:
    model = tiny_siglip()
    batch, skipped = Reader(Patches(60), model.processor, count, seed=1, extend=objective.extend).batch_at(position)
    assert not skipped
    assert batch is not None
    return batch


def _built() -> tuple[siglip.SigLIP, SigLIP2Objective]:
    model, objective = made("siglip2")
    assert isinstance(objective, SigLIP2Objective)
    assert isinstance(model, siglip.SigLIP)
    return model, objective


def test_views_and_masks_belong_to_positions() -> None:
    """However many samples are read with one, it is seen the same; and never twice alike."""
    _, objective = _built()
    whole = _batch(objective).part(Views)
    assert whole.whole.pixels.shape == (6, 3, 16, 16)
    assert whole.local.pixels.shape == (12, 3, 16, 16)
    assert whole.hidden_BP.sum(1).tolist() == [8] * 6
    parts = [_batch(objective, position, 2).part(Views) for position in (0, 2, 4)]
    assert torch.equal(torch.cat([part.whole.pixels for part in parts]), whole.whole.pixels)
    assert torch.equal(torch.cat([part.local.pixels for part in parts]), whole.local.pixels)
    assert torch.equal(torch.cat([part.hidden_BP for part in parts]), whole.hidden_BP)
    later = _batch(objective, 60).part(Views)  # the next epoch
    assert not torch.equal(later.hidden_BP, whole.hidden_BP)
    assert len({tuple(row.tolist()) for row in whole.hidden_BP}) > 4
    split = _batch(objective).split(3)[1].part(Views)
    assert torch.equal(split.local.pixels, whole.local.pixels[4:8])


def _head(head: torch.nn.Module, x_D: Tensor) -> Tensor:
    """DINO's head, written out for one vector."""
    first, second, third = (head.get_submodule(f"layers.{at}") for at in (0, 2, 4))
    h = third(F.gelu(second(F.gelu(first(x_D)))))
    directions = head.get_parameter("prototypes_KE")
    return torch.stack([(h / h.norm()) @ (one / one.norm()) for one in directions])


def test_the_losses_are_those_of_the_paper_written_with_loops() -> None:
    model, objective = _built()
    model.double().eval()
    objective.double().eval()
    objective.begin_step(model, 2, 8)
    objective.centre_K.normal_()
    objective.patch_centre_K.normal_()
    with torch.no_grad():
        for parameter in objective.teacher.parameters():  # another model than the student
            parameter.add_(torch.randn_like(parameter) * 0.02)
    batch = _batch(objective)
    views = batch.part(Views)
    batch = batch.adding(
        Views(
            views.whole.with_pixels(views.whole.pixels.double()),
            views.local.with_pixels(views.local.pixels.double()),
            views.hidden_BP,
        )
    )
    assert batch.images is not None
    batch = Batch(batch.keys, batch.images.with_pixels(batch.images.pixels.double()), batch.texts, added=batch.added)
    losses = objective.losses(model, batch)
    views = batch.part(Views)
    teacher, student = objective.teacher["vision"], model.vision
    distilled, predicted = [], []
    for at in range(6):
        whole = views.whole.of_rows(at, at + 1)
        p = ((_head(objective.teacher["head"], teacher(whole)[0]) - objective.centre_K) / 0.07).softmax(0)
        for view in range(2):
            local = views.whole.with_pixels(views.local.pixels[2 * at + view][None]).of_rows(0, 1)
            q = (_head(objective.head, student(local)[0]) / 0.1).softmax(0)
            distilled.append(-(p * q.log()).sum())
        # The masked pass by hand: embedded patches are replaced before positions are added.
        tower = model.vision
        x_PD = tower.embed(whole.pixels).flatten(2)[0].T  # type: ignore[operator]
        hidden = views.hidden_BP[at]
        assert objective.mask_token is not None
        x_PD = torch.where(hidden[:, None], objective.mask_token, x_PD) + tower.get_parameter("position")
        x = x_PD[None]
        for block in tower.blocks:  # type: ignore[union-attr]
            x = block(x)
        seen_PD, known_PD = tower.norm(x)[0], teacher.tokens(whole)[0]  # type: ignore[operator]
        for place in hidden.nonzero()[:, 0].tolist():
            scores = _head(objective.teacher["patch_head"], known_PD[place])
            p = ((scores - objective.patch_centre_K) / 0.07).softmax(0)
            q = (_head(objective.patch_head, seen_PD[place]) / 0.1).softmax(0)
            predicted.append(-(p * q.log()).sum())
    torch.testing.assert_close(losses["self_distillation"], torch.stack(distilled).mean())
    torch.testing.assert_close(losses["masked_prediction"], torch.stack(predicted).mean())
    torch.testing.assert_close(losses["sigmoid"], model.losses(batch)["sigmoid"])


def test_no_gradient_reaches_the_teacher_and_each_part_of_the_student_has_one() -> None:
    model, objective = _built()
    objective.begin_step(model, 2, 8)
    losses = objective.losses(model, _batch(objective))
    torch.autograd.backward(losses["self_distillation"] + losses["masked_prediction"])
    assert all(one.grad is None for one in objective.teacher.parameters())
    learned = [name for name, one in objective.named_parameters() if one.grad is not None and one.grad.any()]
    assert learned == [name for name, one in objective.named_parameters() if one.requires_grad]
    assert all(one.grad is not None for one in model.vision.blocks.parameters())  # type: ignore[union-attr]
    assert all(one.grad is None for one in model.text.parameters())


def test_the_teacher_follows_from_where_it_begins() -> None:
    model, objective = _built()
    before = copy.deepcopy(objective.teacher.state_dict())
    with torch.no_grad():
        model.vision.position.add_(1.0)  # type: ignore[operator]
    objective.begin_step(model, 1, 8)
    objective.end_step(model)
    assert not objective.active
    for name, tensor in objective.teacher.state_dict().items():  # not yet
        assert torch.equal(tensor, before[name])
    objective.begin_step(model, 2, 8)  # a quarter of 8
    begun = model.vision.position.detach().clone()  # type: ignore[operator]
    assert torch.equal(objective.teacher.get_parameter("vision.position"), begun)
    with torch.no_grad():
        model.vision.position.add_(1.0)  # type: ignore[operator]
    objective.losses(model, _batch(objective))
    objective.end_step(model)
    found = objective.teacher.get_parameter("vision.position")
    torch.testing.assert_close(found, begun * 0.98 + (begun + 1.0) * 0.02)
    assert objective.centre_K.any()
    assert objective.patch_centre_K.any()


def _compared(objective: SigLIP2Objective, model: siglip.SigLIP, shown: PixelImages, taught: Views) -> dict[str, float]:
    """The two losses of a student that sees some pictures, and a teacher that sees others."""
    pooled_BD, tokens_BPD = objective.teacher["vision"].both(taught.whole)  # type: ignore[operator]
    local_BVK = objective.head(model.vision(taught.local)).unflatten(0, (len(shown), -1))
    seen_BPD = model.vision.tokens(shown, PatchMask(taught.hidden_BP, objective.mask_token))
    guessed_BHK = objective.patch_head(objective._at_hidden(seen_BPD, taught, 0))
    whole_BK = objective.teacher["head"](pooled_BD)
    places_BHK = objective.teacher["patch_head"](objective._at_hidden(tokens_BPD, taught, 0))
    return {
        "distilled": float(objective._compared(local_BVK, whole_BK[:, None], objective.centre_K).mean()),
        "predicted": float(objective._compared(guessed_BHK, places_BHK, objective.patch_centre_K).mean()),
    }


def test_a_run_learns_to_tell_its_pictures_by_a_view_and_its_patches_by_their_surroundings(tmp_path: Path) -> None:
    """What a view says is nearer to the teacher's answer for its own picture than to that for another."""
    run = loop(tmp_path, "siglip2", steps=120, learning_rate=2e-3, warmup=0.1)
    run.run()
    lines = [json.loads(line)["losses"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "self_distillation" not in lines[0]
    assert "self_distillation" in lines[-1]
    objective, model = run.objective.eval(), run.model.eval()
    assert isinstance(objective, SigLIP2Objective)
    assert isinstance(model, siglip.SigLIP)
    batch = _batch(objective, count=24)
    views = batch.part(Views)
    moved = Views(views.whole.with_pixels(views.whole.pixels.roll(1, 0)), views.local, views.hidden_BP)
    with torch.no_grad():
        own, others = (_compared(objective, model, views.whole, given) for given in (views, moved))
    for name, value in own.items():
        assert value < 0.8 * others[name], (own, others)


def test_models_that_cannot_be_trained_so_are_told_in_a_sentence() -> None:
    lite = clip.Config(efficientnet_lite.Config(image_size=32), transformer.Config(320, 16, 32, 1, 2, 64), width=16)
    with pytest.raises(RecipeError, match="hides patches of pictures, which a EfficientNetLiteTower does not have"):
        VIEWS.check(clip.CLIP(lite, tiny_processor()))
    with pytest.raises(RecipeError, match="hides none of them, or all"):
        Config(hidden=0.01).check(tiny_clip())
    with pytest.raises(RecipeError, match=r"objective\.start is a share"):
        Config(start=2.0)
