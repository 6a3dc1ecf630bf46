"""What SigLIP 2 adds to the loss of pictures and texts in the last part of its training (Tschannen et al. 2025,
arXiv:2502.14786, section 2.2, after SILC, arXiv:2310.13355, and TIPS, arXiv:2410.16512).

self_distillation: local views of a picture are to be what a teacher, the running mean of the image tower, makes of a
global view. masked_prediction: with half of its patches hidden, the global view is to be, at the hidden patches, what
the teacher makes of it whole. The pictures that are compared with texts are not cropped for it.

Differs from the paper: views are crops and mirrorings alone; local views are scaled to the tower's one size; the
captioning decoder (LocCa) is not here. The paper weighs the two losses 1 and 0.25, both times 0.25 for a base model:
`training.loss_weights: {self_distillation: 0.25, masked_prediction: 0.0625}`.

Shapes: B samples, V local views of each, P patches, H hidden ones, D width of the tower, K prototypes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Batch, PixelImages
from chiasm.data.parts import BatchPart, Per
from chiasm.data.processor import PairProcessor, Processor
from chiasm.data.sample import Sample
from chiasm.data.transforms import Augment, ImageTransform
from chiasm.errors import RecipeError
from chiasm.losses.distillation import distilled_prototypes
from chiasm.losses.gather import summed
from chiasm.losses.ring import Ring
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.model import Model
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.tower import PooledImageTower
from chiasm.objectives.objective import ContrastiveObjective, ObjectiveConfig


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """start: the share of the training after which the two losses join; the teacher begins there as the student is.

    local_views: V. global_area, local_area: smallest and largest share of the picture in a view (SILC's). flip: chance
        of mirroring one; no caption goes with a view. hidden: share of the patches that is masked.
    prototypes: K. width, bottleneck: of the three layers of the heads that score them, and of the last.
    student_temperature, teacher_temperature; momentum: of the teacher's weights, which SILC keeps fixed;
        centre_momentum: of the mean of its scores that is taken from them.
    """

    start: float = 0.8
    local_views: int = 8
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    flip: float = 0.5
    hidden: float = 0.5
    prototypes: int = 4096
    width: int = 2048
    bottleneck: int = 256
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    momentum: float = 0.996
    centre_momentum: float = 0.9

    example_family: ClassVar[str] = "siglip"

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003  # it reads no files
        """Small heads, and two losses that join in the midst of a short run."""
        return {"start": 0.25, "local_views": 2, "prototypes": 8, "width": 16, "bottleneck": 6}

    def __post_init__(self) -> None:
        for name in ("start", "hidden", "momentum", "centre_momentum", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"objective.{name} is a share, 0 to 1, not {getattr(self, name):g}")
        for name in ("local_views", "prototypes", "width", "bottleneck"):
            if getattr(self, name) < 1:
                raise RecipeError(f"objective.{name} must be at least 1, not {getattr(self, name)}")
        if min(self.student_temperature, self.teacher_temperature) <= 0:
            raise RecipeError("objective: temperatures must be above 0")

    def check(self, model: Model) -> None:
        if not isinstance(model, DualEncoder):
            raise RecipeError(f"objective: siglip2 trains dual encoders, and a {type(model).__name__} is none")
        if not model.vision.takes_masks:
            raise RecipeError(
                f"objective: siglip2 hides patches of pictures, which a {type(model.vision).__name__} does not have; "
                "choose a ViT as model.vision"
            )
        if not isinstance(model.processor.image, ImageTransform):
            raise RecipeError(
                "objective: siglip2 draws views of one size; this model sees pictures at their own aspect ratio"
            )
        if not 0 < round(self.hidden * self._patches(model)) < self._patches(model):
            raise RecipeError(
                f"objective.hidden: {self.hidden:g} of {self._patches(model)} patches hides none of them, or all"
            )

    def build(self, model: Model) -> SigLIP2Objective:
        assert isinstance(model, DualEncoder)
        return SigLIP2Objective(self, model, self._patches(model))

    @staticmethod
    def _patches(model: DualEncoder) -> int:
        entries: object = getattr(model.config, "vision", None)
        _, side = entries.grid()  # type: ignore[attr-defined]  # each family of dual encoders has a config of its tower
        return int(side) ** 2


@dataclass(frozen=True)
class Views(BatchPart):
    """Of each picture a global view, V local ones, and which patches of the global one are hidden, (B, P)."""

    whole: PixelImages
    local: PixelImages
    hidden_BP: Annotated[Tensor, Per("sample")]


class PrototypeHead(nn.Module):
    """(..., D) to (..., K): an MLP of three layers, then cosines to K learned directions (DINO's head)."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.bottleneck),
        )
        self.prototypes_KE = nn.Parameter(torch.randn(config.prototypes, config.bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=-1) @ F.normalize(self.prototypes_KE, dim=-1).T


class SigLIP2Objective(ContrastiveObjective):
    """The model's own losses, and from `start` on "self_distillation" and "masked_prediction"."""

    def __init__(self, config: Config, model: DualEncoder, patches: int) -> None:
        super().__init__()
        self.config, self.patches, self.active = config, patches, False
        width = model.vision.width
        self.head, self.patch_head = PrototypeHead(width, config), PrototypeHead(width, config)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02) if model.vision.mask_token is None else None
        self.teacher = nn.ModuleDict({name: copy.deepcopy(part) for name, part in self._followed(model).items()})
        self.teacher.requires_grad_(False)
        self.register_buffer("centre_K", torch.zeros(config.prototypes))
        self.register_buffer("patch_centre_K", torch.zeros(config.prototypes))
        self.centre_K: Tensor
        self.patch_centre_K: Tensor
        self._means: dict[str, Tensor] = {}  # of the teacher's scores in this step, by the centre that follows them

    def _followed(self, model: DualEncoder) -> dict[str, nn.Module]:
        """What the teacher is the running mean of, by its name in the teacher."""
        return {"vision": model.vision, "head": self.head, "patch_head": self.patch_head}

    # --- what is drawn

    def extend(
        self,
        processor: Processor,
        batch: Batch,
        samples: Sequence[Sample],
        generators: Sequence[np.random.Generator],
    ) -> Batch:
        assert isinstance(processor, PairProcessor)
        transform, config = processor.image, self.config
        assert isinstance(transform, ImageTransform)
        large, small = (
            replace(transform, augment=Augment(area, flip=config.flip))
            for area in (config.global_area, config.local_area)
        )
        pairs = [(sample.image, generator) for sample, generator in zip(samples, generators, strict=True)]
        whole = torch.stack([large(image, generator) for image, generator in pairs])
        local = torch.stack([small(image, generator) for image, generator in pairs for _ in range(config.local_views)])
        rows, views = torch.arange(len(pairs)), torch.full((len(pairs),), config.local_views)
        hidden = np.stack([generator.permutation(self.patches) < self._hidden for generator in generators])
        return batch.adding(Views(PixelImages(whole, rows), PixelImages(local, rows, views), torch.from_numpy(hidden)))

    @property
    def _hidden(self) -> int:
        """H, the same for all pictures."""
        return round(self.config.hidden * self.patches)

    # --- what is learned

    def features(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, DualEncoder)
        found = model.features(batch)
        if not self.active:
            return found
        views, tower = batch.part(Views), model.vision
        with torch.no_grad():
            teacher = self.teacher["vision"]
            assert isinstance(teacher, PooledImageTower)
            pooled_BD, tokens_BPD = teacher.both(views.whole)
            whole_BK = self.teacher["head"](pooled_BD)
            patches_BHK = self.teacher["patch_head"](self._at_hidden(tokens_BPD, views, tower.prefix))
        local_BVK = self.head(tower(views.local)).unflatten(0, (len(batch), -1))
        token = self.mask_token if tower.mask_token is None else tower.mask_token
        seen_BPD = tower.tokens(views.whole, PatchMask(views.hidden_BP, token))
        guessed_BHK = self.patch_head(self._at_hidden(seen_BPD, views, tower.prefix))
        return {
            **found,
            "distilled": self._compared(local_BVK, whole_BK[:, None], self.centre_K).mean(1),
            "predicted": self._compared(guessed_BHK, patches_BHK, self.patch_centre_K).mean(1),
            "centre_K": whole_BK,
            "patch_centre_K": patches_BHK.mean(1),
        }

    def losses_of(self, model: Model, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, DualEncoder)
        losses = model.losses_of(features)
        if "distilled" not in features:
            return losses
        ring = Ring(len(features["distilled"]), features["distilled"].device)
        for name, row in (("self_distillation", "distilled"), ("masked_prediction", "predicted")):
            losses[name] = summed(features[row].sum() / ring.rows, ring)
        with torch.no_grad():
            for name in ("centre_K", "patch_centre_K"):
                self._means[name] = ring.sum(features[name].detach().float().sum(0)) / ring.rows
        return losses

    def _at_hidden(self, tokens_BPD: Tensor, views: Views, prefix: int) -> Tensor:
        """(B, H, D): the tokens at the hidden patches."""
        return tokens_BPD[:, prefix:][views.hidden_BP].view(len(tokens_BPD), self._hidden, tokens_BPD.shape[2])

    def _compared(self, student: Tensor, teacher: Tensor, centre_K: Tensor) -> Tensor:
        config = self.config
        return distilled_prototypes(student, teacher, centre_K, config.student_temperature, config.teacher_temperature)

    # --- the teacher

    @torch.no_grad()
    def begin_step(self, model: Model, step: int, steps: int) -> None:
        first = round(self.config.start * steps)
        self.active = step >= first
        if step == first:
            self._follow(model, 0.0)

    @torch.no_grad()
    def end_step(self, model: Model) -> None:
        if not self.active:
            return
        self._follow(model, self.config.momentum)
        for name, mean_K in self._means.items():
            getattr(self, name).lerp_(mean_K, 1 - self.config.centre_momentum)
        self._means = {}

    def _follow(self, model: Model, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student; running statistics as they are."""
        assert isinstance(model, DualEncoder)
        for name, part in self._followed(model).items():
            for known, live in zip(self.teacher[name].parameters(), part.parameters(), strict=True):
                known.lerp_(live, 1 - momentum)
            for buffer, running in zip(self.teacher[name].buffers(), part.buffers(), strict=True):
                buffer.copy_(running)

    def expected_zero_grad(self, model: Model) -> frozenset[str]:
        own = [f"objective.{name}" for name, parameter in self.named_parameters() if parameter.requires_grad]
        return model.expected_zero_grad() | frozenset([] if self.active else own)
