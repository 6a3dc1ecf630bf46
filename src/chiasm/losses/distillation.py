"""Distillation losses: cross-entropy with a teacher's similarities (open_clip's `DistillClipLoss`) and its prototypes
(DINO, Caron et al. 2021, arXiv:2104.14294).

Shapes: N pairs of this process, M of all processes, D and E widths of the student's and the teacher's space, K
prototypes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chiasm.losses.gather import gathered, summed
from chiasm.losses.ring import CHUNK, Ring, full


def distilled_similarities(
    image_ND: Tensor,
    text_ND: Tensor,
    scale: Tensor,
    teacher_image_NE: Tensor,
    teacher_text_NE: Tensor,
    teacher_scale: Tensor,
    chunk: int = CHUNK,
) -> Tensor:
    """Cross-entropy of the student's similarities with the teacher's, both as distributions over the batch:

        loss = -1/2N * sum_ij softmax_j(t_ij) * log softmax_j(s_ij), of pictures to texts and of texts to pictures

    where s = scale * image . text, and t likewise. The same as open_clip's distillation loss, without its N x N: of
    `chunk` rows similarities are held at a time, and computed again in the backward pass. All inputs are of unit
    length; nothing is learned about the teacher. Where torch.distributed runs, all processes must call this together.
    """
    with torch.autocast(image_ND.device.type, enabled=False):
        image_ND, text_ND, scale = full(image_ND), full(text_ND), full(scale)
        teacher_scale = full(teacher_scale.detach())
        teacher_image_NE, teacher_text_NE = full(teacher_image_NE.detach()), full(teacher_text_NE.detach())
        ring = Ring(len(image_ND), image_ND.device)
        image_MD, text_MD = gathered(image_ND, ring), gathered(text_ND, ring)
        teacher_image_ME, teacher_text_ME = gathered(teacher_image_NE, ring), gathered(teacher_text_NE, ring)
        of_images = _rows(image_ND, text_MD, scale, teacher_image_NE, teacher_text_ME, teacher_scale, chunk)
        of_texts = _rows(text_ND, image_MD, scale, teacher_text_NE, teacher_image_ME, teacher_scale, chunk)
        return summed((of_images + of_texts) / 2 / ring.rows, ring)


def _rows(
    left_ND: Tensor,
    right_MD: Tensor,
    scale: Tensor,
    teacher_left_NE: Tensor,
    teacher_right_ME: Tensor,
    teacher_scale: Tensor,
    chunk: int,
) -> Tensor:
    """The sum over rows, a chunk of them at a time."""

    def some(left_CD: Tensor, right_MD: Tensor, scale: Tensor, teacher_left_CE: Tensor) -> Tensor:
        logits_CM = scale * left_CD @ right_MD.T
        targets_CM = (teacher_scale * teacher_left_CE @ teacher_right_ME.T).softmax(1)
        return -(targets_CM * logits_CM.log_softmax(1)).sum()

    chunks = zip(torch.split(left_ND, chunk), torch.split(teacher_left_NE, chunk), strict=True)
    return torch.stack(
        [checkpoint(some, left, right_MD, scale, teacher, use_reentrant=False) for left, teacher in chunks]
    ).sum()


def distilled_prototypes(
    student: Tensor, teacher: Tensor, centre_K: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """(...): cross-entropy of the student's distribution over prototypes with the teacher's, of each row of (..., K).

        -sum_k softmax((t - centre) / teacher_temperature)_k * log softmax(s / student_temperature)_k

    The centre keeps one prototype from winning everywhere, the low temperature all from being alike.
    """
    with torch.autocast(student.device.type, enabled=False):
        targets = ((full(teacher.detach()) - full(centre_K)) / teacher_temperature).softmax(-1)
        return -(targets * (full(student) / student_temperature).log_softmax(-1)).sum(-1)
