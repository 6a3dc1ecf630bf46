"""Items to look at: which to show, their best candidates, and thumbnails of their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from chiasm.data.image import Image
from chiasm.errors import DataError
from chiasm.evaluation.request import Request, Response
from chiasm.evaluation.result import PICTURES, Candidate, Example, TextOrImage
from chiasm.evaluation.task import Show

WRONG, RIGHT, COMMON = 8, 3, 5  # examples of each sort
CANDIDATES = 5  # shown with each example
THUMBNAIL = 160  # pixels of the longer side


def picked(
    credit_I: NDArray[np.float64],
    scores_IC: NDArray[np.float32],
    true_IC: NDArray[np.bool_],
    wrong: int = WRONG,
    right: int = RIGHT,
) -> list[int]:
    """Indices of items to show: wrong ones first, those by the widest margin leading, then right ones.

    Some of each are drawn whatever the model answers, so that a report can show several models' answers side by side.
    The margin is the best false score minus the best true one. Items without a score are left out.
    """
    scored_IC = ~np.isnan(scores_IC)
    asked_I = (scored_IC & true_IC).any(axis=1)
    false_I = np.where(scored_IC & ~true_IC, scores_IC, -np.inf).max(axis=1, initial=-np.inf)
    true_I = np.where(scored_IC & true_IC, scores_IC, -np.inf).max(axis=1, initial=-np.inf)
    wrong_i = np.flatnonzero(asked_I & (credit_I < 1))
    widest_first = wrong_i[np.argsort(true_I[wrong_i] - false_I[wrong_i], kind="stable")]
    right_i = np.flatnonzero(asked_I & (credit_I == 1))
    drawn = np.random.default_rng(0).permutation(right_i)[:right]
    common = np.random.default_rng(1).permutation(np.flatnonzero(asked_I))[:COMMON]
    chosen = {*widest_first[:wrong].tolist(), *drawn.tolist(), *common.tolist()}
    return [item for item in (*widest_first.tolist(), *right_i.tolist()) if item in chosen]


def example(
    key: str,
    query: TextOrImage,
    scores_C: NDArray[np.float32],
    true_C: NDArray[np.bool_],
    shown: Callable[[int], TextOrImage],
    kind: str = "",
) -> Example:
    """An item with its best candidates, the best true one always among them. Right if all false ones score lower.

    shown: how to show a candidate, by its index. A score of NaN is no candidate.
    """
    scored_c = np.flatnonzero(~np.isnan(scores_C))
    ranked_c = scored_c[np.argsort(-scores_C[scored_c], kind="stable")]
    best_true = next(at for at in ranked_c.tolist() if true_C[at])
    listed = ranked_c[:CANDIDATES].tolist()
    if best_true not in listed:
        listed[-1] = best_true
    false_c = scored_c[~true_C[scored_c]]
    right = bool((scores_C[false_c] < scores_C[best_true]).all())
    candidates = tuple(Candidate(shown(at), float(scores_C[at]), bool(true_C[at])) for at in listed)
    return Example(key=key, right=right, query=query, candidates=candidates, group=kind)


def image_example(request: Request, response: Response, show: Show, *, right: bool, earned: str = "") -> Example:
    """An item that was answered with an image, beside the text or the image that it was to follow."""
    shown = show(response) if isinstance(response, Image) else TextOrImage()
    query = show(request.all_images[0]) if request.all_images else TextOrImage()
    query = replace(query, text="\n".join(filter(None, (query.text, *request.prompts))))
    return Example(
        key=request.key,
        right=right,
        query=query,
        candidates=(),
        group=request.kind,
        reply=shown.text,
        image=shown.picture,
        earned=earned,
    )


class ThumbnailWriter:
    """Writes small JPEGs of images, each once, named by the image's key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / PICTURES

    def __call__(self, image: Image) -> TextOrImage:
        """What a report needs to show the image; its name in words where it cannot be decoded."""
        try:
            file = self.folder / f"{image.key}.jpg"
            if not file.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                small = image.decode(at_least=THUMBNAIL)
                small.thumbnail((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.LANCZOS)
                small.save(file, quality=85)
        except DataError as error:
            return TextOrImage(text=str(error))
        return TextOrImage(picture=file.name)
