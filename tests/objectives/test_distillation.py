"""A small CLIP learns from a large one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from chiasm.data.image import Image
from chiasm.data.reader import Reader
from chiasm.errors import CheckpointError, RecipeError
from chiasm.models import clip, limber
from chiasm.models import folder as model_folder
from chiasm.objectives import distillation
from chiasm.objectives.distillation import Distillation, TeacherFeatures, TeacherInput
from tests import peers
from tests.objectives.worlds import loop, teacher
from tests.worlds import Patches, tiny_clip


def _similarities(model: clip.CLIP) -> Tensor:
    """Of 16 pictures to their captions, as distributions."""
    samples = [Patches()[at] for at in range(16)]
    cosines = model.score([sample.image for sample in samples], [sample.captions[0] for sample in samples])
    return (float(model.scale.detach()) * cosines).softmax(1)


def test_the_loss_is_that_of_open_clip_on_the_same_features() -> None:
    """Through the objective: the teacher's own pixels, features, scale."""
    student, objective = tiny_clip(), Distillation(teacher(), tiny_clip().processor)
    batch, _ = Reader(Patches(60), student.processor, 8, seed=1, extend=objective.extend).batch_at(0)
    assert batch is not None
    given = batch.part(TeacherInput)
    assert given.images.pixels.shape == (8, 3, 24, 24)  # as the teacher's processor makes them
    batch = objective.prepare(student, batch)
    made = batch.part(TeacherFeatures)
    assert torch.equal(made.image_BE, objective.teacher.encode_images(given.images))
    losses = objective.losses(student, batch)
    peer = peers.open_clip().loss.DistillClipLoss()
    found = student.features(batch)
    contrastive, distilled = peer(
        found["image"], found["text"], student.scale, made.image_BE, made.text_BE, objective.teacher.scale
    )
    torch.testing.assert_close(losses["contrastive"], contrastive)
    torch.testing.assert_close(losses["distillation"], distilled)


def test_a_teacher_with_the_same_processor_sees_the_same_pixels() -> None:
    student, large = tiny_clip(), tiny_clip(3)
    objective = Distillation(large, student.processor)
    batch, _ = Reader(Patches(60), student.processor, 4, seed=1, extend=objective.extend).batch_at(0)
    assert batch is not None
    assert batch.added == ()
    made = objective.prepare(student, batch).part(TeacherFeatures)
    assert batch.images is not None
    assert torch.equal(made.image_BE, large.encode_images(batch.images))


def test_a_student_comes_to_see_as_its_teacher(tmp_path: Path) -> None:
    """Without its own loss: all that it can learn from is the teacher, whose answers nothing else has."""
    run = loop(tmp_path, "distillation", steps=60, learning_rate=5e-3, loss_weights={"contrastive": 0.0})
    objective, student = run.objective, run.model
    assert isinstance(objective, Distillation)
    assert isinstance(student, clip.CLIP)
    assert isinstance(objective.teacher, clip.CLIP)
    known, before = _similarities(objective.teacher), _similarities(student)
    weights = {name: tensor.clone() for name, tensor in objective.teacher.state_dict().items()}
    run.run()
    after = _similarities(student)

    def divergence(found: Tensor) -> float:
        return float((known * (known / found).log()).sum(1).mean())

    assert divergence(after) < 0.3 * divergence(before)
    for name, tensor in objective.teacher.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_what_cannot_be_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"objective\.teacher: "):
        distillation.Config(str(tmp_path / "none")).check(tiny_clip())
    speaker = limber.SIZES["small"].on_meta()
    with pytest.raises(RecipeError, match="distillation trains dual encoders, such as clip and siglip, and a LiMBeR"):
        distillation.Config("any").check(speaker)
    model_folder.save(teacher(), tmp_path / "teacher")
    config = distillation.Config(str(tmp_path / "teacher"))
    config.check(tiny_clip())
    built = config.build(tiny_clip())
    assert not any(one.requires_grad for one in built.parameters())
    assert not built.train().teacher.training
    assert isinstance(Patches()[0].image, Image)
