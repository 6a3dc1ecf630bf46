"""A small dual encoder learns from a large one: beside its own losses, its similarities of a batch's pictures and texts
are to be those of a frozen teacher (open_clip's `DistillClipLoss`; Wu et al. 2023, TinyCLIP, arXiv:2309.12314, call it
affinity mimicking).

The teacher sees the same pixels and tokens as the student where both are made alike, as in open_clip; else it is given
pictures and texts by its own processor, without augmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from chiasm.data.batch import Batch, ImageFeatures, Images, Tokens
from chiasm.data.parts import BatchPart, Per
from chiasm.data.processor import PairProcessor, Processor
from chiasm.data.sample import Sample
from chiasm.errors import CheckpointError, RecipeError
from chiasm.losses.distillation import distilled_similarities
from chiasm.models import folder as model_folder
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.model import Model, ModelConfig
from chiasm.objectives.objective import ContrastiveObjective, ObjectiveConfig
from chiasm.weights import load


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """teacher: whatever `chiasm.load` opens: a run, a checkpoint's folder. Its space may be of another width."""

    teacher: str

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """An untrained teacher of the family's size `small`, for which pictures are made in another way."""
        if not (folder / "teacher").exists():
            config = ModelConfig.choose(cls.example_family).sizes()["small"]
            entries = {
                "tokenizer": {"learn": 300},
                "image": {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3},
                "text": {"context": 40},
            }
            processor = config.model().processor_type.from_recipe(entries, ["a red circle above a blue star"] * 4)
            model_folder.save(config.model()(config, processor), folder / "teacher")
        return {"teacher": str(folder / "teacher")}

    def check(self, model: Model) -> None:
        if not isinstance(model, DualEncoder):
            raise RecipeError(
                f"objective: distillation trains dual encoders, such as clip and siglip, and a {type(model).__name__} "
                "is none"
            )
        self._opened()

    def build(self, model: Model) -> Distillation:
        assert isinstance(model, DualEncoder)
        return Distillation(self._opened(), model.processor)

    def _opened(self) -> DualEncoder:
        try:
            teacher = load(self.teacher)
        except CheckpointError as error:
            raise CheckpointError(f"objective.teacher: {error}") from error
        if not isinstance(teacher, DualEncoder):
            raise RecipeError(f"objective.teacher: {self.teacher} is a {type(teacher).__name__}, not a dual encoder")
        return teacher


@dataclass(frozen=True)
class TeacherInput(BatchPart):
    """Images and texts of the samples, made by the teacher's own processor."""

    images: Images
    texts: Tokens


@dataclass(frozen=True)
class TeacherFeatures(BatchPart):
    """The teacher's embeddings of each sample: (B, E) each, unit length."""

    image_BE: Annotated[Tensor, Per("sample")]
    text_BE: Annotated[Tensor, Per("sample")]


class Distillation(ContrastiveObjective):
    """The model's own losses, and "distillation"."""

    prepares = True

    def __init__(self, teacher: DualEncoder, processor: PairProcessor) -> None:
        super().__init__()
        self.teacher = teacher.eval()
        self.teacher.requires_grad_(False)
        self.alike = _makes(processor) == _makes(teacher.processor)

    def extend(
        self,
        processor: Processor,  # noqa: ARG002  # what it made is enough to know
        batch: Batch,
        samples: Sequence[Sample],
        generators: Sequence[np.random.Generator],  # noqa: ARG002  # nothing is drawn
    ) -> Batch:
        assert batch.texts is not None
        if self.alike and not isinstance(batch.images, ImageFeatures) and batch.texts.features is None:
            return batch
        own = self.teacher.processor
        images, texts = [sample.image for sample in samples], [sample.texts[0].text for sample in samples]
        return batch.adding(TeacherInput(own.images(images), own.texts(texts)))

    def prepare(self, model: Model, batch: Batch) -> Batch:
        given = next((part for part in batch.added if isinstance(part, TeacherInput)), batch)
        assert given.images is not None
        assert given.texts is not None
        images, texts = given.images.to(model.device), given.texts.to(model.device)
        return batch.adding(TeacherFeatures(self.teacher.encode_images(images), self.teacher.encode_texts(texts)))

    def features(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, DualEncoder)
        teacher = batch.part(TeacherFeatures)
        return {**model.features(batch), "teacher_image": teacher.image_BE, "teacher_text": teacher.text_BE}

    def losses_of(self, model: Model, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, DualEncoder)
        teacher = features["teacher_image"].detach(), features["teacher_text"].detach()
        student = features["image"], features["text"], model.scale
        return {
            **model.losses_of(features),
            "distillation": distilled_similarities(*student, *teacher, self.teacher.scale),
        }

    def saved(self) -> dict[str, Tensor]:
        """Nothing: the teacher stays as its checkpoint has it."""
        return {}


def _makes(processor: PairProcessor) -> tuple[object, ...]:
    """The settings that decide how a processor makes pixels and tokens, for comparing two."""
    tokenizer = processor.tokenizer
    return processor.image, tokenizer.rules, tokenizer.backend.to_str()
